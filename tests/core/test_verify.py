"""Every row of the rotation table, and the borders of its times."""

from __future__ import annotations

import inspect

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core import token
from sessiondb.core.change import Applied, Confirm, Rotate, Update, apply, new_change_id
from sessiondb.core.policy import SECOND
from sessiondb.core.presented import presented
from sessiondb.core.record import NO_SALT, Record
from sessiondb.core.token import Token, digest, mint
from sessiondb.core.verify import Verdict, verify
from strategies import NOW

GRACE = 30 * SECOND
CREATED = NOW
ROTATED = NOW + 3600 * SECOND
CONFIRMED = ROTATED + 600 * SECOND


def session() -> tuple[Record, Token]:
    issued = mint(CREATED)
    stored = Record(
        sid=issued.sid,
        series_hash=digest(issued.series),
        secret_hash=digest(issued.secret),
        created_at=CREATED,
        last_seen_at=CREATED,
        idle=10**15,
        absolute=10**15,
        check_at=CREATED,
    )
    return stored, issued


def changed(stored: Record, change: Update) -> Record:
    written, outcome = apply(stored, change, 10**18)
    assert isinstance(outcome, Applied)
    assert written is not None
    return written


def rotate(stored: Record, held: Token, at: int = ROTATED, *, step_up: bool = False) -> tuple[Record, Token]:
    salt = token.new_salt()
    fresh = Token(held.sid, held.series, token.new_secret()) if step_up else held.rotated(salt)
    rotation = Rotate(stored.secret_hash, digest(fresh.secret), NO_SALT if step_up else salt, at)
    return changed(stored, Update(sid=stored.sid, id=new_change_id(), rotate=rotation)), fresh


def confirm(stored: Record, at: int = CONFIRMED) -> Record:
    return changed(stored, Update(sid=stored.sid, id=new_change_id(), confirm=Confirm(stored.secret_hash, at)))


def other_secret(held: Token) -> Token:
    return msgspec.structs.replace(held, secret=token.new_secret())


@pytest.mark.security("T4")
def test_secrets_are_compared_in_constant_time() -> None:
    source = inspect.getsource(verify)
    assert source.count("compare_digest(") == 3
    assert " == " not in source and " != " not in source


def test_a_session_that_never_rotated() -> None:
    stored, issued = session()
    assert verify(stored, presented(issued), CREATED) is Verdict.SERVE
    assert verify(stored, presented(issued), CREATED + 10**12) is Verdict.SERVE
    assert verify(stored, presented(other_secret(issued)), CREATED + GRACE) is Verdict.STALE
    assert verify(stored, presented(other_secret(issued)), CREATED + GRACE + 1) is Verdict.REUSE


def test_current_secret() -> None:
    stored, new = rotate(*session())
    assert verify(stored, presented(new), ROTATED) is Verdict.SERVE_AND_CONFIRM
    assert verify(stored, presented(new), ROTATED + 10**12) is Verdict.SERVE_AND_CONFIRM
    assert verify(confirm(stored), presented(new), CONFIRMED) is Verdict.SERVE


def test_previous_secret_unconfirmed_is_served_however_late_and_gets_the_same_new_secret() -> None:
    stored, old = session()
    rotated, new = rotate(stored, old)
    for at in (ROTATED, ROTATED + GRACE, ROTATED + 10**12):
        assert verify(rotated, presented(old), at) is Verdict.SERVE_AND_RESEND
    assert rotated.salt is not None
    assert old.rotated(rotated.salt) == new


def test_previous_secret_is_served_thirty_seconds_after_the_confirmation_and_then_is_reuse() -> None:
    stored, old = session()
    confirmed = confirm(rotate(stored, old)[0])
    assert verify(confirmed, presented(old), CONFIRMED) is Verdict.SERVE
    assert verify(confirmed, presented(old), CONFIRMED + GRACE) is Verdict.SERVE
    assert verify(confirmed, presented(old), CONFIRMED + GRACE + 1) is Verdict.REUSE


def test_previous_secret_after_a_step_up_is_never_served() -> None:
    stored, old = session()
    stepped, new = rotate(stored, old, step_up=True)
    assert verify(stepped, presented(new), ROTATED) is Verdict.SERVE_AND_CONFIRM
    assert verify(stepped, presented(old), ROTATED) is Verdict.STALE
    assert verify(stepped, presented(old), ROTATED + 10**12) is Verdict.STALE
    confirmed = confirm(stepped)
    assert verify(confirmed, presented(old), CONFIRMED + GRACE) is Verdict.STALE
    assert verify(confirmed, presented(old), CONFIRMED + GRACE + 1) is Verdict.REUSE


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_any_other_secret_is_stale_for_thirty_seconds_after_the_rotation_and_then_reuse(is_confirmed: bool) -> None:
    stored, old = session()
    once, newer = rotate(stored, old)
    twice, newest = rotate(confirm(once), newer, CONFIRMED)
    twice = confirm(twice, CONFIRMED + 1) if is_confirmed else twice
    for retired in (old, other_secret(newest)):
        assert verify(twice, presented(retired), CONFIRMED + GRACE) is Verdict.STALE
        assert verify(twice, presented(retired), CONFIRMED + GRACE + 1) is Verdict.REUSE


@pytest.mark.security("T9")
@given(st.integers(0, 10**15), st.integers(0, 3))
def test_a_wrong_series_is_forged_whatever_the_secret_and_time(at: int, stage: int) -> None:
    stored, old = session()
    held = [old]
    if stage >= 1:
        stored, new = rotate(stored, old)
        held.append(new)
    if stage >= 2:
        stored = confirm(stored)
    if stage >= 3:
        stored, new = rotate(stored, held[-1], CONFIRMED + 1)
        held.append(new)
    for one in [*held, other_secret(old)]:
        stranger = msgspec.structs.replace(one, series=mint(NOW).series)
        assert verify(stored, presented(stranger), CREATED + at) is Verdict.FORGED


def test_a_rotation_that_skipped_the_confirmation_does_not_resend_a_wrong_secret() -> None:
    # The salt belongs to the newest rotation: derived from any other secret it gives nothing that is stored.
    stored, old = session()
    rotated, new = rotate(stored, old)
    foreign = msgspec.structs.replace(rotated, salt=token.new_salt())
    assert verify(foreign, presented(old), ROTATED) is Verdict.STALE
    assert verify(foreign, presented(new), ROTATED) is Verdict.SERVE_AND_CONFIRM
