"""What a ``User-Agent`` says of the client: browser, system, kind of device. Pure, and in linear time.

Good enough for people to recognise their own devices, and to notice that a session is used from another one. It is what
the client says of itself: anybody can say anything. Browsers say little by now: Windows 11 calls itself 10, macOS 10.15
and Android 10 may be any newer one, an iPad may call itself a Mac (https://www.chromium.org/updates/ua-reduction/).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Device = Literal["desktop", "mobile", "tablet", "bot", "other"]

LONGEST_AGENT = 512  # characters that are looked at
MOST_PRODUCTS = 40


@dataclass(frozen=True, slots=True)
class Agent:
    """What is known of a client; ``None`` where nothing is. Versions: the first two numbers, such as ``"17.4"``.

    ``device`` is ``"other"`` for programs, televisions, consoles, and whatever is not known. All texts are letters,
    digits, spaces and ``._+-`` alone, whatever was sent.
    """

    browser: str | None = None
    browser_version: str | None = None
    system: str | None = None
    system_version: str | None = None
    device: Device = "other"

    @property
    def label(self) -> str:
        """For people: ``"Firefox on Linux"``, ``"Safari on iPhone"``, ``"curl"``."""
        thing = _THINGS.get((self.system, self.device), self.system)
        if self.browser is None:
            return "Unknown device" if thing is None else f"Unknown browser on {thing}"
        return self.browser if thing is None or self.device == "bot" else f"{self.browser} on {thing}"


_THINGS: dict[tuple[str | None, str], str] = {
    ("iOS", "mobile"): "iPhone",
    ("iPadOS", "tablet"): "iPad",
    ("ChromeOS", "desktop"): "Chromebook",
}
_UNKNOWN = Agent()

# What says that the browser is another one than its other products say, in this order: the first that is there counts.
_PRODUCTS: dict[str, str] = {
    # Apps that show pages.
    "Instagram": "Instagram app",
    "musical_ly": "TikTok app",
    "BytedanceWebview": "TikTok app",
    "trill": "TikTok app",
    "MicroMessenger": "WeChat app",
    "Line": "LINE app",
    "Snapchat": "Snapchat app",
    "LinkedInApp": "LinkedIn app",
    "KAKAOTALK": "KakaoTalk app",
    "GSA": "Google app",
    "Teams": "Microsoft Teams",
    "Slack": "Slack app",
    "Slack_SSB": "Slack app",
    "Code": "Visual Studio Code",
    # Browsers made of Chromium, WebKit or Gecko.
    "EdgA": "Edge",
    "EdgiOS": "Edge",
    "Edg": "Edge",
    "Edge": "Edge",
    "OPR": "Opera",
    "OPT": "Opera",
    "OPX": "Opera",
    "OPiOS": "Opera",
    "SamsungBrowser": "Samsung Internet",
    "Vivaldi": "Vivaldi",
    "YaBrowser": "Yandex Browser",
    "Whale": "Whale",
    "UCBrowser": "UC Browser",
    "XiaoMi": "Mi Browser",
    "HuaweiBrowser": "Huawei Browser",
    "HeyTapBrowser": "HeyTap Browser",
    "VivoBrowser": "vivo Browser",
    "MQQBrowser": "QQ Browser",
    "QQBrowser": "QQ Browser",
    "DuckDuckGo": "DuckDuckGo",
    "Ddg": "DuckDuckGo",
    "Brave": "Brave",
    "Silk": "Silk",
    "Puffin": "Puffin",
    "Iron": "Iron",
    "QtWebEngine": "QtWebEngine",
    "OculusBrowser": "Meta Quest Browser",
    "Electron": "Electron app",
    "Focus": "Firefox Focus",
    "Klar": "Firefox Focus",
    "FxiOS": "Firefox",
    "SeaMonkey": "SeaMonkey",
    "PaleMoon": "Pale Moon",
    "Waterfox": "Waterfox",
    "LibreWolf": "LibreWolf",
    "Thunderbird": "Thunderbird",
    "Firefox": "Firefox",
    "Epiphany": "GNOME Web",
    "Konqueror": "Konqueror",
    "Falkon": "Falkon",
    "Ladybird": "Ladybird",
    "CriOS": "Chrome",
    "Chromium": "Chromium",
    "Chrome": "Chrome",
}
_NAMES = tuple(_PRODUCTS.values())
_MARKS = tuple(_PRODUCTS)
_RANK = {name: rank for rank, name in enumerate(_MARKS)}
_NONE = len(_NAMES)

# Programs whose name is not the first product that they send.
_LIBRARIES = ("aiohttp", "urllib3", "jsdom")

# What only robots have in their names, in small letters, or in what they say of themselves.
_BOT_NAMES = (
    "bot",
    "crawl",
    "spider",
    "slurp",
    "preview",
    "scanner",
    "archiver",
    "externalhit",
    "meta-external",
    "fetcher",
    "healthcheck",
    "kube-probe",
    "googlehc",
    "inspectiontool",
    "mediapartners",
    "headlesschrome",
    "phantomjs",
    "lighthouse",
    "monitor",
    "pingdom",
    "-user/",
    "whatsapp/",
)
_BOT_SAYINGS = ("+http", "google-")
_NO_NAME = str.maketrans("(;,[+", "     ")
_NAME = re.compile(
    r"[\w.-]{0,32}(?:bot|crawler|spider|slurp|preview|archiver|agent|fetcher|probe|healthchecker|tool|-user)\b[\w.-]{0,24}",
    re.IGNORECASE | re.ASCII,
).search
_NAME = re.compile(r"[A-Za-z][\w.+-]{0,39}", re.ASCII).match
_VERSION = re.compile(r"[/ :]?v?(\d{1,6})(?:[._](\d{1,6}))?", re.ASCII).match
_NT = {"6.0": "Vista", "6.1": "7", "6.2": "8", "6.3": "8.1"}


def parse_agent(user_agent: str | None) -> Agent:
    """What ``user_agent`` says; an ``Agent`` without anything for one that says nothing. Never raises."""
    return _parse(user_agent[:LONGEST_AGENT]) if user_agent else _UNKNOWN


@lru_cache(maxsize=2048)
def _parse(agent: str) -> Agent:
    system, system_version, device = _system(agent)
    if (at := _bot_at(agent.lower())) is not None:
        name, version = _bot(agent, at)
        return Agent(name, version, system, system_version, "bot")
    browser, version = _browser(agent, system)
    if not agent.startswith(("Mozilla/", "Opera/")) and system is None:
        device = "other"
    return Agent(browser, version, system, system_version, device)


def _browser(agent: str, system: str | None) -> tuple[str | None, str | None]:
    products, best = _products(agent)
    if not agent.startswith(("Mozilla/", "Opera/")):
        return _program(agent, products)
    if "[FB" in agent or "FBAN/" in agent:
        return "Facebook app", _after(agent, "FBAV/")
    if best < _NONE:
        if best == _RANK["Chrome"] and "; wv)" in agent:
            return "Web view", _version(products["Chrome"])
        name = _MARKS[best]
        return _NAMES[best], _version(products[name].rpartition("/")[2]) or _after(agent, name + " ")
    if "MSIE " in agent or "Trident/" in agent:
        return "Internet Explorer", _after(agent, "MSIE ") or _after(agent, "rv:")
    if "Opera Mini/" in agent:
        return "Opera Mini", _after(agent, "Opera Mini/")
    if "Opera" in agent:
        return "Opera", _version(products.get("Version", "")) or _after(agent, "Opera/")
    if "AppleWebKit/" in agent:
        if system == "Android":
            return "Android Browser", _version(products.get("Version", ""))
        if "Version" in products and "Safari" in products:
            return "Safari", _version(products["Version"])
        if system in ("iOS", "iPadOS", "macOS"):
            return "Web view", None
    return None, None


def _program(agent: str, products: dict[str, str]) -> tuple[str | None, str | None]:
    """What names itself first: ``curl/8.5.0``, ``MyApp/3 (iPhone; iOS 17.4)``."""
    for name in _LIBRARIES:
        if name in products:
            return name, _version(products[name])
    if agent.startswith("Dalvik/"):
        return "App", None
    named = _NAME(agent)
    if named is None:
        return None, None
    return named.group().rstrip("._+-"), _version(agent[named.end() : named.end() + 20])


def _bot_at(lower: str) -> int | None:
    """Where a robot's name is; -1 where only what it says shows it, ``None`` for no robot."""
    for word in _BOT_NAMES:
        at = lower.find(word)
        # Cubot makes telephones.
        if at >= 0 and not (word == "bot" and lower[max(0, at - 2) : at] == "cu"):
            return at
    return -1 if any(word in lower for word in _BOT_SAYINGS) else None


