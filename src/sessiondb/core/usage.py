"""What is gathered about the use of the app in an hour or a day, and how what many have gathered becomes one.

A *tally* is the numbers of one bucket, an hour or a day. Every writer (an event loop of a worker) has its own; readers
add them up. Later the tallies of many writers are merged into one that says which it *covers*, and then those are
deleted: so whoever reads meanwhile counts nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b

import msgspec

from sessiondb.core.bottom_k import BottomK
from sessiondb.core.histogram import Histogram
from sessiondb.core.hyperloglog import Distinct
from sessiondb.core.record import EndReason

HOURS, DAYS = "usage", "usage_day"
"""The kinds of sheets: the bucket of one is its hour, or its day, since the epoch."""

MOST_BYTES = 65_536
OTHER = "other"
UNKNOWN = "unknown"

_VERSION = 1
# How many names there may be, and how many bytes each may have; the rest is "other".
_DEVICES, _AGENTS, _COUNTRIES, _REASONS = (16, 16), (64, 48), (256, 8), (64, 32)
# Nobody has had these sessions, or they went on as another one.
_NEVER_USED = frozenset({EndReason.LOGIN, EndReason.REFUSED, EndReason.UNDELIVERED})
_EXPIRED = frozenset({EndReason.EXPIRED_IDLE, EndReason.EXPIRED_ABSOLUTE})


class Gauge(msgspec.Struct, array_like=True):
    """A number that goes up and down, as looked at now and then (``at``: when last, microseconds UTC)."""

    samples: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    last: int = 0
    at: int = 0

    def add(self, value: int, at: int) -> None:
        """It was ``value`` at ``at``."""
        self.merge(Gauge(1, value, value, value, value, at))

    def merge(self, other: Gauge) -> None:
        """As if all that was added to ``other`` had been added here too."""
        if not other.samples:
            return
        self.least = min(self.least, other.least) if self.samples else other.least
        self.most = max(self.most, other.most)
        self.samples += other.samples
        self.total += other.total
        self.at, self.last = max((self.at, self.last), (other.at, other.last))


class _PackedHistogram(msgspec.Struct, array_like=True, frozen=True):
    buckets: dict[int, int]
    total: float
    least: int
    most: int


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    """A tally as it is kept. New fields go to the end, with a default; older versions pass over them."""

    version: int
    created: int
    logins: int
    refused: int
    devices: dict[str, int]
    agents: dict[str, int]
    countries: dict[str, int]
    ends: dict[str, int]
    users: bytes
    sessions: bytes
    sample: bytes
    lengths: _PackedHistogram
    expiries: _PackedHistogram
    gaps: _PackedHistogram
    live: Gauge
    holders: Gauge
    covers: bytes = b""
    merged_at: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


class Tally:
    """The numbers of one bucket.

    * ``created``, ``logins``, ``refused``: sessions that were made, and logins, let in and not.
    * ``devices``, ``agents``, ``countries``: the logins, by what and where they came from; ``ends``: ends by reason.
    * ``users``, ``sessions``: who was active, and in which sessions; ``sample``: how these belong together.
    * ``lengths``, ``expiries``: from the creation of sessions to their end, for those that somebody has ended and those
      that expired; ``gaps``: from one use of a session to the next, where that is longer than touches are apart.
    * ``live``, ``holders``: living sessions, and users who have one.
    * ``covers``: the names of the tallies that this one was merged from, at ``merged_at``.
    """

    __slots__ = (
        "agents",
        "countries",
        "covers",
        "created",
        "devices",
        "ends",
        "expiries",
        "gaps",
        "holders",
        "lengths",
        "live",
        "logins",
        "merged_at",
        "refused",
        "sample",
        "sessions",
        "users",
    )

    def __init__(self) -> None:
        self.created = 0
        self.logins = 0
        self.refused = 0
        self.devices: dict[str, int] = {}
        self.agents: dict[str, int] = {}
        self.countries: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.users = Distinct()
        self.sessions = Distinct()
        self.sample = BottomK()
        self.lengths = Histogram()
        self.expiries = Histogram()
        self.gaps = Histogram()
        self.live = Gauge()
        self.holders = Gauge()
        self.covers: frozenset[bytes] = frozenset()
        self.merged_at = 0

    def active(self, user: int, session: int) -> None:
        """A user has used a session; both as ``hash_of`` has them."""
        self.users.add(user)
        self.sessions.add(session)
        self.sample.add(user, session)

    def logged_in(self, device: str | None, agent: str | None, country: str | None) -> None:
        """Somebody has logged in: with what kind of device, what program, and where."""
        self.logins += 1
        _count(self.devices, device, 1, _DEVICES)
        _count(self.agents, agent, 1, _AGENTS)
        _count(self.countries, country, 1, _COUNTRIES)

    def ended(self, reason: str, length: int) -> None:
        """A session has ended, ``length`` microseconds after its creation."""
        _count(self.ends, reason, 1, _REASONS)
        if reason in _EXPIRED:
            self.expiries.add(length)
        elif reason not in _NEVER_USED:
            self.lengths.add(length)

    def forget(self, user: int) -> bool:
        """Take out what is known of a user by their hash; whether there was anything. Sketches name nobody."""
        known = self.users.discard(user)
        return self.sample.discard(user) or known

    def merge(self, other: Tally) -> None:
        """Add the numbers of ``other``, and not what it covers."""
        self.created += other.created
        self.logins += other.logins
        self.refused += other.refused
        for mine, theirs, bounds in (
            (self.devices, other.devices, _DEVICES),
            (self.agents, other.agents, _AGENTS),
            (self.countries, other.countries, _COUNTRIES),
            (self.ends, other.ends, _REASONS),
        ):
            for name, count in theirs.items():
                _count(mine, name, count, bounds)
        self.users.merge(other.users)
        self.sessions.merge(other.sessions)
        self.sample.merge(other.sample)
        self.lengths.merge(other.lengths)
        self.expiries.merge(other.expiries)
        self.gaps.merge(other.gaps)
        self.live.merge(other.live)
        self.holders.merge(other.holders)

    def encode(self) -> bytes:
        """It as bytes, 65,536 at most."""
        data = self._packed()
        if len(data) > MOST_BYTES:
            self.users.estimate()
            self.sessions.estimate()
            data = self._packed()
        return data

    def _packed(self) -> bytes:
        return _encode(
            _Packed(
                _VERSION,
                self.created,
                self.logins,
                self.refused,
                self.devices,
                self.agents,
                self.countries,
                self.ends,
                self.users.encode(),
                self.sessions.encode(),
                self.sample.encode(),
                _pack(self.lengths),
                _pack(self.expiries),
                _pack(self.gaps),
                self.live,
                self.holders,
                b"".join(sorted(self.covers)),
                self.merged_at,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Tally:
        """What ``encode`` has made, by this version. Raises ``ValueError`` for anything else."""
        try:
            packed = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ValueError("these bytes are no numbers of an hour or a day") from None
        if packed.version != _VERSION:
            raise ValueError(f"these numbers have version {packed.version}, this one knows {_VERSION}")
        made = cls()
        made.created, made.logins, made.refused = packed.created, packed.logins, packed.refused
        made.devices, made.agents, made.countries = packed.devices, packed.agents, packed.countries
        made.ends = packed.ends
        made.users, made.sessions = Distinct.decode(packed.users), Distinct.decode(packed.sessions)
        made.sample = BottomK.decode(packed.sample)
        made.lengths, made.expiries, made.gaps = map(_unpack, (packed.lengths, packed.expiries, packed.gaps))
        made.live, made.holders = packed.live, packed.holders
        made.covers = frozenset(packed.covers[at : at + 8] for at in range(0, len(packed.covers), 8))
        made.merged_at = packed.merged_at
        return made


def _count(counts: dict[str, int], name: str | None, add: int, bounds: tuple[int, int]) -> None:
    """Add to the count of ``name``, or of all others, where there are too many names or it is too long to be one."""
    if not name:
        name = UNKNOWN
    most, longest = bounds
    if name not in counts and (len(counts) >= most or not _is_name(name, longest)):
        name = OTHER
    counts[name] = counts.get(name, 0) + add


def _is_name(text: str, longest: int) -> bool:
    try:
        return len(text.encode()) <= longest
    except UnicodeEncodeError:
        return False


def _pack(histogram: Histogram) -> _PackedHistogram:
    # A float: years of many sessions do not fit in 64 bits.
    return _PackedHistogram(histogram.buckets, float(histogram.total), histogram.least, histogram.most)


def _unpack(packed: _PackedHistogram) -> Histogram:
    if not math.isfinite(packed.total):
        raise ValueError("the total of a histogram is no number")
    return Histogram.of(packed.buckets, int(packed.total), packed.least, packed.most)


# -- many tallies of one time ---------------------------------------------------------------------------------


def name_of(kind: str, bucket: int, writer: str) -> bytes:
    """The name by which a tally is covered: eight bytes."""
    return blake2b(f"{kind}/{bucket}/{writer}".encode(), digest_size=8).digest()


def standing(tallies: Mapping[bytes, Tally]) -> list[bytes]:
    """The names of those that count, together each number once: the others are covered.

    Of two that were merged from the same by two who did not know of each other, that counts which covers more.
    """
    covered = {name for tally in tallies.values() for name in tally.covers}
    merged = [tally.covers for tally in tallies.values() if tally.covers]
    return [
        name
        for name, tally in tallies.items()
        if name not in covered and not any(tally.covers < others for others in merged if tally.covers)
    ]


def merged(
    tallies: Mapping[bytes, Tally], names: Iterable[bytes], also: Collection[bytes], at: int
) -> tuple[str, Tally]:
    """One tally in the place of those of ``names``, and its writer, who depends on nothing but what it covers.

    ``also`` are names that those cover and that are still there.
    """
    total = Tally()
    for name in names:
        total.merge(tallies[name])
    total.covers = frozenset((*names, *also))
    total.merged_at = at
    return f"m{blake2b(b''.join(sorted(total.covers)), digest_size=8).hexdigest()[1:]}", total
