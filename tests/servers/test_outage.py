"""Real disks that fail under real servers: who is served, what is answered, what is logged, and that it mends."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from disks import bound_by_permissions, damage, fill, locked, no_file_may_grow, read_only, small_disk
from serving import Answer, Browser, Server, eventually, serving

REQUESTS = 15  # of each kind, in each outage


class Site:
    """A server on a database file, and a browser that is logged in there."""

    def __init__(self, server: Server, client: httpx.AsyncClient, database: Path) -> None:
        self.server = server
        self.client = client
        self.database = database
        self.browser = self.visitor()

    def visitor(self) -> Browser:
        return Browser(self.client, self.server.url)

    def complaints(self) -> list[str]:
        """What the log says of the database."""
        return [line for line in self.server.logged().splitlines() if line.startswith("ERROR sessiondb sqlite, ")]

    async def outsiders_are_served(self) -> None:
        """Whoever needs nothing from the database does not notice."""
        for answer in (
            await self.browser.get("/up"),
            await self.visitor().get("/up"),
            await self.visitor().get("/session"),
        ):
            assert (answer.status, answer.value) == (200, None)

    async def writing_works(self) -> bool:
        answer = await self.browser.post("/put", {"after": "the outage"})
        assert answer.status == 200 or is_unavailable(answer), (answer.status, answer.text)
        return answer.status == 200

    async def reading_works(self) -> bool:
        answer = await self.browser.get("/session")
        assert answer.status == 200 or is_unavailable(answer), (answer.status, answer.text)
        return answer.status == 200


def is_unavailable(answer: Answer) -> bool:
    """A 503 that says when to come back and leaves the cookie as it is."""
    return answer.status == 503 and 1 <= int(answer.headers["retry-after"]) <= 5 and answer.value is None


@asynccontextmanager
async def site(client: httpx.AsyncClient, folder: Path, logs: Path, **settings: Any) -> AsyncIterator[Site]:
    """A site whose browser ``ann`` has something in her session."""
    database = folder / "sessions.db"
    url = f"sqlite:///{database}?busy_timeout=0.2"
    with serving("shop", logs, url=url, uvicorn={"access_log": False}, **settings) as [server]:
        opened = Site(server, client, database)
        yield opened
        assert "Traceback" not in server.logged(), server.logged()


async def sign_in(opened: Site) -> None:
    assert (await opened.browser.post("/login/ann")).value
    assert (await opened.browser.post("/put", {"cart": ["tea"]})).status == 200


async def writes_fail(opened: Site, cure: str) -> None:
    """While it cannot be written: reads go on, writes are 503s, and the log has one line with the cure."""
    before = len(opened.complaints())
    # More than one transaction's worth, so that no spare room in the files helps.
    large = {"much": "x" * 20_000}
    for _ in range(REQUESTS):
        assert is_unavailable(await opened.browser.post("/put", large))
        assert is_unavailable(await opened.visitor().post("/put", large))
        # A login is small, and may find room.
        visitor = opened.visitor()
        login = await visitor.post("/login/bob")
        assert is_unavailable(login) or (await visitor.session())["user"] == "bob"
        assert (await opened.browser.data())["cart"] == ["tea"]
    answers = await asyncio.gather(*(opened.browser.twin().post("/put", large) for _ in range(20)))
    assert all(is_unavailable(answer) for answer in answers)
    await opened.outsiders_are_served()
    complaints = opened.complaints()[before:]
    assert len([line for line in complaints if " writing: " in line]) == 1, complaints
    assert len(complaints) <= 2, complaints
    assert cure in complaints[0]


async def it_recovers(opened: Site) -> None:
    await eventually(opened.writing_works)
    assert (await opened.browser.session())["user"] == "ann"
    assert await opened.browser.data() == {"cart": ["tea"], "after": "the outage"}
    assert (await opened.visitor().post("/login/bob")).value
    assert "works again" in opened.server.logged()


# -- full -----------------------------------------------------------------------------------------------------


async def test_a_file_that_may_not_grow_stops_writes_only_and_they_go_on_when_it_may(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with site(client, tmp_path, tmp_path) as opened:
        await sign_in(opened)
        with no_file_may_grow(opened.server.pid, opened.database):
            await writes_fail(opened, "free space")
        await it_recovers(opened)


async def test_a_full_disk_stops_writes_only_and_they_go_on_when_there_is_room(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        async with site(client, disk, tmp_path) as opened:
            await sign_in(opened)
            filler = fill(disk)
            await writes_fail(opened, "the disk is full")
            filler.unlink()
            await it_recovers(opened)


async def test_a_disk_that_was_full_and_a_server_that_was_killed_lose_nothing_acknowledged(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        async with site(client, disk, tmp_path) as opened:
            await sign_in(opened)
            token = opened.browser.token
            filler = fill(disk)
            assert is_unavailable(await opened.browser.post("/put", {"much": "x" * 20_000}))
            opened.server.kill()
            filler.unlink()
        async with site(client, disk, tmp_path, name="restarted") as opened:
            opened.browser.token = token
            await it_recovers_after_restart(opened)


async def it_recovers_after_restart(opened: Site) -> None:
    await eventually(opened.writing_works)
    assert (await opened.browser.session())["user"] == "ann"
    assert await opened.browser.data() == {"cart": ["tea"], "after": "the outage"}


# -- locked ---------------------------------------------------------------------------------------------------


async def test_a_file_that_another_program_keeps_locked_stops_writes_only(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with site(client, tmp_path, tmp_path) as opened:
        await sign_in(opened)
        with locked(opened.database):
            before = len(opened.complaints())
            answers = await asyncio.gather(*(opened.browser.twin().post("/put", {"a": n}) for n in range(20)))
            assert all(is_unavailable(answer) for answer in answers)
            for _ in range(3):
                assert is_unavailable(await opened.visitor().post("/put", {"a": 1}))
                assert await opened.browser.data() == {"cart": ["tea"]}
            await opened.outsiders_are_served()
            # What happens in the background may have had its turn too, and says so in words of its own.
            [complaint] = [one for one in opened.complaints()[before:] if "touches and events" not in one]
            assert "lsof" in complaint
        await it_recovers(opened)


async def test_a_short_lock_of_another_program_is_waited_for(client: httpx.AsyncClient, tmp_path: Path) -> None:
    database = tmp_path / "sessions.db"
    with serving("shop", tmp_path, url=f"sqlite:///{database}?busy_timeout=30", db={"timeout": 60}) as [server]:
        opened = Site(server, client, database)
        await sign_in(opened)
        with locked(database):
            writing = asyncio.create_task(opened.browser.post("/put", {"a": 1}))
            await asyncio.sleep(0.3)
            assert not writing.done()
        assert (await writing).status == 200


# -- replaced and damaged -------------------------------------------------------------------------------------


async def test_a_file_that_is_replaced_by_something_else_is_noticed_told_and_mended(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder, aside = tmp_path / "data", tmp_path / "aside"
    folder.mkdir()
    aside.mkdir()
    async with site(client, folder, tmp_path) as opened:
        await sign_in(opened)
        letter = aside / "letter"
        letter.write_bytes(b"This is a letter to my aunt. " * 1000)
        for file in folder.iterdir():
            if file != opened.database:
                file.rename(aside / file.name)
        # In one step: in a moment without a file, the background would have another complaint.
        letter.replace(opened.database)

        async def noticed() -> bool:
            return not await opened.reading_works()

        await eventually(noticed)
        for _ in range(REQUESTS):
            assert is_unavailable(await opened.browser.get("/session"))
            assert is_unavailable(await opened.browser.post("/put", {"a": 1}))
            assert is_unavailable(await opened.visitor().post("/put", {"a": 1}))
        await opened.outsiders_are_served()
        complaints = opened.complaints()
        assert len(complaints) == 2, complaints
        assert all("is no SQLite database" in line and "move it away" in line for line in complaints)
        opened.database.unlink()
        await eventually(opened.writing_works)
        # Sessions begin anew: the old token opens nothing, and what was written made a new session.
        assert (await opened.browser.session())["user"] is None
        assert await opened.browser.data() == {"after": "the outage"}


# -- away at start-up -----------------------------------------------------------------------------------------


async def leave_a_database(client: httpx.AsyncClient, folder: Path, logs: Path) -> str:
    """A database in ``folder`` that a server has left behind, and the token of a login in it."""
    async with site(client, folder, logs, name="before") as opened:
        await sign_in(opened)
        assert opened.browser.token is not None
        return opened.browser.token


async def starts_without_its_database(opened: Site, cure: str) -> None:
    """Up, and serving what needs no session."""
    assert "away at start-up" in opened.server.logged()
    for _ in range(REQUESTS):
        assert is_unavailable(await opened.browser.get("/session"))
        assert is_unavailable(await opened.visitor().post("/put", {"a": 1}))
    await opened.outsiders_are_served()
    complaints = opened.complaints()
    assert 1 <= len(complaints) <= 2, complaints
    assert all(cure in line for line in complaints), complaints


async def test_a_database_that_may_not_be_written_is_told_at_start_up_and_works_once_it_may(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    token = await leave_a_database(client, folder, tmp_path)
    with read_only(folder):
        async with site(client, folder, tmp_path, command=bound_by_permissions()) as opened:
            opened.browser.token = token
            await starts_without_its_database(opened, "write permission")
            folder.chmod(0o700)
            for file in folder.iterdir():
                file.chmod(0o600)
            await eventually(opened.reading_works)
            await it_recovers_after_restart(opened)


async def test_a_damaged_database_is_told_at_start_up_and_works_once_a_backup_is_there(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    token = await leave_a_database(client, folder, tmp_path)
    database = folder / "sessions.db"
    assert [file.name for file in folder.iterdir()] == ["sessions.db"]
    shutil.copy(database, tmp_path / "backup")
    damage(database, keep=4096)
    async with site(client, folder, tmp_path) as opened:
        opened.browser.token = token
        await starts_without_its_database(opened, "Restore a backup")
        database.unlink()
        (tmp_path / "backup").rename(database)
        await eventually(opened.reading_works)
        await it_recovers_after_restart(opened)


async def test_a_database_that_is_locked_at_start_up_is_opened_when_it_is_free(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with locked(tmp_path / "sessions.db", "EXCLUSIVE"):
        async with site(client, tmp_path, tmp_path) as opened:
            assert "away at start-up" in opened.server.logged()
            assert is_unavailable(await opened.visitor().post("/put", {"a": 1}))
            await opened.outsiders_are_served()


async def test_a_folder_that_does_not_exist_stops_the_start_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="mkdir -p"):
        with serving("shop", tmp_path, url=f"sqlite:///{tmp_path}/missing/sessions.db"):
            pass
