"""The audit trail in MySQL and MariaDB: events as rows, by the order in which they came and by stream."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import msgspec

from sessiondb.core.events import Event, Seal
from sessiondb.core.sealing import GROUPS, Group
from sessiondb.stores._mysql_connection import Connection, blob, number, text
from sessiondb.stores._mysql_parts import Again
from sessiondb.stores._mysql_rows import Statements
from sessiondb.stores._windows import attempts
from sessiondb.stores.base import EventPage, EventQuery, Position, Stream

PART = 500  # of one transaction
_ROWS = 100  # of one statement that inserts
_COLUMNS = (
    "at",
    "type",
    "sid",
    "user_id",
    "actor",
    "reason",
    "ip",
    "details",
    "personal",
    "stream",
    "seq",
    "previous",
    "who_commitment",
    "actor_commitment",
    "where_commitment",
    "who_salt",
    "actor_salt",
    "where_salt",
)
_NAMES = ", ".join(_COLUMNS)
_STREAM = _COLUMNS.index("stream")
_BLANKS: dict[Group, str] = {
    "who": "user_id = NULL, sid = NULL, who_salt = NULL",
    "actor": "actor = NULL, actor_salt = NULL",
    "where": "ip = NULL, personal = '{}', where_salt = NULL",
}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str | int]).decode

# An auditor reads every event that there is, and a frozen dataclass takes its fields far slower from its constructor.
_new = object.__new__
(_type, _at, _sid, _user_id, _actor, _reason, _ip, _details, _personal, _seal) = (
    Event.__dict__[name].__set__ for name in Event.__dataclass_fields__
)


def insert(sql: Statements, events: Sequence[Event], *, unless: str = "", again: bool = False) -> list[str]:
    """Statements that write ``events``, none of them long. A place that is taken is an error (1062).

    With ``again`` it is left as it is. Where the condition ``unless`` is true, the first statement fails (1048).
    """
    late = " ON DUPLICATE KEY UPDATE stream = stream" if again else ""
    times = [number(event.at) for event in events]
    if unless:
        times[0] = f"IF({unless}, NULL, {times[0]})"
    rows = [_row(event, at) for event, at in zip(events, times, strict=True)]
    return [
        f"INSERT INTO {sql.events} ({_NAMES}) VALUES {', '.join(rows[start : start + _ROWS])}{late}"
        for start in range(0, len(rows), _ROWS)
    ]


def _row(event: Event, at: str) -> str:
    seal = event.seal
    if seal is None:
        raise ValueError("an event without its seal cannot be stored; see sessiondb.core.sealing")
    return (
        f"({at}, {text(str(event.type))}, {_exact(event.sid)}, {_exact(event.user_id)}, {_exact(event.actor)}, "
        f"{text(event.reason)}, {text(event.ip)}, {text(_encode(event.details))}, {text(_encode(event.personal))}, "
        f"{_exact(seal.stream)}, {seal.seq:d}, {blob(seal.previous)}, "
        f"{blob(seal.who)}, {blob(seal.actor)}, {blob(seal.where)}, "
        f"{blob(seal.who_salt)}, {blob(seal.actor_salt)}, {blob(seal.where_salt)})"
    )


def _exact(value: str | None) -> str:
    return "NULL" if value is None else f"x'{value.encode().hex()}'"


def _to_event(row: Sequence[Any]) -> Event:
    """The event in ``_COLUMNS``."""
    at, type_, sid, user_id, actor, reason, ip, details, personal, stream, seq, *seal = row
    event = _new(Event)
    _type(event, type_.decode())
    _at(event, at)
    _sid(event, None if sid is None else sid.decode())
    _user_id(event, None if user_id is None else user_id.decode())
    _actor(event, None if actor is None else actor.decode())
    _reason(event, None if reason is None else reason.decode())
    _ip(event, None if ip is None else ip.decode())
    _details(event, _decode(details))
    _personal(event, _decode(personal))
    _seal(event, Seal(stream.decode(), seq, *seal))
    return event


async def taken(sql: Statements, connection: Connection, events: Sequence[Event]) -> Position | None:
    """A place of ``events`` that is taken, or ``None``."""
    where = _named([Position(event.seal.stream, event.seal.seq) for event in events if event.seal is not None])
    [found] = await connection.run([f"SELECT stream, seq FROM {sql.events} WHERE {where} LIMIT 1"])
    return Position(found.rows[0][0].decode(), found.rows[0][1]) if found.rows else None


def _named(places: Iterable[Position]) -> str:
    """The condition that names ``places``; of rows as values MariaDB would look at every one there is."""
    return " OR ".join(
        f"(stream = {_exact(stream)} AND seq IN ({', '.join(str(place.seq) for place in group)}))"
        for stream, group in groupby(sorted(places), key=lambda place: place.stream)
    )


async def page(sql: Statements, connection: Connection, query: EventQuery) -> EventPage:
    """See ``Store.events``."""
    about = [("user_id", query.user_id), ("sid", query.sid), ("actor", query.actor)]
    conditions = [f"{name} = {_exact(value)}" for name, value in about if value is not None]
    is_of_time = not conditions and not (query.since is None and query.until is None)
    if query.type is not None:
        conditions.append(f"type = {text(query.type)}")
    conditions += _times(query)
    if query.after is not None:
        conditions.append(f"id < {query.after:d}")
    newest = f"ORDER BY id DESC LIMIT {query.limit + 1:d}"
    if is_of_time:
        rows = await _of_time(sql, connection, query, conditions, newest)
    else:
        where = " AND ".join(["TRUE", *conditions])
        [answer] = await connection.run([f"SELECT id, {_NAMES} FROM {sql.events} WHERE {where} {newest}"])
        rows = answer.rows
    shown = rows[: query.limit]
    more = len(rows) > len(shown) > 0
    return EventPage([_to_event(row[1:]) for row in shown], shown[-1][0] if more else None)


def _times(query: EventQuery) -> list[str]:
    bounds = (("at >=", query.since), ("at <", query.until))
    return [f"{condition} {bound:d}" for condition, bound in bounds if bound is not None]


async def _of_time(
    sql: Statements, connection: Connection, query: EventQuery, conditions: Sequence[str], newest: str
) -> Sequence[Any]:
    """The rows of a page and one more, if there is one: of a window by its index, else see ``attempts``."""
    where = " AND ".join(conditions)
    by_time = f"{sql.events} FORCE INDEX ({sql.events}_at)"
    names = ", ".join(f"e.{name}" for name in ("id", *_COLUMNS))
    found = f"SELECT id FROM {by_time} WHERE {where} {newest}"
    read = f"SELECT {names} FROM ({found}) AS f JOIN {sql.events} AS e ON e.id = f.id ORDER BY e.id DESC"
    if query.since is not None and query.until is not None:
        [answer] = await connection.run([read])
        return answer.rows
    below = query.after
    if below is None:
        [last] = await connection.run([f"SELECT COALESCE(MAX(id), 0) FROM {sql.events}"])
        below = last.rows[0][0] + 1
    held = f"SELECT 1 FROM {by_time} WHERE {' AND '.join(_times(query))}"
    for lowest, most in attempts(below):
        [answer] = await connection.run(
            [f"SELECT id, {_NAMES} FROM {sql.events} FORCE INDEX (PRIMARY) WHERE {where} AND id >= {lowest:d} {newest}"]
        )
        if len(answer.rows) > query.limit or lowest == 0:
            break
        [counted] = await connection.run([f"SELECT COUNT(*) FROM ({held} LIMIT {most:d}) AS held"])
        if counted.rows[0][0] < most:
            [answer] = await connection.run([read])
            break
    return answer.rows


async def streams(sql: Statements, connection: Connection) -> list[Stream]:
    """See ``Store.streams``. The server leaps from one stream to the next along the index of places."""
    names = ", ".join(f"e.{name}" for name in _COLUMNS)
    _, found = await connection.run(
        [
            # MariaDB would go by what it counted when it opened the table, which was empty then, and read all of it.
            f"SHOW INDEX FROM {sql.events}",
            f"SELECT ends.lowest, {names} FROM "
            f"(SELECT stream, MIN(seq) AS lowest, MAX(seq) AS highest FROM {sql.events} GROUP BY stream) AS ends "
            f"JOIN {sql.events} AS e ON e.stream = ends.stream AND e.seq = ends.highest ORDER BY ends.stream",
        ]
    )
    return [Stream(row[_STREAM].decode(), lowest, _to_event(row)) for lowest, *row in found.rows]


async def trail(sql: Statements, connection: Connection, stream: str, after: int, limit: int) -> list[Event]:
    """See ``Store.trail``."""
    [found] = await connection.run(
        [
            f"SELECT {_NAMES} FROM {sql.events} WHERE stream = {_exact(stream)} AND seq > {after:d} "
            f"ORDER BY seq LIMIT {limit:d}"
        ]
    )
    return list(map(_to_event, found.rows))


async def purge(sql: Statements, again: Again, through: Mapping[str, int]) -> int:
    """See ``Store.purge_events``; so many at a time that nobody waits for it long."""
    purged = 0
    for stream, seq in sorted(through.items()):
        statement = (
            f"DELETE FROM {sql.events} WHERE stream = {_exact(stream)} AND seq <= {seq:d} ORDER BY seq LIMIT {PART}"
        )
        while True:
            [answer] = await again(partial(Connection.run, statements=[statement]))
            purged += answer.affected
            if answer.affected < PART:
                break
    return purged


async def blank(sql: Statements, again: Again, places: Collection[Position], groups: Collection[Group]) -> int:
    """See ``Store.blank``."""
    changes = ", ".join(_BLANKS[group] for group in GROUPS if group in groups) or "id = id"
    by_place = f"{sql.events} FORCE INDEX ({sql.events}_place)"
    ordered = sorted(set(places))
    blanked = 0
    for start in range(0, len(ordered), PART):
        statement = f"UPDATE {by_place} SET {changes} WHERE {_named(ordered[start : start + PART])}"
        [answer] = await again(partial(Connection.run, statements=[statement]))
        blanked += answer.affected
    return blanked
