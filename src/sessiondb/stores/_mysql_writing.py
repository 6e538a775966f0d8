"""Changes: what nothing stands against is written at once, ordinary ones in one statement, the rest under a lock.

With events it is all or nothing: one transaction, which is given up where something stands against one of the changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sessiondb.core.change import Applied, Change, Create, Update, apply
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event
from sessiondb.core.token import Sid
from sessiondb.stores import _mysql_trail as trail
from sessiondb.stores._mysql_connection import Connection
from sessiondb.stores._mysql_errors import is_duplicate, is_missing_value
from sessiondb.stores._mysql_rows import NOW, Statements, is_lone_delta, to_record
from sessiondb.stores.base import ChangeResult, NotTogether, place_taken

Results = dict[Sid, ChangeResult]

_MISSED = "@sessiondb_missed"


class Refused(Exception):
    """A transaction was rolled back, and one of its changes or events may be the reason."""

    def __init__(self, error: StoreError | SessionDataError) -> None:
        super().__init__(str(error))
        self.error = error


async def at_once(sql: Statements, connection: Connection, changes: Sequence[Change]) -> Results:
    """By sid, those of ``changes`` that nothing stood against. The others have not been written."""
    tried = list(_statements(sql, changes))
    if not tried:
        return {}
    statements = [statement for _, statement, _ in tried]
    # Only a create is tried at once and brings links; they go back with it, should its sid exist.
    statements += sql.insert_links(change for written, *_ in tried for change in written)
    try:
        answers = await connection.transaction(statements)
    except Exception as error:
        if is_duplicate(error) and len(changes) == 1:
            await connection.roll_back()
            return {}  # a sid that exists: whose it is has to be looked at
        raise
    results: Results = {}
    unsure: list[Change] = []  # some of a statement have landed, and its count does not say which
    for (written, _, revs), answer in zip(tried, answers, strict=False):
        if answer.affected == len(written):
            for change, rev in zip(written, revs, strict=True):
                results[change.sid] = Applied(answer.inserted or rev)
        elif answer.affected:
            unsure += written
    if unsure:
        where = sql.by_sid(change.sid for change in unsure)
        [answer] = await connection.run([sql.select(where, data=False)])
        held = {record.sid: record for record in map(to_record, answer.rows)}
        for change in unsure:
            record = held.get(change.sid)
            if record is not None and isinstance(change, Update) and record.knows(change.id):
                results[change.sid] = Applied(record.rev)
    return results


def _statements(sql: Statements, changes: Sequence[Change]) -> Iterator[tuple[Sequence[Change], str, Sequence[int]]]:
    """What writes ``changes``: those of a statement, itself, and the revision of each if it lands.

    By sid, so that no two batches hold what the other waits for.
    """
    deltas: list[Update] = []
    for change in sorted(changes, key=lambda change: change.sid):
        if is_lone_delta(change):
            deltas.append(change)
            continue
        if deltas:
            yield deltas, *sql.deltas(deltas)
            deltas = []
        found = sql.at_once(change)
        if found is not None:
            yield [change], found[0], [found[1]]
    if deltas:
        yield deltas, *sql.deltas(deltas)


async def together(
    sql: Statements, connection: Connection, changes: Sequence[Change], events: Sequence[Event]
) -> Results:
    """By sid, what became of ``changes``, which are written with ``events`` in one transaction.

    Raises ``Refused`` where an event's place is taken, and ``NotTogether`` where one of several changes cannot be
    written. Nothing is written then.
    """
    try:
        landed = await _all_at_once(sql, connection, changes, events)
    except Exception as error:
        if not is_duplicate(error):
            raise
        await _check_places(sql, connection, events)
        landed = None  # it is a sid that exists
    if landed is not None:
        return landed
    try:
        return await locked(sql, connection, changes, events)
    except Exception as error:
        if is_duplicate(error):
            await _check_places(sql, connection, events)
        raise


async def _check_places(sql: Statements, connection: Connection, events: Sequence[Event]) -> None:
    """After a duplicate key: raise ``Refused`` if a place of ``events`` is why."""
    await connection.roll_back()
    place = await trail.taken(sql, connection, events)
    if place is not None:
        raise Refused(StoreError(place_taken(place)))


async def _all_at_once(
    sql: Statements, connection: Connection, changes: Sequence[Change], events: Sequence[Event]
) -> Results | None:
    """``None``, and nothing is written, where something stands against one of ``changes``."""
    tried: list[tuple[Change, int, int]] = []
    statements: list[str] = []
    guarded = False
    for change in sorted(changes, key=lambda change: change.sid):
        found = sql.at_once(change)
        if found is None:
            return None
        tried.append((change, found[1], len(statements)))
        statements.append(found[0])
        if not isinstance(change, Create):
            # The packet goes on by itself, so it is the server that has to see that a change has found nothing.
            also = f"{_MISSED} OR " if guarded else ""
            statements.append(f"SET {_MISSED} = {also}ROW_COUNT() = 0")
            guarded = True
    statements += sql.insert_links(change for change, *_ in tried)
    statements += trail.insert(sql, events, unless=_MISSED if guarded else "")
    try:
        answers = await connection.transaction(statements)
    except Exception as error:
        if not is_missing_value(error):
            raise
        await connection.roll_back()
        return None
    return {change.sid: Applied(answers[at].inserted or rev) for change, rev, at in tried}


async def locked(
    sql: Statements, connection: Connection, changes: Sequence[Change], events: Sequence[Event] = ()
) -> Results:
    """By sid, what became of all of ``changes``, judged and written while nobody else can."""
    where = sql.by_sid(sorted(change.sid for change in changes))
    _, time, answer = await connection.run(
        ["START TRANSACTION", f"SELECT {NOW}", f"{sql.select(where)} ORDER BY sid FOR UPDATE"]
    )
    now = int(time.rows[0][0])
    held = {record.sid: record for record in map(to_record, answer.rows)}
    results: Results = {}
    statements: list[str] = []
    for change in sorted(changes, key=lambda change: change.sid):
        try:
            written, results[change.sid] = apply(held.get(change.sid), change, now)
        except SessionDataError as error:
            if events and len(changes) > 1:
                raise NotTogether("A session cannot be changed, so neither the others nor the events were.") from error
            events = ()  # those of the only change do not land without it
            results[change.sid] = error
            continue
        if written is not None:
            new = change.sid not in held
            statements.append(sql.insert(written) if new else sql.write_all(written))
    landed = [change for change in changes if isinstance(results[change.sid], Applied)]
    statements += sql.insert_links(landed)
    statements += trail.insert(sql, events)
    await connection.run([*statements, "COMMIT"])
    return results
