"""Records as rows: which columns, in which order, and the statements that read and write them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any

from sessiondb.core.change import Applied, Change, Create, Gone, Outcome, Touch, Update, apply, remember
from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import ChangeResult

_TEXT_JSON = frozenset({"data", "client_first", "client_last", "auth", "risk"})
_COLUMNS = Record.__struct_fields__
_FIXED = frozenset({"sid", "series_hash", "user_id", "created_at", "client_first"})
_MUTABLE = tuple(name for name in _COLUMNS if name not in _FIXED)
# What an ordinary delta changes; check_at is left out: SQLite would write its index even for an equal value.
_DELTA = ("rev", "last_changes", "last_seen_at", "client_last", "data")
MOST_ROWS = 500


class Rows:
    """The statements for tables with one prefix.

    Each call of SQLite gives the interpreter's lock away and has to win it back from a busy event loop. So many rows
    are written by one statement. They are read as they are: to pack them into one row of JSON costs more than that.
    """

    def __init__(self, prefix: str) -> None:
        self.sessions = f"{prefix}sessions"
        self.links = f"{prefix}links"
        self.users = f"{prefix}users"
        self.meta = f"{prefix}meta"
        # JSON columns are text for people; read as bytes they are spared a decoding that nobody needs.
        columns = ", ".join(f"CAST({name} AS BLOB)" if name in _TEXT_JSON else name for name in _COLUMNS)
        self.select = f"SELECT {columns} FROM {self.sessions}"
        # For those who do not ask for the data, which may be large.
        self.select_bare = self.select.replace("CAST(data AS BLOB)", "CAST('{}' AS BLOB)")
        self._update_all = f"UPDATE {self.sessions} SET {_assignments(_MUTABLE)} WHERE sid = ?"
        self._insert = f"INSERT INTO {self.sessions} ({', '.join(_COLUMNS)})"
        self._update_delta = f"UPDATE {self.sessions} SET {_assignments(_DELTA)} WHERE sid = ?"
        self._deltas = (
            f"UPDATE {self.sessions} AS s SET rev = s.rev + 1, last_changes = v.column1, data = v.column2, "
            "last_seen_at = max(s.last_seen_at, v.column3), client_last = coalesce(v.column4, s.client_last) "
            "FROM (VALUES {rows}) AS v WHERE s.sid = v.column5 AND s.rev = v.column6 AND s.ended_at IS NULL"
        )
        # The same for one row, which as a table of values costs a fifth more.
        self._delta = (
            f"UPDATE {self.sessions} SET rev = rev + 1, last_changes = ?, data = ?, "
            "last_seen_at = max(last_seen_at, ?), client_last = coalesce(?, client_last) "
            "WHERE sid = ? AND rev = ? AND ended_at IS NULL"
        )
        self._touches = (
            f"UPDATE {self.sessions} AS s SET last_seen_at = max(s.last_seen_at, v.column2), "
            "client_last = coalesce(v.column3, s.client_last) "
            "FROM (VALUES {rows}) AS v WHERE s.sid = v.column1 AND s.ended_at IS NULL"
        )

        self._ends = (
            f"UPDATE {self.sessions} AS s SET rev = v.column2, last_changes = v.column3, ended_at = v.column4, "
            "end_reason = v.column5, purge_at = v.column6, check_at = v.column7, salt = NULL, data = '{}' "
            "FROM (VALUES {rows}) AS v WHERE s.sid = v.column1"
        )
        self._checks = (
            f"UPDATE {self.sessions} AS s SET check_at = v.column1 FROM (VALUES {{rows}}) AS v WHERE s.sid = v.column2"
        )
        self._lower_checks = f"{self._checks} AND s.ended_at IS NULL AND s.check_at > v.column1"
        self._insert_link = f"INSERT INTO {self.links} (link, sid)"

    def load(self, connection: sqlite3.Connection, sids: Sequence[Sid]) -> dict[Sid, Record]:
        """The records there are of ``sids``."""
        found: dict[Sid, Record] = {}
        for start in range(0, len(sids), MOST_ROWS):
            part = sids[start : start + MOST_ROWS]
            where = f"WHERE sid IN ({marks(len(part))})"
            for row in connection.execute(f"{self.select} {where}", part).fetchall():
                found[row[0]] = to_record(row)
        return found

    def apply(self, connection: sqlite3.Connection, changes: Sequence[Change], now: int) -> list[ChangeResult]:
        """Write ``changes``, inside a transaction that the caller commits."""
        landed = self._at_once(connection, changes, now)
        rest = [change.sid for change in changes if change.sid not in landed]
        records = self.load(connection, rest) if rest else {}
        results: list[ChangeResult] = []
        for change in changes:
            known = landed.get(change.sid)
            results.append(known or self._one_by_one(connection, records.get(change.sid), change, now))
        insert(connection, self._insert_link, _links(changes, results))
        return results

    def _at_once(self, connection: sqlite3.Connection, changes: Sequence[Change], now: int) -> dict[Sid, Outcome]:
        """Write the ordinary changes with one statement for each kind; by sid, the outcomes that are certain.

        When fewer rows changed than there were changes, it is not known which: whoever looks at their records then
        finds the ids of those that landed. Touches leave none, and what they found is looked at here.
        """
        creates = [change for change in changes if isinstance(change, Create)]
        deltas = _deltas(changes)
        touches = [(change, change.touch) for change in changes if isinstance(change, Update) and change.only_touches]
        landed: dict[Sid, Outcome] = {}
        if creates and insert(connection, self._insert, [to_row(change.record, _COLUMNS) for change in creates]):
            landed.update((change.sid, Applied(change.record.rev)) for change in creates)
        if deltas and self._write_deltas(connection, deltas, now):
            landed.update((change.sid, Applied(seen.rev + 1)) for change, seen in deltas)
        if touches:
            if run(connection, self._touches, [(change.sid, *_seen(touch, now)) for change, touch in touches]):
                landed.update((change.sid, Applied(0)) for change, _ in touches)
            else:
                landed.update(self._touched(connection, [change.sid for change, _ in touches]))
        return landed

    def _touched(self, connection: sqlite3.Connection, sids: Sequence[Sid]) -> dict[Sid, Outcome]:
        """What became of touches of ``sids`` in this transaction: the living have been touched."""
        found: dict[Sid, Outcome] = dict.fromkeys(sids, Gone(None))
        for start in range(0, len(sids), MOST_ROWS):
            part = sids[start : start + MOST_ROWS]
            rows = connection.execute(
                f"SELECT sid, ended_at, end_reason FROM {self.sessions} WHERE sid IN ({marks(len(part))})", part
            ).fetchall()
            found.update((sid, Applied(0) if ended_at is None else Gone(reason)) for sid, ended_at, reason in rows)
        return found

    def apply_alone(
        self, connection: sqlite3.Connection, changes: Sequence[Change], now: int
    ) -> list[ChangeResult] | None:
        """Write ``changes`` with one statement that is its own transaction, which spares two more calls of SQLite.

        ``None`` if not all of them can be written so, or not all were: ``apply`` finds out, and does the rest.
        """
        deltas = _deltas(changes)
        if len(deltas) < len(changes) or len(changes) > MOST_ROWS:
            return None
        if not self._write_deltas(connection, deltas, now):
            return None
        return [Applied(seen.rev + 1) for _, seen in deltas]

    def _write_deltas(self, connection: sqlite3.Connection, deltas: Sequence[tuple[Update, Record]], now: int) -> bool:
        """Whether all of ``deltas`` found the records that they were made of, and were written."""
        rows = [_delta_row(change, seen, now) for change, seen in deltas]
        return run(connection, self._delta if len(rows) == 1 else self._deltas, rows)

    def _one_by_one(
        self, connection: sqlite3.Connection, record: Record | None, change: Change, now: int
    ) -> ChangeResult:
        try:
            written, outcome = apply(record, change, now)
        except SessionDataError as error:
            return error
        if written is None:
            return outcome
        if isinstance(change, Update) and not (change.rotate or change.confirm or change.sign_in):
            connection.execute(self._update_delta, (*to_row(written, _DELTA), written.sid))
        else:
            self.write_all(connection, written)
        return outcome

    def write_all(self, connection: sqlite3.Connection, record: Record) -> None:
        """Write every column that can change."""
        connection.execute(self._update_all, (*to_row(record, _MUTABLE), record.sid))

    def write_ends(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Write the ends of ``records``, which nobody else has changed since they were read."""
        names = ("sid", "rev", "last_changes", "ended_at", "end_reason", "purge_at", "check_at")
        run(connection, self._ends, [to_row(record, names) for record in records])

    def move_checks(self, connection: sqlite3.Connection, checks: Sequence[tuple[int, Sid]]) -> None:
        """Have each sid looked at at its time."""
        run(connection, self._checks, checks)

    def lower_checks(self, connection: sqlite3.Connection, checks: Sequence[tuple[int, Sid]]) -> None:
        """Have each living sid looked at no later than at its time."""
        run(connection, self._lower_checks, checks)

    def delete(self, connection: sqlite3.Connection, sids: Sequence[Sid]) -> None:
        """Delete sessions and their links."""
        if sids:
            for table in (self.sessions, self.links):
                connection.execute(
                    f"DELETE FROM {table} WHERE sid IN (SELECT value FROM json_each(?))", (self.sids_json(sids),)
                )

    def sids_json(self, sids: Iterable[Sid]) -> str:
        """``sids`` as one parameter, whatever their number: SQLite bounds the number of parameters."""
        return "[" + ",".join(f'"{sid}"' for sid in sids) + "]"


