"""Policies by name: what a record's ``lifetime`` says, which names are taken, and when lowering has to be walked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policies import Policies, is_remembered, policy_name
from sessiondb.core.policy import Lifetimes, Policy
from strategies import DAY, record

HOUR = DAY // 24
STAFF = Policy(idle=3600, absolute=8 * 3600, remember=7 * 86_400, per_user=1, rotate_every=600, keep_ended=86_400)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}", fullmatch=True).filter(
    lambda name: name not in ("normal", "remembered")
)


def test_what_a_record_says_of_its_policy() -> None:
    policies = Policies(None, {"staff": STAFF})
    said = {
        (name, remember): policies.lifetime(name, remember)
        for name in (None, "normal", "staff")
        for remember in (False, True)
    }
    assert said == {
        (None, False): "normal",
        (None, True): "remembered",
        ("normal", False): "normal",
        ("normal", True): "remembered",
        ("staff", False): "staff",
        ("staff", True): "staff+remembered",
    }


@given(NAMES, st.booleans())
def test_every_name_comes_back_and_fits_the_column(name: str, remember: bool) -> None:
    policies = Policies(None, {name: STAFF})
    lifetime = policies.lifetime(name, remember)
    assert len(lifetime) <= 64
    assert (policy_name(lifetime), is_remembered(lifetime)) == (name, remember)
    assert policies.of(record(lifetime=lifetime)) is STAFF
    caps = policies.caps.of(lifetime)
    assert caps == (Lifetimes(7 * DAY, 7 * DAY) if remember else Lifetimes(HOUR, 8 * HOUR))


def test_settings_come_from_the_sessions_own_policy() -> None:
    policies = Policies(Policy(), {"staff": STAFF})
    for lifetime, policy, every in (
        ("normal", policies.default, None),
        ("remembered", policies.default, None),
        ("staff", STAFF, 600_000_000),
        ("staff+remembered", STAFF, 600_000_000),
        ("gone", policies.default, None),
        ("gone+remembered", policies.default, None),
    ):
        assert policies.of(record(lifetime=lifetime)) is policy
        assert policies.rotate_every(record(lifetime=lifetime)) == every
    assert policies.keep_ended == 7 * DAY
    assert policies.caps.of("gone") == policies.caps.of("gone+remembered") == policies.caps.normal


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default": "staff"}, "policy is 'staff'"),
        ({"named": [STAFF]}, "use a dict"),
        ({"named": {"": STAFF}}, "the name ''"),
        ({"named": {"staff+remembered": STAFF}}, "the name 'staff"),
        ({"named": {"st aff": STAFF}}, "the name"),
        ({"named": {"é": STAFF}}, "the name"),
        ({"named": {"x" * 49: STAFF}}, "the name"),
        ({"named": {7: STAFF}}, "the name 7"),
        ({"named": {"normal": STAFF}}, "give that as policy="),
        ({"named": {"remembered": STAFF}}, "give that as policy="),
        ({"named": {"staff": {"idle": 60}}}, r"policies\['staff'\] is"),
    ],
)
def test_what_cannot_work_is_refused_with_the_cure(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Policies(**settings)


@pytest.mark.parametrize("name", ["admin", "staf", "Staff", "", 7, b"staff"])
def test_an_unknown_name_is_told_the_known_ones(name: Any) -> None:
    policies = Policies(None, {"staff": STAFF, "api": STAFF})
    for ask in (lambda: policies.called(name), lambda: policies.lifetime(name, False)):
        with pytest.raises(ConfigurationError, match="knows 'normal', 'staff', 'api'"):
            ask()
    with pytest.raises(ConfigurationError, match="Is it 'staff' that you mean"):
        policies.called("staf")


def test_nothing_in_it_changes() -> None:
    given_names = {"staff": STAFF}
    policies = Policies(None, given_names)
    given_names["more"] = STAFF
    assert set(policies.named) == {"staff"}
    with pytest.raises(TypeError):
        policies.named["more"] = STAFF  # type: ignore[index]


@pytest.mark.parametrize(
    ("before", "after", "lowered"),
    [
        (Policies(), Policies(), False),
        (Policies(), Policies(Policy(idle=60)), True),
        (Policies(), Policies(Policy(absolute=20 * 86_400)), True),
        (Policies(), Policies(Policy(remember=86_400)), True),
        (Policies(), Policies(Policy(absolute=40 * 86_400, remember=None)), True),
        (Policies(), Policies(Policy(idle=20 * 86_400, absolute=60 * 86_400)), False),
        (Policies(), Policies(None, {"staff": STAFF}), True),  # sessions of that name fell under the default one
        (Policies(None, {"staff": STAFF}), Policies(None, {"staff": STAFF.with_(idle=60)}), True),
        (Policies(None, {"staff": STAFF}), Policies(None, {"staff": STAFF.with_(idle=7200)}), False),
        (Policies(None, {"staff": STAFF}), Policies(), False),
        (Policies(None, {"long": Policy(absolute=90 * 86_400)}), Policies(), True),
    ],
)
def test_whether_sessions_now_end_sooner(before: Policies, after: Policies, lowered: bool) -> None:
    assert after.caps.is_lower_than(before.caps) is lowered
