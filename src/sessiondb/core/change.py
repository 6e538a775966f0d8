"""Pure descriptions of writes, how two of them merge, and what each does to a record.

``apply`` is the reference: a store may say the same in its own language, but must answer the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import msgspec

from sessiondb.core import codec
from sessiondb.core.policy import deadline
from sessiondb.core.record import CHANGE_ID_BYTES, NO_SALT, REMEMBERED_CHANGES, EndReason, Record
from sessiondb.core.token import Sid


class Touch(msgspec.Struct, frozen=True, gc=False):
    """Seen at ``at``; ``client`` is the ``Client`` JSON, or ``None`` if it is as before."""

    at: int
    client: bytes | None = None


class Rotate(msgspec.Struct, frozen=True, gc=False):
    """Replace the secret. Guarded: lands only while the current digest is ``if_secret``.

    ``salt`` is ``NO_SALT`` where the old secret must not be served again (step-up, login).
    """

    if_secret: bytes
    secret_hash: bytes
    salt: bytes
    at: int


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """The client has shown the rotated secret: erase the salt. Guarded on the digest ``if_secret``."""

    if_secret: bytes
    at: int


class SignIn(msgspec.Struct, frozen=True, gc=False):
    """The same user has proved again who they are. ``links`` are added to those that the session has."""

    at: int
    auth: bytes
    idle: int
    absolute: int
    lifetime: str
    links: tuple[bytes, ...] = ()


class Create(msgspec.Struct, frozen=True, gc=False):
    """A new session. Never overwrites: a sid that exists is a conflict (or this very change, repeated).

    ``links`` (16 bytes each) are names by which the session can be found besides its user, such as the digest of a
    session at an identity provider. They are no part of the record and go with its tombstone.
    """

    record: Record
    links: tuple[bytes, ...] = ()

    @property
    def sid(self) -> Sid:
        """The new session's sid."""
        return self.record.sid


