"""The same numbers from every database, whatever is merged meanwhile; and, where there is SQL, from its views too."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from databases import KINDS, new_url, url_of
from sessiondb import Policy, SessionDB, Usage, open_store
from sessiondb.core.policy import DAY, HOUR, SECOND
from sessiondb.core.usage import DAYS, HOURS
from sessiondb.core.usage_series import start_of
from sessiondb.settings import system_clock
from sessiondb.stores.delegating import DelegatingStore
from sessiondb.stores.views import drop_sql, views_sql
from sessiondb.testing import ManualClock

SQL = ("sqlite", "postgresql", "mysql")
Row = tuple[str, ...]
Ask = Callable[[str], Awaitable[list[Row]]]
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.4 Mobile/15E148 Safari/604.1",
)
# Names that a collation would take for each other.
USERS = ["ann", "Ann", "ánn", "ann ", *(f"user{number}" for number in range(8))]


class OfThatTime(DelegatingStore):
    """``store``, as it was when ``clock`` is."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        super().__init__(open_store(url))
        self._clock = clock

    async def clock(self) -> int:  # type: ignore[override]
        return self._clock.now


class Truth:
    """What has happened, in each hour."""

    def __init__(self) -> None:
        self.logins: Counter[int] = Counter()
        self.agents: Counter[str] = Counter()
        self.active: defaultdict[int, set[str]] = defaultdict(set)
        self.sessions: defaultdict[int, set[str]] = defaultdict(set)
        self.ends: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.lengths: list[int] = []
        self.gaps: list[int] = []
        self.alive: dict[str, str] = {}  # users, by sid
        self.everybody: set[str] = set()

    def check(self, usage: Usage) -> None:
        """The numbers of ``usage`` are these, in each period and in all."""
        for point in (*usage.points, usage.total):
            hours = range(point.start // HOUR, point.end // HOUR)
            assert point.logins == sum(self.logins[hour] for hour in hours)
            assert point.active_users == len(set().union(*(self.active[hour] for hour in hours)))
            assert point.active_sessions == len(set().union(*(self.sessions[hour] for hour in hours)))
            assert point.ended_by_reason == sum((self.ends[hour] for hour in hours), Counter())
        total = usage.total
        assert total.logins == sum(self.logins.values())
        assert sum(total.logins_by_agent.values()) == total.logins
        assert dict(total.logins_by_agent) == self.agents
        assert (total.session_length.count, total.session_length.most) == (
            len(self.lengths),
            max(self.lengths) / SECOND,
        )
        assert total.session_length.mean == pytest.approx(sum(self.lengths) / len(self.lengths) / SECOND, rel=1e-9)
        assert (total.idle_gap.count, total.idle_gap.most) == (len(self.gaps), max(self.gaps) / SECOND)


async def ten_days(workers: list[SessionDB], clock: ManualClock) -> Truth:
    """Users come and go for ten days, on one worker or the other."""
    truth, chance = Truth(), random.Random(20)
    sessions: dict[str, tuple[str, str, int, int]] = {}  # token, user, created, seen
    end = clock.now + 10 * DAY
    while clock.now < end:
        db = chance.choice(workers)
        hour = clock.now // HOUR
        what = chance.random()
        if what < 0.3 or not sessions:
            user = chance.choice(USERS)
            agent = chance.choice(AGENTS)
            issued = await db.create(user, user_agent=agent)
            sessions[issued.session.sid] = issued.token, user, clock.now, clock.now
            truth.alive[issued.session.sid] = user
            truth.everybody.add(issued.session.sid)
            truth.logins[hour] += 1
            truth.agents["Firefox on Linux" if agent == AGENTS[0] else "Safari on iPhone"] += 1
            truth.active[hour].add(user)
            truth.sessions[hour].add(issued.session.sid)
        else:
            sid = chance.choice(sorted(sessions))
            token, user, created, seen = sessions[sid]
            if what < 0.8:
                async with db.session(token) as session:
                    assert session.user_id == user
                await db.runtime.background.flush()
                if clock.now - seen >= 60 * SECOND:
                    truth.active[hour].add(user)
                    truth.sessions[hour].add(sid)
                    truth.gaps.append(clock.now - seen)
                    sessions[sid] = token, user, created, clock.now
            else:
                reason = chance.choice(["revoked", "admin", "logout"])
                if reason == "logout":
                    async with db.session(token) as session:
                        await session.logout()
                else:
                    assert await db.revoke(sid, reason=reason)
                del sessions[sid], truth.alive[sid]
                truth.ends[hour][reason] += 1
                # The sid has the milliseconds of its making.
                truth.lengths.append(clock.now - created // 1000 * 1000)
        for worker in workers:
            async with worker.runtime.using_store() as store:
                await worker.runtime.usage.publish(store)
        clock.advance(chance.choice([20.0, 300.0, 5000.0, 12_000.0]) * (0.5 + chance.random()))
    return truth


@pytest.mark.parametrize("kind", KINDS)
async def test_every_database_has_the_same_numbers(kind: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    # A Monday at noon or so: some weeks, and days at whose ends something happens.
    clock = ManualClock(start_of("week", system_clock() - 14 * DAY) + 11 * HOUR)
    since = clock.now
    settings: dict[str, Any] = {
        "clock": clock,
        "sweep_every": None,
        "timeout": 60.0,
        "policy": Policy(keep_ended=30 * 86_400),
    }
    async with (
        SessionDB(OfThatTime(url, clock), **settings) as one,
        SessionDB(OfThatTime(url, clock), **settings) as other,
    ):
        truth = await ten_days([one, other], clock)
        for by in ("hour", "day", "week", "month"):
            truth.check(await one.usage(since, by=by))
        usage = await one.usage(since)
        stats = await one.stats()
        assert (usage.live_sessions, usage.live_users) == (stats.live, stats.users)
        assert usage.total.sessions_per_user.mean == usage.total.active_sessions / usage.total.active_users
        if kind in SQL:
            await check_views(kind, url, one, truth, since)
        await merge_all(one, other, clock)
        for by in ("day", "week", "month"):
            truth.check(await other.usage(since, by=by))
        async with one.runtime.using_store() as store:
            first, last = since // DAY, clock.now // DAY
            days, hours = await store.sheets(DAYS, first, last + 1), await store.sheets(HOURS, 0, 2**40)
            assert len(days) == len({sheet.bucket for sheet in days}) >= 7
            assert min(sheet.bucket for sheet in hours) // 24 > max(sheet.bucket for sheet in days)
            await store.expire(clock.now + 401 * DAY, 10_000)
        if kind not in ("redis", "redis_cluster"):  # they expire by themselves, by their own clock
            assert (await one.usage(since)).total.logins == 0


async def merge_all(one: SessionDB, other: SessionDB, clock: ManualClock) -> None:
    for turn in range(14):
        clock.advance(600)
        await (other if turn % 3 else one).runtime.merging.merge_in_turn()


# -- views ----------------------------------------------------------------------------------------------------


def prefix_of(url: str) -> str:
    return parse_qs(urlsplit(url).query).get("prefix", ["sessiondb_"])[0]


@asynccontextmanager
async def client_of(kind: str, url: str) -> AsyncIterator[Ask]:
    """Asks the database in SQL, as people do; every value comes as text."""
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:

            async def of_sqlite(statement: str) -> list[Row]:
                return [tuple(map(str, row)) for row in file.execute(statement)]

            yield of_sqlite
    elif kind == "postgresql":
        import asyncpg

        connection = await asyncpg.connect(url_of(kind))
        # Whoever asks may live anywhere.
        await connection.execute("SET TIME ZONE 'Asia/Kathmandu'")

        async def of_postgresql(statement: str) -> list[Row]:
            return [tuple(map(str, row)) for row in await connection.fetch(statement)]

        try:
            yield of_postgresql
        finally:
            await connection.close()
    else:
        from sessiondb.stores._mysql_connection import connect
        from sessiondb.stores._mysql_url import parse

        server = await connect(parse(url_of(kind)).arguments, 5)
        await server.run(["SET time_zone = '+05:45'"])

        async def of_mysql(statement: str) -> list[Row]:
            [answer] = await server.run([statement])
            return [
                tuple(value.decode() if isinstance(value, bytes) else str(value) for value in row)
                for row in answer.rows
            ]

        try:
            yield of_mysql
        finally:
            await server.close()


async def check_views(kind: str, url: str, db: SessionDB, truth: Truth, since: int) -> None:
    """What the views say is what ``db.usage`` says, and what has happened."""
    p = prefix_of(url)
    async with client_of(kind, url) as ask:
        # Twice: whoever has them makes them again.
        for statement in [*statements(views_sql(kind, p)), *statements(views_sql(kind, p))]:
            await ask(statement)
        for by in ("hour", "day", "week", "month"):
            usage = await db.usage(since, by=by)
            labels = {name_of(by, point.start): point for point in usage.points}
            counted = await ask(f"SELECT {by}, count(*) FROM {p}usage_logins WHERE outcome = 'success' GROUP BY {by}")
            assert {name: int(count) for name, count in counted} == {
                name: point.logins for name, point in labels.items() if point.logins
            }
            counted = await ask(f"SELECT {by}, reason, count(*) FROM {p}usage_ends GROUP BY {by}, reason")
            assert {(name, reason): int(count) for name, reason, count in counted} == {
                (name, reason): count
                for name, point in labels.items()
                for reason, count in point.ended_by_reason.items()
            }
            # Who was last seen in the period of now is who was active in it.
            [(active,)] = await ask(
                f"SELECT count(*) FROM {p}usage_users WHERE {by} = (SELECT max({by}) FROM {p}usage_users)"
            )
            point = labels[max(name for name, one in labels.items() if one.active_users)]
            assert int(active) == point.active_users
        users = await ask(f"SELECT count(DISTINCT user_id) FROM {p}usage_logins WHERE outcome = 'success'")
        assert users == [(str(usage.total.active_users),)], "whoever was active has logged in, in these ten days"
        [(count, mean, most)] = await ask(f"SELECT count(*), avg(length), max(length) FROM {p}usage_ends")
        length = usage.total.session_length
        assert int(count) == length.count
        # The sid, by which lengths are counted, has milliseconds.
        assert (float(mean), float(most)) == pytest.approx((length.mean, length.most), abs=0.002)
        living = await ask(
            f"SELECT count(*), count(DISTINCT user_id), min(expires_at - last_seen_at) FROM {p}usage_living"
        )
        assert living == [(str(usage.live_sessions), str(usage.live_users), str(14 * DAY))]
        per_user = await ask(f"SELECT sessions, count(*) FROM {p}usage_users GROUP BY sessions")
        alive = Counter(user for user in truth.alive.values())
        assert {int(sessions): int(users) for sessions, users in per_user if sessions != "0"} == Counter(alive.values())
        sids = await ask(f"SELECT sid FROM {p}usage_living")
        assert {sid for (sid,) in sids} == truth.alive.keys()
        sids = await ask(f"SELECT sid FROM {p}usage_logins WHERE outcome = 'success'")
        assert {sid for (sid,) in sids} == truth.everybody
        for statement in statements(drop_sql(p)):
            await ask(statement)


def statements(text: str) -> list[str]:
    return [one for one in text.split(";\n") if one.strip()]


def name_of(by: str, start: int) -> str:
    when = datetime.fromtimestamp(start / SECOND, UTC)
    return when.strftime({"hour": "%Y-%m-%d %H:00", "month": "%Y-%m"}.get(by, "%Y-%m-%d"))
