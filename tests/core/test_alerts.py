"""Alerts that a person can read, and that nobody can write markup into."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.alerts import Alert, Circumstances, alert, countries_apart, headline_of
from sessiondb.core.countries import codes, name_of, position_of
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.risk import Finding, RiskAction, RiskLevel, Rule, Verdict

MINUTE = 60_000_000
NOW = 1_795_875_126_725_965


def verdict(rule: Rule, reason: str = "why", action: RiskAction = RiskAction.NOTIFY, **fields: bool) -> Verdict:
    return Verdict(RiskLevel.HIGH, action, None, (Finding(rule, RiskLevel.HIGH, reason),), **fields)


def seen(**fields: object) -> Circumstances:
    known = {"at": NOW, "device": "Firefox on Linux", "country": "BR", "ip": "192.0.2.1"}
    return Circumstances(**{**known, **fields})  # type: ignore[arg-type]


def test_the_line_of_a_login_far_away() -> None:
    there = seen(last_at=NOW - 40 * MINUTE, last_country="PL", km=11_232)
    line = headline_of(verdict(Rule.IMPOSSIBLE_TRAVEL), there)
    assert line == "New sign-in from Firefox on Linux, Brazil; last seen in Poland 40 minutes ago (11,200 km)"


@pytest.mark.parametrize(
    ("found", "circumstances", "line"),
    [
        (verdict(Rule.NEW_DEVICE), seen(), "New sign-in from Firefox on Linux, Brazil"),
        (
            verdict(Rule.NEW_DEVICE),
            seen(last_at=NOW - 3 * 1440 * MINUTE, last_country="BR"),
            "New sign-in from Firefox on Linux, Brazil; last seen 3 days ago",
        ),
        (verdict(Rule.NEW_DEVICE), seen(device=None, country=None), "New sign-in from an unknown device"),
        (
            verdict(Rule.SESSION_HIJACK),
            seen(last_device="Safari on iPhone", last_country="PL"),
            "Your session on Safari on iPhone, Poland is being used from Firefox on Linux, Brazil",
        ),
        (verdict(Rule.TOKEN_REUSE), None, "A sign-in of yours was copied and has been ended"),
        (
            verdict(Rule.BRUTE_FORCE, "12 failed logins of this user within the last hour"),
            None,
            "12 failed logins of this user within the last hour",
        ),
    ],
)
def test_the_lines(found: Verdict, circumstances: Circumstances | None, line: str) -> None:
    assert headline_of(found, circumstances) == line


@pytest.mark.security("A8")
def test_a_mail_says_what_when_where_and_what_to_do() -> None:
    made = alert(
        verdict(Rule.NEW_COUNTRY, "first login from BR; before from PL", RiskAction.REVOKE_SESSION),
        seen(last_at=NOW - 40 * MINUTE, last_country="PL", km=11_232),
        app="Example Shop",
        url="https://shop.example/devices",
    )
    assert made.subject == "New sign-in: Example Shop"
    for part in (
        "New sign-in from Firefox on Linux, Brazil; last seen in Poland 40 minutes ago (11,200 km).",
        "Time: 28 November 2026, 14:12 UTC",
        "Address: 192.0.2.1",
        "First login from BR; before from PL.",
        "We have ended that session.",
        "change your password",
        "https://shop.example/devices",
    ):
        assert part in made.text
    assert "We have ended" not in alert(verdict(Rule.NEW_COUNTRY, dry_run=True), seen()).text


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "onclick")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


texts = st.text(max_size=40)


@given(texts, texts, texts, texts)
def test_nothing_in_a_mail_is_markup(device: str, reason: str, ip: str, country: str) -> None:
    made: Alert = alert(
        verdict(Rule.NEW_DEVICE, reason), seen(device=device, ip=ip, country=country), url="https://a.test/?a=1&b=<2>"
    )
    read = Reader(made.html)
    plain = {"html", "head", "meta", "title", "body", "h1", "table", "tr", "th", "td", "ul", "li", "p", "a"}
    assert read.tags <= plain
    assert read.links == ["https://a.test/?a=1&b=<2>"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "shop.example", "//shop.example", "data:text/html,x"])
def test_a_link_is_a_page(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        alert(verdict(Rule.NEW_DEVICE), seen(), url=url)


def test_countries_have_names_and_places() -> None:
    assert len(codes()) == 250
    assert (name_of("PL"), name_of("XX"), name_of(None)) == ("Poland", "XX", None)
    assert position_of("XX") is None
    for code in codes():
        place = position_of(code)
        assert place is not None
        assert -90 <= place.latitude <= 90
        assert -180 <= place.longitude <= 180
        assert 0 < place.accuracy_km <= 5_000


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [("PL", "DE", 600), ("PL", "BR", 10_100), ("US", "GB", 6_700), ("NZ", "ES", 19_500), ("PL", "PL", None)],
)
def test_distances_of_countries_are_about_right(one: str, other: str, km: int | None) -> None:
    found = countries_apart(one, other)
    assert found == km if km is None or found is None else found == pytest.approx(km, rel=0.1)
