"""The published score, to compare with: Freeman's equation 7 as Wiefling et al. have implemented and evaluated it.

By https://github.com/das-group/rba-algorithm (MIT): addresses at three levels, agents at four, their weights, a
smoothing of the finest level alone, a factor of 4 where nothing was ever seen, and every login of the user remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sessiondb.core.features import Features

ADDRESS = {"ip": 0.6, "region": 0.3, "country": 0.1}
AGENT = {
    "agent": 0.5386653840551359,
    "browser": 0.2680451498625666,
    "system": 0.18818295100109536,
    "device": 0.0051065150812021525,
}


class Reference:
    """Counts everybody's logins, and scores."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[object]] = {name: Counter() for name in (*ADDRESS, *AGENT)}
        self._logins = 0
        self._users = 0

    def count(self, login: Features, *, first: bool) -> None:
        """One login; ``first``: of its user."""
        self._logins += 1
        self._users += first
        for name, counts in self._counts.items():
            counts[getattr(login, name)] += 1

    def score(self, login: Features, history: Sequence[Features]) -> float:
        """Above one it speaks for an attack."""
        score = self._factor(ADDRESS, login, history) * self._factor(AGENT, login, history)
        return score * (1 / self._users) / (len(history) / self._logins)

    def _factor(self, weights: dict[str, float], login: Features, history: Sequence[Features]) -> float:
        user = everybody = 0.0
        for place, (name, weight) in enumerate(weights.items()):
            value = getattr(login, name)
            user += weight * sum(getattr(one, name) == value for one in history) / len(history)
            if place:
                everybody += weight * self._counts[name][value] / self._logins
                continue
            unseen = 1 + sum(len(self._counts[coarser]) for coarser in list(weights)[1:])
            count = self._counts[name][value]
            likely = count / self._logins * (1 - unseen / (self._logins + unseen))
            everybody += weight * (likely if count else 1 / (self._logins + unseen))
        return everybody / (user or everybody / 4)
