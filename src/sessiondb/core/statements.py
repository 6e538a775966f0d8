"""Statements in the audit trail: what was taken out of it on purpose, signed by whoever did it.

An event that was purged, or whose personal fields were erased, looks the same as one that somebody has tampered with.
What tells them apart is an event that says so, with a signature that nobody can make who merely writes to the database.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from sessiondb.core.events import Event, EventType
from sessiondb.core.signing import Signer, Verifier

MOST_PLACES = 500  # in one statement, so that no event gets long
_encode = msgspec.json.Encoder(order="sorted").encode

Places = Mapping[str, Sequence[int]]
"""Streams, and numbers in them, in order."""


def spelled(places: Places) -> str:
    """``places`` as text: ``stream:1-3,7 stream:2``."""
    return " ".join(f"{stream}:{','.join(_ranges(numbers))}" for stream, numbers in sorted(places.items()) if numbers)


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    breaks = [0, *(at for at, (one, next_) in enumerate(pairwise(numbers), 1) if next_ != one + 1), len(numbers)]
    for start, end in pairwise(breaks):
        first, last = numbers[start], numbers[end - 1]
        yield str(first) if first == last else f"{first}-{last}"


def parsed(text: str) -> dict[str, set[int]]:
    """The places that ``spelled`` has written. Raises ``ValueError`` for any other text."""
    places: dict[str, set[int]] = {}
    for part in text.split():
        stream, _, numbers = part.partition(":")
        found = places.setdefault(stream, set())
        for one in numbers.split(","):
            first, _, last = one.partition("-")
            start, end = int(first), int(last or first)
            if not 0 < start <= end or end - start > 1_000_000:
                raise ValueError("no range of places")
            found.update(range(start, end + 1))
    return places


def in_parts(places: Iterable[tuple[str, int]]) -> Iterator[dict[str, list[int]]]:
    """``places`` sorted, by stream, in parts that one statement has room for."""
    part: dict[str, list[int]] = {}
    size = 0
    for stream, number in sorted(set(places)):
        part.setdefault(stream, []).append(number)
        size += 1
        if size == MOST_PLACES:
            yield part
            part, size = {}, 0
    if part:
        yield part


def statement(type_: EventType, at: int, details: Mapping[str, str | int], signer: Signer | None) -> Event:
    """The event that states ``details``, signed if there is a ``signer``. No event of this module names a person."""
    signed = dict(details)
    if signer is not None:
        signature = signer.sign(_message(type_, at, details))
        signed["key"] = signer.key_id
        signed["signature"] = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    return Event(type=type_, at=at, details=signed)


def is_signed(event: Event, verifiers: Iterable[Verifier]) -> bool:
    """Whether one of ``verifiers`` has signed the statement."""
    details = dict(event.details)
    key, signature = details.pop("key", None), details.pop("signature", None)
    if not isinstance(signature, str):
        return False
    try:
        raw = base64.b64decode(signature + "=" * (-len(signature) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    message = _message(event.type, event.at, details)
    return any(one.key_id == key and one.verify(message, raw) for one in verifiers)


def _message(type_: str, at: int, details: Mapping[str, str | int]) -> bytes:
    return b"statement\n" + _encode((str(type_), at, details))


class Vouched:
    """What the statements of a trail vouch for."""

    def __init__(self) -> None:
        self.purged: dict[str, int] = {}  # by stream, the last number that was purged
        self.erased: dict[str, dict[str, set[int]]] = {}  # by group of personal fields, places
        self.aged_before = 0  # addresses of events before this time were erased

    def add(self, event: Event) -> None:
        """Take note of a statement. Raises ``ValueError`` for one that cannot be read."""
        details = event.details
        if event.type == EventType.AUDIT_PURGED:
            for stream, numbers in parsed(str(details.get("through", ""))).items():
                self.purged[stream] = max(self.purged.get(stream, 0), *numbers)
        elif event.type == EventType.USER_FORGOTTEN:
            for group in str(details.get("groups", "")).split():
                known = self.erased.setdefault(group, {})
                for stream, numbers in parsed(str(details.get("places", ""))).items():
                    known.setdefault(stream, set()).update(numbers)
        elif event.type == EventType.AUDIT_AGED:
            self.aged_before = max(self.aged_before, int(details.get("before", 0)))

    def is_erased(self, group: str, stream: str, seq: int, at: int) -> bool:
        """Whether the fields of ``group`` may be missing there."""
        if group == "where" and at < self.aged_before:
            return True
        return seq in self.erased.get(group, {}).get(stream, ())
