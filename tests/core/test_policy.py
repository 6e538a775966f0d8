"""Lifetimes: one deadline for all, caps that only shorten, and settings that cannot contradict each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import SECOND, Caps, Lifetimes, Policy, deadline, touch_interval
from sessiondb.core.record import EndReason
from strategies import DAY, NOW, record

micros = st.integers(1, 10**15)


@given(micros, micros, micros, micros)
def test_the_deadline_is_whichever_comes_first(created: int, seen: int, idle: int, absolute: int) -> None:
    found = deadline(created, seen, idle, absolute)
    assert found == min(created + absolute, seen + idle)
    assert deadline(created, seen + 1, idle, absolute) >= found
    assert deadline(created, seen + 10**16, idle, absolute) == created + absolute


@given(micros, micros, micros, micros, st.sampled_from(["normal", "remembered", "odd"]))
def test_caps_shorten_and_never_lengthen(idle: int, absolute: int, cap_idle: int, cap_absolute: int, kind: str) -> None:
    stored = record(idle=idle, absolute=absolute, lifetime=kind, last_seen_at=NOW + 5)
    roomy = Lifetimes(10**17, 10**17)
    tight = Lifetimes(cap_idle, cap_absolute)
    caps = Caps(roomy, tight) if kind == "remembered" else Caps(tight, roomy)
    own = deadline(stored.created_at, stored.last_seen_at, idle, absolute)
    assert caps.deadline(stored) == min(own, deadline(stored.created_at, stored.last_seen_at, cap_idle, cap_absolute))
    assert Caps(roomy, roomy).deadline(stored) == own
    assert caps.hard_end(stored) == NOW + min(absolute, cap_absolute)
    is_absolute = caps.deadline(stored) == caps.hard_end(stored)
    expected = EndReason.EXPIRED_ABSOLUTE if is_absolute else EndReason.EXPIRED_IDLE
    assert caps.expiry_reason(stored) is expected


@pytest.mark.security("L4")
def test_defaults_and_presets() -> None:
    caps = Policy().caps
    assert caps.normal == Lifetimes(14 * DAY, 30 * DAY)
    assert caps.remembered == Lifetimes(90 * DAY, 90 * DAY)
    assert Policy().keep_ended_micros == 7 * DAY
    assert Policy().rotate_every_micros is None
    assert Policy.nist_aal1().caps == Caps(*[Lifetimes(30 * DAY, 30 * DAY)] * 2)
    assert Policy.nist_aal2().caps == Caps(*[Lifetimes(3600 * SECOND, 24 * 3600 * SECOND)] * 2)
    assert Policy.nist_aal3().caps == Caps(*[Lifetimes(900 * SECOND, 12 * 3600 * SECOND)] * 2)
    assert Policy.nist_aal2().with_(per_user=3).per_user == 3


def test_seconds_and_timedeltas_are_the_same() -> None:
    assert Policy(idle=60, absolute=3600.0).caps == Policy(idle=timedelta(minutes=1), absolute=timedelta(hours=1)).caps
    assert Policy(rotate_every=90.5).rotate_every_micros == 90_500_000
    assert Policy(remember=None).caps.remembered == Policy().caps.normal


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"idle": 3600, "absolute": 60}, "idle .* longer than absolute"),
        ({"idle": 0}, "idle"),
        ({"idle": -1}, "idle"),
        ({"idle": 0.5}, "idle"),
        ({"idle": None}, "idle"),
        ({"idle": True}, "idle"),
        ({"idle": "60"}, "idle"),
        ({"idle": float("nan")}, "idle"),
        ({"absolute": float("inf")}, "absolute"),
        ({"absolute": timedelta.max}, "absolute"),
        ({"absolute": 10**30}, "absolute"),
        ({"remember": 0}, "remember"),
        ({"keep_ended": 0}, "keep_ended"),
        ({"step_up": 0}, "step_up"),
        ({"step_up": None}, "step_up"),
        ({"step_up": float("inf")}, "step_up"),
        ({"rotate_every": 59}, "rotate_every"),
        ({"rotate_every": True}, "rotate_every"),
        ({"per_user": 0}, "per_user"),
        ({"per_user": -1}, "per_user"),
        ({"per_user": True}, "per_user"),
        ({"per_user": 2.5}, "per_user"),
        ({"per_user": "3"}, "per_user"),
        ({"on_limit": "kick"}, "on_limit"),
    ],
)
@pytest.mark.security("L5")
def test_contradictions_are_refused_at_start_up(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Policy(**settings)
    with pytest.raises(ConfigurationError, match=message):
        Policy().with_(**settings)


def test_touches_are_due_after_a_tenth_of_idle_and_at_most_a_minute() -> None:
    assert touch_interval(14 * DAY) == 60 * SECOND
    assert touch_interval(100 * SECOND) == 10 * SECOND