def _bot(agent: str, at: int) -> tuple[str | None, str | None]:
    products, _ = _products(agent)
    if "HeadlessChrome" in products:
        return "Headless Chrome", _version(products["HeadlessChrome"])
    if at < 0 or agent.find("://", 0, at) >= 0:
        # Its address says that it is one, not its name.
        at = agent.find("compatible; ") + 12
        if at < 12:
            return _program(agent, products) if not agent.startswith("Mozilla/") else ("Bot", None)
    before = agent[max(0, at - 32) : at].translate(_NO_NAME).rsplit(" ", 1)[-1].rsplit("/", 1)[-1]
    named = _NAME(agent, at - len(before))
    if named is None:
        return "Bot", None
    return named.group().rstrip("._+-"), _version(agent[named.end() : named.end() + 20])


def _products(agent: str) -> tuple[dict[str, str], int]:
    """``name/version``, each name as first seen, and the rank of the best one that is known."""
    found: dict[str, str] = {}
    best = _NONE
    for part in agent.split(" ", MOST_PRODUCTS)[:MOST_PRODUCTS]:
        name, _, version = part.partition("/")
        rank = _RANK.get(name)
        if rank is not None and rank < best:
            best = rank
        found.setdefault(name, version)
    return found, best


def _version(text: str) -> str | None:
    """The first two numbers, without a second that is zero."""
    found = _VERSION(text)
    if found is None:
        return None
    first, second = found.groups()
    return first if second is None or not second.strip("0") else f"{first}.{second}"


