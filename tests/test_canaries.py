"""Secrets are planted in everything that comes in, and looked for in everything that goes out beside the answers."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from starlette.requests import Request

from harness import Shop
from sessiondb import Audit, Event, HmacSigner, KeyRing, RiskPolicy, Session
from sessiondb.core import token as tokens
from sessiondb.core.exporting import FORMATS
from sessiondb.sinks import log_events
from sessiondb.stores.base import EventQuery
from sessiondb.stores.memory import MemoryStore
from sessiondb.suspicions import Suspicion
from sessiondb.testing import ManualClock

PASSWORD = "correct-horse-battery"
IN_DATA = "the-canary-in-the-cart"
AUDIT_KEY, RISK_KEY = KeyRing.generate(), KeyRing.generate()


def spellings(token: tokens.Token) -> list[str]:
    """A token and its parts, as texts that somebody might write."""
    found = [token.encode()]
    for part in (token.series, token.secret):
        found += [
            part.hex(),
            repr(part),
            b64encode(part).decode().rstrip("="),
            urlsafe_b64encode(part).decode().rstrip("="),
        ]
    return found


@pytest.mark.security("K6", "A4")
async def test_no_secret_reaches_an_event_a_log_an_alert_or_a_sink(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    clock = ManualClock()
    told: list[Event] = []
    suspicions: list[Suspicion] = []
    lines: list[str] = []
    audit = Audit(signer=HmacSigner(AUDIT_KEY), exports=[lines.append], sinks=[told.extend, log_events])
    shop = Shop(clock, MemoryStore(clock=clock), audit=audit, risk=RiskPolicy(key=RISK_KEY))
    shop.db.on_risk(suspicions.append)
    held: list[tokens.Token] = []
    try:
        async with shop.http:
            for agent in ("Firefox/1", "Chrome/2", "curl/3"):
                browser = await shop.with_cart(note=IN_DATA)
                held.append(browser.parsed)
                for action in (
                    lambda session: session.login("ann"),
                    dict,
                    lambda session: session.rotate(),
                    dict,
                    lambda session: session.step_up(("otp",)),
                    lambda session: session.update(note=IN_DATA),
                ):
                    assert (await browser.do(action, **{"user-agent": agent})).status == 200
                    held.append(browser.parsed)
                clock.advance(3600)
            # A thief, a guesser, and somebody who types a password where a name belongs.
            await shop.browser(held[1].encode()).do(dict, **{"user-agent": "thief"})
            for _ in range(70):
                guess = tokens.mint(clock.now)
                held.append(guess)
                await shop.browser(guess.encode()).do(dict)
            scope = {"type": "http", "headers": [(b"user-agent", b"x")], "client": ("192.0.2.1", 1)}
            for _ in range(12):
                await shop.db.login_failed(PASSWORD, Request(scope))

            async def broken(session: Session) -> None:
                raise RuntimeError("a bug of the app")

            await browser.do(broken)
            await shop.db.checkpoint()
            await shop.db.forget("ann")
            runtime = shop.db.runtime
            for line in runtime.telling._lines:
                if line._task is not None:
                    await asyncio.wait_for(line._task, 20)
            if runtime.suspicions._task is not None:
                await asyncio.wait_for(runtime.suspicions._task, 20)
            page = await shop.memory.events(EventQuery(limit=10_000))
        written: list[Any] = [*page.events, *told, *suspicions, *lines]
        written += [write(event) for write in FORMATS.values() for event in page.events]
        written += [(one.headline, one.alert().subject, one.alert().text, one.alert().html) for one in suspicions]
        written += [record.getMessage() for record in caplog.records if record.name.startswith("sessiondb")]
        written += [repr(shop.db), repr(audit), repr(runtime.assessing.policy), json.dumps(shop.db.counters)]
    finally:
        await shop.db.close()
    text = "\n".join(map(repr, written))
    assert len(told) > 20
    assert len(suspicions) >= 3
    assert "authn_token_reuse" in text
    secrets = {secret for token in held for secret in spellings(token)}
    secrets |= {PASSWORD, IN_DATA, AUDIT_KEY, RISK_KEY}
    assert [secret for secret in secrets if secret in text] == []
