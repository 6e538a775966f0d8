"""The tables of the SQLite store: made if absent, checked if there."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores._columns import check_columns, columns_of

SCHEMA_VERSION = 1
_WAL_TRIES = 200


def schema_sql(prefix: str = "sessiondb_") -> str:
    """The DDL, for databases that are made by hand. Times are microseconds since the epoch, UTC."""
    return _DDL.format(p=prefix, version=SCHEMA_VERSION)


# No index holds a column that a touch writes, so "seen just now" changes one row and no index. SQLite puts a text into
# an INTEGER column without a word, and a session whose deadline cannot be told would stop the sweeper: hence the CHECK.
_DDL = """\
CREATE TABLE IF NOT EXISTS {p}sessions (
  sid              TEXT PRIMARY KEY NOT NULL,
  user_id          TEXT,
  data             TEXT NOT NULL DEFAULT '{{}}',
  created_at       INTEGER NOT NULL,
  last_seen_at     INTEGER NOT NULL,
  authenticated_at INTEGER,
  ended_at         INTEGER,
  end_reason       TEXT,
  purge_at         INTEGER,
  idle             INTEGER NOT NULL,
  absolute         INTEGER NOT NULL,
  lifetime         TEXT NOT NULL DEFAULT 'normal',
  check_at         INTEGER NOT NULL,
  client_first     TEXT NOT NULL DEFAULT '{{}}',
  client_last      TEXT NOT NULL DEFAULT '{{}}',
  auth             TEXT NOT NULL DEFAULT '{{}}',
  risk             TEXT NOT NULL DEFAULT '{{}}',
  rev              INTEGER NOT NULL,
  last_changes     BLOB NOT NULL,
  series_hash      BLOB NOT NULL,
  secret_hash      BLOB NOT NULL,
  previous_hash    BLOB,
  salt             BLOB,
  rotated_at       INTEGER,
  confirmed_at     INTEGER,
  CONSTRAINT {p}sessions_integers CHECK (
    typeof(created_at) = 'integer' AND typeof(last_seen_at) = 'integer' AND typeof(idle) = 'integer'
    AND typeof(absolute) = 'integer' AND typeof(rev) = 'integer'
  )
);
CREATE INDEX IF NOT EXISTS {p}sessions_user ON {p}sessions (user_id, sid) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}sessions_check ON {p}sessions (check_at);
CREATE TABLE IF NOT EXISTS {p}links (
  link BLOB NOT NULL,
  sid  TEXT NOT NULL,
  PRIMARY KEY (link, sid)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {p}links_sid ON {p}links (sid);
CREATE TABLE IF NOT EXISTS {p}users (
  user_id    TEXT PRIMARY KEY NOT NULL,
  not_before INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}users_not_before ON {p}users (not_before);
CREATE TABLE IF NOT EXISTS {p}events (
  id               INTEGER PRIMARY KEY,
  at               INTEGER NOT NULL,
  type             TEXT NOT NULL,
  sid              TEXT,
  user_id          TEXT,
  actor            TEXT,
  reason           TEXT,
  ip               TEXT,
  details          TEXT NOT NULL DEFAULT '{{}}',
  personal         TEXT NOT NULL DEFAULT '{{}}',
  stream           TEXT NOT NULL,
  seq              INTEGER NOT NULL,
  previous         BLOB NOT NULL,
  who_commitment   BLOB NOT NULL,
  actor_commitment BLOB NOT NULL,
  where_commitment BLOB NOT NULL,
  who_salt         BLOB,
  actor_salt       BLOB,
  where_salt       BLOB
);
CREATE INDEX IF NOT EXISTS {p}events_user ON {p}events (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}events_sid ON {p}events (sid, id) WHERE sid IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}events_actor ON {p}events (actor, id) WHERE actor IS NOT NULL;
CREATE INDEX IF NOT EXISTS {p}events_at ON {p}events (at);
CREATE UNIQUE INDEX IF NOT EXISTS {p}events_place ON {p}events (stream, seq);
CREATE TABLE IF NOT EXISTS {p}histories (
  user_id    TEXT PRIMARY KEY NOT NULL,
  logins     BLOB NOT NULL,
  expires_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}histories_expires ON {p}histories (expires_at);
CREATE TABLE IF NOT EXISTS {p}buckets (
  bucket     TEXT PRIMARY KEY NOT NULL,
  items      INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}buckets_expires ON {p}buckets (expires_at);
CREATE TABLE IF NOT EXISTS {p}counters (
  bucket TEXT NOT NULL,
  item   BLOB NOT NULL,
  total  INTEGER NOT NULL,
  PRIMARY KEY (bucket, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {p}sheets (
  kind       TEXT NOT NULL,
  bucket     INTEGER NOT NULL,
  writer     TEXT NOT NULL,
  data       BLOB NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (kind, bucket, writer)
);
CREATE INDEX IF NOT EXISTS {p}sheets_expires ON {p}sheets (expires_at);
CREATE TABLE IF NOT EXISTS {p}meta (
  key   TEXT PRIMARY KEY NOT NULL,
  value TEXT NOT NULL
);
INSERT OR IGNORE INTO {p}meta (key, value) VALUES ('schema_version', '{version}');
"""

_NAMES = re.findall(r"IF NOT EXISTS {p}(\w+)", _DDL)


def prepare(connection: sqlite3.Connection, prefix: str) -> None:
    """Switch the file to WAL, and make or check the tables.

    Raises ``ConfigurationError`` for a newer schema, or where a table lacks a column.
    """
    _switch_to_wal(connection)
    _check_version(connection, prefix)
    ddl = schema_sql(prefix)
    present = columns_in(connection, list(columns_of(ddl)))
    check_columns(ddl, present)
    if _is_complete(connection, prefix):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Statement by statement: executescript would commit first.
        for statement in ddl.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    _check_version(connection, prefix)


def columns_in(connection: sqlite3.Connection, tables: Sequence[str]) -> dict[str, set[str]]:
    """The columns of those of ``tables`` that are there."""
    found: dict[str, set[str]] = {}
    marks = ",".join("?" * len(tables))
    for table, column in connection.execute(
        f"SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c WHERE m.name IN ({marks})",
        tables,
    ):
        found.setdefault(table, set()).add(column)
    return found


def _is_complete(connection: sqlite3.Connection, prefix: str) -> bool:
    """Whether every table and index is there."""
    names = [f"{prefix}{name}" for name in _NAMES]
    marks = ",".join("?" * len(names))
    found = connection.execute(f"SELECT count(*) FROM sqlite_master WHERE name IN ({marks})", names).fetchone()[0]
    return bool(found == len(names))


def _check_version(connection: sqlite3.Connection, prefix: str) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{prefix}meta",)).fetchone() is None:
        return
    row = connection.execute(f"SELECT value FROM {prefix}meta WHERE key = 'schema_version'").fetchone()
    if row is not None and row[0] != str(SCHEMA_VERSION):
        raise ConfigurationError(
            f"The tables {prefix}* have schema version {row[0]}, and this sessiondb knows version {SCHEMA_VERSION}. "
            "Install the sessiondb that made them, or name another file or ?prefix=."
        )


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for another process here, whatever the busy timeout, and two workers start at once.
    for attempt in range(_WAL_TRIES):
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or attempt == _WAL_TRIES - 1:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise ConfigurationError(
                    f"SQLite cannot use write-ahead logging for this file (its mode stays {mode!r}); put it on a local "
                    "disk, not on a network share."
                )
            return
