"""What looks at the sessions of one user, or at several: the limit per user, searching, ending."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sessiondb.core.change import new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.policy import SECOND, Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_change_scripts as change_scripts
from sessiondb.stores import _redis_links as links
from sessiondb.stores import _redis_list_scripts as scripts
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._limit import not_before_of, rivals_of
from sessiondb.stores._redis_nodes import Keyed, begins, call
from sessiondb.stores._redis_script import GARBAGE_AFTER_MS
from sessiondb.stores._steps import undecided
from sessiondb.stores._terms import is_in_state
from sessiondb.stores.base import Admission, Ended, Login, Page, Query

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

CHUNK = 256
_KEEP_NOT_BEFORE_MS = 7 * 86_400_000  # only logins under way ask for it
_LOOK_AFTER = 60 * SECOND
_MOST_MET = 1000
_FIELDS = tuple(name for name in Record.__struct_fields__ if name != "data")


class Met:
    """Whom new sessions have met in their users' lists: only a hint, of whom ``admit`` will ask for."""

    def __init__(self) -> None:
        self._met: dict[Sid, list[Sid]] = {}

    def note(self, sid: Sid, sids: list[Sid]) -> None:
        """``sid`` was listed, and then all ``sids`` were."""
        if 1 < len(sids) <= CHUNK:
            self._met[sid] = sids
        if len(self._met) > _MOST_MET:
            self._met.pop(next(iter(self._met)), None)  # whose caller has never asked

    def take(self, sid: Sid) -> list[Sid]:
        """Whom ``sid`` has met, once."""
        return self._met.pop(sid, [])


async def glance(store: RedisStore, sids: Sequence[Sid]) -> list[Record | None]:
    """The records of ``sids`` without their data."""
    return [record for record, _ in await glance_with_links(store, sids)]


async def glance_with_links(store: RedisStore, sids: Sequence[Sid]) -> list[tuple[Record | None, bytes]]:
    """The records of ``sids`` without their data, each with the field that has its links."""
    found: list[tuple[Record | None, bytes]] = []
    for start in range(0, len(sids), CHUNK):
        replies = await store.run(_glances(store, sids[start : start + CHUNK]))
        found += [(_seen(values), values[-1] or b"") for values in replies]
    return found


def _glances(store: RedisStore, sids: Sequence[Sid]) -> list[Keyed]:
    return [(key, ("HMGET", key, *_FIELDS, "links")) for key in map(store.keys.session, sids)]


def _seen(values: Sequence[bytes | None]) -> Record | None:
    flat: list[bytes] = []
    for name, value in zip(_FIELDS, values, strict=False):
        if value is not None:
            flat += (name.encode(), value)
    return rows.readable(flat)


