"""Real servers, and what can go wrong with their disk."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

sys.path.append(str(Path(__file__).parents[1] / "web"))

from serving import browsing


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with browsing() as client:
        yield client
