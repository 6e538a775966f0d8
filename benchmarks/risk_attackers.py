"""The four attackers of Wiefling et al. (TOPS 2022, section 5), who all have the password.

What each knows is theirs; where a naive attacker's addresses are, and how popular agents are drawn, is assumed here:

* *naive*: nothing more. Any address of the world, any popular user agent.
* *VPN*: the victim's country. An address there, at a provider for servers or for people; any popular user agent.
* *targeted*: country, providers of the place, and what the victim uses. An address of a provider for people, drawn by
  its share; a popular user agent of the victim's browser and system.
* *very targeted*: everything but the address. One of the victim's own provider, and the victim's very user agent.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.risk_agents import Agent
from benchmarks.risk_generator import Login
from benchmarks.risk_networks import HOME, Choice, Internet, Provider

KINDS = ("naive", "vpn", "targeted", "very_targeted")


class Popular:
    """The user agents that are common now, as lists of them on the web would tell: of the latest logins."""

    def __init__(self, window: int = 3000, most: int = 50) -> None:
        self._latest: deque[Agent] = deque(maxlen=window)
        self._most = most
        self._age = 0
        self._all: Choice | None = None
        self._families: dict[str, Choice] = {}

    def see(self, agent: Agent) -> None:
        """A login with ``agent``."""
        self._latest.append(agent)
        self._age += 1
        if self._age >= 250 or self._all is None:
            self._age = 0
            counts = Counter(self._latest)
            self._all = Choice(dict(counts.most_common(self._most)))
            families: dict[str, Counter[Agent]] = {}
            for one, count in counts.items():
                families.setdefault(one.family, Counter())[one] = count
            self._families = {name: Choice(dict(group.most_common(self._most))) for name, group in families.items()}

    def any(self, rng: random.Random) -> Agent:
        """A popular one."""
        assert self._all is not None
        return self._all.draw(rng)

    def of(self, rng: random.Random, like: Agent) -> Agent:
        """A popular one of the same browser and system."""
        return self._families[like.family].draw(rng) if like.family in self._families else self.any(rng)


@dataclass(frozen=True)
class Skills:
    """What is assumed of attackers."""

    servers: float = 0.5  # the share of naive and VPN addresses that are at providers for servers
    main_country: bool = False  # VPN and targeted attackers all come from where most users are, whoever the victim is
    naive_at_users: float = 0.0  # of naive attackers, who come from where the users do


class Attackers:
    """Makes attacks on people whose logins are known."""

    def __init__(self, internet: Internet, popular: Popular, skills: Skills, rng: random.Random) -> None:
        self._internet, self._popular, self._skills, self._rng = internet, popular, skills, rng

    def attack(self, kind: str, history: Sequence[Login], day: float) -> Login:
        """A login of an attacker of ``kind`` on who has ``history``, which is not empty."""
        rng, internet = self._rng, self._internet
        [(country, _)] = Counter(login.provider.country for login in history).most_common(1)
        known = rng.choice(history)
        if self._skills.main_country:
            country = HOME
        if kind == "naive":
            where = internet.world.draw(rng)
            if rng.random() < self._skills.naive_at_users:
                where = internet.countries.draw(rng)
            provider, agent = self._provider(where), self._popular.any(rng)
        elif kind == "vpn":
            provider, agent = self._provider(country), self._popular.any(rng)
        elif kind == "targeted":
            provider, agent = internet.access(rng, country), self._popular.of(rng, known.agent)
        else:
            provider, agent = known.provider, known.agent
        return Login(history[-1].user, day, provider.address(rng), provider, agent)

    def _provider(self, country: str) -> Provider:
        if self._rng.random() < self._skills.servers:
            return self._internet.hosting(self._rng, country)
        return self._internet.access(self._rng, country)
