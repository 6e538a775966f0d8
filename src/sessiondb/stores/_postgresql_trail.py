"""The audit trail in PostgreSQL: events newest first, streams by their numbers, and what is erased from both.

Events are locked in the order of their ids, by whoever locks several, so that nobody deadlocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from sessiondb.core.events import Event, Seal
from sessiondb.core.sealing import GROUPS, Group
from sessiondb.stores._postgresql_statements import EVENT_COLUMNS, Statements
from sessiondb.stores._windows import attempts
from sessiondb.stores.base import EventPage, EventQuery, Position, Stream

# Rows that one statement deletes, so that nobody who appends waits behind it.
PURGED_AT_ONCE = 2_000

_decode = msgspec.json.Decoder(dict[str, str | int]).decode
_new = object.__new__
# A frozen dataclass looks up each of its fields by name as it is made, which takes as long as all the rest of a row.
_set_type, _set_at, _set_sid, _set_user_id, _set_actor, _set_reason, _set_ip, _set_details, _set_personal, _set_seal = (
    getattr(Event, name).__set__
    for name in ("type", "at", "sid", "user_id", "actor", "reason", "ip", "details", "personal", "seal")
)
_ERASED = {
    "who": ("user_id", "sid", "who_salt"),
    "actor": ("actor", "actor_salt"),
    "where": ("ip", "where_salt"),
}


def to_event(row: Any) -> Event:
    """The event in a row of ``EVENT_COLUMNS``."""
    at, type_, sid, user_id, actor, reason, ip, details, personal, *seal = row
    event = _new(Event)
    _set_type(event, type_)
    _set_at(event, at)
    _set_sid(event, sid)
    _set_user_id(event, user_id)
    _set_actor(event, actor)
    _set_reason(event, reason)
    _set_ip(event, ip)
    _set_details(event, _decode(details))
    _set_personal(event, _decode(personal))
    _set_seal(event, Seal(*seal))
    return event


async def taken(sql: Statements, connection: Any, events: Sequence[Event]) -> Position:
    """The first place of ``events`` that another one has. (The first of all, if that one has gone meanwhile.)"""
    places = [Position(event.seal.stream, event.seal.seq) for event in events if event.seal is not None]
    found = await connection.fetchrow(
        f"SELECT stream, seq FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS given(stream, seq, number) "
        f"WHERE EXISTS (SELECT FROM {sql.events} AS e WHERE e.stream = given.stream AND e.seq = given.seq) "
        f"ORDER BY number LIMIT 1",
        *_columns(places),
    )
    return places[0] if found is None else Position(*found)


async def events(sql: Statements, connection: Any, query: EventQuery) -> EventPage:
    """See ``Store.events``."""
    about = (("user_id =", query.user_id), ("sid =", query.sid), ("actor =", query.actor))
    times = (("at >=", query.since), ("at <", query.until))
    if all(value is None for _, value in about) and any(value is not None for _, value in times):
        found = await _of_time(sql, connection, query, times)
    else:
        where, values = _where(*about, *times, ("type =", query.type), ("id <", query.after))
        found = await _page(sql, connection, where, values, query.limit)
    shown = found[: query.limit]
    return EventPage([to_event(row[1:]) for row in shown], shown[-1][0] if len(found) > len(shown) > 0 else None)


def _where(*conditions: tuple[str, object]) -> tuple[str, list[object]]:
    """The conditions that have a value, as SQL."""
    given = [(condition, value) for condition, value in conditions if value is not None]
    parts = [f" AND {condition} ${number}" for number, (condition, _) in enumerate(given, 1)]
    return f"true{''.join(parts)}", [value for _, value in given]


async def _page(sql: Statements, connection: Any, where: str, values: list[object], limit: int) -> list[Any]:
    """The rows of a page and one more, if there is one."""
    found: list[Any] = await connection.fetch(
        f"SELECT id, {EVENT_COLUMNS} FROM {sql.events} WHERE {where} ORDER BY id DESC LIMIT ${len(values) + 1}::bigint",
        *values,
        limit + 1,
    )
    return found


async def _of_time(
    sql: Statements, connection: Any, query: EventQuery, times: Sequence[tuple[str, int | None]]
) -> list[Any]:
    """As ``_page``, of a time; see ``attempts``."""
    below = query.after
    if below is None:
        last = await connection.fetchval(f"SELECT id FROM {sql.events} WHERE true ORDER BY id DESC LIMIT 1")
        below = (last or 0) + 1
    wanted = (*times, ("type =", query.type))
    of_time, moments = _where(*times)
    for lowest, most in attempts(below):
        where, values = _where(("id >=", lowest), ("id <", below), *wanted)
        found = await _page(sql, connection, where, values, query.limit)
        if len(found) > query.limit or lowest == 0:
            break
        # In an order that only the index has: by what it has counted, the server might read the table from its start.
        held = f"SELECT at FROM {sql.events} WHERE {of_time} ORDER BY at DESC LIMIT ${len(moments) + 1}::bigint"
        if await connection.fetchval(f"SELECT count(*) FROM ({held}) AS held", *moments, most) < most:
            where, values = _where(("id <", below), *wanted)
            ids = f"SELECT id FROM {sql.events} WHERE {where}"
            where = f"id = ANY (ARRAY(SELECT id FROM held ORDER BY id DESC LIMIT {query.limit + 1:d}))"
            found = await connection.fetch(
                f"WITH held AS MATERIALIZED ({ids} ORDER BY at DESC LIMIT {most:d}) "
                f"SELECT id, {EVENT_COLUMNS} FROM {sql.events} WHERE {where} ORDER BY id DESC",
                *values,
            )
            break
    return found


async def streams(sql: Statements, connection: Any) -> list[Stream]:
    """See ``Store.streams``; two looks at the index of places for each stream, however many events it has."""
    found = await connection.fetch(
        f"WITH RECURSIVE begun AS ((SELECT stream, seq FROM {sql.events} WHERE stream >= '' ORDER BY stream, seq "
        f"LIMIT 1) UNION ALL SELECT next.stream, next.seq FROM begun CROSS JOIN LATERAL (SELECT stream, seq "
        f"FROM {sql.events} AS e WHERE e.stream > begun.stream ORDER BY e.stream, e.seq LIMIT 1) AS next) "
        f"SELECT begun.stream, begun.seq, last.* FROM begun CROSS JOIN LATERAL (SELECT {EVENT_COLUMNS} "
        f"FROM {sql.events} AS e WHERE e.stream = begun.stream ORDER BY seq DESC LIMIT 1) AS last "
        f"ORDER BY begun.stream"
    )
    return [Stream(row[0], row[1], to_event(row[2:])) for row in found]


async def trail(sql: Statements, connection: Any, stream: str, after: int, limit: int) -> list[Event]:
    """See ``Store.trail``."""
    found = await connection.fetch(
        f"SELECT {EVENT_COLUMNS} FROM {sql.events} WHERE stream = $1 AND seq > $2 ORDER BY seq LIMIT $3::bigint",
        stream,
        after,
        limit,
    )
    return [to_event(row) for row in found]


async def purge_events(sql: Statements, connection: Any, through: Mapping[str, int]) -> int:
    """See ``Store.purge_events``; from the start of each stream, so that none has a gap while this goes on."""
    statement = (
        f"WITH doomed AS MATERIALIZED (SELECT id FROM {sql.events} WHERE stream = $1 AND seq <= $2 "
        f"ORDER BY seq LIMIT {PURGED_AT_ONCE}), "
        f"locked AS MATERIALIZED (SELECT id FROM {sql.events} WHERE id = ANY (ARRAY(SELECT id FROM doomed)) "
        f"ORDER BY id FOR UPDATE), "
        f"purged AS (DELETE FROM {sql.events} WHERE id = ANY (ARRAY(SELECT id FROM locked)) RETURNING id) "
        f"SELECT (SELECT count(*) FROM doomed), (SELECT count(*) FROM purged)"
    )
    total = 0
    for stream, last in through.items():
        seen = PURGED_AT_ONCE
        while seen == PURGED_AT_ONCE:
            seen, purged = await connection.fetchrow(statement, stream, last)
            total += purged
    return total


async def blank(sql: Statements, connection: Any, places: Sequence[Position], groups: Collection[Group]) -> int:
    """See ``Store.blank``. What is blank already is not written again."""
    columns = [name for group in GROUPS if group in groups for name in _ERASED[group]]
    erase = [f"{name} = NULL" for name in columns]
    held = [f"e.{name} IS NOT NULL" for name in columns]
    if "where" in groups:
        erase.append("personal = '{}'")
        held.append("e.personal::text <> '{}'")
    blanked = (
        f", blanked AS (UPDATE {sql.events} AS e SET {', '.join(erase)} "
        f"WHERE e.id = ANY (ARRAY(SELECT id FROM locked)) AND ({' OR '.join(held)}))"
    )
    found: int = await connection.fetchval(
        f"WITH named AS MATERIALIZED (SELECT e.id FROM unnest($1::text[], $2::bigint[]) AS given(stream, seq) "
        f"CROSS JOIN LATERAL (SELECT id FROM {sql.events} AS e WHERE e.stream = given.stream AND e.seq = given.seq "
        f"LIMIT 1) AS e), "
        f"locked AS MATERIALIZED (SELECT id FROM {sql.events} WHERE id = ANY (ARRAY(SELECT id FROM named)) "
        f"ORDER BY id FOR NO KEY UPDATE){blanked if erase else ''} "
        f"SELECT count(*) FROM locked",
        *_columns(sorted(set(places))),
    )
    return found


def _columns(places: Sequence[Position]) -> tuple[list[str], list[int]]:
    return [place.stream for place in places], [place.seq for place in places]
