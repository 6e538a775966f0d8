"""Levels of assurance: never above what was proved, and only for as long as that counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core import assurance
from sessiondb.core.errors import SessionDataError
from sessiondb.core.policy import SECOND
from sessiondb.core.record import Auth, StepUp, decode_auth, encode_auth

HOUR = 3600 * SECOND
LOGIN = Auth(methods=("pwd",), level=1)
NAMES = st.sampled_from(["pwd", "otp", "hwk", "sms"])
METHODS = st.lists(NAMES, unique=True, max_size=3).map(tuple)
LEVELS = st.none() | st.integers(1, 3)


def test_a_step_up_raises_the_level_for_its_time_and_then_it_falls_back() -> None:
    auth = assurance.stepped_up(LOGIN, ("otp",), 2, 10 * HOUR, HOUR)
    for now, methods, level, level_at in (
        (10 * HOUR, ("pwd", "otp"), 2, 10 * HOUR),
        (11 * HOUR - 1, ("pwd", "otp"), 2, 10 * HOUR),
        (11 * HOUR, ("pwd",), 1, 0),
    ):
        counts = assurance.in_force(auth, 0, now, HOUR)
        assert (counts.methods, counts.level, counts.level_at) == (methods, level, level_at)
    assert assurance.in_force(auth, 0, 11 * HOUR, HOUR).step_ups == ()


def test_the_stored_login_is_not_touched_by_a_step_up() -> None:
    auth = assurance.stepped_up(LOGIN, ("otp",), 2, HOUR, HOUR)
    assert (auth.methods, auth.level) == (LOGIN.methods, LOGIN.level)
    assert decode_auth(encode_auth(auth)) == auth


def test_a_proof_of_a_lower_level_renews_nothing_above_it() -> None:
    auth = Auth(methods=("hwk",), level=3)
    auth = assurance.stepped_up(auth, ("pwd",), 1, 5 * HOUR, HOUR)
    now = 5 * HOUR + 1
    assert assurance.proved_at(auth, 0, now, HOUR) == 5 * HOUR
    assert assurance.proved_at(auth, 0, now, HOUR, level=1) == 5 * HOUR
    assert assurance.proved_at(auth, 0, now, HOUR, level=2) == 0
    assert assurance.in_force(auth, 0, now, HOUR).level_at == 0


def test_a_proof_without_a_level_has_none() -> None:
    auth = assurance.stepped_up(Auth(methods=("pwd",)), ("otp",), None, HOUR, HOUR)
    assert assurance.in_force(auth, 0, HOUR, HOUR).level is None
    assert assurance.proved_at(auth, 0, HOUR, HOUR, level=1) is None
    assert assurance.proved_at(auth, 0, HOUR, HOUR, methods=("otp", "hwk")) == HOUR
    assert assurance.proved_at(auth, 0, HOUR, HOUR, methods=("hwk",)) is None


def test_who_never_logged_in_has_proved_nothing() -> None:
    assert assurance.proved_at(Auth(), None, HOUR, HOUR) is None
    assert assurance.in_force(Auth(), None, HOUR, HOUR) == Auth()


steps = st.lists(st.tuples(st.integers(1, 3 * HOUR), METHODS, LEVELS), max_size=30)


@pytest.mark.security("L5", "L10")
@given(METHODS, LEVELS, steps, st.integers(0, 5 * HOUR), st.integers(1, 3))
def test_a_level_is_never_above_what_was_proved_nor_older_than_it_may_be(
    methods: tuple[str, ...], level: int | None, taken: list[Any], wait: int, asked: int
) -> None:
    auth, now = Auth(methods=methods, level=level), 0
    proofs = [StepUp(0, methods, level)]
    for pause, by, reached in taken:
        now += pause
        auth = assurance.stepped_up(auth, by, reached, now, HOUR)
        proofs.append(StepUp(now, by, reached))
    now += wait
    valid = [proofs[0], *(one for one in proofs[1:] if now < one.at + HOUR)]
    counts = assurance.in_force(auth, 0, now, HOUR)
    at = assurance.proved_at(auth, 0, now, HOUR, level=asked)
    assert counts.level in (None, *(one.level for one in valid))
    assert set(counts.methods) <= {name for one in valid for name in one.methods}
    assert at in (None, *(one.at for one in valid if one.level is not None and one.level >= asked))
    assert (at is not None) == (counts.level is not None and counts.level >= asked)
    assert len(auth.step_ups) <= assurance.KEPT_STEP_UPS
    if len(valid) <= assurance.KEPT_STEP_UPS:
        # Nothing that counts is forgotten while there is room.
        assert counts.level == max((one.level for one in valid if one.level is not None), default=None)
        assert assurance.proved_at(auth, 0, now, HOUR) == valid[-1].at


@pytest.mark.parametrize("level", [0, -1, 101, True, "2", 2.0, b"2"])
def test_what_is_no_level_is_refused(level: Any) -> None:
    with pytest.raises(SessionDataError, match="level is"):
        assurance.check_level(level)


@pytest.mark.parametrize("methods", ["otp", 7, ("",), ("x" * 65,), (7,), ("a\nb",), [f"m{n}" for n in range(17)]])
def test_what_are_no_methods_is_refused(methods: Any) -> None:
    with pytest.raises(SessionDataError, match="methods"):
        assurance.check_methods(methods)


def test_methods_are_kept_once_in_their_order() -> None:
    assert assurance.check_methods(["otp", "pwd", "otp"]) == ("otp", "pwd")
    assert assurance.check_methods(iter(())) == ()
    assert (assurance.check_level(None), assurance.check_level(100)) == (None, 100)
