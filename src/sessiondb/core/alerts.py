"""A suspicion as people read it: one line, a text, and an HTML mail. Pure, in English, nothing in it can be markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from urllib.parse import urlsplit

from sessiondb.core.countries import name_of, position_of
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import SECOND
from sessiondb.core.risk import RiskAction, Rule, Verdict
from sessiondb.core.rules import Position, ago, distance_km


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Of what a suspicion is: who was seen now, and before. ``at`` and ``last_at`` are int64 microseconds UTC.

    ``device`` is ``"Firefox on Linux"``; countries are ISO 3166-1 alpha-2; ``km`` is how far apart the two are, about.
    ``None`` is what is not known. ``ip`` is what ``Privacy`` lets be kept.
    """

    at: int
    device: str | None = None
    country: str | None = None
    ip: str | None = None
    last_at: int | None = None
    last_device: str | None = None
    last_country: str | None = None
    km: int | None = None


def apart(one: Position | None, other: Position | None) -> int | None:
    """About how far apart two places are, in kilometres."""
    return None if one is None or other is None else round(distance_km(one, other))


def countries_apart(one: str | None, other: str | None) -> int | None:
    """About how far apart two countries are, from middle to middle; ``None`` for the same, or one that is not known."""
    return None if one == other else apart(position_of(one), position_of(other))


@dataclass(frozen=True, slots=True)
class Alert:
    """What to tell the user. ``headline`` is one line; ``text`` and ``html`` are whole bodies of a mail."""

    subject: str
    headline: str
    text: str
    html: str


def alert(verdict: Verdict, seen: Circumstances | None, *, app: str = "your account", url: str | None = None) -> Alert:
    """The alert for ``verdict``. ``app`` names the service; ``url`` is where the user can look at their devices.

    Raises ``ConfigurationError`` for a ``url`` that is not ``https://`` or ``http://``.
    """
    if url is not None and urlsplit(url).scheme not in ("https", "http"):
        raise ConfigurationError(f"alert: url is {url!r:.200}; use the https:// address of a page.")
    headline = headline_of(verdict, seen)
    subject = f"{_subject(verdict)}: {app}"
    facts = _facts(seen)
    done = _DONE.get(verdict.action) if not verdict.dry_run else None
    if_not = "If this was you, there is nothing to do. If not, end that session and change your password."
    parts = [headline + ".", *(f"{name}: {value}" for name, value in facts)]
    why = [f"{reason[:1].upper()}{reason[1:]}." for reason in verdict.reasons if not reason.endswith(".")]
    why += [reason for reason in verdict.reasons if reason.endswith(".")]
    closing = [*([done] if done else []), if_not, *([url] if url else [])]
    text = "\n\n".join(["\n".join(parts), *(["\n".join(why)] if why else []), "\n".join(closing)]) + "\n"
    return Alert(subject, headline, text, _html(headline, facts, why, [*([done] if done else []), if_not], url))


def headline_of(verdict: Verdict, seen: Circumstances | None) -> str:
    """One line: ``"New sign-in from Firefox on Linux, Brazil; last seen in Poland 40 minutes ago (11,200 km)"``."""
    worst = verdict.findings[0].rule if verdict.findings else None
    if worst in _ABOUT_FAILURES:
        return f"{verdict.findings[0].reason[:1].upper()}{verdict.findings[0].reason[1:]}"
    if worst is Rule.TOKEN_REUSE:
        return "A sign-in of yours was copied and has been ended"
    where = _where(seen.device, seen.country) if seen is not None else "an unknown device"
    if worst is Rule.SESSION_HIJACK:
        before = _where(seen.last_device, seen.last_country) if seen is not None else "a device"
        return f"Your session on {before} is being used from {where}"
    line = f"New sign-in from {where}"
    if seen is None or seen.last_at is None:
        return line
    span = ago(max(0, seen.at - seen.last_at) // SECOND)
    if seen.last_country is not None and seen.last_country != seen.country:
        far = f" ({_km(seen.km)})" if seen.km else ""
        return f"{line}; last seen in {name_of(seen.last_country)} {span} ago{far}"
    return f"{line}; last seen {span} ago"


_ABOUT_FAILURES = frozenset(
    {Rule.BRUTE_FORCE, Rule.PASSWORD_SPRAYING, Rule.CREDENTIAL_STUFFING, Rule.TOKEN_GUESSING, Rule.MANY_ACCOUNTS}
)
_DONE = {
    RiskAction.STEP_UP: "We ask for one more proof before anything else is shown.",
    RiskAction.REVOKE_SESSION: "We have ended that session.",
    RiskAction.REVOKE_USER: "We have ended all sessions of your account.",
    RiskAction.REFUSE: "We have refused that sign-in.",
}


def _subject(verdict: Verdict) -> str:
    worst = verdict.findings[0].rule if verdict.findings else None
    if worst in _ABOUT_FAILURES:
        return "Failed sign-ins"
    return "Unusual activity" if worst in (Rule.SESSION_HIJACK, Rule.TOKEN_REUSE) else "New sign-in"


def _where(device: str | None, country: str | None) -> str:
    name = name_of(country)
    return f"{device or 'an unknown device'}{f', {name}' if name else ''}"


def _km(km: int | None) -> str:
    return "" if km is None else f"{round(km, -2) if km >= 1000 else round(km, -1):,} km"


def _time(micros: int) -> str:
    at = datetime.fromtimestamp(micros / 1_000_000, UTC)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def _facts(seen: Circumstances | None) -> list[tuple[str, str]]:
    if seen is None:
        return []
    known = (
        ("Time", _time(seen.at)),
        ("Device", seen.device),
        ("Country", name_of(seen.country)),
        ("Address", seen.ip),
        ("Before", None if seen.last_at is None else _time(seen.last_at)),
    )
    return [(name, value) for name, value in known if value]


def _html(
    headline: str, facts: Sequence[tuple[str, str]], why: Sequence[str], closing: Sequence[str], url: str | None
) -> str:
    cell = "padding:2px 16px 2px 0;vertical-align:top;text-align:left"
    rows = "".join(
        f'<tr><th scope="row" style="{cell};font-weight:600">{escape(name)}</th>'
        f'<td style="{cell}">{escape(value)}</td></tr>'
        for name, value in facts
    )
    items = "".join(f"<li>{escape(reason)}</li>" for reason in why)
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in closing)
    link = "" if url is None else f'<p><a href="{escape(url)}">Look at your devices</a></p>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(headline)}</title></head>"
        '<body style="font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:2em auto;padding:0 1em">'
        f'<h1 style="font-size:20px;line-height:1.3">{escape(headline)}</h1>'
        f"<table>{rows}</table>{f'<ul>{items}</ul>' if items else ''}{paragraphs}{link}</body></html>\n"
    )
