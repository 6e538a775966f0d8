"""Events as they are kept: MessagePack, a third of the size of JSON for what is digests mostly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sessiondb.core.events import Event, Seal
from sessiondb.stores._redis_connection import Argument
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import call
from sessiondb.stores._redis_trail_scripts import BLOCK, FETCH
from sessiondb.stores.base import EventQuery, Position

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

_FETCHED = 1000  # events of one script

_Text = str | None
_Salt = bytes | None
_Details = dict[str, str | int] | bytes

# In this order. Times come first: SCAN looks at them there.
_Kept = tuple[
    int, str, _Text, _Text, _Text, _Text, _Text, _Details, _Details,
    str, int, bytes, bytes, bytes, bytes, _Salt, _Salt, _Salt,
]  # fmt: skip

packed = msgspec.msgpack.Encoder().encode
"""How a text is found in a value."""

_unpack = msgspec.msgpack.Decoder(_Kept).decode
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(dict[str, str | int]).decode


def seal_of(event: Event) -> Seal:
    """The seal of ``event``. Raises ``ValueError``."""
    if event.seal is None:
        raise ValueError("an event without its seal cannot be stored; see sessiondb.core.sealing")
    return event.seal


def place_of(event: Event) -> Position:
    """Where ``event`` is in the audit trail. Raises ``ValueError``."""
    seal = seal_of(event)
    return Position(seal.stream, seal.seq)


def to_value(event: Event) -> bytes:
    """What is kept of ``event``."""
    try:
        return packed(_fields(event, event.details, event.personal))
    except (OverflowError, TypeError):
        # A number of more than 64 bits, or another mapping than a dictionary.
        return packed(_fields(event, _to_json(dict(event.details)), _to_json(dict(event.personal))))


def _fields(
    event: Event, details: Mapping[str, str | int] | bytes, personal: Mapping[str, str | int] | bytes
) -> tuple[Any, ...]:
    seal = seal_of(event)
    return (
        event.at,
        str(event.type),
        event.sid,
        event.user_id,
        event.actor,
        event.reason,
        event.ip,
        details,
        personal,
        seal.stream,
        seal.seq,
        seal.previous,
        seal.who,
        seal.actor,
        seal.where,
        seal.who_salt,
        seal.actor_salt,
        seal.where_salt,
    )


def to_event(value: bytes) -> Event:
    """The event of which ``value`` is kept."""
    # Spelt out: an auditor reads a hundred thousand a second.
    (
        at,
        type_,
        sid,
        user_id,
        actor,
        reason,
        ip,
        details,
        personal,
        stream,
        seq,
        previous,
        who,
        by,
        where,
        who_salt,
        actor_salt,
        where_salt,
    ) = _unpack(value)
    return Event(
        type=type_,
        at=at,
        sid=sid,
        user_id=user_id,
        actor=actor,
        reason=reason,
        ip=ip,
        details=_from_json(details) if type(details) is bytes else details,
        personal=_from_json(personal) if type(personal) is bytes else personal,
        seal=Seal(stream, seq, previous, who, by, where, who_salt, actor_salt, where_salt),
    )


def is_wanted(event: Event, query: EventQuery) -> bool:
    """Whether ``query``, wherever its page begins, means ``event``."""
    return (
        (query.user_id is None or event.user_id == query.user_id)
        and (query.sid is None or event.sid == query.sid)
        and (query.actor is None or event.actor == query.actor)
        and (query.type is None or event.type == query.type)
        and (query.since is None or event.at >= query.since)
        and (query.until is None or event.at < query.until)
    )


def lists_of(keys: Keys, event: Event) -> list[bytes]:
    """The lists of names that ``event`` is in, each once."""
    names = (event.user_id, event.sid, event.actor)
    return list(dict.fromkeys([keys.names(name) for name in names if name is not None]))


async def fetch(store: RedisStore, numbers: Sequence[int], texts: Sequence[bytes] = ()) -> dict[int, bytes]:
    """The values of the events with ``numbers`` that are there and hold all ``texts``."""
    found: dict[int, bytes] = {}
    for start in range(0, len(numbers), _FETCHED):
        keys, arguments, order = _in_blocks(store.keys, numbers[start : start + _FETCHED])
        [values] = await store.run([call(FETCH, keys, len(texts), *texts, *arguments)])
        found.update((number, value) for number, value in zip(order, values, strict=True) if value)
    return found


def _in_blocks(keys: Keys, numbers: Iterable[int]) -> tuple[list[bytes], list[Argument], list[int]]:
    """The blocks of ``numbers``, the arguments of ``FETCH`` about them, and the numbers in the order of its answer."""
    blocks: dict[int, list[int]] = {}
    for number in numbers:
        blocks.setdefault(number // BLOCK, []).append(number)
    arguments: list[Argument] = []
    for own in blocks.values():
        arguments += (len(own), *(number % BLOCK for number in own))
    return [keys.block(block) for block in blocks], arguments, [number for own in blocks.values() for number in own]


class Indexed:
    """Keys, each of which is named by its place among them, from 1 on."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}

    @property
    def keys(self) -> list[bytes]:
        """All of them."""
        return list(self._at)

    def at(self, key: bytes) -> int:
        """Where ``key`` is."""
        return self._at.setdefault(key, len(self._at) + 1)

    def three(self, keys: Sequence[bytes]) -> list[int]:
        """Where ``keys`` are, three at most; 0 for none."""
        return [*map(self.at, keys), 0, 0, 0][:3]


def sealed(keys: Keys, events: Sequence[Event], *, strict: bool) -> tuple[list[bytes], list[Argument]]:
    """The keys and arguments of ``SEALED``. Raises ``ValueError`` for an event without its seal."""
    streams, names = Indexed(), Indexed()
    stream_names: list[Argument] = []
    written: list[Argument] = []
    for event in events:
        seal = seal_of(event)
        stream = streams.at(keys.stream(seal.stream))
        if stream > len(stream_names):
            stream_names.append(seal.stream)
        written += (stream, seal.seq, to_value(event), *names.three(lists_of(keys, event)))
    head: list[Argument] = [
        keys.block_prefix,
        int(strict),
        len(streams.keys),
        len(events),
        *stream_names,
    ]
    return [keys.trail_state, keys.blocks, keys.streams, *streams.keys, *names.keys], head + written
