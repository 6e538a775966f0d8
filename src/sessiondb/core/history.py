"""A user's latest logins, 48 bytes each, as the store keeps them (``Store.record_logins``). Pure.

An entry, in big-endian order: version (2 bits), number (4), seconds since 1970 (34); eight marks of 4 bytes; latitude
and longitude in hundredths of a degree, 2 bytes each; the radius of their accuracy, 1 byte, logarithmic; the country,
2 bytes; flags, 1 byte; browser and system without versions, 2 bytes; a random byte, so that no two are the same.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from struct import Struct

import msgspec

from sessiondb.core.features import Marks
from sessiondb.core.policy import SECOND

ENTRY_BYTES = 48
ENTRIES = 10  # that the store keeps

_LAYOUT = Struct(">BI8IhhB2sBHs")
_VERSION = 0
_NUMBERS = 15  # and more
_SECONDS_HIGH = 0x03  # of the first byte: the highest bits of the seconds
_NOWHERE = -32768
_LEAST_RADIUS = 0.1  # kilometres
_STEPS = 12  # of the radius, each time it doubles


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One login of a user.

    ``at`` is in microseconds UTC (kept to the second); ``number`` counts the user's logins, from 1 to 15 and no
    further. ``latitude`` and ``longitude`` are in degrees, ``radius`` in kilometres (from 0.1, kept to 3 %),
    ``country`` is of two letters. ``flags`` (0 to 255) are whatever the rules beside the score say; ``client`` (0 to
    65,535) is a mark of browser and system without their versions, 0 where they are not known.
    """

    at: int
    marks: Marks
    number: int = 1
    latitude: float | None = None
    longitude: float | None = None
    radius: float | None = None
    country: str | None = None
    flags: int = 0
    client: int = 0


def encode(entry: Entry) -> bytes:
    """``entry`` in 48 bytes, of which one is random."""
    seconds = max(0, min(entry.at // SECOND, (1 << 34) - 1))
    head = _VERSION << 38 | min(max(entry.number, 1), _NUMBERS) << 34 | seconds
    country = entry.country.encode("ascii", "replace") if entry.country is not None else b""
    return _LAYOUT.pack(
        head >> 32,
        head & 0xFFFFFFFF,
        *entry.marks,
        *_place(entry.latitude, entry.longitude),
        _radius(entry.radius),
        country if len(country) == 2 else b"\0\0",
        entry.flags & 0xFF,
        entry.client & 0xFFFF,
        secrets.token_bytes(1),
    )


def decode(history: bytes) -> list[Entry]:
    """The entries of a history, newest first. Those that a later version has written are left out."""
    whole = len(history) - len(history) % ENTRY_BYTES
    entries = []
    for high, low, *rest in _LAYOUT.iter_unpack(history[:whole]):
        if high >> 6 != _VERSION:
            continue
        latitude, longitude, radius, country, flags, client, _ = rest[8:]
        placed = latitude != _NOWHERE
        entries.append(
            Entry(
                at=((high & _SECONDS_HIGH) << 32 | low) * SECOND,
                marks=tuple(rest[:8]),
                number=high >> 2 & 0x0F,
                latitude=latitude / 100 if placed else None,
                longitude=longitude / 100 if placed else None,
                radius=_LEAST_RADIUS * 2 ** ((radius - 1) / _STEPS) if radius else None,
                country=country.decode("ascii", "replace") if country != b"\0\0" else None,
                flags=flags,
                client=client,
            )
        )
    return entries


def next_number(history: Sequence[Entry]) -> int:
    """The ``number`` of the login after ``history``."""
    return min(_NUMBERS, history[0].number + 1) if history else 1


def _place(latitude: float | None, longitude: float | None) -> tuple[int, int]:
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return _NOWHERE, _NOWHERE
    return round(latitude * 100), round(longitude * 100)


def _radius(radius: float | None) -> int:
    if radius is None or not radius >= 0:
        return 0
    return 1 + min(254, round(_STEPS * math.log2(max(radius, _LEAST_RADIUS) / _LEAST_RADIUS)))
