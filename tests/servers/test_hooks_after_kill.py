"""Hooks of processes that are killed, and of two that live: every end is told, and once where nothing fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Browser, Server, browsing, eventually, serving

from databases import KINDS, new_url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(request.param, tmp_path)


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[httpx.AsyncClient]:
    async with browsing() as client:
        yield client


def told(path: Path) -> Counter[tuple[str, str]]:
    """How often each end, by sid and reason, was told to a hook."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter((sid, reason) for _, sid, reason, _ in (line.split() for line in lines))


async def sweep(client: httpx.AsyncClient, server: Server) -> dict[str, int]:
    answer: dict[str, int] = (await client.post(f"{server.url}/sweep")).json()
    return answer


async def test_a_process_killed_between_the_end_and_its_hook_leaves_it_to_another(url: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"url": url, "db": {"timeout": 30, "sweep_every": None}}
    begun, done = tmp_path / "begun", tmp_path / "done"
    with (
        serving("endings", tmp_path, name="dies", hooks=str(begun), hangs=True, **settings) as [dying],
        serving("endings", tmp_path, name="lives", hooks=str(done), **settings) as [living],
    ):
        expected: dict[tuple[str, str], int] = {}
        async with clients() as client:
            for n in range(3):
                browser = Browser(client, dying.url)
                sid = (await browser.post(f"/login/user{n}")).json
                assert (await browser.post("/logout")).value == ""
                expected[sid, "logout"] = 1
            sid = (await Browser(client, dying.url).post("/login/user9")).json
            assert (await client.post(f"{dying.url}/revoke/user9")).json() == 1
            expected[sid, "revoked"] = 1
            # All were answered, and their hooks have begun, or not yet.
            await eventually(lambda: told(begun))
            dying.kill()
        async with clients() as client:

            async def all_told() -> bool:
                await sweep(client, living)
                return dict(told(done)) == expected

            await eventually(all_told, limit=60)
            # And no sweep repeats what was told.
            for _ in range(3):
                await asyncio.sleep(1.0)
                assert (await sweep(client, living))["unannounced"] == 0
            assert dict(told(done)) == expected


async def test_with_hooks_in_two_processes_each_end_is_told_once(url: str, tmp_path: Path) -> None:
    paths = [tmp_path / "first", tmp_path / "second"]
    settings: dict[str, Any] = {"url": url, "policy": {"per_user": 2}, "db": {"timeout": 30, "sweep_every": None}}
    with (
        serving("endings", tmp_path, name="first", hooks=str(paths[0]), **settings) as [first],
        serving("endings", tmp_path, name="second", hooks=str(paths[1]), **settings) as [second],
    ):
        servers = [first, second]
        expected: Counter[tuple[str, str]] = Counter()
        async with clients() as client:
            for n in range(10):
                server = servers[n % 2]
                browser = Browser(client, server.url)
                sid = (await browser.post(f"/login/user{n}")).json
                await browser.post("/logout")
                expected[sid, "logout"] += 1
                sids = [(await Browser(client, server.url).post(f"/login/many{n}")).json for _ in range(3)]
                expected[sids[0], "limit"] += 1
                assert (await client.post(f"{servers[1 - n % 2].url}/revoke/many{n}")).json() == 2
                expected.update((sid, "revoked") for sid in sids[1:])

            def all_told() -> bool:
                return told(paths[0]) + told(paths[1]) == expected

            await eventually(all_told)
            for _ in range(3):
                await asyncio.sleep(1.0)
                for server in servers:
                    assert (await sweep(client, server))["unannounced"] == 0
            assert all_told()
        # Both had something to tell.
        assert all(told(path) for path in paths)
