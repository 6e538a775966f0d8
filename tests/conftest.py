"""Shared by all tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """asyncio is what FastAPI runs on under uvicorn."""
    return "asyncio"