async def admit(store: RedisStore, login: Login) -> Admission:
    """See ``Store.admit``."""
    keys = store.keys
    met = store.met.take(login.sid)
    if login.per_user is None or len(met) <= login.per_user:
        met = []
    own, listed, not_before = keys.session(login.sid), keys.user(login.user_id), keys.not_before(login.user_id)
    oldest = login.now - GARBAGE_AFTER_MS * 1000
    others = [keys.not_before(name) for name in login.also]
    (rev, ended_at, reason), held, members, _, _, *rest = await store.run(
        [
            (own, ("HMGET", own, "rev", "ended_at", "end_reason")),
            (not_before, ("GET", not_before)),
            (listed, ("ZRANGE", listed, 0, -1) if login.per_user is not None else ("ZCARD", listed)),
            *((key, ("ZREMRANGEBYSCORE", key, "-inf", oldest)) for key in (listed, keys.ended(login.user_id))),
            *((key, ("GET", key)) for key in others),
            *_glances(store, met),
        ]
    )
    glances = rest[len(others) :]
    found = (held, *rest[: len(others)])
    forbidden = not_before_of(login, (int(one) for one in found if one is not None))
    if rev is None or ended_at is not None:
        return Admission("limit") if reason == b"limit" else Admission("revoked", (), forbidden)
    if forbidden is not None:
        return Admission("revoked", await _end(store, [login.sid], EndReason.REFUSED, login), forbidden)
    if login.per_user is None or len(members) <= login.per_user:
        return Admission()
    there = rows.sids_of(members)
    seen = dict(zip(met, map(_seen, glances), strict=True))
    unseen = [sid for sid in there if sid not in seen]
    seen.update(zip(unseen, await glance(store, unseen), strict=True))
    records = [record for sid in there if (record := seen[sid]) is not None]
    await list_as_ended(store, [record for record in records if record.ended_at is not None])
    rivals, most = rivals_of(login, login.per_user, (record for record in records if record.ended_at is None))
    if len(rivals) <= most:
        return Admission()
    refuses = login.on_limit == "refuse"
    order = [record.sid for record in (reversed(rivals) if refuses else rivals)]
    lists = [listed, keys.ended(login.user_id)]
    decide = call(scripts.LIMIT, lists, login.sid, most, int(refuses), login.purge_at, *order)
    # Should we die before they are ended, the sweeper soon finds them alive, and lists them again.
    soon = login.now + _LOOK_AFTER
    looks = ((due := keys.due(sid), ("ZADD", due, "LT", soon, sid)) for sid in order[: len(order) - most])
    [*_, (stays, *leave)] = await store.run([*looks, decide], "unknown", wait=True)
    if not stays:
        return Admission("limit")  # a newer login has pushed this one out
    reason_ = EndReason.REFUSED if refuses else EndReason.LIMIT
    try:
        ended = await _end(store, rows.sids_of(leave), reason_, login)
    except StoreError as error:
        raise undecided(error) from error.__cause__  # the list says already who has to go
    return Admission("limit" if refuses and leave else None, ended)


async def _end(store: RedisStore, sids: Iterable[Sid], reason: EndReason, login: Login) -> list[Ended]:
    how = Ending(str(reason), login.now, login.purge_at, rows.next_look(login))
    return _all_done(*await end_all(store, list(sids), how, wait=True))


class Ending(NamedTuple):
    """How sessions end. With ``caps``: those of ``user_id`` and ``link`` (if given) alone, and who is over already as
    expired then; without a reason nobody else. ``is_due``: the sweeper looks at them anyhow.
    """

    reason: str
    at: int
    purge_at: int
    check_at: int
    caps: Caps | None = None
    user_id: str | None = None
    link: bytes | None = None
    is_due: bool = False

    def arguments(self) -> Iterator[bytes | str | int]:
        """Those of ``END``, with another id each time."""
        yield from (new_change_id(), "", self.at, self.reason, self.purge_at, self.check_at)
        if self.caps is not None:
            yield self.user_id or ""
            yield "" if self.link is None else self.link.hex()
            yield from rows.cap_arguments(self.caps)


async def end_all(
    store: RedisStore, sids: Sequence[Sid], how: Ending, *, wait: bool = False
) -> tuple[list[Ended], Exception | None]:
    """End ``sids``; those that were living, each with the reason and time that it was given.

    Also the first error: what one node of a cluster does not do, the others have done.
    """
    ended: list[Ended] = []
    failed: Exception | None = None
    is_first = True
    for start in range(0, len(sids), CHUNK):
        part = sids[start : start + CHUNK]
        commands = [call(change_scripts.END, [store.keys.session(sid)], *how.arguments()) for sid in part]
        if not how.is_due:
            commands += [(due := store.keys.due(sid), ("ZADD", due, "LT", how.check_at, sid)) for sid in part]
        try:
            replies = await store.try_all(commands, "unknown", wait=wait)
        except StoreError as error:
            return ended, failed or (error if is_first else undecided(error))
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors and failed is None:
            failed = store.error(errors[0], "unknown")
            if not is_first or len(errors) < len(replies):
                failed = undecided(failed)
        is_first = False
        longer: list[Keyed] = []
        for sid, reply in zip(part, replies, strict=False):
            if not isinstance(reply, Exception) and reply[0] == 2 and reply[4]:
                _, _, _, user, why, when, named = reply
                ended.append(Ended(sid, user.decode() or None, why.decode(), int(when)))
                if named:
                    longer += links.moved(store.keys, sid, named, how.purge_at, how.at)
        try:
            await store.run(longer, "unknown")
        except StoreError as error:
            failed = failed or undecided(error)
    return ended, failed


