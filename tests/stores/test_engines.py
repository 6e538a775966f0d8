"""An app's SQLAlchemy engine names the database: its URL is used, whatever is in it, and nothing else of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from databases import new_prefix, url_of
from sessiondb import SessionDB
from sessiondb.stores._mysql_connection import connect
from sessiondb.stores._mysql_url import parse

PASSWORD = "p@ss:/?#[]%+ &=é'\"\\"
# As apps write them: some are for SQLAlchemy's dialect, or for its driver, alone.
OPTIONS = {
    "postgresql+asyncpg": {"ssl": "prefer", "prepared_statement_cache_size": "0"},
    "mysql+asyncmy": {"charset": "utf8mb4"},
}


@pytest.fixture(params=OPTIONS)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """An engine on a database of its own, whose user has a password with every odd character."""
    driver: str = request.param
    kind, name = driver.partition("+")[0], f"{new_prefix()}app"
    server = urlsplit(url_of(kind))
    url = sqlalchemy.URL.create(driver, name, PASSWORD, server.hostname, server.port, name, OPTIONS[driver])
    if kind == "postgresql":
        connection = await asyncpg.connect(url_of(kind))
        quoted = PASSWORD.replace("'", "''")
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{quoted}'")
        await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        ending = [f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}"]
    else:
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
        connection = await connect(parse(url_of(kind)).arguments, 5)
        await connection.run([f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{quoted}'"])
        await connection.run([f"CREATE DATABASE {name}"])
        await connection.run([f"GRANT ALL ON {name}.* TO {name}@'127.0.0.1'"])
        ending = [f"DROP DATABASE {name}", f"DROP USER {name}@'127.0.0.1'"]
    # asyncmy by itself encodes passwords as Latin-1.
    engine = create_async_engine(url, connect_args={"password": PASSWORD.encode()} if kind == "mysql" else {})
    yield engine
    await engine.dispose()
    for statement in ending:
        await (connection.execute(statement) if kind == "postgresql" else connection.run([statement]))
    await connection.close()


async def test_sessions_live_beside_the_tables_of_the_app(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(sqlalchemy.text("CREATE TABLE users (name VARCHAR(20))"))
    for given in (engine, engine.sync_engine, engine.url.render_as_string(hide_password=False)):
        async with SessionDB(given, sweep_every=None) as db:
            await db.create("ann", {"n": 1})
        assert PASSWORD not in repr(db) and "p%40ss" not in repr(db)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: sqlalchemy.inspect(sync).get_table_names())
        found = await connection.execute(sqlalchemy.text("SELECT user_id FROM sessiondb_sessions"))
        users = [user if isinstance(user, str) else user.decode() for user in found.scalars()]
    assert {"users", "sessiondb_sessions"} <= set(names)
    assert users == ["ann"] * 3
