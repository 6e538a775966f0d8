"""Made-up logins of many people over a year: their devices, networks, travels and habits, from one seed.

The knobs of ``World`` are set so that the logins have the published statistics of the RBA data set, which
``risk_statistics`` lists and compares; nothing of them knows how logins are scored. What is not published is assumed,
and named so here.
"""

from __future__ import annotations

import math
import random
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from benchmarks.risk_agents import Agent, Device
from benchmarks.risk_networks import Internet, Provider
from sessiondb.core.features import Features, features_of

HOUR = 1 / 24  # in days, as all times here
MINUTE = HOUR / 60
EPOCH = 1_600_000_000_000_000  # when the logins begin, in microseconds UTC
DAY = 86_400_000_000


@dataclass(frozen=True)
class World:
    """What the logins are made from. Shares are probabilities, times are in days."""

    users: int = 8000
    days: float = 391.0  # published: February 2020 to February 2021
    # Published: a median of 2 logins a user, 9 at 90 %, 28 at 99 %: a log-normal distribution has all three.
    logins_median: float = 2.0
    logins_sigma: float = 1.17
    # Gaps between logins, fitted to the published table.
    active: float = 0.6  # the least part of the year in which somebody has all their logins; the most is all of it
    soon: float = 0.1  # visits within a week of another
    burst: float = 0.27  # logins soon after one, within ``burst_days``
    burst_days: tuple[float, float] = (0.3 * MINUTE, 6 * HOUR)
    # Devices. Published: 65.3 % of the logins from mobile ones.
    mobile_first: float = 0.72
    both_kinds: float = 0.62  # people with a mobile device and a computer
    more_devices: float = 0.25
    second_browser: float = 0.35
    device_years: float = 2.5
    # Networks. New addresses by gap are published; what they come from is assumed.
    keep_connection: float = 2.5 * HOUR  # how long one stays where one is
    switches: float = 0.06  # changes the network at once, as phones do
    mobile_network: float = 0.16  # of a phone's logins
    works: float = 0.45  # people who log in from work or school too
    at_work: float = 0.30  # of what is not over a mobile network
    elsewhere: float = 0.07  # of that too: a network that they never use again
    same_provider: float = 0.6  # for home and phone
    leases: tuple[tuple[float, float], ...] = (
        (0.30, 400.0),
        (0.50, 36.0),
        (0.20, 10.0),
    )  # share, days an address stays
    stays_near: float = 0.2  # a new address at home is in the network of the old one
    spread: int = 16  # networks of the gateways of one area's phones
    # Elsewhere.
    trips_a_year: float = 1.0
    trip_days: float = 8.0
    roams: float = 0.3  # of the logins abroad go through the provider at home
    vpn_users: float = 0.04
    vpn_share: float = 0.5  # of their logins
    moves_years: float = 6.0
    # Strings as browsers write them since 2023.
    reduced: bool = False


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One login as a line of JSON: the form of histories, and of the steps of scenarios.

    ``at``: microseconds UTC. ``agent``: the user agent string. ``attack`` names the attacker, where it is one.
    """

    user: str
    at: int
    ip: str
    agent: str
    country: str | None = None
    asn: int | None = None
    do: str = "login"
    attack: str | None = None


class Login(msgspec.Struct, frozen=True):
    """A login of the generator; ``family`` is what an attacker may know of the agent."""

    user: int
    day: float
    ip: str
    provider: Provider
    agent: Agent

    @property
    def at(self) -> int:
        """Microseconds UTC."""
        return EPOCH + int(self.day * DAY)

    def features(self) -> Features:
        """As the score takes it."""
        return features_of(self.ip, self.agent.agent, asn=self.provider.asn, country=self.provider.country)

    def line(self, attack: str | None = None) -> Line:
        """As a line of JSON."""
        where = self.provider
        return Line(f"u{self.user}", self.at, self.ip, self.agent.agent, where.country, where.asn, attack=attack)


class Person:
    """One person: what stays the same, and where they are."""

    def __init__(self, number: int, world: World, internet: Internet, rng: random.Random) -> None:
        self._number, self._world, self._internet, self._rng = number, world, internet, rng
        self._country: str = internet.countries.draw(rng)
        self._home = internet.access(rng, self._country)
        self._phone = internet.mobile(rng, self._country)
        if self._home.mobile and rng.random() < world.same_provider:
            self._phone = self._home
        self._area = rng.randrange(self._phone.mobile)
        [(_, self._lease)] = rng.choices(world.leases, [share for share, _ in world.leases])
        self._address, self._until = self._home.address(rng), 0.0
        self._work = self._workplace() if rng.random() < world.works else None
        self._vpn = self._exits() if rng.random() < world.vpn_users else None
        first = rng.random() < world.mobile_first
        kinds = [first, *([not first] if rng.random() < world.both_kinds else [])]
        kinds += [first] if rng.random() < world.more_devices else []
        self._devices = [self._device(kind, -rng.uniform(0, 365)) for kind in kinds]
        self._weights = [1.0, *(rng.uniform(0.15, 0.8) for _ in kinds[1:])]
        self._lasts = [rng.expovariate(1 / (365 * world.device_years)) for _ in kinds]
        trips = _poisson(rng, world.trips_a_year * world.days / 365)
        self._trips = [(rng.uniform(0, world.days), internet.abroad.draw(rng)) for _ in range(trips)]

    def logins(self) -> Iterator[Login]:
        """Every login, in order."""
        world, rng = self._world, self._rng
        provider = device = ip = None
        last = None
        for day in self._times():
            gap = math.inf if last is None else day - last
            stays = (1 - world.switches) * math.exp(-gap / world.keep_connection)
            if provider is None or device is None or ip is None or rng.random() >= stays:
                device = self._use(day)
                provider, ip = self._where(day, device.mobile)
            browser = device.first
            if device.second is not None and rng.random() < 0.25:
                browser = device.second
            yield Login(self._number, day, ip, provider, browser.at(day))
            last = day

    def _times(self) -> list[float]:
        world, rng = self._world, self._rng
        count = max(1, round(rng.lognormvariate(math.log(world.logins_median), world.logins_sigma)))
        visits = 1 + sum(rng.random() >= world.burst for _ in range(count - 1))
        active = world.days * rng.uniform(world.active, 1)
        first = rng.uniform(0, world.days - active)
        days = [first + rng.uniform(0, active)]
        for _ in range(visits - 1):
            if rng.random() < world.soon:
                days.append(rng.choice(days) + math.exp(rng.uniform(0, math.log(6))))
            else:
                days.append(first + rng.uniform(0, active))
        low, high = (math.log(one) for one in world.burst_days)
        while len(days) < count:
            days.append(rng.choice(days) + math.exp(rng.uniform(low, high)))
        return sorted(day for day in days if day < world.days)

    def _device(self, mobile: bool, day: float) -> Device:
        return Device.draw(self._rng, mobile, day, self._world.reduced, self._world.second_browser)

    def _use(self, day: float) -> Device:
        rng = self._rng
        [index] = rng.choices(range(len(self._devices)), self._weights)
        if day > self._lasts[index]:
            self._lasts[index] = math.inf
            self._devices[index] = self._device(self._devices[index].mobile, day)
        return self._devices[index]

    def _where(self, day: float, mobile: bool) -> tuple[Provider, str]:
        world, rng = self._world, self._rng
        for start, country in self._trips:
            if start <= day < start + world.trip_days and country != self._country:
                if mobile and rng.random() < world.roams:
                    break
                away = self._internet.access(rng, country)
                return away, away.address(rng)
        if self._vpn is not None and rng.random() < world.vpn_share:
            exit_ = rng.choice(self._vpn)
            return exit_, exit_.address(rng)
        roll = rng.random()
        if mobile and roll < world.mobile_network:
            return self._phone, self._phone.mobile_address(rng, self._area, world.spread)
        roll = rng.random()
        if roll < world.elsewhere:
            other = self._internet.access(rng, self._country)
            return other, other.address(rng)
        if self._work is not None and roll < world.elsewhere + world.at_work:
            provider, addresses = self._work
            return provider, rng.choice(addresses)
        return self._home, self._at_home(day)

    def _at_home(self, day: float) -> str:
        world, rng = self._world, self._rng
        while self._until < day:
            if rng.random() < self._lease / 365 / world.moves_years:
                self._home = self._internet.access(rng, self._country)
            if self._until > 0:
                self._address = self._home.address(rng, self._address, world.stays_near)
            self._until += rng.expovariate(1 / self._lease)
        return self._address

    def _workplace(self) -> tuple[Provider, list[str]]:
        rng = self._rng
        internet, country = self._internet, self._country
        provider = internet.own(country) if rng.random() < 0.3 else internet.access(rng, country)
        first = provider.address(rng)
        return provider, [first, *(provider.address(rng, first, 1.0) for _ in range(rng.choice((0, 0, 3))))]

    def _exits(self) -> list[Provider]:
        rng, internet = self._rng, self._internet
        country = self._country if rng.random() < 0.5 else internet.abroad.draw(rng)
        return [internet.hosting(rng, country) for _ in range(3)]


def _poisson(rng: random.Random, mean: float) -> int:
    count, product, limit = 0, rng.random(), math.exp(-mean)
    while product > limit:
        count, product = count + 1, product * rng.random()
    return count


def logins(world: World, seed: int) -> tuple[Internet, list[Login]]:
    """Every login of everybody, in order, and the internet that they come from. The same for the same seed."""
    internet = Internet(seed)
    found: list[Login] = []
    for number in range(world.users):
        found += Person(number, world, internet, random.Random(f"{seed}:{number}")).logins()
    found.sort(key=lambda login: login.day)
    return internet, found


def read(lines: Iterable[str | bytes]) -> Iterator[Line]:
    """The logins of a file of lines; empty ones are skipped."""
    decode = msgspec.json.Decoder(Line).decode
    return (decode(line) for line in lines if line.strip())


def write(lines: Iterable[Line]) -> Iterator[str]:
    """Each as one line, without its end."""
    encode = msgspec.json.Encoder().encode
    return (encode(line).decode() for line in lines)


def main() -> None:
    """Print made-up logins as lines of JSON."""
    parser = ArgumentParser(prog="python -m benchmarks.risk_generator", description=main.__doc__)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _, found = logins(World(users=options.users), options.seed)
    sys.stdout.writelines(f"{line}\n" for line in write(login.line() for login in found))


if __name__ == "__main__":
    main()
