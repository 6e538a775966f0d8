"""How much a login looks like somebody else's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.features import LEVELS, Features, Marker, Marks
from sessiondb.core.frequencies import Frequencies
from sessiondb.core.history import Entry
from sessiondb.core.policy import SECOND
from sessiondb.core.scoring import AGENT, KNOWN, LOGINS, NOTHING_KNOWN, UNSEEN, WEIGHTS, score

NOW = 1_800_000_000 * SECOND
HOME: Marks = (11, 12, 13, 14, 15, 16, 17, 18)
NEW: Marks = (21, 22, 23, 24, 25, 26, 27, 28)


def past(*logins: Marks) -> list[Entry]:
    """Newest first."""
    return [Entry(at=NOW, marks=marks, number=len(logins) - place) for place, marks in enumerate(logins)]


def everybody(common: Marks = NEW, count: int = 5000, others: int = 5000) -> Frequencies:
    """``common`` in half of all logins, and many values that are seen once."""
    frequencies = Frequencies()
    for _ in range(count):
        frequencies.count(common, NOW)
    for one in range(others):
        frequencies.count((1000 + one,) * 8, NOW)  # type: ignore[arg-type]
    return frequencies


def but(marks: Marks, **changed: int) -> Marks:
    return tuple(changed.get(name, mark) for name, mark in zip(LEVELS, marks, strict=True))  # type: ignore[return-value]


COMMON = everybody()


def value(login: Marks, history: list[Entry], frequencies: Frequencies = COMMON) -> float:
    return score(login, history, frequencies, NOW).value


def test_without_a_history_nothing_is_said() -> None:
    found = score(HOME, [], COMMON, NOW)
    assert (found.value, found.number, found.compared, found.known_address) == (1.0, 0, 0, None)
    assert found.why() == ["There is no earlier login to compare with."]


def test_by_the_formula() -> None:
    history = past(HOME, HOME, but(HOME, ip=99, agent=98), but(HOME, ip=97, network=96, device=95))
    login = but(HOME, ip=94, agent=98)
    common = COMMON.probabilities(login, NOW)
    shares = (0, 3 / 4, 1, 1, 1 / 4, 1, 1, 3 / 4)
    lifts = [share / probability for share, probability in zip(shares, common, strict=True)]

    def factor(levels: range, nothing: float) -> float:
        attack = nothing + sum(KNOWN[level] * lifts[level] for level in levels)
        user = sum(WEIGHTS[level] * lifts[level] for level in levels)
        return attack / (UNSEEN + (1 - UNSEEN) * user)

    found = score(login, history, COMMON, NOW)
    assert found.address == pytest.approx(factor(range(4), NOTHING_KNOWN[0]))
    assert found.agent == pytest.approx(factor(range(4, 8), NOTHING_KNOWN[1]) ** AGENT)
    assert found.value == pytest.approx(found.address * found.agent * LOGINS / 4)
    assert found.seen == (0, 3, 4, 4, 1, 4, 4, 3)


def test_shares_and_weights_sum_to_one() -> None:
    for levels, nothing in ((slice(0, 4), NOTHING_KNOWN[0]), (slice(4, 8), NOTHING_KNOWN[1])):
        assert math.isclose(sum(WEIGHTS[levels]), 1)
        assert math.isclose(nothing + sum(KNOWN[levels]), 1)


def test_the_less_is_new_the_lower_the_score() -> None:
    history = past(*[HOME] * 6)
    steps = [
        NEW,
        but(NEW, country=14),
        but(NEW, country=14, region=13),
        but(NEW, country=14, region=13, network=12),
        but(NEW, country=14, region=13, network=12, ip=11),
    ]
    values = [value(one, history) for one in steps]
    values += [value(but(steps[-1], **known), history) for known in ({"system": 17}, {"system": 17, "browser": 16})]
    values.append(value(HOME, history))
    assert values == sorted(values, reverse=True)
    assert values[0] > 5
    assert values[-1] < 0.01


def test_a_usual_login_is_below_one_and_a_new_one_above_whatever_everybody_does() -> None:
    for frequencies in (Frequencies(), everybody(HOME), everybody(NEW), everybody(HOME, 10, 0)):
        assert value(HOME, past(*[HOME] * 4), frequencies) < 0.5
        assert value(NEW, past(*[HOME] * 4), frequencies) > 3


@given(st.integers(0, 2000), st.integers(1, 10))
def test_a_rare_country_hides_no_unknown_network(others: int, logins: int) -> None:
    # However rare the country, that the login comes from it counts against it where the provider is new.
    frequencies = everybody(but(NEW, country=14), 1 + others % 7, others)
    found = score(but(NEW, country=14), past(*[HOME] * logins), frequencies, NOW)
    assert found.known_address == "country"
    assert found.address > 1.6


def test_nor_does_a_rare_provider_hide_an_unknown_network_as_a_known_one_would() -> None:
    frequencies = everybody(others=60_000)
    login = but(NEW, country=14, region=13)
    assert score(login, past(*[HOME] * 10), frequencies, NOW).address > 0.29
    assert score(but(login, network=12, ip=11), past(*[HOME] * 10), frequencies, NOW).address < 0.01


def test_a_rare_browser_proves_no_more_than_that_somebody_knows_it() -> None:
    login = but(HOME, agent=25)
    assert score(login, past(*[HOME] * 10), everybody(others=60_000), NOW).agent > 1


def test_an_agent_that_many_have_proves_less_than_a_rare_one() -> None:
    history = past(*[HOME] * 5)
    agents = [score(HOME, history, everybody(but(HOME, agent=agent)), NOW).agent for agent in (HOME[4], NEW[4])]
    assert agents[1] < agents[0] / 3


def test_levels_that_are_not_known_do_not_count() -> None:
    history = past(*[HOME] * 5)
    nowhere = but(HOME, country=0, region=0)
    assert score(nowhere, history, COMMON, NOW).address < 0.01
    assert score(but(nowhere, ip=91, network=92), history, COMMON, NOW).address > 5
    found = score(but(HOME, ip=0, network=0, region=0, country=0), history, COMMON, NOW)
    assert found.address == 1.0
    assert found.seen[:4] == (None,) * 4
    # Countries are known since today: that earlier logins have none says nothing.
    before = past(*[but(HOME, country=0)] * 5)
    assert score(HOME, before, COMMON, NOW).address == score(but(HOME, country=0), history, COMMON, NOW).address
    assert score(HOME, before, COMMON, NOW).seen[3] is None


def test_more_logins_of_the_kind_lower_the_score() -> None:
    histories = [past(*[HOME] * same, *[NEW] * (8 - same)) for same in range(9)]
    values = [value(HOME, history) for history in histories]
    assert values == sorted(values, reverse=True)


def test_the_number_of_logins_goes_on_where_the_history_ends() -> None:
    long = [Entry(at=NOW, marks=HOME, number=15 - place) for place in range(10)]
    found = score(HOME, long, COMMON, NOW)
    assert (found.number, found.compared) == (15, 10)
    assert found.value == pytest.approx(found.address * found.agent * LOGINS / 15)


marks = st.tuples(*[st.integers(0, 3)] * 8)


@given(marks, st.lists(marks, min_size=1, max_size=10), st.lists(marks, max_size=30))
def test_every_score_is_a_positive_number_with_reasons(login: Marks, logins: list[Marks], others: list[Marks]) -> None:
    frequencies = Frequencies()
    for one in others:
        frequencies.count(one, NOW)
    found = score(login, past(*logins), frequencies, NOW)
    assert 0 < found.value < 1e6
    reasons = found.why()
    assert len(reasons) == 2
    assert all(text[0].isupper() and text.endswith(".") for text in reasons)


def test_reasons_tell_what_is_new_and_what_is_not() -> None:
    found = score(but(HOME, ip=91, network=92, agent=93, browser=94), past(HOME, HOME, NEW), COMMON, NOW)
    assert (found.known_address, found.known_agent) == ("region", "system")
    address, agent = found.why()
    assert address.startswith(
        "New for this user: address, network; provider or region as in 2 of 3 logins; the score is "
    )
    assert agent.startswith(
        "New for this user: user agent, browser; system as in 2 of 3 logins; the score is raised to "
    )
    nothing = score((0,) * 8, past(HOME), COMMON, NOW)
    assert nothing.why() == [
        "The address is not known, of this login or of those before.",
        "The user agent is not known, of this login or of those before.",
    ]


def test_another_key_gives_the_same_score() -> None:
    home = Features("192.0.2.1", "192.0.2.0/24", "AS64500", "NO", "a/1", "a 1", "b 2", "mobile")
    away = Features("198.51.100.1", "198.51.100.0/24", "AS64501", "NO", "a/1", "a 1", "b 2", "mobile")
    values = []
    for key in (bytes(16), bytes(range(32))):
        mark, frequencies = Marker(key), Frequencies()
        for _ in range(50):
            frequencies.count(mark(home), NOW)
        values.append(value(mark(away), past(mark(home)), frequencies))
    assert values[0] == values[1]
