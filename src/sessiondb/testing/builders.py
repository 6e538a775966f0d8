"""Records, changes and queries, made short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sessiondb.core import codec, token
from sessiondb.core.change import Confirm, Create, End, Rotate, SignIn, Touch, Update, new_change_id
from sessiondb.core.events import Event, EventClass, EventType, class_of
from sessiondb.core.policy import SECOND, Caps, OnLimit, Policy
from sessiondb.core.record import NO_SALT, EndReason, Record
from sessiondb.core.sealing import Lane
from sessiondb.core.token import Sid, Token
from sessiondb.stores.base import Cutoffs, Login, Position, Query, State

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
PURGE_AFTER = 7 * DAY


class Builders:
    """Builds what a store takes, around the time ``now`` (int64 microseconds). All durations are microseconds."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.caps: Caps = Policy().caps
        self._tokens: dict[Sid, Token] = {}
        self._lanes: dict[EventClass, Lane] = {}

    def record(
        self,
        user_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        age: int = 0,
        unseen: int | None = None,
        idle: int = 14 * DAY,
        absolute: int = 30 * DAY,
        **fields: Any,
    ) -> Record:
        """A living session of ``age``, last seen ``unseen`` ago (``age``: never again), not stored yet."""
        created_at = self.now - age
        issued = token.mint(created_at)
        self._tokens[issued.sid] = issued
        settings: dict[str, Any] = {
            "sid": issued.sid,
            "series_hash": token.digest(issued.series),
            "secret_hash": token.digest(issued.secret),
            "user_id": user_id,
            "last_changes": new_change_id(),
            "created_at": created_at,
            "last_seen_at": self.now - (age if unseen is None else unseen),
            "idle": idle,
            "absolute": absolute,
            "check_at": created_at + min(idle, absolute),
            "data": codec.encode_data(data or {}),
        }
        return Record(**(settings | fields))

    def token(self, sid: Sid) -> Token:
        """The token that ``record`` made for ``sid``."""
        return self._tokens[sid]

    def create(self, record: Record, links: Iterable[bytes] = ()) -> Create:
        """The change that stores ``record``, to be found by ``links`` too."""
        return Create(record, tuple(links))

    def update(
        self,
        record: Record,
        put: Mapping[str, Any] | None = None,
        remove: Iterable[str] = (),
        *,
        touch: Touch | None = None,
        rotate: Rotate | None = None,
        confirm: Confirm | None = None,
        sign_in: SignIn | None = None,
        if_rev: int | None = None,
        seen: bool = False,
    ) -> Update:
        """A change with a new id; the values of ``put`` are plain Python.

        ``seen``: made of ``record`` as it is there, as requests do, so that a store need not merge.
        """
        encoded = {key: codec.encode_value(key, value) for key, value in (put or {}).items()}
        removed = frozenset(remove)
        return Update(
            sid=record.sid,
            id=new_change_id(),
            put=encoded,
            remove=removed,
            seen=record if seen else None,
            whole=codec.merge(record.data, encoded, removed) if seen else b"",
            touch=touch,
            rotate=rotate,
            confirm=confirm,
            sign_in=sign_in,
            if_rev=if_rev,
        )

    def touch(self, record: Record, at: int | None = None, client: bytes | None = None) -> Update:
        """A lone touch (``at``: now)."""
        return self.update(record, touch=Touch(self.now if at is None else at, client))

    def rotation(self, record: Record, *, step_up: bool = False, at: int | None = None) -> tuple[Rotate, Token]:
        """A guarded rotation of ``record``, and the token that it makes valid."""
        held = self._tokens[record.sid]
        salt = NO_SALT if step_up else token.new_salt()
        fresh = msgspec.structs.replace(held, secret=token.new_secret()) if step_up else held.rotated(salt)
        rotate = Rotate(record.secret_hash, token.digest(fresh.secret), salt, self.now if at is None else at)
        return rotate, fresh

    def end(
        self,
        record: Record,
        reason: EndReason = EndReason.LOGOUT,
        *,
        at: int | None = None,
        purge_after: int = PURGE_AFTER,
        if_rev: int | None = None,
        announce_at: int | None = None,
    ) -> End:
        """The end of ``record`` (``at``: now), its tombstone to be purged ``purge_after`` later."""
        at = self.now if at is None else at
        return End(record.sid, new_change_id(), reason, at, at + purge_after, if_rev, announce_at)

    def query(
        self,
        user_id: str | None = None,
        *,
        sids: Sequence[Sid] | None = None,
        state: State = "live",
        before: Sid | None = None,
        limit: int = 100,
        keep: Sid | None = None,
        not_before: int | None = None,
        caps: Caps | None = None,
        link: bytes | None = None,
        announce_at: int | None = None,
        lift: bool = False,
    ) -> Query:
        """A query as of now."""
        return Query(
            now=self.now,
            caps=self.caps if caps is None else caps,
            user_id=user_id,
            sids=sids,
            state=state,
            before=before,
            limit=limit,
            keep=keep,
            not_before=not_before,
            purge_at=self.now + PURGE_AFTER,
            link=link,
            announce_at=announce_at,
            lift=lift,
        )

    def login(
        self,
        record: Record,
        *,
        began_at: int | None = None,
        per_user: int | None = None,
        on_limit: OnLimit = "end_oldest",
        caps: Caps | None = None,
        announce_at: int | None = None,
        also: Sequence[str] = (),
    ) -> Login:
        """The question whether ``record``, a session of a user, may stay (``began_at``: now)."""
        if record.user_id is None:
            raise ValueError("only a session of a user can be admitted")
        return Login(
            sid=record.sid,
            user_id=record.user_id,
            began_at=self.now if began_at is None else began_at,
            now=self.now,
            caps=self.caps if caps is None else caps,
            per_user=per_user,
            on_limit=on_limit,
            purge_at=self.now + PURGE_AFTER,
            announce_at=announce_at,
            also=also,
        )

    def cutoffs(
        self,
        now: int | None = None,
        *,
        caps: Caps | None = None,
        worker: str | None = None,
        turn: int = MINUTE,
        announce_at: int | None = None,
    ) -> Cutoffs:
        """What a sweep at ``now`` goes by."""
        return Cutoffs(
            now=self.now if now is None else now,
            caps=self.caps if caps is None else caps,
            keep_ended=PURGE_AFTER,
            worker=worker,
            turn=turn,
            announce_at=announce_at,
        )

    def event(self, type: EventType = EventType.LOGIN, *, at: int | None = None, **fields: Any) -> Event:
        """An event (``at``: now), sealed as the next one of this builder's stream for its class."""
        event = Event(type=type, at=self.now if at is None else at, **fields)
        class_ = class_of(type)
        lane = self._lanes.get(class_)
        if lane is None:
            lane = self._lanes[class_] = Lane(class_)
        sealed = lane.seal([event])
        lane.advance(sealed)
        return sealed[0]

    def place(self, event: Event) -> Position:
        """Where ``event`` is in the audit trail."""
        if event.seal is None:
            raise ValueError("the event is not sealed")
        return Position(event.seal.stream, event.seal.seq)
