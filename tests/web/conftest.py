"""What the tests under real uvicorn share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from serving import Server, browsing, serving

from databases import KINDS, new_url


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers on one database."""
    folder: Path = tmp_path_factory.mktemp("pair")
    with serving("shop", folder, count=2, url=new_url(kind, folder), db={"timeout": 30}) as servers:
        yield servers


@pytest.fixture
def url(kind: str, tmp_path: Path) -> str:
    """An empty database."""
    return new_url(kind, tmp_path)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with browsing() as client:
        yield client
