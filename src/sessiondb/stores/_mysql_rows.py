"""Records as rows: the statements that MySQL and MariaDB run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeGuard

from sessiondb.core.change import Change, Create, End, Touch, Update
from sessiondb.core.policy import Caps
from sessiondb.core.record import CHANGE_ID_BYTES, REMEMBERED_CHANGES, Record
from sessiondb.core.token import format_sid
from sessiondb.stores._mysql_connection import blob, number, text
from sessiondb.stores._mysql_schema import TABLES

NOW = "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
_COLUMNS = Record.__struct_fields__
_BLOBS = frozenset({"series_hash", "secret_hash", "last_changes", "previous_hash", "salt"})
_JSON = frozenset({"data", "client_first", "client_last", "auth", "risk"})
_TEXTS = frozenset({"lifetime", "end_reason"})
_FIXED = frozenset({"sid", "series_hash", "user_id", "created_at", "client_first"})
_LINKS = 100
_SHORT = 4096  # bytes of data that go along with others, so that no statement is long
_REMEMBERED = CHANGE_ID_BYTES * REMEMBERED_CHANGES
_AT = {name: at for at, name in enumerate(_COLUMNS)}
_DECODED = tuple(_AT[name] for name in ("user_id", "lifetime", "end_reason"))


def sid_sql(sid: str) -> str:
    """A sid as SQL: its sixteen bytes."""
    return f"x'{sid.replace('-', '')}'"


@cache
def columns(*, data: bool = True) -> str:
    """The columns of a record, in its order. Without ``data`` that is an empty object."""
    return ", ".join("'{}' AS data" if name == "data" and not data else name for name in _COLUMNS)


def to_record(row: Sequence[Any]) -> Record:
    """The record in a row of ``columns()``."""
    values = list(row)
    values[0] = format_sid(values[0])
    for at in _DECODED:
        if values[at] is not None:
            values[at] = values[at].decode()
    return Record(*values)


def value_sql(name: str, record: Record) -> str:
    """One column of ``record`` as SQL."""
    value = getattr(record, name)
    if name == "sid":
        return sid_sql(value)
    if name == "user_id":
        return blob(None if value is None else value.encode())
    if name in _BLOBS:
        return blob(value)
    return text(value) if name in _JSON or name in _TEXTS else number(value)


def deadline(caps: Caps) -> str:
    """The deadline as SQL: the twin of ``Caps.deadline``."""

    def cap(name: str) -> str:
        # As bytes: to a collation that pads, names that differ by a blank at the end are one.
        others = "".join(f"WHEN {blob(key.encode())} THEN {getattr(cap, name):d} " for key, cap in caps.named.items())
        return f"(CASE CAST(lifetime AS BINARY) {others}ELSE {getattr(caps.normal, name):d} END)"

    return f"LEAST(created_at + LEAST(absolute, {cap('absolute')}), last_seen_at + LEAST(idle, {cap('idle')}))"


class Statements:
    """The SQL for tables with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.sessions = f"{prefix}sessions"
        self.links = f"{prefix}links"
        self.users = f"{prefix}users"
        self.events = f"{prefix}events"
        self.histories = f"{prefix}histories"
        self.buckets = f"{prefix}buckets"
        self.counters = f"{prefix}counters"
        self.sheets = f"{prefix}sheets"
        self.meta = f"{prefix}meta"
        self.tables = [f"{prefix}{name}" for name in TABLES]
        self._insert = f"INSERT INTO {self.sessions} ({', '.join(_COLUMNS)}) VALUES "

    def select(self, where: str, *, data: bool = True) -> str:
        """The records ``where`` that is true."""
        return f"SELECT {columns(data=data)} FROM {self.sessions} WHERE {where}"

    def by_sid(self, sids: Iterable[str]) -> str:
        """The condition that names ``sids``."""
        return f"sid IN ({', '.join(map(sid_sql, sids)) or 'NULL'})"

    def at_once(self, change: Change) -> tuple[str, int] | None:
        """A statement that lands if nothing stands against ``change``, and the revision then; ``None``: there is none.

        What does not land has to be looked at.
        """
        if isinstance(change, Create):
            return self.insert(change.record), change.record.rev
        if isinstance(change, End):
            return self.end(change), 0
        if change.only_touches:
            touched = self._touched(change.touch)
            return f"UPDATE {self.sessions} SET {touched} WHERE sid = {sid_sql(change.sid)} AND ended_at IS NULL", 0
        return self._delta(change)

    def deltas(self, changes: Sequence[Update], touched: str = "") -> tuple[str, list[int]]:
        """What writes ``changes``, data that takes the place of what was seen, as one statement; their revisions then.

        How many rows it matches says whether all have landed. A join with a table of values would write one first.
        """
        revs = [change.seen.rev for change in changes if change.seen is not None]
        sids = [sid_sql(change.sid) for change in changes]

        def its_own(values: Iterable[str]) -> str:
            if len(sids) == 1:
                return next(iter(values))
            whens = " ".join(f"WHEN {sid} THEN {value}" for sid, value in zip(sids, values, strict=True))
            return f"CASE sid {whens} END"

        remembered = _remembered(its_own(blob(change.id) for change in changes))
        whole = its_own(text(change.whole) for change in changes)
        return (
            f"UPDATE {self.sessions} SET rev = rev + 1, last_changes = {remembered}, data = {whole}{touched} "
            f"WHERE sid IN ({', '.join(sids)}) AND rev = {its_own(map(str, revs))} AND ended_at IS NULL"
        ), [rev + 1 for rev in revs]

    def _delta(self, change: Update) -> tuple[str, int] | None:
        if not _is_delta(change):
            return None
        touched = "" if change.touch is None else f", {self._touched(change.touch)}"
        statement, [rev] = self.deltas([change], touched)
        return statement, rev

    def _touched(self, touch: Touch | None) -> str:
        if touch is None:
            return "rev = rev"
        client = "" if touch.client is None else f", client_last = {text(touch.client)}"
        return f"last_seen_at = GREATEST(last_seen_at, LEAST({touch.at:d}, {NOW})){client}"

    def touch(self, changes: Iterable[Update], *, free: bool = True) -> str:
        """Lone touches of living sessions, by sid; those that somebody else holds are passed over where ``free``."""
        ordered = sorted(changes, key=lambda change: change.sid)
        sids = [sid_sql(change.sid) for change in ordered]
        times = [change.touch.at if change.touch is not None else 0 for change in ordered]
        clients = [text(change.touch.client) if change.touch is not None else "NULL" for change in ordered]
        names, columns = ["sid", "at"], [sids, list(map(str, times))]
        client = ""
        if any(one != "NULL" for one in clients):
            names.append("client")
            columns.append(clients)
            client = ", s.client_last = COALESCE(v.client, s.client_last)"
        given = joined_rows(names, zip(*columns, strict=True))
        if free:
            # The limit has the server look for them first: it could not lock while it updates.
            locked = (
                f"SELECT sid FROM {self.sessions} WHERE sid IN ({', '.join(sids)}) AND ended_at IS NULL "
                f"ORDER BY sid LIMIT {len(sids)} FOR UPDATE SKIP LOCKED"
            )
            given = f"(SELECT g.* FROM ({locked}) AS l STRAIGHT_JOIN {given} AS g ON g.sid = l.sid)"
        return (
            f"UPDATE {given} AS v STRAIGHT_JOIN {self.sessions} AS s ON s.sid = v.sid "
            f"SET s.last_seen_at = GREATEST(s.last_seen_at, LEAST(v.at, {NOW})){client} WHERE s.ended_at IS NULL"
        )

    def end(self, change: End, guard: str = "") -> str:
        """End a living session: the twin of ``core.change`` for ``End``."""
        purge_at = change.purge_at
        check_at = purge_at if change.announce_at is None else min(change.announce_at, purge_at)
        if change.if_rev is not None:
            guard += f" AND rev = {change.if_rev:d}"
        return (
            f"UPDATE {self.sessions} SET rev = LAST_INSERT_ID(rev + 1), last_changes = {_remembered(blob(change.id))}, "
            f"ended_at = {change.at:d}, end_reason = {text(str(change.reason))}, check_at = {check_at:d}, "
            f"purge_at = {purge_at:d}, salt = NULL, data = '{{}}' "
            f"WHERE sid = {sid_sql(change.sid)} AND ended_at IS NULL{guard}"
        )

    def insert(self, record: Record) -> str:
        """A new row."""
        return f"{self._insert}({', '.join(value_sql(name, record) for name in _COLUMNS)})"

    def write_all(self, record: Record) -> str:
        """Every column that can change, of a row that the transaction has locked."""
        values = ", ".join(f"{name} = {value_sql(name, record)}" for name in _COLUMNS if name not in _FIXED)
        return f"UPDATE {self.sessions} SET {values} WHERE sid = {sid_sql(record.sid)}"

    def insert_links(self, changes: Iterable[Change]) -> list[str]:
        """The links that ``changes`` bring; none of the statements is long."""
        # In the order of the key, as everywhere: two batches may bring the same link.
        rows = sorted((blob(link), sid_sql(change.sid)) for change in changes for link in _links_of(change))
        return [
            f"INSERT INTO {self.links} (link, sid) VALUES "
            f"{', '.join(f'({link}, {sid})' for link, sid in rows[start : start + _LINKS])} "
            "ON DUPLICATE KEY UPDATE link = link"
            for start in range(0, len(rows), _LINKS)
        ]


def joined_rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of ``rows``, whose values are SQL already."""
    first, *others = rows
    named = ", ".join(f"{value} AS {name}" for name, value in zip(names, first, strict=True))
    return f"(SELECT {' UNION ALL SELECT '.join([named, *map(', '.join, others)])})"


def _links_of(change: Change) -> tuple[bytes, ...]:
    if isinstance(change, Create):
        return change.links
    return change.sign_in.links if isinstance(change, Update) and change.sign_in is not None else ()


def _is_delta(change: Update) -> bool:
    """Whether it is data that takes the place of what was seen, and nothing else but a touch."""
    if change.seen is None or change.if_rev not in (None, change.seen.rev):
        return False
    return bool(change.put or change.remove) and not (change.rotate or change.confirm or change.sign_in)


def is_lone_delta(change: Change) -> TypeGuard[Update]:
    """Whether it is like most writes: short data that takes the place of what was seen, and nothing else."""
    return isinstance(change, Update) and change.touch is None and len(change.whole) <= _SHORT and _is_delta(change)


def _remembered(change_id: str) -> str:
    return f"LEFT(CONCAT({change_id}, last_changes), {_REMEMBERED})"
