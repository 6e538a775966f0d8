"""What the command line does with a database as such: its DDL, whether it is there, its lists."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores.base import open_store


def ddl(url: str) -> str:
    """The statements that make the tables of the database of ``url``; comments, where it needs none.

    Connects to nothing. Raises ``ConfigurationError``.
    """
    name = open_store(url).name
    if name == "sqlite":
        from sessiondb.stores._sqlite_schema import schema_sql
        from sessiondb.stores.sqlite import sqlite_from_url

        return schema_sql(sqlite_from_url(url).prefix)
    if name == "postgresql":
        from sessiondb.stores import _postgresql_schema, _postgresql_triggers, _postgresql_url

        settings = _postgresql_url.parse(url)
        triggers = _postgresql_triggers.triggers_sql(settings.prefix).replace("\n", "\n-- ").removesuffix("-- ")
        return (
            _postgresql_schema.schema_sql(settings.prefix, partitions=settings.partitions)
            + "-- For apps with a near cache, whose user does not own the tables and so cannot make this itself:\n"
            + f"-- {triggers}"
        )
    if name == "mysql":
        from sessiondb.stores import _mysql_schema, _mysql_url

        return _mysql_schema.schema_sql(_mysql_url.parse(url).prefix)
    if name == "redis":
        from sessiondb.stores import _redis_url

        return (
            "-- Redis and Valkey need no schema. Keys begin with "
            f"'{_redis_url.parse(url).prefix}'; a user of its own: ACL SETUSER app on >password ~PREFIX* +@all\n"
        )
    if name == "mongodb":
        from sessiondb.stores import _mongodb_schema, _mongodb_url

        prefix = _mongodb_url.parse(url).prefix
        made = [
            f"--   {prefix}{collection}: {', '.join(index.document['name'] for index in indexes)}\n"
            for collection, indexes in _mongodb_schema.indexes().items()
        ]
        return "-- MongoDB needs no schema. The app, or 'sessiondb init', makes these indexes:\n" + "".join(made)
    return f"-- {name}:// needs no schema.\n"


def views(url: str) -> str:
    """The statements that make the views over the tables of the database of ``url``.

    Connects to nothing. Raises ``ConfigurationError``, also for a database that has no views.
    """
    from sessiondb.stores.views import views_sql

    name = open_store(url).name
    if name == "sqlite":
        from sessiondb.stores.sqlite import sqlite_from_url

        return views_sql(name, sqlite_from_url(url).prefix)
    if name == "postgresql":
        from sessiondb.stores import _postgresql_url

        return views_sql(name, _postgresql_url.parse(url).prefix)
    if name == "mysql":
        from sessiondb.stores import _mysql_url

        return views_sql(name, _mysql_url.parse(url).prefix)
    return views_sql(name)


def check_exists(url: str) -> None:
    """Raise ``ConfigurationError`` for an SQLite file that is not there: a mistyped path would make another one."""
    if urlsplit(url).scheme.partition("+")[0] != "sqlite":
        return
    from sessiondb.stores.sqlite import sqlite_from_url

    path = Path(sqlite_from_url(url).path)
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist. Correct the URL, or make it: sessiondb init {url}")


async def repair(url: str) -> int:
    """List every session of a Redis database anew; how many there are.

    Raises ``ConfigurationError`` for another kind of database, ``StoreUnavailable``.
    """
    if open_store(url).name != "redis":
        raise ConfigurationError(
            "repair is for Redis and Valkey, whose lists are kept beside the sessions; other databases keep their "
            "indexes themselves."
        )
    from sessiondb.stores.redis import RedisStore

    store = RedisStore(url)
    await store.open()
    try:
        return await store.repair()
    finally:
        await store.close()
