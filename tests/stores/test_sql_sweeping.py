"""Sweeping of the SQL stores, looked at in their tables: nothing is left behind, and many workers lose nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

import pytest

from databases import new_url, with_option
from sessiondb.core.change import Applied, Gone, SignIn
from sessiondb.core.record import LINK_BYTES, EndReason, Record
from sessiondb.stores.base import Store, open_store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR, MINUTE, PURGE_AFTER
from sessiondb.testing.kit import Kit

KINDS = ("sqlite", "postgresql", "mysql")
MANY = 20_000
AT_ONCE = 500


@dataclass
class Place:
    """A database by its stores, and by its tables."""

    kind: str
    url: str
    kit: Kit

    async def count(self, table: str, where: str = "true") -> int:
        """The rows of a table, by a connection of one's own."""
        prefix = "sessiondb_" if self.kind == "sqlite" else self.url.partition("prefix=")[2]
        sql = f"SELECT count(*) FROM {prefix}{table} WHERE {where.format(p=prefix)}"
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.url.partition("?")[0].removeprefix("sqlite:///"))) as connection:
                return int(connection.execute(sql).fetchone()[0])
        if self.kind == "postgresql":
            import asyncpg

            connection = await asyncpg.connect(self.url.partition("?")[0])
            try:
                return int(await connection.fetchval(sql))
            finally:
                await connection.close()
        from sessiondb.stores._mysql_connection import connect
        from sessiondb.stores._mysql_url import parse

        mysql = await connect(parse(self.url).arguments, 5)
        try:
            [found] = await mysql.run([sql])
            return int(found.rows[0][0])
        finally:
            await mysql.close()


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    url = new_url(request.param, tmp_path)
    if request.param == "sqlite":
        # Writers' turns are not fair, and the machine may be busy.
        url = with_option(url, "busy_timeout=30")
    kit = Kit(lambda: open_store(url), ManualClock())
    yield Place(request.param, url, kit)
    await kit.close_all()


async def _sweep_all(store: Store, kit: Kit, now: int) -> int:
    purged = 0
    while (swept := await store.sweep(kit.cutoffs(now), AT_ONCE)).more:
        purged += swept.purged
    return purged + swept.purged


async def test_links_go_with_their_tombstones(place: Place) -> None:
    """And those of others stay."""
    kit = place.kit
    store = await kit.store()
    links = [token_bytes(LINK_BYTES) for _ in range(3)]
    ended, living = kit.record("ann"), kit.record("ann")
    assert await store.apply([kit.create(ended, links), kit.create(living, links[:1])]) == [Applied(1), Applied(1)]
    assert await place.count("links") == 4
    await store.apply([kit.end(ended)])
    assert await _sweep_all(store, kit, kit.now + PURGE_AFTER - 1) == 0
    assert await place.count("links") == 4
    assert await _sweep_all(store, kit, kit.now + PURGE_AFTER) == 1
    assert await place.count("links") == 1


async def test_nothing_is_linked_that_is_not_written(place: Place) -> None:
    """A create whose sid exists, and a sign-in to a session that is gone or over, leave no link behind."""
    kit = place.kit
    store = await kit.store()
    record, ended, unknown = kit.record("ann"), kit.record("ann"), kit.record("ann")
    await kit.put_in(store, record, ended)
    await store.apply([kit.end(ended)])
    other = kit.record("ann", sid=record.sid)
    link = (token_bytes(LINK_BYTES),)
    again = [kit.update(one, sign_in=SignIn(kit.now, b"{}", DAY, DAY, "normal", link)) for one in (ended, unknown)]
    for changes in ([kit.create(other, link)], again, [kit.create(other, link), *again]):
        results = await store.apply(changes)
        assert not any(isinstance(result, Applied) for result in results)
    assert await place.count("links") == 0


async def test_a_link_that_two_bring_at_once_finds_both(place: Place) -> None:
    """Forty logins of one session of an identity provider, in batches by two workers: none waits for ever or fails."""
    kit = place.kit
    stores = await kit.stores(2)
    links = [token_bytes(LINK_BYTES) for _ in range(5)]
    records = [kit.record("ann") for _ in range(40)]
    creates = [kit.create(record, links if at % 2 else links[::-1]) for at, record in enumerate(records)]
    batches = [creates[at::8] for at in range(8)]
    done = await asyncio.gather(*(stores[at % 2].apply(batch) for at, batch in enumerate(batches)))
    assert all(result == Applied(1) for results in done for result in results)
    page = await stores[0].find(kit.query(link=links[0]))
    assert len(page.records) == len(records)


