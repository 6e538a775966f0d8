"""Events: the audit trail's streams, and their listing in the order in which they came.

What writes works inside a transaction of its caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, Seal
from sessiondb.core.sealing import Group
from sessiondb.stores._sqlite_rows import insert
from sessiondb.stores._windows import attempts
from sessiondb.stores.base import EventPage, EventQuery, Position, Stream, place_taken

AT_ONCE = 500  # events that one transaction purges or blanks, so that other processes get their turn

_PLAIN = ("at", "type", "sid", "user_id", "actor", "reason", "ip")
_JSON = ("details", "personal")
_SEAL = {
    "stream": "stream",
    "seq": "seq",
    "previous": "previous",
    "who": "who_commitment",
    "actor": "actor_commitment",
    "where": "where_commitment",
    "who_salt": "who_salt",
    "actor_salt": "actor_salt",
    "where_salt": "where_salt",
}
_ERASED: dict[Group, str] = {
    "who": "user_id = NULL, sid = NULL, who_salt = NULL",
    "actor": "actor = NULL, actor_salt = NULL",
    "where": "ip = NULL, personal = '{}', where_salt = NULL",
}
_WIDTH = len(_PLAIN) + len(_JSON) + len(_SEAL)
_EMPTY = b"{}"
Condition = tuple[str, str, Any]  # column, operator, value

_decode = msgspec.json.Decoder(dict[str, str | int]).decode
_encode = msgspec.json.Encoder().encode


class Trail:
    """The statements for the table of events with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.events = f"{prefix}events"
        columns = (*_PLAIN, *_JSON, *_SEAL.values())
        self._insert = f"INSERT INTO {self.events} ({', '.join(columns)})"
        # JSON columns are text for people; read as bytes they are spared a decoding that nobody needs.
        read = ", ".join(f"CAST({name} AS BLOB)" if name in _JSON else name for name in columns)
        self._select = f"SELECT {read}, id FROM {self.events}"
        self._read = f"SELECT {read} FROM {self.events} WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?"
        self._purge = (
            f"DELETE FROM {self.events} WHERE id IN "
            f"(SELECT id FROM {self.events} WHERE stream = ? AND seq <= ? ORDER BY seq LIMIT {AT_ONCE})"
        )
        # From name to name by the index, whatever the number of events between them.
        self._streams = (
            f"WITH RECURSIVE names (name) AS (SELECT min(stream) FROM {self.events} UNION ALL "
            f"SELECT (SELECT min(stream) FROM {self.events} WHERE stream > name) FROM names WHERE name IS NOT NULL) "
            f"SELECT {read}, (SELECT min(seq) FROM {self.events} WHERE stream = name) FROM names "
            f"CROSS JOIN {self.events} ON stream = name "
            f"AND seq = (SELECT max(seq) FROM {self.events} WHERE stream = name) WHERE name IS NOT NULL"
        )

    def append(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        insert(connection, self._insert, [_to_row(event) for event in events])

    def write(self, connection: sqlite3.Connection, events: Sequence[Event]) -> StoreError | None:
        """Write ``events``. An error if the place of one is taken: roll back then."""
        if insert(connection, self._insert, [_to_row(event) for event in events]):
            return None
        # What was there before has a lower id than what has just been written.
        _, taken = min((self._id(connection, place), place) for place in map(place_of, events))
        return StoreError(place_taken(taken))

    def _id(self, connection: sqlite3.Connection, place: Position) -> int:
        found = connection.execute(f"SELECT id FROM {self.events} WHERE stream = ? AND seq = ?", place).fetchone()
        return int(found[0])

    def page(self, connection: sqlite3.Connection, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        rows = self._find(connection, query)
        shown = rows[: query.limit]
        return EventPage(
            [_to_event(row[:_WIDTH]) for row in shown], shown[-1][_WIDTH] if len(rows) > len(shown) > 0 else None
        )

    def _find(self, connection: sqlite3.Connection, query: EventQuery) -> list[Any]:
        """The rows of a page and one more, if there is one."""
        conditions = [
            (column, operator, value)
            for column, operator, value in (
                ("user_id", "=", query.user_id),
                ("sid", "=", query.sid),
                ("actor", "=", query.actor),
                ("type", "=", query.type),
                ("at", ">=", query.since),
                ("at", "<", query.until),
                ("id", "<", query.after),
            )
            if value is not None
        ]
        columns = {column for column, _, _ in conditions}
        if "at" not in columns or columns & {"user_id", "sid", "actor"}:
            return self._newest(connection, conditions, query.limit)
        [last] = connection.execute(f"SELECT max(id) FROM {self.events}").fetchone()
        below = (last or 0) + 1 if query.after is None else query.after
        for lowest, most in attempts(below):
            found = self._newest(connection, [*conditions, ("id", ">=", lowest)], query.limit)
            if len(found) > query.limit or lowest == 0:
                break
            if self._is_short(connection, query, most):
                return self._of_time(connection, conditions, query.limit)
        return found

    def _newest(self, connection: sqlite3.Connection, conditions: list[Condition], limit: int) -> list[Any]:
        """Walk from the newest to the oldest."""
        where, values = _where(conditions, "at")
        return connection.execute(
            f"{self._select} WHERE 1{where} ORDER BY id DESC LIMIT ?", (*values, limit + 1)
        ).fetchall()

    def _is_short(self, connection: sqlite3.Connection, query: EventQuery, most: int) -> bool:
        """Whether less than ``most`` events are of that time, of whatever type."""
        times = [("at", ">=", query.since), ("at", "<", query.until)]
        where, values = _where([one for one in times if one[2] is not None], "id")
        found = f"SELECT 1 FROM {self.events} INDEXED BY {self.events}_at WHERE 1{where} LIMIT ?"
        [count] = connection.execute(f"SELECT count(*) FROM ({found})", (*values, most)).fetchone()
        return int(count) < most

    def _of_time(self, connection: sqlite3.Connection, conditions: list[Condition], limit: int) -> list[Any]:
        """Look at all of that time by its index, which has their ids too: only the rows of the page are read."""
        where, values = _where(conditions, "id")
        ids = f"SELECT id FROM {self.events} WHERE 1{where} ORDER BY +id DESC LIMIT ?"
        return connection.execute(
            f"{self._select} WHERE id IN ({ids}) ORDER BY id DESC", (*values, limit + 1)
        ).fetchall()

    def streams(self, connection: sqlite3.Connection) -> list[Stream]:
        """See ``Store.streams``."""
        found = []
        for row in connection.execute(self._streams).fetchall():
            last = _to_event(row[:_WIDTH])
            found.append(Stream(place_of(last).stream, row[_WIDTH], last))
        return found

    def read(self, connection: sqlite3.Connection, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        return [_to_event(row) for row in connection.execute(self._read, (stream, after, limit)).fetchall()]

    def purge(self, connection: sqlite3.Connection, stream: str, last: int) -> int:
        """Delete the first ``AT_ONCE`` events of ``stream``, none after ``last``; how many there were."""
        return connection.execute(self._purge, (stream, last)).rowcount

    def blank(self, connection: sqlite3.Connection, places: Sequence[Position], groups: Collection[Group]) -> int:
        """Erase what ``Store.blank`` says, of different ``places``; how many there were."""
        erased = ", ".join(_ERASED[group] for group in groups) or "seq = seq"
        statement = f"UPDATE {self.events} SET {erased} WHERE stream = ? AND seq = ?"
        return connection.executemany(statement, places).rowcount


def _where(conditions: list[Condition], aside: str) -> tuple[str, list[Any]]:
    """``conditions`` as SQL. The plus keeps the planner from the index of the column ``aside``."""
    parts = [f" AND {'+' if column == aside else ''}{column} {operator} ?" for column, operator, _ in conditions]
    return "".join(parts), [value for _, _, value in conditions]


def place_of(event: Event) -> Position:
    """The place of ``event``. Raises ``ValueError`` if it is not sealed."""
    if event.seal is None:
        raise ValueError("An event without its seal cannot be stored; see sessiondb.core.sealing.")
    return Position(event.seal.stream, event.seal.seq)


def _to_row(event: Event) -> tuple[Any, ...]:
    seal = event.seal
    return (
        event.at,
        str(event.type),
        event.sid,
        event.user_id,
        event.actor,
        event.reason,
        event.ip,
        _encode(event.details).decode(),
        _encode(event.personal).decode(),
        *(getattr(seal, name) for name in _SEAL),
    )


# An auditor reads every event that there is, and the constructor of a frozen dataclass takes as long as all the rest.
_new = object.__new__
(_type, _at, _sid, _user_id, _actor, _reason, _ip, _details, _personal, _seal) = (
    Event.__dict__[name].__set__ for name in Event.__dataclass_fields__
)


def _to_event(row: tuple[Any, ...]) -> Event:
    at, type_, sid, user_id, actor, reason, ip, details, personal, *seal = row
    event = _new(Event)
    _type(event, type_)
    _at(event, at)
    _sid(event, sid)
    _user_id(event, user_id)
    _actor(event, actor)
    _reason(event, reason)
    _ip(event, ip)
    _details(event, {} if details == _EMPTY else _decode(details))
    _personal(event, {} if personal == _EMPTY else _decode(personal))
    _seal(event, Seal(*seal))
    return event
