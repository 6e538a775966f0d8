"""Writing changes: each is one script on the session's hash, with its places in the lists before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hiredis
import msgspec

from sessiondb.core.change import Applied, Change, Conflict, Create, End, Gone, Update, all_touch
from sessiondb.core.errors import SessionDataError, StoreError, WriteOutcome
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_change_scripts as scripts
from sessiondb.stores import _redis_links as links
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._redis_connection import Argument
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import Keyed, TooFewReplicas, call, plain
from sessiondb.stores._redis_script import Script
from sessiondb.stores._redis_users import CHUNK
from sessiondb.stores._steps import undecided
from sessiondb.stores.base import ChangeResult

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

TOUCHES = 64  # sessions of one script, which nobody else's command interrupts
_GONE, _APPLIED = 0, 2


def must_last(change: Change) -> bool:
    """Whether it is a login or an end: what ``wait_replicas`` is for."""
    if isinstance(change, Create):
        return change.record.user_id is not None
    return isinstance(change, End) or change.sign_in is not None


async def apply(store: RedisStore, changes: Sequence[Change]) -> list[ChangeResult]:
    """See ``Store.apply``, without events."""
    if len(changes) > 1 and all_touch(changes):
        return await _touch(store, changes)
    if all(type(change) is Update and change.sign_in is None for change in changes):
        # The ordinary writes: they change nothing but their sessions.
        replies = await store.try_all([_call(store.keys, change) for change in changes], "unknown")
        return [result_of(store, change, reply) for change, reply in zip(changes, replies, strict=True)]
    results: dict[Sid, ChangeResult] = {}
    called: dict[Sid, tuple[Change, Keyed]] = {}
    for change in changes:
        try:
            called[change.sid] = change, _call(store.keys, change)
        except msgspec.MsgspecError:
            results[change.sid] = no_object()
    wait = any(map(must_last, changes))
    listings = [one for change, _ in called.values() for one in listing(store.keys, change)]
    if listings and store.is_cluster:
        # Nodes answer in any order, and a session must never be there before its place in the lists.
        for sid, error in (await list_first(store, listings, [change for change, _ in called.values()])).items():
            results[sid] = as_result(error)
            del called[sid]
        listings = []
    commands = [command for _, command in listings] + [command for _, command in called.values()]
    commands += [sooner(store.keys, change) for change, _ in called.values() if isinstance(change, End)]
    # A write that replicas were to confirm is not settled by reading it on the primary.
    replies = await store.try_all(commands, "unconfirmed" if wait and store.waits else "unknown", wait=wait)
    note_listed(store, listings, replies)
    answers = dict(zip(called, replies[len(listings) :], strict=False))
    unlisted = {sid: error for sid, error in failed(listings, replies).items() if _is_done(answers[sid])}
    await _undo(store, {sid: error for sid, error in unlisted.items() if _creates(called[sid][0])}, results)
    for sid, (change, _) in called.items():
        if sid in unlisted and sid not in results:
            # Signed in, and not found by all of its links before the sweeper mends them.
            results[sid] = as_result(undecided(store.error(unlisted[sid], "unknown")))
        elif sid not in results:
            results[sid] = result_of(store, change, answers[sid])
    await list_again(store, [change for change, _ in called.values()], answers, results)
    return [results[change.sid] for change in changes]


async def list_first(
    store: RedisStore, listings: Sequence[tuple[Sid, Keyed]], changes: Sequence[Change]
) -> dict[Sid, Exception]:
    """Give sessions their places in the lists, before they are there; why those could not be given theirs."""
    must = {change.sid for change in changes if must_last(change)}
    replies = await store.try_all([command for _, command in listings], "not_applied", wait=bool(must))
    note_listed(store, listings, replies)
    return {
        sid: store.error(reply, "not_applied")
        for (sid, _), reply in zip(listings, replies, strict=True)
        if isinstance(reply if sid in must else plain(reply), Exception)
    }


async def _touch(store: RedisStore, changes: Sequence[Update]) -> list[ChangeResult]:
    """Some dozens by one script; in a cluster, where a script has the keys of one slot, each by its own."""
    size = 1 if store.is_cluster else TOUCHES
    parts = [changes[start : start + size] for start in range(0, len(changes), size)]
    commands = [
        call(scripts.TOUCH, [store.keys.session(change.sid) for change in part], *rows.touch_arguments(part))
        for part in parts
    ]
    results: list[ChangeResult] = []
    for part, reply in zip(parts, await store.try_all(commands, "unknown"), strict=True):
        if isinstance(reply, Exception):
            results += [as_result(store.error(reply, "unknown"))] * len(part)
            continue
        answers: list[ChangeResult] = [Applied(0)] * len(part)
        for place, why in zip(reply[::2], reply[1::2], strict=True):
            answers[place - 1] = _missed(store, why.decode())
        results += answers
    return results


def _missed(store: RedisStore, why: str) -> ChangeResult:
    if why.startswith("!"):
        return as_result(store.error(hiredis.ReplyError(why[1:]), "not_applied"))
    return Gone(why or None)


def no_object() -> SessionDataError:
    """The answer to data that cannot be spread over fields."""
    return SessionDataError("The data of this session is not a JSON object.")


def _call(keys: Keys, change: Change) -> Keyed:
    script, arguments = call_of(change)
    return call(script, [keys.session(change.sid)], *arguments)


def call_of(change: Change) -> tuple[Script, list[Argument]]:
    """The script that makes ``change``, and its arguments. Raises ``MsgspecError``."""
    if isinstance(change, Create):
        return scripts.CREATE, rows.create_arguments(change)
    if isinstance(change, End):
        return scripts.END, rows.end_arguments(change)
    return scripts.UPDATE, rows.update_arguments(change)


def listing(keys: Keys, change: Change) -> list[tuple[Sid, Keyed]]:
    """What gives the session of ``change`` its places in the lists."""
    if not isinstance(change, Create):
        if not isinstance(change, Update) or change.sign_in is None or not change.sign_in.links:
            return []
        return [(change.sid, command) for command in links.listings(keys, change.sid, change.sign_in)]
    record = change.record
    due = keys.due(record.sid)
    commands: list[tuple[Sid, Keyed]] = [(record.sid, (due, ("ZADD", due, record.check_at, record.sid)))]
    if record.user_id is not None:
        user, hard_end = keys.user(record.user_id), record.created_at + record.absolute
        commands.append((record.sid, (user, ("ZADD", user, hard_end, record.sid))))
        # One more than is of use: who meets too many has met nobody.
        commands.append((record.sid, (user, ("ZRANGE", user, 0, CHUNK))))
    if change.links:
        commands += ((record.sid, command) for command in links.listings(keys, record.sid, change))
    return commands


def note_listed(store: RedisStore, listings: Sequence[tuple[Sid, Keyed]], replies: Sequence[Any]) -> None:
    """Whom new sessions have met, of the ``replies`` that begin with those to ``listings``."""
    for (sid, _), reply in zip(listings, map(plain, replies), strict=False):
        if isinstance(reply, list):
            store.met.note(sid, rows.sids_of(reply))


def sooner(keys: Keys, change: End) -> Keyed:
    """Has the sweeper look at a tombstone in time."""
    # A lower bound, as all of them: the sweeper looks, and finds out.
    due = keys.due(change.sid)
    return due, ("ZADD", due, "LT", rows.next_look(change), change.sid)


def failed(listings: Sequence[tuple[Sid, Keyed]], replies: Sequence[Any]) -> dict[Sid, Exception]:
    """By sid, why a session is not in its lists."""
    found = zip((sid for sid, _ in listings), map(plain, replies), strict=False)
    return {sid: reply for sid, reply in found if isinstance(reply, Exception)}


async def _undo(store: RedisStore, unlisted: dict[Sid, Exception], results: dict[Sid, ChangeResult]) -> None:
    """A session that could not be listed must not stay: nobody could revoke it."""
    keys = [store.keys.session(sid) for sid in unlisted]
    replies = await _try_afterwards(store, [(key, ("UNLINK", key)) for key in keys])
    for (sid, error), reply in zip(unlisted.items(), replies, strict=True):
        if isinstance(reply, Exception):
            results[sid] = as_result(undecided(store.error(reply, "unknown")))
        else:
            results[sid] = as_result(store.error(error, "not_applied"))


def _creates(change: Change) -> bool:
    return isinstance(change, Create)


async def list_again(
    store: RedisStore, changes: Sequence[Change], answers: dict[Sid, Any], results: dict[Sid, ChangeResult]
) -> None:
    """A sign-in gives a session another life, and an end may make its links outlive it: both are known only now."""
    commands: list[tuple[Sid, Keyed]] = []
    for change in changes:
        sid, answer = change.sid, plain(answers[change.sid])
        if isinstance(change, Create) or not _is_done(answer):
            continue
        if isinstance(change, End):
            if answer[6]:
                commands += ((sid, one) for one in links.moved(store.keys, sid, answer[6], change.purge_at, change.at))
            continue
        if change.sign_in is None or not answer[4]:
            continue
        _, _, check_at, user_id, hard_end, named = answer
        if named:
            until = int(hard_end)
            commands += ((sid, one) for one in links.moved(store.keys, sid, named, until, change.sign_in.at))
        due = store.keys.due(sid)
        commands.append((sid, (due, ("ZADD", due, "LT", check_at, sid))))
        if user_id:
            listed = store.keys.user(user_id.decode())
            commands.append((sid, (listed, ("ZADD", listed, hard_end, sid))))
    replies = await _try_afterwards(store, [command for _, command in commands], wait=True)
    for (sid, _), reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            results[sid] = as_result(undecided(store.error(reply, "unknown")))


async def _try_afterwards(store: RedisStore, commands: Sequence[Keyed], *, wait: bool = False) -> list[Any]:
    """As ``try_all``, and never raises: what was written before is to be answered, wherever the server has gone."""
    try:
        return await store.try_all(commands, "unknown", wait=wait)
    except StoreError as error:
        return [error] * len(commands)


def _is_done(reply: Any) -> bool:
    reply = plain(reply)
    return isinstance(reply, list) and reply[0] == _APPLIED


def result_of(store: RedisStore, change: Change, reply: Any) -> ChangeResult:
    """What ``change`` is answered, of the reply of its script."""
    if isinstance(reply, TooFewReplicas):
        kind = reply.reply[0]
        # An end that comes again finds the session gone, and is as good as the first only if replicas know it too.
        if must_last(change) and (kind == _APPLIED or (kind == _GONE and isinstance(change, End))):
            return as_result(store.error(reply, "unconfirmed"))
        reply = reply.reply
    if isinstance(reply, Exception):
        outcome: WriteOutcome = "unconfirmed" if store.waits and must_last(change) else "unknown"
        return as_result(store.error(reply, outcome))
    kind, first = reply[0], reply[1]
    if kind == _APPLIED:
        return Applied(int(first))
    if kind == _GONE:
        return Gone(first.decode() or None)
    record = rows.to_record(first)
    return Gone(None) if record is None else Conflict(record)


def as_result(error: Exception) -> StoreError:
    """``error`` as the answer to one change."""
    return error if isinstance(error, StoreError) else StoreError(str(error))
