"""How often people are questioned: made-up logins are like published ones, and the score does what is said of it."""

from __future__ import annotations

import json
import random
import sys
from itertools import pairwise

import pytest

from benchmarks import risk, risk_generator
from benchmarks.risk_attackers import KINDS, Attackers, Popular, Skills
from benchmarks.risk_evaluation import Run, rates, simulate
from benchmarks.risk_generator import Line, World, logins, read, write
from benchmarks.risk_reference import ADDRESS, AGENT, Reference
from benchmarks.risk_statistics import PUBLISHED, measure
from sessiondb.core.features import Features
from sessiondb.core.thresholds import LENGTHS, PRIOR, PRIOR_SHARES

SMALL = World(users=2000)


@pytest.fixture(scope="module")
def run() -> Run:
    return simulate(SMALL, 5, rings=(8, 10, 40), attacks=2, reference=True)


def test_the_same_seed_makes_the_same_logins() -> None:
    world = World(users=50)
    lines = [[login.line() for login in logins(world, seed)[1]] for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]
    assert lines[0] == sorted(lines[0], key=lambda line: line.at)


def test_made_up_logins_are_as_published() -> None:
    _, found = logins(World(users=5000), 3)
    measured = measure(found)
    off = {name: measured[name] for name, published, most, _ in PUBLISHED if abs(measured[name] - published) > most}
    assert not off


def test_logins_are_lines_of_json() -> None:
    _, found = logins(World(users=20), 1)
    lines = [login.line() for login in found] + [found[0].line("vpn")]
    text = list(write(lines))
    assert all("\n" not in line for line in text)
    assert list(read([*text, "", "\n"])) == lines
    assert json.loads(text[-1])["attack"] == "vpn"
    assert Line("ann", 1, "192.0.2.1", "curl/8") == next(
        read(['{"user":"ann","at":1,"ip":"192.0.2.1","agent":"curl/8"}'])
    )


def test_the_generator_prints_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["risk_generator", "--users", "5", "--seed", "3"])
    risk_generator.main()
    lines = list(read(capsys.readouterr().out.splitlines()))
    assert {line.user for line in lines} <= {f"u{number}" for number in range(5)}
    assert len(lines) >= 5


def test_attackers_know_what_they_are_said_to_know() -> None:
    internet, found = logins(World(users=300), 2)
    popular = Popular()
    for login in found:
        popular.see(login.agent)
    attackers = Attackers(internet, popular, Skills(), random.Random(1))
    victim = [login for login in found if login.user == found[100].user]
    one = victim[0]
    attacks = {kind: [attackers.attack(kind, victim[:1], 50.0) for _ in range(400)] for kind in KINDS}
    for kind, made in attacks.items():
        in_country = sum(attack.provider.country == one.provider.country for attack in made) / 400
        assert in_country == 1 if kind != "naive" else in_country < 0.2
    assert all(attack.agent.family == one.agent.family for attack in attacks["targeted"])
    assert all((attack.agent, attack.provider) == (one.agent, one.provider) for attack in attacks["very_targeted"])
    assert sum(attack.ip == one.ip for attack in attacks["very_targeted"]) < 20


def test_who_knows_more_is_found_less(run: Run) -> None:
    means = [rates([run], "10")[kind][1] for kind in KINDS]
    assert means == sorted(means)
    assert all(later - before > 0.03 for before, later in pairwise(means))


def test_the_goals_are_reached(run: Run) -> None:
    found = rates([run], "10")
    assert {kind: found[kind][0] for kind, goal in risk.GOALS.items() if found[kind][0] > goal} == {}
    assert all(found[kind][1] < rates([run], "published", one=True)[kind][1] for kind in KINDS)


def test_eight_remembered_logins_do_as_well_as_forty(run: Run) -> None:
    for kind in risk.GOALS:
        early = [rates([run], ring)[kind][1] for ring in ("8", "10", "40")]
        assert max(early[:2]) - early[2] < 0.03, kind
        late = [run.scored[ring].later(run.scored[ring].cuts(kind), *risk.LATER) for ring in ("8", "10", "40")]
        assert max(late[:2]) - late[2] < 0.03, kind


def test_the_longer_the_history_the_fewer_are_questioned(run: Run) -> None:
    for kind in risk.GOALS:
        means = [rates([run], "10", length)[kind][1] for length in (1, 4, 12)]
        assert means[0] > means[1] > means[2]


def test_learnt_thresholds_question_no_more_than_they_may(run: Run) -> None:
    people = run.levels["people"]
    assert (people["medium"] + people["high"]) / people.total() < 0.11
    assert people["high"] / people.total() < 0.03
    caught = [1 - run.levels[kind]["low"] / run.levels[kind].total() for kind in KINDS]
    assert caught[0] > 0.95
    assert caught == sorted(caught, reverse=True)
    early = run.early["naive"]
    assert 1 - early["low"] / early.total() > 0.8


def test_the_prior_is_what_made_up_logins_score(run: Run) -> None:
    rows = [line.strip(" (),").split(", ") for line in risk.prior([run]).splitlines()]
    assert len(rows) == LENGTHS
    for row, quantiles in zip(rows, PRIOR, strict=True):
        for share, cell, value in zip(PRIOR_SHARES, row, quantiles, strict=True):
            if 0.8 <= share <= 0.98:
                assert value / 2.5 < float(cell) < value * 2.5


def test_the_published_score_is_theirs() -> None:
    # By hand, as https://github.com/das-group/rba-algorithm computes it.
    names = (*ADDRESS, *AGENT)
    home, away, new = (Features(**dict.fromkeys(names, text)) for text in ("home", "away", "new"))
    reference = Reference()
    for login, first in ((home, True), (home, False), (away, True), (away, True)):
        reference.count(login, first=first)

    def everybody(weights: dict[str, float], count: int) -> float:
        first, *coarser = weights.values()
        unseen = 1 + 2 * len(coarser)
        finest = count / 4 * (1 - unseen / (4 + unseen)) if count else 1 / (4 + unseen)
        return first * finest + sum(coarser) * count / 4

    prior = (1 / 3) / (2 / 4)
    for login, count, user in ((home, 2, 1.0), (new, 0, None), (away, 2, None)):
        parts = [everybody(weights, count) for weights in (ADDRESS, AGENT)]
        by_hand = prior * parts[0] * parts[1] / (user or parts[0] / 4) / (user or parts[1] / 4)
        assert reference.score(login, [home, home]) == pytest.approx(by_hand)


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["risk", "--fast", "--json", "--seeds", "4"])
    monkeypatch.setattr(risk, "FAST_USERS", 600)


@pytest.mark.usefixtures("arguments")
def test_it_prints_tables_and_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    risk.main()
    *text, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert list(found) == ["naive", "vpn", "targeted"]
    assert all(0 <= value <= 1 for value in found.values())
    assert "| naive | 0.25 | 0.20 |" in "\n".join(text)
    assert any(line.startswith("| score, ten logins remembered |") for line in text)