def insert(connection: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether all of ``rows`` are new, and inserted."""
    return run(connection, head + " VALUES {rows} ON CONFLICT DO NOTHING", rows)


def run(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> bool:
    """Run ``statement`` for ``rows``; whether it changed as many."""
    changed = 0
    for start in range(0, len(rows), MOST_ROWS):
        part = rows[start : start + MOST_ROWS]
        filled = _filled(statement, len(part), len(part[0]))
        # executemany, for one set of values: it asks SQLite for no last row id, so the interpreter's lock changes
        # hands once less.
        changed += connection.executemany(filled, [list(chain.from_iterable(part))]).rowcount
    return changed == len(rows)


@cache
def _filled(statement: str, rows: int, columns: int) -> str:
    return statement.replace("{rows}", ",".join([f"({marks(columns)})"] * rows))


@cache
def marks(count: int) -> str:
    """``count`` parameters."""
    return ",".join("?" * count)


def _assignments(columns: Iterable[str]) -> str:
    return ", ".join(f"{name} = ?" for name in columns)


def to_record(row: tuple[Any, ...]) -> Record:
    """The record in a row of ``Rows.select``."""
    return Record(*row)


def to_row(record: Record, columns: Iterable[str]) -> tuple[Any, ...]:
    """The values of ``columns``."""
    return tuple(getattr(record, name).decode() if name in _TEXT_JSON else getattr(record, name) for name in columns)


def _links(changes: Sequence[Change], results: Sequence[ChangeResult]) -> list[tuple[bytes, Sid]]:
    """The links of the changes that have landed."""
    found: list[tuple[bytes, Sid]] = []
    for change, result in zip(changes, results, strict=True):
        if isinstance(change, Create):
            links = change.links
        elif isinstance(change, Update) and change.sign_in is not None:
            links = change.sign_in.links
        else:
            continue
        if links and isinstance(result, Applied):
            found += [(link, change.sid) for link in links]
    return found


def _deltas(changes: Sequence[Change]) -> list[tuple[Update, Record]]:
    """The ordinary deltas of ``changes``, and the records that they were made of."""
    return [
        (change, change.seen)
        for change in changes
        if isinstance(change, Update)
        and change.seen is not None
        and change.if_rev in (None, change.seen.rev)
        and not (change.only_touches or change.rotate or change.confirm or change.sign_in)
    ]


def _delta_row(change: Update, seen: Record, now: int) -> tuple[Any, ...]:
    last_changes = remember(change.id, seen.last_changes)
    return last_changes, change.whole.decode(), *_seen(change.touch, now), change.sid, seen.rev


def _seen(touch: Touch | None, now: int) -> tuple[int, str | None]:
    """What to raise ``last_seen_at`` to, and the client if it is another one."""
    if touch is None:
        return 0, None
    return min(touch.at, now), touch.client.decode() if touch.client is not None else None