def _after(agent: str, mark: str) -> str | None:
    at = agent.find(mark)
    return None if at < 0 else _version(agent[at + len(mark) : at + len(mark) + 20])


def _system(agent: str) -> tuple[str | None, str | None, Device]:
    """The system, its version, and the device that it makes likely."""
    if "iPhone" in agent or "iPod" in agent:
        return "iOS", _after(agent, "iPhone OS ") or _after(agent, "iOS ") or _after(agent, "iOS/"), "mobile"
    if "iPad" in agent:
        return "iPadOS", _after(agent, "CPU OS ") or _after(agent, "iPadOS ") or _after(agent, "iOS "), "tablet"
    if "Android" in agent:
        return "Android", _after(agent, "Android "), _android_device(agent)
    if "Windows" in agent:
        if "Xbox" in agent:
            return "Xbox", None, "other"
        if "Windows Phone" in agent:
            return "Windows Phone", _after(agent, "Windows Phone "), "mobile"
        version = _nt(agent)
        return "Windows", version, "desktop"
    if "CrOS " in agent:
        return "ChromeOS", None, "desktop"
    if "Macintosh" in agent or "Mac OS X" in agent or "macOS" in agent:
        return "macOS", _after(agent, "Mac OS X ") or _after(agent, "macOS ") or _after(agent, "macOS/"), "desktop"
    return _rare_system(agent)


def _nt(agent: str) -> str | None:
    at = agent.find("Windows NT ")
    if at < 0:
        return None
    number = agent[at + 11 : at + 15].rstrip(";). ")
    return _NT.get(number) or _version(number)


def _android_device(agent: str) -> Device:
    if "Mobile" in agent or "Dalvik/" in agent or "okhttp/" in agent or "Opera Mini/" in agent:
        return "mobile"
    if "TV" in agent or "BRAVIA" in agent or "AFT" in agent or "Quest" in agent:
        return "other"
    return "tablet"


_RARE: tuple[tuple[str, str, Device], ...] = (
    ("PlayStation", "PlayStation", "other"),
    ("PLAYSTATION", "PlayStation", "other"),
    ("Nintendo", "Nintendo", "other"),
    ("Web0S", "webOS", "other"),
    ("webOS", "webOS", "other"),
    ("Tizen", "Tizen", "other"),
    ("KAIOS", "KaiOS", "mobile"),
    ("OpenHarmony", "HarmonyOS", "mobile"),
    ("HarmonyOS", "HarmonyOS", "mobile"),
    ("Linux", "Linux", "desktop"),
    ("linux", "Linux", "desktop"),
    ("X11", "Linux", "desktop"),
    ("AppleTV", "tvOS", "other"),
    ("watchOS", "watchOS", "other"),
)


def _rare_system(agent: str) -> tuple[str | None, str | None, Device]:
    for name in ("FreeBSD", "OpenBSD", "NetBSD"):
        if name in agent:
            return name, None, "desktop"
    for mark, system, device in _RARE:
        if mark in agent:
            return system, None, device
    return None, None, "other"
