"""A name for a device. Good enough to recognise one's own; a library such as ua-parser knows them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["desktop", "phone", "tablet", "program"]

# The first match counts: Edge says Chrome too, and Chrome says Safari.
BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
SYSTEMS: tuple[tuple[str, str, Kind], ...] = (
    ("iPhone", "iPhone", "phone"),
    ("iPad", "iPad", "tablet"),
    ("Android", "Android", "phone"),
    ("Windows", "Windows", "desktop"),
    ("Mac OS X", "Mac", "desktop"),
    ("CrOS", "Chromebook", "desktop"),
    ("Linux", "Linux", "desktop"),
)


@dataclass(frozen=True)
class Device:
    """``name`` is for people; ``kind`` chooses the icon."""

    name: str
    kind: Kind


def describe(user_agent: str | None) -> Device:
    """What the ``User-Agent`` header says of the device."""
    agent = user_agent or ""
    browser = next((name for mark, name in BROWSERS if mark in agent), None)
    if browser is None:
        program = agent.split("/")[0].split(" ")[0][:40]
        return Device(program or "Unknown device", "program")
    for mark, system, kind in SYSTEMS:
        if mark in agent:
            tablet = system == "Android" and "Mobile" not in agent
            return Device(f"{browser} on {system}", "tablet" if tablet else kind)
    return Device(browser, "desktop")
