"""What looks at the sessions of one user, or at several: the limit per user, searching, ending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sessiondb.core.change import new_change_id
from sessiondb.core.policy import SECOND, Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores import _redis_scripts as scripts
from sessiondb.stores._limit import rivals_of
from sessiondb.stores._redis_nodes import Keyed, begins, call
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
    found: list[Record | None] = []
    for start in range(0, len(sids), CHUNK):
        found += map(_seen, await store.run(_glances(store, sids[start : start + CHUNK])))
    return found


def _glances(store: RedisStore, sids: Sequence[Sid]) -> list[Keyed]:
    return [(key, ("HMGET", key, *_FIELDS)) for key in map(store.keys.session, sids)]


def _seen(values: Sequence[bytes | None]) -> Record | None:
    flat: list[bytes] = []
    for name, value in zip(_FIELDS, values, strict=True):
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
    oldest = login.now - scripts.GARBAGE_AFTER_MS * 1000
    (rev, ended_at, reason), forbidden, members, _, _, *glances = await store.run(
        [
            (own, ("HMGET", own, "rev", "ended_at", "end_reason")),
            (not_before, ("GET", not_before)),
            (listed, ("ZRANGE", listed, 0, -1) if login.per_user is not None else ("ZCARD", listed)),
            *((key, ("ZREMRANGEBYSCORE", key, "-inf", oldest)) for key in (listed, keys.ended(login.user_id))),
            *_glances(store, met),
        ]
    )
    if rev is None or ended_at is not None:
        return Admission("limit" if reason == b"limit" else "revoked")
    if forbidden is not None and int(forbidden) > login.began_at:
        return Admission("revoked", await _end(store, [login.sid], EndReason.REFUSED, login))
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
    ended = await _end(store, rows.sids_of(leave), reason_, login)
    return Admission("limit" if refuses and leave else None, ended)


async def _end(store: RedisStore, sids: Iterable[Sid], reason: EndReason, login: Login) -> list[Ended]:
    return await end_all(store, list(sids), str(reason), login.now, login.purge_at, wait=True)


async def end_all(
    store: RedisStore,
    sids: Sequence[Sid],
    reason: str,
    at: int,
    purge_at: int,
    caps: Caps | None = None,
    user_id: str | None = None,
    *,
    wait: bool = False,
) -> list[Ended]:
    """End ``sids``; those that were living, each with the reason and time that it was given.

    What one node of a cluster does not do is raised when the others have done theirs.
    """
    limits: tuple[str | int, ...] = ()
    if caps is not None:
        limits = (user_id or "", *(v for c in (caps.normal, caps.remembered) for v in (c.idle, c.absolute)))
    ended: list[Ended] = []
    failed: list[Exception] = []
    for start in range(0, len(sids), CHUNK):
        part = sids[start : start + CHUNK]
        commands = [
            call(scripts.END, [store.keys.session(sid)], new_change_id(), "", at, reason, purge_at, *limits)
            for sid in part
        ]
        commands += [(due := store.keys.due(sid), ("ZADD", due, "LT", purge_at, sid)) for sid in part]
        replies = await store.try_all(commands, "unknown", wait=wait)
        failed += (reply for reply in replies if isinstance(reply, Exception))
        for sid, reply in zip(part, replies, strict=False):
            if not isinstance(reply, Exception) and reply[0] == 2 and reply[4]:
                _, _, _, user, why, when = reply
                ended.append(Ended(sid, user.decode() or None, why.decode(), int(when)))
    if failed:
        raise store.error(failed[0], "unknown")
    return ended


async def list_as_ended(store: RedisStore, tombstones: Sequence[Record]) -> None:
    """Move what has ended out of the way of whoever lists the living."""
    commands: list[Keyed] = []
    for record in tombstones:
        if record.user_id is not None:
            ended, listed = store.keys.ended(record.user_id), store.keys.user(record.user_id)
            commands.append((ended, ("ZADD", ended, record.check_at, record.sid)))
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
        for record in map(rows.readable, await store.run([(key, ("HGETALL", key)) for key in keys])):
            if record is None or (query.user_id is not None and record.user_id != query.user_id):
                continue
            if record.ended_at is not None and query.state == "live":
                tombstones.append(record)
            is_live = record.ended_at is None and query.caps.deadline(record) > query.now
            if query.state == "all" or is_live == (query.state == "live"):
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
    if query.user_id is not None:
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
    times = not_before, _KEEP_NOT_BEFORE_MS
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
    ended = await end_all(store, sids, str(reason), query.now, query.purge_at, query.caps, query.user_id, wait=True)
    return [one for one in ended if one.reason == reason]