async def test_what_is_linked_while_it_is_ended_and_purged_leaves_nothing(place: Place) -> None:
    """Sign-ins bring links, others end the same sessions, and two sweepers purge them, all at once."""
    kit = place.kit
    stores = await kit.stores(3)
    for _ in range(5):
        records = [kit.record("ann") for _ in range(30)]
        await kit.put_in(stores[0], *records)

        async def sign_in(records: list[Record] = records) -> None:
            for record in records:
                sign_in = SignIn(kit.now, b"{}", DAY, DAY, "normal", (token_bytes(LINK_BYTES),))
                [result] = await stores[0].apply([kit.update(record, sign_in=sign_in)])
                assert isinstance(result, (Applied, Gone))

        async def end(records: list[Record] = records) -> None:
            for record in records:
                assert await stores[1].apply([kit.end(record, purge_after=-MINUTE)]) in ([Applied(2)], [Applied(3)])

        async def sweep(store: Store) -> int:
            return sum([(await store.sweep(kit.cutoffs(), 20)).purged for _ in range(20)])

        purged = await asyncio.gather(sweep(stores[1]), sweep(stores[2]), sign_in(), end())
        rest = await _sweep_all(stores[0], kit, kit.now)
        assert sum(count or 0 for count in purged) + rest == len(records)
        # A sign-in may see its session before a sweeper and be told that it was too late: then there is no link either.
        assert await place.count("links", "sid NOT IN (SELECT sid FROM {p}sessions)") == 0
    assert await place.count("sessions") == 0


async def test_a_not_before_is_forgotten_when_no_login_can_be_so_old(place: Place) -> None:
    """A few at a time; one of late, and a lock into the future, stay."""
    kit = place.kit
    store = await kit.store()
    longest = 30 * DAY
    caps = kit.caps
    longest = max(caps.normal.absolute, caps.remembered.absolute)
    old, edge = kit.now - longest - 1, kit.now - longest
    for number in range(150):
        await store.end_where(kit.query(f"user{number}", not_before=old), EndReason.REVOKED)
    for user, at in (("edge", edge), ("late", kit.now), ("locked", kit.now + 900 * DAY)):
        await store.end_where(kit.query(user, not_before=at), EndReason.REVOKED)
    assert await place.count("users") == 153
    await store.sweep(kit.cutoffs(), 10)
    left = await place.count("users")
    assert 3 < left < 153, "some of the old ones, not all at once"
    await store.sweep(kit.cutoffs(), 10)
    assert await place.count("users") == 3
    late = kit.record("locked")
    await kit.put_in(store, late)
    assert (await store.admit(kit.login(late))).refused == "revoked"


@pytest.mark.security("L12")
async def test_sweepers_and_the_requests_beside_them_lose_and_repeat_nothing(place: Place) -> None:
    """20,000 expired sessions: each end is reported once, each tombstone purged once, and every request is served."""
    kit = place.kit
    # SQLite has one writer at a time: more than two that never rest would leave the requests nothing.
    stores = await kit.stores(2 if place.kind == "sqlite" else 4)
    expired = [kit.record("ann", {"cart": [1, 2]}, age=2 * HOUR, idle=HOUR) for _ in range(MANY)]
    for start in range(0, MANY, AT_ONCE):
        batch = [kit.create(record) for record in expired[start : start + AT_ONCE]]
        assert all(result == Applied(1) for result in await stores[0].apply(batch))
    living = [kit.record("bob", {"n": 0}) for _ in range(20)]
    await kit.put_in(stores[0], *living)
    done = asyncio.Event()
    served = 0

    async def request(store: Store, records: list[Record]) -> None:
        nonlocal served
        number = 0
        while not done.is_set():
            number += 1
            for record in records:
                [result] = await store.apply([kit.update(record, {"n": number})])
                assert isinstance(result, Applied)
                assert await kit.data_of(store, record.sid) == {"n": number}
                await kit.put_in(store, kit.record("carol"))
                served += 1

    async def sweep(store: Store, now: int) -> tuple[list[str], int]:
        ended: list[str] = []
        purged = 0
        while True:
            began_at = time.monotonic()
            swept = await store.sweep(kit.cutoffs(now), AT_ONCE)
            ended += [one.sid for one in swept.ended]
            purged += swept.purged
            if not swept.more:
                return ended, purged
            # As long as the pass, as workers rest.
            await asyncio.sleep(time.monotonic() - began_at)

    # The requests have handles of their own, as other processes have.
    handles = await kit.stores(1 if place.kind == "sqlite" else 2)
    requests = [asyncio.create_task(request(handles[at % len(handles)], living[at::4])) for at in range(4)]
    try:
        swept = await asyncio.gather(*(sweep(store, kit.now) for store in stores))
        last, _ = await sweep(stores[0], kit.now)
        reported = [sid for ended, _ in swept for sid in ended] + last
        assert len(reported) == len(set(reported)) == MANY
        assert set(reported) == {record.sid for record in expired}
        later = kit.now + PURGE_AFTER + MINUTE
        swept = await asyncio.gather(*(sweep(store, later) for store in stores))
        _, rest = await sweep(stores[0], later)
        assert sum(purged for _, purged in swept) + rest == MANY
    finally:
        done.set()
        await asyncio.gather(*requests)
    assert served > 100
    assert await place.count("sessions", "ended_at IS NOT NULL") == 0
