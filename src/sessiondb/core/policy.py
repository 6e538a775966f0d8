"""How long sessions live, and the one function that says when one is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import msgspec

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.record import EndReason, Record

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
OnLimit = Literal["end_oldest", "refuse", "ask"]


class Lifetimes(msgspec.Struct, frozen=True, gc=False):
    """Idle and absolute lifetime, in microseconds."""

    idle: int
    absolute: int


class Caps(msgspec.Struct, frozen=True):
    """The longest lifetimes that the policies now allow. A stored lifetime above its cap counts as the cap.

    ``others`` has the caps of further policies by the name that a record has in ``lifetime``; a name that no policy has
    any more counts as ``"normal"``.
    """

    normal: Lifetimes
    remembered: Lifetimes
    others: Mapping[str, Lifetimes] = {}

    def of(self, lifetime: str) -> Lifetimes:
        """The cap for sessions of that lifetime: ``"normal"``, ``"remembered"`` or another name."""
        if lifetime == "normal":
            return self.normal
        if lifetime == "remembered":
            return self.remembered
        return self.others.get(lifetime, self.normal)

    @property
    def named(self) -> Mapping[str, Lifetimes]:
        """Every cap but the normal one, by name: for stores that compute deadlines in their own language."""
        return {"remembered": self.remembered, **self.others}

    def deadline(self, record: Record) -> int:
        """When ``record`` is over, in microseconds since the epoch."""
        cap = self.of(record.lifetime)
        idle = record.idle if record.idle < cap.idle else cap.idle
        absolute = record.absolute if record.absolute < cap.absolute else cap.absolute
        return deadline(record.created_at, record.last_seen_at, idle, absolute)

    def hard_end(self, record: Record) -> int:
        """The time that no activity moves: creation plus absolute lifetime."""
        return record.created_at + min(record.absolute, self.of(record.lifetime).absolute)

    def is_lower_than(self, before: Caps) -> bool:
        """Whether some session that ``before`` let live longer now ends sooner."""
        return any(
            self.of(name).idle < before.of(name).idle or self.of(name).absolute < before.of(name).absolute
            for name in {"normal", *self.named, *before.named}
        )

    def lesser(self, other: Caps) -> Caps:
        """The lesser of both caps for every session."""

        def of(name: str) -> Lifetimes:
            one, two = self.of(name), other.of(name)
            return Lifetimes(min(one.idle, two.idle), min(one.absolute, two.absolute))

        return Caps(of("normal"), of("remembered"), {name: of(name) for name in {*self.others, *other.others}})

    def expiry_reason(self, record: Record) -> EndReason:
        """Which of the two limits ends ``record`` first."""
        if self.deadline(record) == self.hard_end(record):
            return EndReason.EXPIRED_ABSOLUTE
        return EndReason.EXPIRED_IDLE


def deadline(created_at: int, last_seen_at: int, idle: int, absolute: int) -> int:
    """``min(created_at + absolute, last_seen_at + idle)``: the only place where this is computed."""
    hard_end, idle_end = created_at + absolute, last_seen_at + idle
    return idle_end if idle_end < hard_end else hard_end


@dataclass(frozen=True)
class Policy:
    """Lifetimes and limits. Durations are ``timedelta`` or seconds; there is no way to say "for ever".

    * ``idle`` (14 days): a session not used for so long is over.
    * ``absolute`` (30 days): a session is over so long after its creation, whatever happens.
    * ``remember`` (90 days): replaces both for ``login(remember=True)``; ``None``: remembered logins only get a
      cookie that outlives the browser, no longer life.
    * ``rotate_every`` (``None``): a new secret this often, sent with the next response.
    * ``per_user`` (``None``): how many living sessions a user may have.
    * ``on_limit`` (``"end_oldest"``): what a login above it does: end the oldest, or be refused (``"refuse"``), or be
      refused with the list of the user's sessions, so that the user can say which to end (``"ask"``).
    * ``keep_ended`` (7 days): how long an ended session can still be listed.
    * ``step_up`` (1 hour): how long the level that ``session.step_up()`` has raised holds.

    Raises ``ConfigurationError`` for values that contradict each other. Lowering a lifetime ends old sessions;
    raising it does not extend them. See OWASP ASVS 7.3 and NIST SP 800-63B-4 section 5.2.
    """

    idle: timedelta | float = timedelta(days=14)
    absolute: timedelta | float = timedelta(days=30)
    remember: timedelta | float | None = timedelta(days=90)
    rotate_every: timedelta | float | None = None
    per_user: int | None = None
    on_limit: OnLimit = "end_oldest"
    keep_ended: timedelta | float = timedelta(days=7)
    step_up: timedelta | float = timedelta(hours=1)

    def __post_init__(self) -> None:
        idle, absolute = _micros("idle", self.idle), _micros("absolute", self.absolute)
        if idle > absolute:
            raise ConfigurationError(
                f"Policy: idle ({self.idle}) is longer than absolute ({self.absolute}), so it could never apply; "
                "lower idle or raise absolute."
            )
        if self.remember is not None:
            _micros("remember", self.remember)
        _micros("keep_ended", self.keep_ended)
        _micros("step_up", self.step_up)
        if self.rotate_every is not None and _micros("rotate_every", self.rotate_every) < 60 * SECOND:
            raise ConfigurationError(
                "Policy: rotate_every is under 60 seconds, more often than browsers in parallel can follow; use 60 "
                "or more, or None."
            )
        per_user: object = self.per_user
        if per_user is not None and (not isinstance(per_user, int) or isinstance(per_user, bool) or per_user < 1):
            raise ConfigurationError(f"Policy: per_user is {per_user!r}; use 1 or more, or None for no limit.")
        check_on_limit("Policy", self.on_limit)

    @classmethod
    def nist_aal1(cls) -> Policy:
        """NIST SP 800-63B-4 section 2.1.3: at most 30 days; it asks for no limit on time without activity."""
        return cls(idle=timedelta(days=30), absolute=timedelta(days=30), remember=None)

    @classmethod
    def nist_aal2(cls) -> Policy:
        """NIST SP 800-63B-4 section 2.2.3: at most 24 hours, and 1 hour without activity."""
        return cls(idle=timedelta(hours=1), absolute=timedelta(hours=24), remember=None)

    @classmethod
    def nist_aal3(cls) -> Policy:
        """NIST SP 800-63B-4 section 2.3.3: at most 12 hours, and 15 minutes without activity."""
        return cls(idle=timedelta(minutes=15), absolute=timedelta(hours=12), remember=None)

    def with_(self, **changes: object) -> Policy:
        """A copy with some settings replaced, checked like a new one."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def caps(self) -> Caps:
        """The lifetimes in microseconds."""
        normal = Lifetimes(_micros("idle", self.idle), _micros("absolute", self.absolute))
        if self.remember is None:
            return Caps(normal, normal)
        remembered = _micros("remember", self.remember)
        return Caps(normal, Lifetimes(remembered, remembered))

    @property
    def keep_ended_micros(self) -> int:
        """How long a tombstone stays, in microseconds."""
        return _micros("keep_ended", self.keep_ended)

    @property
    def step_up_micros(self) -> int:
        """``step_up`` in microseconds."""
        return _micros("step_up", self.step_up)

    @property
    def rotate_every_micros(self) -> int | None:
        """``rotate_every`` in microseconds."""
        return None if self.rotate_every is None else _micros("rotate_every", self.rotate_every)


def check_on_limit(where: str, value: object) -> None:
    """Raise ``ConfigurationError`` for what is no ``OnLimit``."""
    if value not in ("end_oldest", "refuse", "ask"):
        raise ConfigurationError(f"{where}: on_limit is {value!r:.100}; use 'end_oldest', 'refuse' or 'ask'.")


def touch_interval(idle: int) -> int:
    """How old ``last_seen_at`` may get before it is written again: the lesser of 60 s and a tenth of ``idle``."""
    return 60 * SECOND if idle >= 600 * SECOND else idle // 10


_LONGEST = timedelta(days=3650)


def _micros(name: str, value: object) -> int:
    if isinstance(value, timedelta):
        length = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LONGEST.total_seconds():
        length = timedelta(seconds=value)
    else:
        raise ConfigurationError(
            f"Policy: {name} is {value!r}; use a timedelta or a number of seconds, at most 10 years."
        )
    if not timedelta(seconds=1) <= length <= _LONGEST:
        raise ConfigurationError(f"Policy: {name} is {value!r}; use 1 second to 10 years.")
    return length // timedelta(microseconds=1)
