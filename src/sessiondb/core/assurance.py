"""Levels of assurance: what a login and the step-ups after it have proved, when, and for how long that counts.

A level never exceeds what was proved (NIST SP 800-63B-4 section 2): it is what the app says of a login or of a step-up,
a step-up counts for ``Policy.step_up`` and is then forgotten, and a new login begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import Auth, StepUp

HIGHEST_LEVEL = 100
MOST_METHODS = 16
METHOD_LENGTH = 64
KEPT_STEP_UPS = 8


def check_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """``methods`` as stored: at most 16 names of 1 to 64 characters. Raises ``SessionDataError``."""
    if isinstance(methods, str):
        raise SessionDataError(
            f"methods is the text {methods!r:.60}; use a tuple of names: methods=({methods!r:.60},)."
        )
    try:
        names = tuple(methods)
    except TypeError:
        raise SessionDataError(
            f"methods is {methods!r:.100}; use names as in RFC 8176: methods=('pwd', 'otp')."
        ) from None
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= METHOD_LENGTH or not name.isprintable():
            raise SessionDataError(
                f"methods has {name!r:.100}; use names as in RFC 8176, of 1 to {METHOD_LENGTH} characters: 'otp'."
            )
    if len(names) > MOST_METHODS:
        raise SessionDataError(f"methods has {len(names)} names; {MOST_METHODS} at most.")
    return tuple(dict.fromkeys(names))


def check_level(level: object) -> int | None:
    """``level`` as stored: 1 to 100, or ``None``. Raises ``SessionDataError``."""
    if level is None:
        return None
    if not isinstance(level, int) or isinstance(level, bool) or not 1 <= level <= HIGHEST_LEVEL:
        raise SessionDataError(
            f"level is {level!r:.100}; use a whole number of 1 to {HIGHEST_LEVEL}, such as the 1, 2 or 3 of NIST's AAL."
        )
    return int(level)


def stepped_up(auth: Auth, methods: tuple[str, ...], level: int | None, now: int, lasts: int) -> Auth:
    """``auth`` (as stored) with one more step-up; those that count no more, or prove the same, are dropped."""
    kept = [
        one for one in auth.step_ups if now < one.at + lasts and (one.methods, one.level) != (methods, level)
    ]  # oldest first
    return replace(auth, step_ups=(*kept[1 - KEPT_STEP_UPS :], StepUp(now, methods, level)))


def in_force(auth: Auth, authenticated_at: int | None, now: int, lasts: int) -> Auth:
    """``auth`` (as stored) as it counts at ``now``: the methods, and the highest level with its time, of all proofs.

    ``lasts`` is how long a step-up counts; all in microseconds.
    """
    if not auth.step_ups and auth.level is None:
        return auth
    proofs = list(_proofs(auth, authenticated_at, now, lasts))
    level = max((proof.level for proof in proofs if proof.level is not None), default=None)
    return replace(
        auth,
        methods=tuple(dict.fromkeys(method for proof in proofs for method in proof.methods)),
        level=level,
        level_at=max((proof.at for proof in proofs if proof.level == level), default=None) if level else None,
        step_ups=tuple(one for one in auth.step_ups if now < one.at + lasts),
    )


def proved_at(
    auth: Auth,
    authenticated_at: int | None,
    now: int,
    lasts: int,
    *,
    level: int | None = None,
    methods: Collection[str] = (),
) -> int | None:
    """When the newest proof was given of at least ``level``, by one of ``methods`` if any; ``None``: never."""
    return max(
        (
            proof.at
            for proof in _proofs(auth, authenticated_at, now, lasts)
            if (level is None or (proof.level is not None and proof.level >= level))
            and (not methods or not set(methods).isdisjoint(proof.methods))
        ),
        default=None,
    )


def _proofs(auth: Auth, authenticated_at: int | None, now: int, lasts: int) -> Iterator[StepUp]:
    if authenticated_at is not None:
        yield StepUp(authenticated_at, auth.methods, auth.level)
    yield from (one for one in auth.step_ups if now < one.at + lasts)