class Update(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A delta to a living session, with what else one request needs, as one atomic product.

    ``put`` maps top-level keys to JSON bytes. With ``if_rev`` it lands only at that revision. ``seen`` is the record
    that the delta was made of, where that is known, and ``whole`` its data with the delta: a store that finds the
    session still at ``seen.rev`` may write ``whole`` and need not merge.
    """

    sid: Sid
    id: bytes
    put: Mapping[str, bytes] = {}
    remove: frozenset[str] = frozenset()
    touch: Touch | None = None
    rotate: Rotate | None = None
    confirm: Confirm | None = None
    sign_in: SignIn | None = None
    if_rev: int | None = None
    seen: Record | None = None
    whole: bytes = b""

    @property
    def guarded(self) -> bool:
        """Whether it may be refused for what the record holds: such a change is never merged."""
        return self.if_rev is not None or self.rotate is not None or self.confirm is not None

    @property
    def only_touches(self) -> bool:
        """Whether it writes nothing but ``last_seen_at``: such a change has no revision and may be repeated."""
        return not (self.put or self.remove or self.rotate or self.confirm or self.sign_in) and (self.if_rev is None)


class End(msgspec.Struct, frozen=True, gc=False):
    """End a session and drop its data. The tombstone is deleted after ``purge_at``.

    With ``announce_at`` its end has still to be announced: a sweeper looks at it then, unless ``announced`` came first.
    """

    sid: Sid
    id: bytes
    reason: EndReason
    at: int
    purge_at: int
    if_rev: int | None = None
    announce_at: int | None = None


Change = Create | Update | End


class Applied(msgspec.Struct, frozen=True, gc=False):
    """It landed. ``rev`` is the record's revision after it (for a lone touch: any)."""

    rev: int


class Conflict(msgspec.Struct, frozen=True, gc=False):
    """A guard failed, or the sid to create exists. ``record`` is what the store holds."""

    record: Record


class Gone(msgspec.Struct, frozen=True, gc=False):
    """There is no such living session. ``reason`` is the ``EndReason``, or ``None`` if nothing is known of it."""

    reason: str | None


Outcome = Applied | Conflict | Gone


def all_touch(changes: Sequence[Change]) -> TypeGuard[Sequence[Update]]:
    """Whether ``changes`` are lone touches: such need no order, no revision, and may be done twice."""
    return all(type(change) is Update and change.only_touches for change in changes)


def new_change_id() -> bytes:
    """Eight random bytes: a repeated id would be a lost write."""
    return secrets.token_bytes(CHANGE_ID_BYTES)


def merge(first: Update, second: Update) -> Update:
    """One update that does what ``first`` and then ``second`` would; neither may be guarded."""
    if first.guarded or second.guarded or first.sid != second.sid:
        raise ValueError("only unguarded updates of one session can be merged")
    put = {key: value for key, value in first.put.items() if key not in second.remove}
    put.update(second.put)
    remove = (first.remove - second.put.keys()) | second.remove
    return msgspec.structs.replace(
        second,
        put=put,
        remove=remove,
        touch=merge_touches(first.touch, second.touch),
        sign_in=_merge_sign_ins(first.sign_in, second.sign_in),
        seen=None,
        whole=b"",
    )


def _merge_sign_ins(first: SignIn | None, second: SignIn | None) -> SignIn | None:
    """The second of two, with the links of both."""
    if first is None or second is None:
        return first or second
    links = first.links + tuple(link for link in second.links if link not in first.links)
    return msgspec.structs.replace(second, links=links)


def merge_touches(first: Touch | None, second: Touch | None) -> Touch | None:
    """The later of two touches, with the newest client that either tells."""
    if first is None or second is None:
        return first or second
    early, late = (first, second) if first.at <= second.at else (second, first)
    return late if late.client is not None else Touch(late.at, early.client)


def apply(record: Record | None, change: Change, now: int) -> tuple[Record | None, Outcome]:
    """What ``change`` makes of ``record`` (``None``: no such sid) at the store's time ``now``.

    Returns the record to store, or ``None`` if there is nothing to write, and the outcome. Raises
    ``SessionDataError`` if the stored data cannot be read.
    """
    if isinstance(change, Create):
        if record is None:
            return change.record, Applied(change.record.rev)
        if record.secret_hash == change.record.secret_hash and record.knows(change.record.last_changes):
            return None, Applied(record.rev)
        return None, Conflict(record)
    if record is None:
        return None, Gone(None)
    if isinstance(change, End):
        return _end(record, change)
    if record.knows(change.id):
        return None, Applied(record.rev)
    if record.ended_at is not None:
        return None, Gone(record.end_reason)
    if not _guards_hold(record, change):
        return None, Conflict(record)
    return _update(record, change, now)


def _end(record: Record, change: End) -> tuple[Record | None, Outcome]:
    if record.ended_at is not None:
        # A repeated end is the same end, so a lost reply costs nothing.
        return None, Applied(record.rev) if record.knows(change.id) else Gone(record.end_reason)
    if change.if_rev is not None and record.rev != change.if_rev:
        return None, Conflict(record)
    ended = msgspec.structs.replace(
        record,
        ended_at=change.at,
        end_reason=str(change.reason),
        check_at=change.purge_at if change.announce_at is None else min(change.announce_at, change.purge_at),
        purge_at=change.purge_at,
        rev=record.rev + 1,
        last_changes=remember(change.id, record.last_changes),
        salt=None,
        data=b"{}",
    )
    return ended, Applied(ended.rev)


def _guards_hold(record: Record, change: Update) -> bool:
    if change.if_rev is not None and record.rev != change.if_rev:
        return False
    if change.rotate is not None and record.secret_hash != change.rotate.if_secret:
        return False
    return change.confirm is None or record.secret_hash == change.confirm.if_secret


def _update(record: Record, change: Update, now: int) -> tuple[Record, Outcome]:
    fields: dict[str, object] = {}
    last_seen_at = record.last_seen_at
    touch = change.touch
    if touch is not None:
        fields["last_seen_at"] = last_seen_at = max(last_seen_at, min(touch.at, now))
        if touch.client is not None:
            fields["client_last"] = touch.client
    if not change.only_touches:
        fields["rev"] = record.rev + 1
        fields["last_changes"] = remember(change.id, record.last_changes)
    if change.put or change.remove:
        unmoved = change.seen is not None and change.seen.rev == record.rev
        fields["data"] = change.whole if unmoved else codec.merge(record.data, change.put, change.remove)
    if change.confirm is not None and record.confirmed_at is None:
        fields["confirmed_at"] = change.confirm.at
        if record.salt != NO_SALT:
            fields["salt"] = None
    if change.rotate is not None:
        fields.update(
            previous_hash=record.secret_hash,
            secret_hash=change.rotate.secret_hash,
            salt=change.rotate.salt,
            rotated_at=change.rotate.at,
            confirmed_at=None,
        )
    sign_in = change.sign_in
    if sign_in is not None:
        fields.update(
            authenticated_at=sign_in.at,
            auth=sign_in.auth,
            idle=sign_in.idle,
            absolute=sign_in.absolute,
            lifetime=sign_in.lifetime,
        )
        # check_at is a lower bound of the deadline: a shorter life must be looked at sooner.
        over_at = deadline(record.created_at, last_seen_at, sign_in.idle, sign_in.absolute)
        fields["check_at"] = min(record.check_at, over_at)
    updated = msgspec.structs.replace(record, **fields)
    return updated, Applied(updated.rev)


def remember(change_id: bytes, last_changes: bytes) -> bytes:
    """``last_changes`` with ``change_id`` in front, cut to the newest eight."""
    return (change_id + last_changes)[: CHANGE_ID_BYTES * REMEMBERED_CHANGES]
