"""The tables of the PostgreSQL store: made if absent, checked if there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores._columns import check_columns
from sessiondb.stores._postgresql_partitions import REST, check_partitioned

SCHEMA_VERSION = 1
OLDEST_SERVER = 130000

# No index holds a column that a touch writes, so "seen just now" is a heap-only update; the fillfactor leaves room for
# it in the page. User ids are compared byte by byte, whatever the database's collation.
_DDL = """\
CREATE TABLE IF NOT EXISTS {p}sessions (
  sid              uuid PRIMARY KEY,
  user_id          text COLLATE "C",
  data             jsonb NOT NULL DEFAULT '{{}}',
  created_at       bigint NOT NULL,
  last_seen_at     bigint NOT NULL,
  authenticated_at bigint,
  ended_at         bigint,
  end_reason       text,
  purge_at         bigint,
  idle             bigint NOT NULL,
  absolute         bigint NOT NULL,
  lifetime         text NOT NULL DEFAULT 'normal',
  check_at         bigint NOT NULL,
  client_first     json NOT NULL DEFAULT '{{}}',
  client_last      json NOT NULL DEFAULT '{{}}',
  auth             json NOT NULL DEFAULT '{{}}',
  risk             json NOT NULL DEFAULT '{{}}',
  rev              bigint NOT NULL,
  last_changes     bytea NOT NULL,
  series_hash      bytea NOT NULL,
  secret_hash      bytea NOT NULL,
  previous_hash    bytea,
  salt             bytea,
  rotated_at       bigint,
  confirmed_at     bigint
) {storage};
{parts}CREATE INDEX IF NOT EXISTS {p}sessions_user ON {p}sessions (user_id, sid) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}sessions_check ON {p}sessions (check_at);
CREATE TABLE IF NOT EXISTS {p}links (
  link bytea NOT NULL,
  sid  uuid NOT NULL,
  PRIMARY KEY (link, sid)
);
CREATE INDEX IF NOT EXISTS {p}links_sid ON {p}links (sid);
CREATE TABLE IF NOT EXISTS {p}users (
  user_id    text COLLATE "C" PRIMARY KEY,
  not_before bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}users_not_before ON {p}users (not_before);
CREATE TABLE IF NOT EXISTS {p}events (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at               bigint NOT NULL,
  type             text NOT NULL,
  sid              text COLLATE "C",
  user_id          text COLLATE "C",
  actor            text COLLATE "C",
  reason           text,
  ip               text,
  details          json NOT NULL DEFAULT '{{}}',
  personal         json NOT NULL DEFAULT '{{}}',
  stream           text COLLATE "C" NOT NULL,
  seq              bigint NOT NULL,
  previous         bytea NOT NULL,
  who_commitment   bytea NOT NULL,
  actor_commitment bytea NOT NULL,
  where_commitment bytea NOT NULL,
  who_salt         bytea,
  actor_salt       bytea,
  where_salt       bytea
);
CREATE INDEX IF NOT EXISTS {p}events_user ON {p}events (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}events_sid ON {p}events (sid, id) WHERE sid IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}events_actor ON {p}events (actor, id) WHERE actor IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}events_at ON {p}events (at);
CREATE UNIQUE INDEX IF NOT EXISTS {p}events_place ON {p}events (stream, seq);
CREATE TABLE IF NOT EXISTS {p}histories (
  user_id    text COLLATE "C" PRIMARY KEY,
  logins     bytea NOT NULL,
  expires_at bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}histories_expires ON {p}histories (expires_at);
CREATE TABLE IF NOT EXISTS {p}buckets (
  bucket     text COLLATE "C" PRIMARY KEY,
  items      bigint NOT NULL,
  expires_at bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}buckets_expires ON {p}buckets (expires_at);
