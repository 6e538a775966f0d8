"""The tables of the MySQL and MariaDB store: made if absent, checked if there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores._columns import check_columns
from sessiondb.stores._mysql_connection import Connection, text

SCHEMA_VERSION = 1

# User ids are bytes: under a text collation, 'alice', 'ALICE' and 'Álice ' would be one user. No index holds a column
# that a touch writes. The data is JSON as text, which is what JSON means in MariaDB; MySQL's own type would read it
# again and write it in another way (the order of keys, numbers).
_DDL = """\
CREATE TABLE IF NOT EXISTS {p}sessions (
  sid              BINARY(16) NOT NULL PRIMARY KEY,
  user_id          VARBINARY(255),
  data             LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (JSON_VALID(data)),
  created_at       BIGINT NOT NULL,
  last_seen_at     BIGINT NOT NULL,
  authenticated_at BIGINT,
  ended_at         BIGINT,
  end_reason       VARCHAR(32),
  purge_at         BIGINT,
  idle             BIGINT NOT NULL,
  absolute         BIGINT NOT NULL,
  lifetime         VARCHAR(64) NOT NULL,
  check_at         BIGINT NOT NULL,
  client_first     TEXT NOT NULL,
  client_last      TEXT NOT NULL,
  auth             TEXT NOT NULL,
  risk             TEXT NOT NULL,
  rev              BIGINT NOT NULL,
  last_changes     VARBINARY(64) NOT NULL,
  series_hash      BINARY(32) NOT NULL,
  secret_hash      BINARY(32) NOT NULL,
  previous_hash    BINARY(32),
  salt             VARBINARY(64),
  rotated_at       BIGINT,
  confirmed_at     BIGINT,
  KEY {p}sessions_user (user_id, sid),
  KEY {p}sessions_check (check_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}links (
  link BINARY(16) NOT NULL,
  sid  BINARY(16) NOT NULL,
  PRIMARY KEY (link, sid),
  KEY {p}links_sid (sid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}users (
  user_id    VARBINARY(255) NOT NULL PRIMARY KEY,
  not_before BIGINT NOT NULL,
  KEY {p}users_not_before (not_before)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}events (
  id               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at               BIGINT NOT NULL,
  type             VARCHAR(64) NOT NULL,
  sid              VARBINARY(64),
  user_id          VARBINARY(255),
  actor            VARBINARY(255),
  reason           VARCHAR(255),
  ip               VARCHAR(64),
  details          TEXT NOT NULL,
  personal         TEXT NOT NULL,
  stream           VARBINARY(16) NOT NULL,
  seq              BIGINT NOT NULL,
  previous         BINARY(32) NOT NULL,
  who_commitment   VARBINARY(32) NOT NULL,
  actor_commitment VARBINARY(32) NOT NULL,
  where_commitment VARBINARY(32) NOT NULL,
  who_salt         VARBINARY(16),
  actor_salt       VARBINARY(16),
  where_salt       VARBINARY(16),
  KEY {p}events_user (user_id, id),
  KEY {p}events_sid (sid, id),
  KEY {p}events_actor (actor, id),
  KEY {p}events_at (at),
  UNIQUE KEY {p}events_place (stream, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}histories (
  user_id    VARBINARY(255) NOT NULL PRIMARY KEY,
  logins     VARBINARY(480) NOT NULL,
  expires_at BIGINT NOT NULL,
  KEY {p}histories_expires (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}buckets (
  bucket     VARBINARY(48) NOT NULL PRIMARY KEY,
  items      BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  KEY {p}buckets_expires (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}counters (
  bucket VARBINARY(48) NOT NULL,
  item   VARBINARY(32) NOT NULL,
  total  BIGINT NOT NULL,
  PRIMARY KEY (bucket, item)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}sheets (
  kind       VARBINARY(16) NOT NULL,
  bucket     BIGINT NOT NULL,
  writer     VARBINARY(32) NOT NULL,
  data       MEDIUMBLOB NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (kind, bucket, writer),
  KEY {p}sheets_expires (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS {p}meta (
  name  VARCHAR(64) NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
INSERT INTO {p}meta (name, value) VALUES ('schema_version', '{version}') ON DUPLICATE KEY UPDATE name = name;
"""

TABLES: Sequence[str] = re.findall(r"IF NOT EXISTS {p}(\w+)", _DDL)
_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}


def schema_sql(prefix: str = "sessiondb_") -> str:
    """The DDL, for databases that are made by hand. Times are microseconds since the epoch, UTC."""
    return _DDL.format(p=prefix, version=SCHEMA_VERSION)


async def prepare(connection: Connection, prefix: str) -> None:
    """Make what is missing of the tables, and check their version. One flight if nothing is to do.

    Raises ``ConfigurationError`` for an old server, a newer schema, or where a table lacks a column.
    """
    check_server(connection.server)
    present = await columns_in(connection, [f"{prefix}{name}" for name in TABLES])
    if len(present) < len(TABLES):
        # Statement by statement: DDL commits by itself, and two workers may do this at once.
        for statement in schema_sql(prefix).split(";\n"):
            if statement.strip():
                await connection.run([statement])
    [found] = await connection.run([f"SELECT value FROM {prefix}meta WHERE name = 'schema_version'"])
    version = found.rows[0][0].decode() if found.rows else str(SCHEMA_VERSION)
    if version != str(SCHEMA_VERSION):
        raise ConfigurationError(
            f"The tables {prefix}* have schema version {version}, and this sessiondb knows version {SCHEMA_VERSION}. "
            "Install the sessiondb that made them, or name another database or ?prefix=."
        )
    check_columns(schema_sql(prefix), present)


async def columns_in(connection: Connection, tables: Sequence[str]) -> dict[str, set[str]]:
    """The columns of those of ``tables`` that are there."""
    [answer] = await connection.run(
        [
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE() "
            f"AND table_name IN ({', '.join(map(text, tables))})"
        ]
    )
    found: dict[str, set[str]] = {}
    for table, column in answer.rows:
        found.setdefault(table.decode(), set()).add(column.decode())
    return found


def check_server(said: str) -> None:
    """Raise ``ConfigurationError`` for a server that is too old; ``said``: its version, as it says it."""
    kind = "MariaDB" if "mariadb" in said.lower() else "MySQL"
    # MariaDB puts 5.5.5- before its version, for clients that know no other numbers.
    numbers = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", said)
    oldest = _OLDEST[kind]
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < oldest:
        raise ConfigurationError(
            f"This server is {kind} {said}; sessiondb needs {oldest[0]}.{oldest[1]} or newer: upgrade the server."
        )
