"""The rules beside the score: what each looks for in a login, and what it says when it finds it. Pure.

A rule is a function of ``LoginFacts``; it says nothing where it knows too little. What none of them can see: somebody
in the user's own network with the same browser. Only a proof by the device itself tells those apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from sessiondb.core.risk import Finding, RiskLevel, Rule

HOUR = 3600
DAY = 24 * HOUR
EARTH_KM = 6371.0


class Position(msgspec.Struct, frozen=True):
    """Where somebody is likely to be: degrees (WGS 84), off by up to ``accuracy_km``; ``name`` for people."""

    latitude: float
    longitude: float
    accuracy_km: float = 0.0
    name: str | None = None


class PastLogin(msgspec.Struct, frozen=True):
    """One login that was accepted before. ``at`` in seconds UTC; the others are keyed hashes, or ``None``."""

    at: int
    network: int | None = None
    region: int | None = None
    client: int | None = None  # browser and system, without versions
    country: str | None = None
    position: Position | None = None


class Attempts(msgspec.Struct, frozen=True):
    """Counts of about the last hour (``user_failures`` to ``stuffed_users``) and day (``device_users``).

    ``network_users``: users for whom logins have failed from this network. ``all_failures``: failed logins in all,
    ``stuffed_users`` of how many users, ``stuffed_networks`` from how many networks. ``all_logins``: successful ones.
    ``device_users``: users who have logged in from this address with this very browser.
    """

    user_failures: int = 0
    network_failures: int = 0
    network_users: int = 0
    all_failures: int = 0
    stuffed_users: int = 0
    stuffed_networks: int = 0
    all_logins: int = 0
    device_users: int = 0


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When the rules fire. Distances in kilometres, speeds in kilometres an hour, ``dormant`` in days."""

    speed: float = 900.0
    distance: float = 500.0
    dormant: int = 90
    failures_before_success: int = 5
    brute_force: int = 10
    spraying_users: int = 15
    stuffing_users: int = 50
    stuffing_networks: int = 10
    many_accounts: int = 10


DEFAULTS = RuleSettings()


class LoginFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a login, successful or not. ``at`` in seconds UTC; ``past`` is newest first.

    ``label`` is the browser for people, ``place`` where for people.
    """

    at: int
    network: int | None = None
    region: int | None = None
    client: int | None = None
    country: str | None = None
    position: Position | None = None
    label: str = "an unknown browser"
    past: Sequence[PastLogin] = ()
    attempts: Attempts = Attempts()
    settings: RuleSettings = DEFAULTS


def distance_km(one: Position, other: Position) -> float:
    """The great-circle distance, by the haversine formula."""
    lat1, lat2 = math.radians(one.latitude), math.radians(other.latitude)
    half_lat = (lat2 - lat1) / 2
    half_lon = math.radians(other.longitude - one.longitude) / 2
    root = math.sin(half_lat) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin(half_lon) ** 2
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(root)))


def least_distance_km(one: Position, other: Position) -> float:
    """How far apart two are at least: their distance without what either may be off."""
    return max(0.0, distance_km(one, other) - one.accuracy_km - other.accuracy_km)


def travelled_km(one: Position, other: Position, seconds: int, settings: RuleSettings) -> float | None:
    """How far apart two are at least, if that is far, and farther than anybody travels in ``seconds``; or ``None``."""
    km = least_distance_km(one, other)
    return km if km >= settings.distance and km > settings.speed * seconds / HOUR else None


def ago(seconds: int) -> str:
    """A time span for people: ``"40 minutes"``, ``"3 hours"``, ``"12 days"``."""
    for size, name in ((DAY, "day"), (HOUR, "hour"), (60, "minute")):
        count = seconds // size
        if count >= (2 if size > 60 else 1):
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a minute"


# -- after a successful login --------------------------------------------------------------------------------


def new_device(facts: LoginFacts) -> Finding | None:
    """A browser, on a system, with which this user has not logged in before. Another version is not another browser."""
    known = [one for one in facts.past if one.client is not None]
    if facts.client is None or not known or any(one.client == facts.client for one in known):
        return None
    return Finding(
        Rule.NEW_DEVICE,
        RiskLevel.LOW,
        f"first login with {facts.label}, after {len(known)} with others",
        {"device": facts.label, "logins_compared": len(known)},
    )


def new_country(facts: LoginFacts) -> Finding | None:
    """A country from which this user has not logged in before."""
    known = {one.country for one in facts.past if one.country is not None}
    if facts.country is None or not known or facts.country in known:
        return None
    others = ", ".join(sorted(known))
    return Finding(
        Rule.NEW_COUNTRY,
        RiskLevel.MEDIUM,
        f"first login from {facts.country}; before from {others}",
        {"country": facts.country, "known": others},
    )


def impossible_travel(facts: LoginFacts) -> Finding | None:
    """Farther from the last login than anybody travels in the time between, whatever either place is off."""
    last = next((one for one in facts.past if one.position is not None), None)
    if facts.position is None or last is None or last.position is None:
        return None
    seconds = max(0, facts.at - last.at)
    distance = travelled_km(facts.position, last.position, seconds, facts.settings)
    if distance is None:
        return None
    where, before = facts.position.name or "here", last.position.name or "elsewhere"
    return Finding(
        Rule.IMPOSSIBLE_TRAVEL,
        RiskLevel.HIGH,
        f"{where} is {_spelled_km(distance)} from {before}, where the last login was {ago(seconds)} ago",
        {"km": round(distance), "seconds": seconds, "from": before, "to": where},
    )


def dormant_account(facts: LoginFacts) -> Finding | None:
    """The first login for a long time."""
    if not facts.past:
        return None
    days = (facts.at - facts.past[0].at) // DAY
    if days < facts.settings.dormant:
        return None
    return Finding(Rule.DORMANT_ACCOUNT, RiskLevel.LOW, f"first login for {days} days", {"days": days})


def success_after_failures(facts: LoginFacts) -> Finding | None:
    """A right password after many wrong ones; more suspicious from a network where the user was never before."""
    failures = facts.attempts.user_failures
    if failures < facts.settings.failures_before_success:
        return None
    known = facts.network is not None and any(one.network == facts.network for one in facts.past)
    return Finding(
        Rule.SUCCESS_AFTER_FAILURES,
        RiskLevel.MEDIUM if known else RiskLevel.HIGH,
        f"logged in after {failures} failed tries within the last hour",
        {"failures": failures, "network_known": int(known)},
    )


def many_accounts(facts: LoginFacts) -> Finding | None:
    """Many users with the same browser at the same address within a day: a shared computer, or one attacker."""
    users = facts.attempts.device_users
    if users < facts.settings.many_accounts:
        return None
    return Finding(
        Rule.MANY_ACCOUNTS,
        RiskLevel.MEDIUM,
        f"{users} users have logged in from this address with this browser within a day",
        {"users": users},
    )


# -- after a failed one, and beside a successful one ----------------------------------------------------------


def brute_force(facts: LoginFacts) -> Finding | None:
    """Many wrong passwords for one user, from wherever."""
    failures = facts.attempts.user_failures
    if failures < facts.settings.brute_force:
        return None
    return Finding(
        Rule.BRUTE_FORCE,
        RiskLevel.HIGH,
        f"{failures} failed logins of this user within the last hour",
        {"failures": failures},
    )


def password_spraying(facts: LoginFacts) -> Finding | None:
    """One network tries many users, each a few times."""
    attempts = facts.attempts
    if attempts.network_users < facts.settings.spraying_users or attempts.network_failures > 4 * attempts.network_users:
        return None
    return Finding(
        Rule.PASSWORD_SPRAYING,
        RiskLevel.HIGH,
        f"this network has failed to log in as {attempts.network_users} users within the last hour",
        {"users": attempts.network_users, "failures": attempts.network_failures},
    )


def credential_stuffing(facts: LoginFacts) -> Finding | None:
    """Many users fail from many networks, and more fail than succeed: somebody tries a list of stolen passwords."""
    attempts, settings = facts.attempts, facts.settings
    if attempts.stuffed_users < settings.stuffing_users or attempts.stuffed_networks < settings.stuffing_networks:
        return None
    if attempts.all_failures <= attempts.all_logins or facts.network is None or _is_known(facts):
        return None
    return Finding(
        Rule.CREDENTIAL_STUFFING,
        RiskLevel.MEDIUM,
        f"logins of {attempts.stuffed_users} users fail from {attempts.stuffed_networks} networks within an hour, "
        "and this one is from a network that is new to the user",
        {
            "users": attempts.stuffed_users,
            "networks": attempts.stuffed_networks,
            "failures": attempts.all_failures,
            "logins": attempts.all_logins,
        },
    )


def _is_known(facts: LoginFacts) -> bool:
    return any(one.network == facts.network for one in facts.past)


def _spelled_km(distance: float) -> str:
    return f"{round(distance, -2 if distance >= 1000 else -1):,.0f} km"


RuleFunction = Callable[[LoginFacts], Finding | None]

AFTER_SUCCESS: tuple[RuleFunction, ...] = (
    new_device,
    new_country,
    impossible_travel,
    dormant_account,
    success_after_failures,
    many_accounts,
    password_spraying,
    credential_stuffing,
)
AFTER_FAILURE: tuple[RuleFunction, ...] = (brute_force, password_spraying, credential_stuffing)


def findings_of(rules: Sequence[RuleFunction], facts: LoginFacts) -> list[Finding]:
    """What ``rules`` have found."""
    return [found for rule in rules if (found := rule(facts)) is not None]
