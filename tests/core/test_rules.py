"""Each rule fires for what it is for, and not for what looks like it. Whole stories are told in the scenarios."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.agents import parse_agent
from sessiondb.core.hijack import Sight, session_hijack
from sessiondb.core.risk import RiskAction, RiskLevel, Rule, encode_risk, judge
from sessiondb.core.rules import (
    AFTER_FAILURE,
    AFTER_SUCCESS,
    DAY,
    DEFAULTS,
    HOUR,
    Attempts,
    LoginFacts,
    PastLogin,
    Position,
    ago,
    distance_km,
    findings_of,
    least_distance_km,
)

NOW = 1_800_000_000
WARSAW = Position(52.23, 21.01, 20, "Poland")
SAO_PAULO = Position(-23.55, -46.63, 50, "Brazil")
BERLIN = Position(52.52, 13.40, 20, "Germany")
HOME = PastLogin(NOW - DAY, 1, 2, 3, "PL", WARSAW)


def facts(**fields: Any) -> LoginFacts:
    known: dict[str, Any] = {
        "at": NOW,
        "network": 1,
        "region": 2,
        "client": 3,
        "country": "PL",
        "position": WARSAW,
        "label": "Firefox on Linux",
        "past": [HOME],
    }
    return LoginFacts(**{**known, **fields})


def rules(after: Any = AFTER_SUCCESS, **fields: Any) -> dict[Rule, RiskLevel]:
    return {found.rule: found.level for found in findings_of(after, facts(**fields))}


def test_the_usual_login_says_nothing_and_neither_does_the_first() -> None:
    assert rules() == {}
    assert rules(past=[]) == {}
    assert rules(past=[], network=None, client=None, country=None, position=None) == {}
    assert rules(network=None, client=None, country=None, position=None) == {}
    assert rules(past=[PastLogin(NOW - DAY)]) == {}


def test_a_new_device_is_one_that_was_not_there() -> None:
    assert rules(client=4) == {Rule.NEW_DEVICE: RiskLevel.LOW}
    assert rules(client=4, past=[PastLogin(NOW - DAY, client=4), HOME]) == {}


def test_a_new_country_is_new_once() -> None:
    assert rules(country="DE", position=BERLIN) == {Rule.NEW_COUNTRY: RiskLevel.MEDIUM}
    assert rules(country="DE", position=BERLIN, past=[PastLogin(NOW - 9 * DAY, country="DE"), HOME]) == {}


@pytest.mark.parametrize(
    ("hours", "fires"), [(0, True), (1, True), (11, True), (13, False), (24, False)], ids=lambda value: str(value)
)
def test_travel_is_impossible_by_its_speed(hours: int, fires: bool) -> None:
    # Warsaw to São Paulo: about 10,600 km, at 900 km/h a bit over eleven hours.
    past = [PastLogin(NOW - hours * HOUR, country="BR", position=WARSAW)]
    found = rules(country="BR", position=SAO_PAULO, past=past)
    assert (found == {Rule.IMPOSSIBLE_TRAVEL: RiskLevel.HIGH}) is fires


def test_travel_is_measured_without_what_the_places_may_be_off() -> None:
    vague = Position(SAO_PAULO.latitude, SAO_PAULO.longitude, 10_200, "Brazil")
    past = [PastLogin(NOW - HOUR, country="BR", position=WARSAW)]
    assert rules(country="BR", position=vague, past=past) == {}
    [found] = findings_of(AFTER_SUCCESS, facts(country="BR", position=SAO_PAULO, past=past))
    assert found.reason == "Brazil is 10,600 km from Poland, where the last login was 60 minutes ago"


def test_a_clock_that_goes_back_is_no_time_machine() -> None:
    past = [PastLogin(NOW + DAY, country="PL", position=WARSAW)]
    assert rules(past=past) == {}
    assert Rule.IMPOSSIBLE_TRAVEL in rules(position=SAO_PAULO, past=past)


def test_a_long_sleep() -> None:
    assert rules(past=[PastLogin(NOW - 90 * DAY)]) == {Rule.DORMANT_ACCOUNT: RiskLevel.LOW}
    assert rules(past=[PastLogin(NOW - 90 * DAY + 1)]) == {}


def test_success_after_failures_weighs_more_where_the_user_never_was() -> None:
    many = Attempts(user_failures=5)
    assert rules(attempts=many) == {Rule.SUCCESS_AFTER_FAILURES: RiskLevel.MEDIUM}
    assert rules(attempts=many, network=5) == {Rule.SUCCESS_AFTER_FAILURES: RiskLevel.HIGH}
    assert rules(attempts=Attempts(user_failures=4), network=5) == {}


def test_brute_force_is_of_one_user() -> None:
    assert rules(AFTER_FAILURE, attempts=Attempts(user_failures=10)) == {Rule.BRUTE_FORCE: RiskLevel.HIGH}
    assert rules(AFTER_FAILURE, attempts=Attempts(user_failures=9, network_failures=90)) == {}


def test_spraying_is_many_users_and_few_tries_each() -> None:
    sprayed = Attempts(network_users=15, network_failures=20)
    assert rules(AFTER_FAILURE, attempts=sprayed) == {Rule.PASSWORD_SPRAYING: RiskLevel.HIGH}
    assert rules(attempts=sprayed) == {Rule.PASSWORD_SPRAYING: RiskLevel.HIGH}
    assert rules(AFTER_FAILURE, attempts=Attempts(network_users=14, network_failures=20)) == {}
    # An office whose password has changed: the same few, again and again.
    assert rules(AFTER_FAILURE, attempts=Attempts(network_users=15, network_failures=100)) == {}


def test_stuffing_is_many_users_many_networks_and_more_failures_than_logins() -> None:
    stuffed = {"stuffed_users": 50, "stuffed_networks": 10, "all_failures": 60, "all_logins": 20}
    assert rules(network=5, attempts=Attempts(**stuffed)) == {Rule.CREDENTIAL_STUFFING: RiskLevel.MEDIUM}
    assert rules(attempts=Attempts(**stuffed)) == {}  # from home, meanwhile
    for less in ({"stuffed_users": 49}, {"stuffed_networks": 9}, {"all_logins": 60}):
        assert rules(network=5, attempts=Attempts(**{**stuffed, **less})) == {}


def test_many_accounts_of_one_device() -> None:
    assert rules(attempts=Attempts(device_users=10)) == {Rule.MANY_ACCOUNTS: RiskLevel.MEDIUM}
    assert rules(attempts=Attempts(device_users=9)) == {}


positions = st.builds(
    Position, st.floats(-90, 90), st.floats(-180, 180), st.floats(0, 20_000), st.none() | st.text(max_size=5)
)


@given(positions, positions)
def test_distances_are_on_a_globe(one: Position, other: Position) -> None:
    distance = distance_km(one, other)
    assert 0 <= distance <= 20_016
    assert distance == pytest.approx(distance_km(other, one), abs=1e-6)
    assert distance_km(one, one) == pytest.approx(0, abs=1e-3)
    assert 0 <= least_distance_km(one, other) <= distance


def test_known_distances() -> None:
    assert distance_km(WARSAW, BERLIN) == pytest.approx(517, abs=5)
    assert distance_km(WARSAW, SAO_PAULO) == pytest.approx(10_660, abs=20)
    # Across the date line.
    assert distance_km(Position(0, 179.5), Position(0, -179.5)) == pytest.approx(111, abs=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than a minute"),
        (60, "1 minute"),
        (40 * 60, "40 minutes"),
        (2 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (12 * DAY, "12 days"),
    ],
)
def test_spans_for_people(seconds: int, text: str) -> None:
    assert ago(seconds) == text


@given(st.integers(0, 10**10), st.lists(st.builds(PastLogin, st.integers(0, 10**10)), max_size=3))
def test_no_rule_raises(at: int, past: list[PastLogin]) -> None:
    for after in (AFTER_SUCCESS, AFTER_FAILURE):
        findings_of(after, LoginFacts(at=at, past=past))


# -- sessions in use ------------------------------------------------------------------------------------------

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)


def sight(agent: str | None = FIREFOX.format(128), minutes: int = 0, **fields: Any) -> Sight:
    known: dict[str, Any] = {"network": "192.0.2.0/24", "region": "AS64496", "country": "PL", "position": WARSAW}
    return Sight(NOW + 60 * minutes, None if agent is None else parse_agent(agent), **{**known, **fields})


@pytest.mark.parametrize(
    ("now", "level"),
    [
        (sight(minutes=5), None),
        (sight(FIREFOX.format(129), 5), None),
        (sight(FIREFOX.format(129), 5, network="198.51.100.0/24", region="AS64497"), None),
        (sight(None, 5), None),
        (sight(minutes=5, network="198.51.100.0/24"), None),
        (sight(FIREFOX.format(127), 5), RiskLevel.MEDIUM),
        (sight(FIREFOX.format(127), 5, network="198.51.100.0/24"), RiskLevel.HIGH),
        (sight(CHROME, 5), RiskLevel.HIGH),
        (sight(FIREFOX.format(128).replace("X11; Linux x86_64", "Windows NT 10.0; Win64; x64"), 5), RiskLevel.HIGH),
        (sight(minutes=5, country="BR", position=SAO_PAULO), RiskLevel.HIGH),
        (sight(minutes=5, country="DE", position=None), RiskLevel.LOW),
        (sight(minutes=24 * 60, country="BR", position=SAO_PAULO), RiskLevel.LOW),
    ],
    ids=[
        "the same",
        "an update",
        "an update on the train",
        "no user agent",
        "another network",
        "an older version",
        "an older version elsewhere",
        "another browser",
        "another system",
        "faster than a plane",
        "another country",
        "after a flight",
    ],
)
def test_a_session_in_other_hands(now: Sight, level: RiskLevel | None) -> None:
    found = session_hijack(sight(), now, DEFAULTS)
    assert (None if found is None else found.level) is level


def test_it_says_what_it_saw() -> None:
    found = session_hijack(sight(), sight(CHROME, 5, network="198.51.100.0/24"), DEFAULTS)
    assert found is not None
    assert found.reason == "the session of Firefox on Linux is used by Chrome on Windows in another network"
    assert found.evidence["network_changed"] == 1


# -- verdicts --------------------------------------------------------------------------------------------------

ACTIONS = {RiskLevel.LOW: RiskAction.ALLOW, RiskLevel.MEDIUM: RiskAction.NOTIFY, RiskLevel.HIGH: RiskAction.STEP_UP}


def test_the_worst_counts_and_comes_first() -> None:
    found = findings_of(AFTER_SUCCESS, facts(client=6, country="BR", position=SAO_PAULO, past=[HOME]))
    verdict = judge(found, ACTIONS, levels={}, score=3.0)
    assert (verdict.level, verdict.action, verdict.score) == (RiskLevel.MEDIUM, RiskAction.NOTIFY, 3.0)
    assert verdict.rules == (Rule.NEW_COUNTRY, Rule.NEW_DEVICE)
    assert encode_risk(verdict) == b'{"level":"medium","reasons":["new_country","new_device"],"action":"notify"}'


def test_a_rule_may_weigh_another_or_nothing() -> None:
    found = findings_of(AFTER_SUCCESS, facts(client=6))
    assert judge(found, ACTIONS, levels={Rule.NEW_DEVICE: None}).level is RiskLevel.NONE
    raised = judge(found, ACTIONS, levels={Rule.NEW_DEVICE: RiskLevel.HIGH})
    assert (raised.action, raised.findings[0].level) == (RiskAction.STEP_UP, RiskLevel.HIGH)


def test_nothing_found_is_allowed_and_a_dry_run_does_nothing() -> None:
    assert judge([], ACTIONS, levels={}).action is RiskAction.ALLOW
    assert encode_risk(judge([], ACTIONS, levels={})) == b"{}"
    found = findings_of(AFTER_SUCCESS, facts(client=6, country="BR", position=SAO_PAULO, past=[HOME]))
    assert b'"action":"allow"' in encode_risk(judge(found, ACTIONS, levels={}, dry_run=True))
