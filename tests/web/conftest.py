"""What the tests under real uvicorn share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from serving import Server, browsing, serving, sqlite_url


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers on one SQLite file."""
    folder: Path = tmp_path_factory.mktemp("pair")
    with serving("shop", folder, count=2, url=sqlite_url(folder), db={"timeout": 30}) as servers:
        yield servers


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with browsing() as client:
        yield client
