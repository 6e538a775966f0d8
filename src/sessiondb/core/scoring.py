"""How much a login looks like somebody else's: the score of Freeman et al., from a bounded history. Pure.

``score = prod over address and agent of p(x|attack) / p(x|user)  *  p(user|attack) / p(user)``: equation 7 of Freeman,
Jain, Dürmuth, Biggio, Giacinto, "Who Are You? A Statistical Approach to Measuring User Authenticity", NDSS 2016
(https://doi.org/10.14722/ndss.2016.23240), with the levels and weights of Wiefling et al. (ACM TOPS 2022,
https://doi.org/10.1145/3546069). A *lift* is how much more frequent a value is in the user's history than in
everybody's logins. Both probabilities are interpolated over the levels that a value has (an address is in a network, in
a region, in a country), each in proportion to the lift there:

* ``p(x|user) / p(x) = UNSEEN + (1 - UNSEEN) * sum of WEIGHTS * lift``;
* ``p(x|attack) / p(x) = sum of KNOWN * lift``: attackers who know that much of the user, and choose as everybody does
  below that. Freeman leaves this term to data of attacks, which nobody has at first.

The second is the floor: however rare a country or a browser, its match never weighs more for the user than for an
attacker who has chosen it on purpose. ``docs/risk.md`` has what each of this is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sessiondb.core.features import LEVELS, Marks
from sessiondb.core.frequencies import Frequencies
from sessiondb.core.history import Entry

# Finest first, as in LEVELS. Published: address .6, autonomous system .3, country .1 (here the network has a third of
# the address's); agent .5387, browser .2680, system .1882, device .0051.
WEIGHTS = (0.4, 0.2, 0.3, 0.1, 0.5387, 0.2680, 0.1882, 0.0051)
UNSEEN = 0.1  # of a user's logins are as anybody's
# What attackers are assumed to know: of the address nothing (.77), the country, or the provider; of the agent nothing
# (.32: they take a popular one), the system, the browser, or the very string.
KNOWN = (0.0, 0.0, 0.08, 0.15, 0.03, 0.33, 0.32, 0.0)
NOTHING_KNOWN = (0.77, 0.32)
AGENT = 0.7  # exponent: an agent is chosen freely, so it proves less than an address
LOGINS = 4.0  # of a user on average: published 3.8

_WORDS = ("address", "network", "provider or region", "country", "user agent", "browser", "system", "kind of device")
_FEATURES = ((0, 4, "address"), (4, 8, "user agent"))


class Score(msgspec.Struct, frozen=True, gc=False):
    """What ``score`` found. ``value``: above one it speaks for an attack, below for the user; compare it by thresholds.

    ``address`` and ``agent`` are the factors of which it is made. ``seen`` tells of each of ``LEVELS`` in how many of
    the ``compared`` logins it was the same, ``None`` where the login or all of them have nothing there. ``number`` is
    that of the user's latest login before this (0: there was none, and nothing can be said).
    """

    value: float
    address: float
    agent: float
    seen: tuple[int | None, ...]
    compared: int
    number: int

    @property
    def known_address(self) -> str | None:
        """The finest level of the address that the user had before, such as ``"region"``."""
        return self._known(0, 4)

    @property
    def known_agent(self) -> str | None:
        """The finest level of the agent that the user had before, such as ``"browser"``."""
        return self._known(4, 8)

    def why(self) -> list[str]:
        """One sentence for the address and one for the agent: what is new, what was there before, what that does."""
        if not self.compared:
            return ["There is no earlier login to compare with."]
        return [self._sentence(*feature) for feature in _FEATURES]

    def _known(self, first: int, end: int) -> str | None:
        return next((LEVELS[level] for level in range(first, end) if self.seen[level]), None)

    def _sentence(self, first: int, end: int, name: str) -> str:
        levels = [level for level in range(first, end) if self.seen[level] is not None]
        if not levels:
            return f"The {name} is not known, of this login or of those before."
        factor = self.address if first == 0 else self.agent
        effect = f"the score is {'raised' if factor > 1 else 'lowered'} to {factor:.3g} times"
        new = [_WORDS[level] for level in levels if not self.seen[level]]
        old = next((level for level in levels if self.seen[level]), None)
        told = [f"New for this user: {', '.join(new)}"] if new else []
        if old is not None:
            told.append(f"{_WORDS[old]} as in {self.seen[old]} of {self.compared} logins")
        text = "; ".join([*told, effect])
        return f"{text[0].upper()}{text[1:]}."


def score(login: Marks, history: Sequence[Entry], frequencies: Frequencies, now: int) -> Score:
    """How much ``login`` looks like an attack, by the user's ``history`` (newest first) and everybody's logins.

    ``now`` is in microseconds UTC. Without a history the value is 1. Takes about 15 microseconds.
    """
    compared = len(history)
    if not compared:
        return Score(1.0, 1.0, 1.0, (None,) * 8, 0, 0)
    same = [0] * 8
    known = [0] * 8
    for entry in history:
        for level, mark in enumerate(entry.marks):
            if mark:
                known[level] += 1
                if mark == login[level]:
                    same[level] += 1
    common = frequencies.probabilities(login, now)
    address = _factor(0, 4, login, same, known, common, NOTHING_KNOWN[0])
    agent = _factor(4, 8, login, same, known, common, NOTHING_KNOWN[1]) ** AGENT
    number = max(compared, history[0].number)
    seen = tuple(same[level] if login[level] and known[level] else None for level in range(8))
    return Score(address * agent * LOGINS / number, address, agent, seen, compared, number)


def _factor(
    first: int,
    end: int,
    login: Marks,
    same: Sequence[int],
    known: Sequence[int],
    common: Sequence[float],
    nothing: float,
) -> float:
    """``p(x|attack) / p(x|user)`` of one feature. Levels that are not known do not count, for either."""
    attack, user, weights, knows = nothing, 0.0, 0.0, nothing
    for level in range(first, end):
        if login[level] and known[level]:
            weight, knowing = WEIGHTS[level], KNOWN[level]
            weights += weight
            knows += knowing
            if same[level]:
                lift = same[level] / (known[level] * common[level])
                attack += knowing * lift
                user += weight * lift
    if not weights:
        return 1.0
    return (attack / knows) / (UNSEEN + (1 - UNSEEN) * user / weights)