def _all_done(ended: list[Ended], failed: Exception | None) -> list[Ended]:
    if failed is not None:
        raise failed
    return ended


async def list_as_ended(store: RedisStore, tombstones: Sequence[Record]) -> None:
    """Move what has ended out of the way of whoever lists the living."""
    commands: list[Keyed] = []
    for record in tombstones:
        if record.user_id is not None:
            ended, listed = store.keys.ended(record.user_id), store.keys.user(record.user_id)
            commands.append((ended, ("ZADD", ended, rows.purged_at(record), record.sid)))
            commands.append((listed, ("ZREM", listed, record.sid)))
    await store.run(commands)


async def find(store: RedisStore, query: Query) -> Page:
    """See ``Store.find``."""
    sids = await _listed(store, query, with_ended=query.state != "live")
    sids = [sid for sid in sorted(sids, reverse=True) if query.before is None or sid < query.before]
    found: list[Record] = []
    tombstones: list[Record] = []
    step = max(query.limit + 1, 32)
    for start in range(0, len(sids), step):
        keys = map(store.keys.session, sids[start : start + step])
        for flat in await store.run([(key, ("HGETALL", key)) for key in keys]):
            record = rows.readable(flat)
            if record is None or (query.user_id is not None and record.user_id != query.user_id):
                continue
            if query.link is not None and not rows.has_link(flat, query.link):
                continue
            if record.ended_at is not None and query.state == "live":
                tombstones.append(record)
            if is_in_state(record, query):
                found.append(record)
        if len(found) > query.limit:
            break
    await list_as_ended(store, tombstones)
    shown = found[: query.limit]
    return Page(shown, shown[-1].sid if len(found) > len(shown) > 0 else None)


async def _listed(store: RedisStore, query: Query, *, with_ended: bool) -> list[Sid]:
    """The sids that ``query`` may mean."""
    if query.sids is not None:
        return list(dict.fromkeys(query.sids))
    if query.link is not None:
        lists = [store.keys.link(query.link.hex())]
    elif query.user_id is not None:
        lists = [store.keys.user(query.user_id)]
        if with_ended:
            lists.append(store.keys.ended(query.user_id))
    else:
        lists = store.keys.due_lists
    replies = await store.run([(key, ("ZRANGE", key, 0, -1)) for key in lists])
    return list({sid for members in replies for sid in rows.sids_of(members)})


async def _forbid(store: RedisStore, query: Query, user_id: str, not_before: int) -> list[Sid]:
    """Write ``not_before`` and list all of the user's sessions, in one step: no login fits between the two."""
    keys = [store.keys.not_before(user_id), store.keys.user(user_id), store.keys.ended(user_id)]
    # A lock lasts into the future.
    keep = _KEEP_NOT_BEFORE_MS + max(0, not_before - query.now) // 1000
    times = not_before, keep, int(query.lift)
    [members] = await store.try_all([call(scripts.FORBID, keys, *times)], "unknown", wait=True)
    if begins(members, "TRYAGAIN"):
        # The slot moves to another node, and until it has, not all of its keys can be used at once: one by one then.
        await store.run([call(scripts.FORBID, keys[:1], *times)], "unknown", wait=True)
        return await _listed(store, query, with_ended=True)
    if isinstance(members, Exception):
        raise store.error(members, "unknown")
    return list(dict.fromkeys(rows.sids_of(members) if query.sids is None else query.sids))


async def end_where(store: RedisStore, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``."""
    # Also those that a login has pushed out of the list: it may have died before it ended them.
    if query.not_before is not None and query.user_id is not None:
        sids = await _forbid(store, query, query.user_id, query.not_before)
    else:
        sids = await _listed(store, query, with_ended=True)
    sids = sorted(sid for sid in sids if sid != query.keep)
    how = Ending(str(reason), query.now, query.purge_at, rows.next_look(query), query.caps, query.user_id, query.link)
    ended, failed = await end_all(store, sids, how, wait=True)
    if failed is not None:
        raise failed if query.not_before is None else undecided(failed)
    return [one for one in ended if one.reason == reason]
