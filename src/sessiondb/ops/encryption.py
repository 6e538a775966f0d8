"""What the command line does about encryption at rest: keys, and re-encryption of all that is stored."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.keys import Plain
from sessiondb.db import SessionDB
from sessiondb.keyring import DEFAULT_VARIABLE, KeyRing

WALKS = 5
TELL_EVERY = 2.0
PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Use:
    """How many sessions use a key. ``key`` is its id, or ``"plain"`` for values that are not encrypted."""

    key: str
    sessions: int
    is_current: bool
    in_ring: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What re-encryption has come to. ``unreadable`` and ``left`` are those of the last walk."""

    examined: int
    rewritten: int
    unreadable: int
    left: int
    keys: Sequence[Use]

    @property
    def is_complete(self) -> bool:
        """Whether a walk has found nothing more to do."""
        return not self.unreadable and not self.left


def ring_from(path: Path | None, plain: Plain = "refuse") -> KeyRing:
    """The ring in the file, or else in ``$SESSIONDB_KEYS``. Raises ``ConfigurationError``."""
    if path is not None:
        return KeyRing.from_file(path, plain=plain)
    return KeyRing.from_env(DEFAULT_VARIABLE, plain=plain)


def checked_plain(text: str) -> Plain:
    """``text`` as the setting ``plain``. Raises ``ConfigurationError``."""
    for known in ("refuse", "accept", "write"):
        if text == known:
            return known
    raise ConfigurationError(f"--plain is {text!r}; use refuse, accept (turn encryption on) or write (turn it off).")


async def reencrypt_all(db: SessionDB, ring: KeyRing, tell: Callable[[str], None]) -> Outcome:
    """Walk until a walk has found nothing to do, five times at most. ``tell`` gets a line about it now and then.

    May be killed and started again at any time: what is done is not done twice.
    """
    await db.open()
    reencryption = db.runtime.reencryption
    if reencryption is None:
        raise ConfigurationError("There are no keys to re-encrypt with.")
    rewritten = 0
    for _ in range(WALKS):
        examined = unreadable = left = written = 0
        used: Counter[str] = Counter()
        told_at = time.monotonic()
        async for done in reencryption.walk():
            examined += done.examined
            written += done.rewritten
            unreadable += done.unreadable
            left += done.left
            used.update(done.keys)
            if time.monotonic() - told_at >= TELL_EVERY:
                told_at = time.monotonic()
                tell(f"{examined:,} sessions looked at, {written:,} written again ...")
        rewritten += written
        if not (written or left):
            break
    return Outcome(examined, rewritten, unreadable, left, _uses(ring, used))


def _uses(ring: KeyRing, used: Counter[str]) -> list[Use]:
    current = PLAIN if ring.plain == "write" else ring.ids[0]
    known = [*ring.ids] if ring.plain == "refuse" else [*ring.ids, PLAIN]
    others = sorted(used.keys() - set(known))
    return [Use(key, used[key], key == current, key in known) for key in (*known, *others)]


def use_text(use: Use) -> str:
    """A line for people about one key."""
    counted = f"{use.sessions:,} session{'' if use.sessions == 1 else 's'}"
    name = "not encrypted" if use.key == PLAIN else f"key {use.key}"
    if use.is_current:
        return f"{name}: {counted}; new values are written so"
    if not use.in_ring:
        return f"{name}: {counted}; it is not in the ring, so they are refused"
    if use.sessions:
        return f"{name}: {counted} still; keep it, and run this again"
    if use.key == PLAIN:
        return f"{name}: none any more; leave plain= out once every worker writes encrypted values"
    return f"{name}: not used any more; take it out once every worker has the ring with the new key first"
