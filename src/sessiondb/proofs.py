"""What the user has proved in this session, with what this request has staged; and staging a step-up."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import msgspec

from sessiondb.core import assurance
from sessiondb.core.errors import SessionDataError, SessionEnded
from sessiondb.core.record import Auth, Record, decode_auth
from sessiondb.runtime import Runtime
from sessiondb.state import StagedLogin, StagedReauthentication, StagedStepUp, State


def shown(runtime: Runtime, record: Record) -> Auth:
    """What ``record`` says of its user's proofs, as it counts now."""
    if record.auth == b"{}":
        return Auth()
    lasts = runtime.policies.of(record).step_up_micros
    return assurance.in_force(decode_auth(record.auth), record.authenticated_at, runtime.now(), lasts)


def auth_of(state: State) -> Auth:
    """What counts in this request."""
    auth, authenticated_at, now, lasts = _held(state)
    return assurance.in_force(auth, authenticated_at, now, lasts)


def proved_at(state: State, level: int | None, methods: Collection[str]) -> int | None:
    """When the newest proof was given of at least ``level``, by one of ``methods`` if there are any."""
    auth, authenticated_at, now, lasts = _held(state)
    return assurance.proved_at(auth, authenticated_at, now, lasts, level=level, methods=methods)


def _held(state: State) -> tuple[Auth, int | None, int, int]:
    """What is stored or staged: the proofs, when the login was, the time, and how long a step-up counts."""
    staged, runtime, record = state.staged, state.runtime, state.record
    now = runtime.now()
    if isinstance(staged, (StagedLogin, StagedReauthentication)):
        # A login that this request has only staged is as recent as can be.
        return staged.auth, now, now, 0
    if record is None or staged == "logout":
        return Auth(), None, now, 0
    lasts = runtime.policies.of(record).step_up_micros
    auth = decode_auth(record.auth)
    if isinstance(staged, StagedStepUp):
        auth = assurance.stepped_up(auth, staged.methods, staged.level, now, lasts)
    return auth, record.authenticated_at, now, lasts


def stage_step_up(state: State, user_id: str | None, methods: Iterable[str], level: int | None) -> None:
    """Stage one more proof. Raises ``SessionEnded`` where nobody is logged in, and ``SessionDataError``."""
    names, proved = assurance.check_methods(methods), assurance.check_level(level)
    if not names and proved is None:
        raise SessionDataError("step_up: say what was proved: session.step_up(methods=('otp',), level=2).")
    if user_id is None:
        raise SessionEnded("Nobody is logged in here, so there is nobody to step up.")
    staged = state.staged
    if isinstance(staged, (StagedLogin, StagedReauthentication)):
        # Proofs of one request are one login.
        auth = staged.auth
        merged = replace(
            auth,
            methods=tuple(dict.fromkeys((*auth.methods, *names))),
            level=max((one for one in (auth.level, proved) if one is not None), default=None),
        )
        state.staged = msgspec.structs.replace(staged, auth=merged)
    else:
        if isinstance(staged, StagedStepUp):
            names = tuple(dict.fromkeys((*staged.methods, *names)))
            proved = max((one for one in (staged.level, proved) if one is not None), default=None)
        state.staged = StagedStepUp(names, proved)
