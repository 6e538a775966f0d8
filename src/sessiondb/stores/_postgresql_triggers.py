"""Triggers that notify which sessions were changed or deleted, whoever wrote it: an app, the command line, people.

They are there only where a near cache listens, for they cost every write something: a transaction that notifies takes
a lock of the whole server while it commits. So a statement notifies once, and only of what a cache must know: sessions
that are new are in no cache, and "seen just now" changes no answer.
"""

from __future__ import annotations

import re
from typing import Any

from sessiondb.core.record import Record
from sessiondb.stores._postgresql_schema import LOCK

EVERYTHING = "*"
# What a touch and the sweeper's plans write.
_UNTOLD = frozenset({"last_seen_at", "client_last", "check_at"})
_WITHOUT_EQUALITY = frozenset({"client_first", "auth", "risk"})  # of the type json
_VERSION = 1
_SIDS_AT_ONCE = 200  # of 37 bytes each: a payload has less than 8000
_NAMED_AT_MOST = 1000
_EVENTS = {
    "update": "UPDATE ON {table} REFERENCING OLD TABLE AS gone NEW TABLE AS came",
    "delete": "DELETE ON {table} REFERENCING OLD TABLE AS gone",
    "truncate": "TRUNCATE ON {table}",
}

# EXCEPT and not a join: its plan is as good for a million rows as for the one that it was made for.
_BODY = f"""
-- version {_VERSION} of what sessiondb's near cache listens to
DECLARE
  sids text[];
BEGIN
  IF TG_OP = 'UPDATE' THEN
    SELECT array_agg(sid::text) INTO sids FROM (
      SELECT {{columns}} FROM gone
      EXCEPT SELECT {{columns}} FROM came
    ) AS changed;
  ELSIF TG_OP = 'DELETE' THEN
    SELECT array_agg(sid::text) INTO sids FROM gone;
  END IF;
  IF TG_OP = 'TRUNCATE' OR cardinality(sids) > {_NAMED_AT_MOST} THEN
    PERFORM pg_catalog.pg_notify('{{channel}}', '{EVERYTHING}');
  ELSE
    WHILE cardinality(sids) > 0 LOOP
      PERFORM pg_catalog.pg_notify('{{channel}}', array_to_string(sids[:{_SIDS_AT_ONCE}], ','));
      sids := sids[{_SIDS_AT_ONCE + 1}:];
    END LOOP;
  END IF;
  RETURN NULL;
END
"""
_OURS = (
    "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = to_regclass('{table}') "
    "AND t.tgname = ANY('{{{names}}}') AND t.tgenabled IN ('O', 'A')"
)


def channel_of(prefix: str) -> str:
    """What to ``LISTEN`` to."""
    return f"{prefix}sessions_changed"


def triggers_sql(prefix: str) -> str:
    """The statements that install the triggers, which may be repeated; for the owner of the table."""
    columns = ", ".join(
        f"{name}::text" if name in _WITHOUT_EQUALITY else name
        for name in Record.__struct_fields__
        if name not in _UNTOLD
    )
    channel = channel_of(prefix)
    body = _BODY.format(columns=columns, channel=channel)
    made = "".join(
        f"DROP TRIGGER IF EXISTS {_name(prefix, event)} ON {prefix}sessions;\n"
        f"CREATE TRIGGER {_name(prefix, event)} AFTER {when.format(table=f'{prefix}sessions')}\n"
        f"  FOR EACH STATEMENT EXECUTE FUNCTION {channel}();\n"
        for event, when in _EVENTS.items()
    )
    return f"CREATE OR REPLACE FUNCTION {channel}() RETURNS trigger LANGUAGE plpgsql AS $body${body}$body$;\n{made}"


class Triggers:
    """Those of one table."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        ours = _OURS.format(table=f"{prefix}sessions", names=",".join(_name(prefix, event) for event in _EVENTS))
        self._bodies = f"SELECT p.prosrc {ours}"
        # A trigger that was dropped or disabled and came back is another one, or another version of its row.
        self._stamp = f"SELECT array_agg(t.oid::text || ' ' || t.xmin::text ORDER BY t.oid) {ours}"

    async def install(self, connection: Any) -> None:
        """Have them there. One flight, if they are; else sessions cannot be written for a moment.

        Raises the driver's error for a role that does not own the table, or where a long transaction holds it.
        """
        if await self._are_there(connection):
            return
        async with connection.transaction():
            # Another worker may be about to make them, or the tables.
            await connection.execute(f"SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({LOCK})")
            if not await self._are_there(connection):
                # Everybody waits behind who waits for a lock on all sessions, so that is not for long.
                await connection.execute(f"SET LOCAL lock_timeout = '100ms'; {triggers_sql(self._prefix)}")

    async def stamp(self, connection: Any) -> list[str] | None:
        """Equal to an earlier one if they have been there all the time in between; ``None`` if one is not."""
        found: list[str] | None = await connection.fetchval(self._stamp)
        return found if found is not None and len(found) == len(_EVENTS) else None

    async def _are_there(self, connection: Any) -> bool:
        # Those of a newer version stay: it knows what is to be told.
        found = [_version_of(row[0]) for row in await connection.fetch(self._bodies)]
        return len(found) == len(_EVENTS) and min(found) >= _VERSION


def _name(prefix: str, event: str) -> str:
    return f"{prefix}sessions_{event}_told"


def _version_of(body: str) -> int:
    found = re.search(r"^-- version (\d+) of what sessiondb's", body, re.MULTILINE)
    return 0 if found is None else int(found[1])
