"""What the guide and the README say to ask about usage can be pasted, and all of it says the same."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from guide import app_of, blocks, browser

from databases import new_url, url_of
from sessiondb import CurrentSession, SessionDB
from sessiondb.stores.views import drop_sql, views_sql

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


async def test_usage_as_time_series() -> None:
    async with SessionDB("memory://") as db:
        app = app_of(db, "Usage as time series")

        @app.post("/sign-in")
        async def sign_in(session: CurrentSession) -> None:
            session.login("ann")

        @app.post("/sign-out")
        async def sign_out(session: CurrentSession) -> None:
            session.logout()

        for _ in range(2):
            async with browser(app) as http:
                assert (await http.post("/sign-in", headers={"user-agent": FIREFOX})).status_code == 200
        async with browser(app) as http:
            await http.post("/sign-in")
            await http.post("/sign-out")
            found = (await http.get("/usage")).json()
            begin = datetime.now(UTC) - timedelta(days=40)
            since = (await http.get("/usage", params={"since": begin.isoformat()})).json()
        assert len(since["days"]) in (41, 42)
        assert (found["signed in now"], found["active users, all in all"]) == (2, 1)
        assert len(found["days"]) in (31, 32)
        days = [day for day in found["days"] if day["logins"]]
        assert sum(day["logins"] for day in days) == 3
        assert days[0]["devices"]["desktop"] == 2
        assert days[-1]["ends"] == {"logout": 1}
        assert days[-1]["half of all sessions last (s)"] >= 0


def statements(text: str) -> list[str]:
    return [one for one in re.sub(r"--[^\n]*", "", text).split(";") if one.strip()]


async def used(url: str) -> SessionDB:
    """Ann has logged in twice, Bob once; one session of Ann's was revoked."""
    db = SessionDB(url, sweep_every=None)
    await db.open()
    for user in ("bob", "ann", "ann"):
        issued = await db.create(user, user_agent=FIREFOX)
    await db.revoke(issued.session.sid)
    return db


Ask = Any


@asynccontextmanager
async def asking(kind: str, url: str) -> AsyncIterator[Ask]:
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:

            async def of_sqlite(statement: str) -> list[Any]:
                return file.execute(statement).fetchall()

            yield of_sqlite
    elif kind == "postgresql":
        import asyncpg

        connection = await asyncpg.connect(url_of(kind))
        try:
            yield connection.fetch
        finally:
            await connection.close()
    else:
        import asyncmy
        from asyncmy.connection import Connection

        from sessiondb.stores._mysql_url import parse

        arguments = parse(url_of(kind)).arguments
        named = {
            name: arguments[name]
            for name in ("host", "port", "user", "password", "db", "database")
            if name in arguments
        }
        server: Connection = await asyncmy.connect(**named, autocommit=True)

        async def of_mysql(statement: str) -> list[Any]:
            async with server.cursor() as cursor:
                await cursor.execute(statement)
                return list(await cursor.fetchall())

        try:
            yield of_mysql
        finally:
            await server.ensure_closed()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
async def test_the_same_questions_in_sql(kind: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    prefix = found[1] if (found := re.search(r"prefix=(\w+)", url)) else "sessiondb_"
    db = await used(url)
    try:
        usage = await db.usage(by="day")
        async with asking(kind, url) as ask:
            for statement in statements(views_sql(kind, prefix)):
                await ask(statement)
            asked = statements(blocks("The same questions in SQL", "sql")[0])
            answers = [await ask(statement.replace("sessiondb_", prefix)) for statement in asked]
            for statement in statements(drop_sql(prefix)):
                await ask(statement)
        by_day, by_country, ends, per_user, active = ([tuple(row) for row in answer] for answer in answers)
        days = [point for point in usage.points if point.logins]
        assert [one[1:] for one in by_day] == [(day.logins, day.active_users) for day in days]
        assert usage.total.logins == 3
        assert by_country == [("unknown", 3)]
        assert [(reason, ended) for _, reason, ended, _ in ends] == [*usage.total.ended_by_reason.items()]
        assert per_user == [(1, 2)]
        assert active == [(days[-1].active_users,)]
    finally:
        await db.close()


async def test_the_questions_of_the_readme_are_answered_as_by_the_views(tmp_path: Path) -> None:
    db = await used(f"sqlite:///{tmp_path}/sessions.db")
    try:
        usage = await db.usage(by="day")
        with closing(sqlite3.connect(tmp_path / "sessions.db")) as file:
            asked = statements(re.findall(r"```sql\n(.*?)```", README, re.DOTALL)[1])
            by_day, active, by_country, ends, per_user = (file.execute(statement).fetchall() for statement in asked)
        days = [point for point in usage.points if point.logins]
        assert [one[1:] for one in by_day] == [(day.logins, day.active_users) for day in days]
        # None of them, where a day has begun since.
        assert active[0][0] in {day.active_users for day in usage.points[-2:]}
        assert by_country == [(None, 3)]
        assert [(reason, count) for reason, count, _ in ends] == [("revoked", 1)]
        assert ends[0][2] == pytest.approx(usage.total.session_length.mean, abs=0.002)
        assert per_user == [(1, 2)]
    finally:
        await db.close()
