"""User agents of made-up logins: devices, their browsers, and the versions that these have at a time.

Shares of devices, systems and browsers are published (``risk_statistics``); the pace of new versions is about that of
2020: a Chrome every six weeks with a patch between, an iOS or Safari every month. ``reduced`` writes the strings
as browsers do since 2023, without minor versions and models (https://www.chromium.org/updates/ua-reduction/).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.risk_networks import Choice, zipf

_IOS = (
    "11.4 12.0 12.1 12.1.2 12.1.4 12.2 12.3 12.3.1 12.4 12.4.1 13.1 13.1.2 13.2.3 13.3 13.3.1 13.4 13.4.1 13.5 13.5.1 "
    "13.6 13.6.1 14.0 14.0.1 14.1 14.2 14.3 14.4 14.4.1"
)
IOS = _IOS.split()
MODELS = Choice(zipf(300, 0.9), [f"SM-{letter}{number}F" for number in range(100, 400) for letter in "AGN"][:300])


class Agent(NamedTuple):
    """A user agent at each precision, and the ``family`` that an attacker would know: browser and system by name."""

    agent: str
    browser: str
    system: str
    device: str
    family: str


@dataclass(slots=True)
class Browser:
    """One browser on a device. ``lag``: days until it takes a new version; ``stuck``: since that day it takes none."""

    kind: str
    system: str
    model: str
    lag: float
    stuck: float | None
    system_lag: float
    reduced: bool
    bits: int = 64

    def at(self, day: float) -> Agent:
        """What it sends on a day (0: the first one of the data)."""
        seen = day - self.lag if self.stuck is None else self.stuck
        return _WRITERS[self.system](self, seen, day - self.system_lag)


def chrome_version(day: float) -> tuple[int, int, int]:
    """Major version, build and patch."""
    major, into = divmod(int(day) + 20, 42)
    return 79 + major, 3945 + 43 * major, 79 + 34 * (into // 21)


def _chrome(one: Browser, day: float) -> tuple[str, str]:
    major, build, patch = chrome_version(day)
    if one.reduced:
        return f"{major}.0.0.0", f"{major}"
    return f"{major}.0.{build}.{patch}", f"{major}.0.{build}"


def _android(one: Browser, seen: float, system: float) -> Agent:
    full, short = _chrome(one, seen)
    release = 9 + max(-1, int(system + 200) // 365)
    name = f"Android {release}"
    where = "Linux; Android 10; K" if one.reduced else f"Linux; {name}; {one.model}"
    engine = f"Mozilla/5.0 ({where}) AppleWebKit/537.36 (KHTML, like Gecko)"
    if one.reduced:
        name = "Android 10"
    if one.kind == "Samsung Internet":
        version = f"{11 + int(seen + 60) // 90}.{int(seen + 60) // 30 % 3}"
        text = f"{engine} SamsungBrowser/{version} Chrome/{full} Mobile Safari/537.36"
        return Agent(text, f"Samsung Internet {version}", name, "mobile", "Samsung Internet/Android")
    if one.kind == "WebView":
        text = engine.replace(")", "; wv)", 1) + f" Version/4.0 Chrome/{full} Mobile Safari/537.36"
        return Agent(text, f"Chrome Mobile WebView {short}", name, "mobile", "WebView/Android")
    text = f"{engine} Chrome/{full} Mobile Safari/537.36"
    return Agent(text, f"Chrome Mobile {short}", name, "mobile", "Chrome/Android")


def _ios(one: Browser, seen: float, system: float) -> Agent:
    index = min(len(IOS) - 1, max(0, int(seen + 570) // 40))
    version = IOS[index]
    safari = f"{version.split('.')[0]}.{index // 2 % 4}"
    where = f"iPhone; CPU iPhone OS {version.replace('.', '_')} like Mac OS X"
    engine = f"Mozilla/5.0 ({where}) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    if one.kind == "WebView":
        text = f"{engine} Mobile/15E148 [FBAN/FBIOS;FBDV/{one.model};FBSV/{version}]"
        return Agent(text, "Facebook", f"iOS {version}", "mobile", "Facebook/iOS")
    text = f"{engine} Version/{safari} Mobile/15E148 Safari/604.1"
    return Agent(text, f"Mobile Safari {safari}", f"iOS {version}", "mobile", "Safari/iOS")


def _desktop(one: Browser, seen: float, where: str, name: str) -> Agent:
    if one.kind == "Firefox":
        version = f"{72 + int(seen + 15) // 30}.0"
        text = f"Mozilla/5.0 ({where}; rv:{version}) Gecko/20100101 Firefox/{version}"
        return Agent(text, f"Firefox {version}", name, "desktop", f"Firefox/{name.split()[0]}")
    full, short = _chrome(one, seen)
    text = f"Mozilla/5.0 ({where}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{full} Safari/537.36"
    if one.kind == "Edge":
        return Agent(f"{text} Edg/{full}", f"Edge {short}", name, "desktop", f"Edge/{name.split()[0]}")
    return Agent(text, f"Chrome {short}", name, "desktop", f"Chrome/{name.split()[0]}")


def _windows(one: Browser, seen: float, system: float) -> Agent:
    where, name = {"7": ("Windows NT 6.1", "Windows 7"), "8": ("Windows NT 6.3", "Windows 8.1")}.get(
        one.model, ("Windows NT 10.0", "Windows 10")
    )
    bits = "Win64; x64" if one.reduced or one.bits == 64 else "WOW64"
    return _desktop(one, seen, f"{where}; {bits}", name)


def _mac(one: Browser, seen: float, system: float) -> Agent:
    step = max(0, int(system + 100) // 60)
    release = "10.15.7" if one.reduced else f"10.{14 + min(step // 5, 1)}.{step % 5 + 2}"
    where = f"Macintosh; Intel Mac OS X {release.replace('.', '_')}"
    if one.kind != "Safari":
        return _desktop(one, seen, where, f"Mac OS X {release}")
    version = f"13.{max(0, int(seen + 60)) // 62}"
    text = f"Mozilla/5.0 ({where}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version} Safari/605.1.15"
    return Agent(text, f"Safari {version}", f"Mac OS X {release}", "desktop", "Safari/Mac")


def _linux(one: Browser, seen: float, system: float) -> Agent:
    return _desktop(one, seen, "X11; Linux x86_64", "Linux")


_WRITERS = {"Android": _android, "iOS": _ios, "Windows": _windows, "Mac": _mac, "Linux": _linux}

_MOBILE = Choice({"Android": 0.649, "iOS": 0.351})
_DESKTOP = Choice({"Windows": 0.792, "Mac": 0.194, "Linux": 0.014})
_BROWSERS = {
    "Android": Choice({"Chrome": 0.86, "Samsung Internet": 0.10, "WebView": 0.04}),
    "iOS": Choice({"Safari": 0.90, "WebView": 0.10}),
    "Windows": Choice({"Chrome": 0.66, "Edge": 0.24, "Firefox": 0.10}),
    "Mac": Choice({"Safari": 0.60, "Chrome": 0.35, "Firefox": 0.05}),
    "Linux": Choice({"Chrome": 0.6, "Firefox": 0.4}),
}
_MODELS = {
    "Android": MODELS,
    "iOS": Choice(zipf(16, 0.5), [f"iPhone{number},{kind}" for number in range(9, 13) for kind in range(1, 5)]),
    "Windows": Choice({"10": 0.86, "7": 0.10, "8": 0.04}),
}


@dataclass(slots=True)
class Device:
    """One device of a person. ``second`` is used now and then."""

    mobile: bool
    first: Browser
    second: Browser | None

    @staticmethod
    def draw(rng: random.Random, mobile: bool, day: float, reduced: bool, second: float) -> Device:
        """A device that comes into use on ``day``; with probability ``second`` it has another browser too."""
        system = (_MOBILE if mobile else _DESKTOP).draw(rng)
        model = _MODELS[system].draw(rng) if system in _MODELS else ""
        bits = 64 if rng.random() < 0.8 else 32
        stuck = day - rng.uniform(30, 400) if rng.random() < 0.18 else None
        lag, system_lag = rng.expovariate(1 / (60 if system == "iOS" else 12)), rng.uniform(0, 365)
        kinds = _BROWSERS[system]
        first = kinds.draw(rng)
        other = rng.choice([kind for kind in kinds.items if kind != first])
        one, two = (Browser(kind, system, model, lag, stuck, system_lag, reduced, bits) for kind in (first, other))
        return Device(mobile, one, two if rng.random() < second else None)