CREATE TABLE IF NOT EXISTS {p}counters (
  bucket text COLLATE "C" NOT NULL,
  item   bytea NOT NULL,
  total  bigint NOT NULL,
  PRIMARY KEY (bucket, item)
);
CREATE TABLE IF NOT EXISTS {p}sheets (
  kind       text COLLATE "C" NOT NULL,
  bucket     bigint NOT NULL,
  writer     text COLLATE "C" NOT NULL,
  data       bytea NOT NULL,
  expires_at bigint NOT NULL,
  PRIMARY KEY (kind, bucket, writer)
);
CREATE INDEX IF NOT EXISTS {p}sheets_expires ON {p}sheets (expires_at);
CREATE TABLE IF NOT EXISTS {p}meta (
  key   text PRIMARY KEY,
  value text NOT NULL
);
INSERT INTO {p}meta (key, value) VALUES ('schema_version', '{version}') ON CONFLICT DO NOTHING;
"""

_NAMES = re.findall(r"IF NOT EXISTS {p}(\w+)", _DDL)
# Any number will do, as long as no two programs that share a database mean different things by it.
LOCK = 0x5E551_0DB
_STORAGE = "WITH (fillfactor = 80)"


def schema_sql(prefix: str = "sessiondb_", *, partitions: bool = False) -> str:
    """The DDL, for databases that are made by hand. Times are microseconds since the epoch, UTC.

    With ``partitions``, those of the months are made by the store, whose role must own the table for that.
    """
    storage, parts = _STORAGE, ""
    if partitions:
        storage = "PARTITION BY RANGE (sid)"
        table = f"{prefix}sessions"
        parts = f"CREATE TABLE IF NOT EXISTS {table}_{REST} PARTITION OF {table} DEFAULT {_STORAGE};\n"
    return _DDL.format(p=prefix, version=SCHEMA_VERSION, storage=storage, parts=parts)


async def prepare(connection: Any, prefix: str, *, partitions: bool = False) -> None:
    """Make what is missing of the tables, and check their version. Three flights if nothing is to do.

    Raises ``ConfigurationError`` for an old server, a newer schema, a table that lacks a column, or one that should
    have partitions.
    """
    check_server(connection)
    present = await columns_in(connection, [f"{prefix}{name}" for name in _NAMES])
    if len(present) < len(_NAMES):
        async with connection.transaction():
            # Two workers start at once, and CREATE TABLE IF NOT EXISTS is no match for that.
            await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            await _check_version(connection, prefix)
            await connection.execute(schema_sql(prefix, partitions=partitions))
    await _check_version(connection, prefix)
    check_columns(schema_sql(prefix), present)
    if partitions:
        await check_partitioned(connection, f"{prefix}sessions")


def check_server(connection: Any) -> None:
    """Raise ``ConfigurationError`` for a server that is too old."""
    version = connection.get_server_version()
    if (version.major, version.minor) < (OLDEST_SERVER // 10000, 0):
        raise ConfigurationError(
            f"This server is PostgreSQL {version.major}; sessiondb needs 13 or newer: upgrade the server."
        )


async def columns_in(connection: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """The columns of those tables and indexes of ``names`` that are there."""
    found = await connection.fetch(
        "SELECT name, ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = id AND attnum > 0 "
        "AND NOT attisdropped) FROM unnest($1::text[]) AS name, to_regclass(quote_ident(name)) AS id "
        "WHERE id IS NOT NULL",
        names,
    )
    return dict(found)


async def _check_version(connection: Any, prefix: str) -> None:
    if await connection.fetchval("SELECT to_regclass(quote_ident($1)) IS NULL", f"{prefix}meta"):
        return
    found = await connection.fetchval(f"SELECT value FROM {prefix}meta WHERE key = 'schema_version'")
    if found is not None and found != str(SCHEMA_VERSION):
        raise ConfigurationError(
            f"The tables {prefix}* have schema version {found}, and this sessiondb knows version {SCHEMA_VERSION}. "
            "Install the sessiondb that made them, or name another database or ?prefix=."
        )
