"""What SQLAlchemy and Alembic are told of the tables is what the stores have made."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from databases import drop, new_prefix, url_of, with_option
from sessiondb import ConfigurationError, SessionDB
from sessiondb.stores.schema import metadata

DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy", "sqlite": "sqlite+aiosqlite"}


class Place:
    """A database, as SQLAlchemy and as sessiondb name it."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.prefix = new_prefix()
        self.engine: AsyncEngine = create_async_engine(f"{DRIVERS[kind]}://{url.partition('://')[2].partition('?')[0]}")
        self.url = with_option(url, f"prefix={self.prefix}")
        self.left_out = "none"

    @property
    def metadata(self) -> MetaData:
        return metadata(self.engine.dialect.name, prefix=self.prefix)

    async def run(self, work: Callable[[Connection], Any]) -> Any:
        async with self.engine.begin() as connection:
            return await connection.run_sync(work)

    async def differences(self, told: MetaData) -> list[Any]:
        """What Alembic's autogenerate would write: tables of other tests are none of its business."""

        def include_name(name: str, type_: str, _: object) -> bool:
            return type_ != "table" or (name.startswith(self.prefix) and not name.startswith(self.left_out))

        def compare(connection: Connection) -> list[Any]:
            options = {"compare_type": True, "compare_server_default": True, "include_name": include_name}
            return list(compare_metadata(MigrationContext.configure(connection, opts=options), told))

        return list(await self.run(compare))

    async def catalogue(self) -> dict[str, Any]:
        """Everything that SQLAlchemy can read of the tables, their collations included."""

        def read(connection: Connection) -> dict[str, Any]:
            inspector = sqlalchemy.inspect(connection)
            names = [name for name in inspector.get_table_names() if name.startswith(self.prefix)]
            return {
                name: (
                    [{**one, "type": repr(one["type"])} for one in inspector.get_columns(name)],
                    inspector.get_pk_constraint(name)["constrained_columns"],
                    sorted(map(index_of, inspector.get_indexes(name))),
                    inspector.get_table_options(name),
                )
                for name in names
            }

        return dict(await self.run(read))


def index_of(found: Any) -> tuple[Any, ...]:
    options = found.get("dialect_options", {})
    # Conditions are objects that equal nothing but themselves.
    return found["name"], found["column_names"], found["unique"], {name: str(one) for name, one in options.items()}


@pytest.fixture(params=DRIVERS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    kind = request.param
    place = Place(kind, f"sqlite:///{tmp_path}/app.db" if kind == "sqlite" else url_of(kind))
    yield place
    await place.engine.dispose()
    if kind != "sqlite":
        await drop(kind, place.prefix)


async def test_autogenerate_finds_no_difference(place: Place) -> None:
    async with SessionDB(place.url):
        pass
    assert await place.differences(place.metadata) == []


async def test_partitions_are_left_out_as_the_guide_has_it() -> None:
    place = Place("postgresql", with_option(url_of("postgresql"), "partitions=monthly"))
    async with SessionDB(place.url):
        pass
    extra = [part[1].name for part in await place.differences(place.metadata) if part[0] == "remove_table"]
    assert len(extra) == 4
    assert all(name.startswith(f"{place.prefix}sessions_") for name in extra)
    place.left_out = f"{place.prefix}sessions_"
    assert await place.differences(place.metadata) == []
    await place.engine.dispose()
    await drop("postgresql", place.prefix)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {p}sessions DROP COLUMN confirmed_at",
        "ALTER TABLE {p}events ADD COLUMN colour INTEGER",
        "DROP INDEX {p}sessions_check{on}",
        "DROP TABLE {p}meta",
    ],
)
async def test_autogenerate_sees_what_differs(place: Place, change: str) -> None:
    async with SessionDB(place.url):
        pass
    on = f" ON {place.prefix}sessions" if place.kind == "mysql" else ""
    statement = sqlalchemy.text(change.format(p=place.prefix, on=on))
    await place.run(lambda connection: connection.execute(statement))
    assert len(await place.differences(place.metadata)) == 1


async def test_autogenerate_sees_another_type_and_another_default(place: Place) -> None:
    async with SessionDB(place.url):
        pass
    told = place.metadata
    sessions = told.tables[f"{place.prefix}sessions"]
    sessions.c.rev.type = sqlalchemy.Float()
    sessions.c.lifetime.server_default = sqlalchemy.DefaultClause("other")
    assert [part[0][0] for part in await place.differences(told)] == ["modify_default", "modify_type"]


async def test_a_migration_makes_the_tables_that_the_store_would_make(place: Place) -> None:
    async with SessionDB(place.url):
        pass
    made = await place.catalogue()
    await place.run(place.metadata.drop_all)
    await place.run(place.metadata.create_all)
    assert await place.catalogue() == made
    async with SessionDB(place.url) as db:
        await db.create("ann", {"a": 1})
        assert len(await db.sessions_of("ann")) == 1
        assert await db.revoke_all("ann") == 1
    assert await place.catalogue() == made, "the store found nothing to add"


def test_a_dialect_that_there_is_no_store_for_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"'oracle'; use one of 'postgresql', 'mysql', 'sqlite', 'mariadb'"):
        metadata("oracle")


def test_without_sqlalchemy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sessiondb.stores._sqlalchemy_tables", raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sessiondb\[sqlalchemy\]'"):
        metadata("sqlite")
