"""The audit trail as hash chains: how an event is sealed into a stream, and how that is checked.

Each writer has streams of its own, so that no two ever wait for each other. In a stream every event holds the digest
of the one before: ``digest(n) = SHA-256(digest(n-1) || canonical(n))``, with 32 zero bytes before the first. What
stands in ``canonical`` of a person is a commitment, ``SHA-256(salt || JSON)``, beside which the fields themselves are
kept: without them and their salt the chain stays as it is, and nobody can tell any more what they were.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Literal

import msgspec

from sessiondb.core.events import Event, EventClass, Seal, storable

GENESIS = bytes(32)
SALT_BYTES = 16
STREAM_CHARS = 16

Group = Literal["who", "actor", "where"]
GROUPS: tuple[Group, ...] = ("who", "actor", "where")
"""The personal fields that are erased together: user and session; who has acted; address and personal details."""

_LETTERS = {EventClass.LOGIN: "l", EventClass.SESSION: "s", EventClass.ADMIN: "a"}
_CLASSES = {letter: class_ for class_, letter in _LETTERS.items()}

_encode = msgspec.json.Encoder(order="sorted").encode


def new_stream(class_: EventClass) -> str:
    """The name of a new stream for events of ``class_``: its letter and 60 random bits in hexadecimal."""
    return _LETTERS[class_] + secrets.token_hex(8)[1:]


def stream_class(stream: str) -> EventClass | None:
    """The class of the events in ``stream``, or ``None`` if it has no name of ours."""
    return _CLASSES.get(stream[:1])


def commitment(salt: bytes, fields: object) -> bytes:
    """The commitment to personal ``fields`` (anything that JSON can spell)."""
    return sha256(salt + _encode(fields)).digest()


def digest(event: Event, seal: Seal) -> bytes:
    """The digest of a sealed event, which the next one of its stream holds."""
    canonical = _encode(
        (
            seal.stream,
            seal.seq,
            event.at,
            event.type,
            event.reason,
            event.details,
            seal.who.hex(),
            seal.actor.hex(),
            seal.where.hex(),
        )
    )
    return sha256(seal.previous + canonical).digest()


def seal(event: Event, stream: str, seq: int, previous: bytes) -> tuple[Event, bytes]:
    """``event`` as the ``seq``-th of ``stream``, after the one of the digest ``previous``; and its own digest.

    Characters that not every database can hold (see ``storable``) are replaced.
    """
    event = storable(event)
    salts = secrets.token_bytes(3 * SALT_BYTES)
    who = actor = where = b""
    who_salt = actor_salt = where_salt = None
    if event.user_id is not None or event.sid is not None:
        who_salt = salts[:SALT_BYTES]
        who = commitment(who_salt, (event.user_id, event.sid))
    if event.actor is not None:
        actor_salt = salts[SALT_BYTES : 2 * SALT_BYTES]
        actor = commitment(actor_salt, event.actor)
    if event.ip is not None or event.personal:
        where_salt = salts[2 * SALT_BYTES :]
        where = commitment(where_salt, (event.ip, event.personal))
    sealed = Seal(stream, seq, previous, who, actor, where, who_salt, actor_salt, where_salt)
    return replace(event, seal=sealed), digest(event, sealed)


def blanked(event: Event, groups: Iterable[Group]) -> Event:
    """``event`` without the personal fields of ``groups``, and their salts. Its digest is the same."""
    fields: dict[str, object] = {}
    salts: dict[str, None] = {}
    for group in groups:
        salts[f"{group}_salt"] = None
        if group == "who":
            fields.update(user_id=None, sid=None)
        elif group == "actor":
            fields.update(actor=None)
        else:
            fields.update(ip=None, personal={})
    sealed = None if event.seal is None else msgspec.structs.replace(event.seal, **salts)
    return replace(event, **fields, seal=sealed)  # type: ignore[arg-type]


def wrong_groups(event: Event, seal: Seal) -> list[Group]:
    """The groups whose fields are not what was committed to. Erased ones are not wrong; see ``erased_groups``."""
    wrong: list[Group] = []
    if seal.who_salt is not None:
        if commitment(seal.who_salt, (event.user_id, event.sid)) != seal.who:
            wrong.append("who")
    elif event.user_id is not None or event.sid is not None:
        wrong.append("who")
    if seal.actor_salt is not None:
        if commitment(seal.actor_salt, event.actor) != seal.actor:
            wrong.append("actor")
    elif event.actor is not None:
        wrong.append("actor")
    if seal.where_salt is not None:
        if commitment(seal.where_salt, (event.ip, event.personal)) != seal.where:
            wrong.append("where")
    elif event.ip is not None or event.personal:
        wrong.append("where")
    return wrong


def erased_groups(seal: Seal) -> list[Group]:
    """The groups that were there once, and have been erased."""
    erased: list[Group] = []
    if seal.who and seal.who_salt is None:
        erased.append("who")
    if seal.actor and seal.actor_salt is None:
        erased.append("actor")
    if seal.where and seal.where_salt is None:
        erased.append("where")
    return erased


class Lane:
    """One stream as its writer knows it: ``seq`` and ``head`` are of the last event that was surely written."""

    __slots__ = ("class_", "head", "seq", "stream")

    def __init__(self, class_: EventClass) -> None:
        self.class_ = class_
        self.stream = new_stream(class_)
        self.seq = 0
        self.head = GENESIS

    def seal(self, events: Iterable[Event]) -> list[Event]:
        """``events`` as the next ones of the stream. Nothing moves before ``advance``."""
        seq, head, sealed = self.seq, self.head, []
        for event in events:
            seq += 1
            one, head = seal(event, self.stream, seq, head)
            sealed.append(one)
        return sealed

    def advance(self, sealed: Iterable[Event]) -> None:
        """``sealed``, which ``seal`` made, have been written."""
        for event in sealed:
            if event.seal is not None:
                self.seq, self.head = event.seal.seq, digest(event, event.seal)
