"""What a session system decides is told: as an event or a count, without a secret and without raw line breaks."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from harness import DAY, Browser, Shop, open_shop, put
from sessiondb import EventType, LoginRefused, Policy
from sessiondb.core import token as tokens

LINE = "ann\r\n2026-01-01 ERROR forged line\x1b[31m"


def held(browsers: list[Browser]) -> list[str]:
    """Every secret that a browser holds, in the spellings that could leak."""
    secrets = []
    for browser in browsers:
        secrets += [str(browser.token), browser.parsed.secret.hex(), browser.parsed.series.hex()]
    return secrets


async def story(shop: Shop) -> list[Browser]:
    """Something of everything that can happen."""
    anonymous = await shop.with_cart()
    ann = await shop.logged_in(LINE)
    thief = ann.twin()
    await ann.do(lambda session: session.rotate())
    await ann.do(put(a=1))
    shop.clock.advance(120)
    await thief.do(dict)  # the retired secret, too late
    bob = await shop.logged_in("bob")
    early = bob.twin()
    await bob.do(lambda session: session.logout())
    await early.do(put(a=1))
    forged = shop.browser(tokens.mint(shop.clock.now).encode())
    await forged.do(dict)
    await shop.browser("x" * 40).do(dict)
    await anonymous.do(put(a=1), origin="https://evil.test", host="shop.test")
    carol = [await shop.logged_in("carol") for _ in range(3)]
    await shop.db.revoke_all("carol")
    await shop.db.lock_user("dave")
    with pytest.raises(LoginRefused):
        await shop.db.create("dave")
    return [anonymous, ann, thief, early, forged, *carol]


@pytest.mark.security("O1", "T3")
async def test_events_and_log_lines_hold_no_secret_and_no_line_break(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_shop(policy=Policy(per_user=2, rotate_every=DAY)) as shop:
        browsers = await story(shop)
        events = await shop.events()
        told = [json.dumps(dataclasses.asdict(event)) for event in events]
        shown = [*told, *map(repr, events), repr(shop.db), repr(shop.db.counters)]
        logged = [record.getMessage() for record in caplog.records if record.name.startswith("sessiondb")]
        for secret in held(browsers):
            assert not [line for line in (*shown, *logged) if secret in line]
        for line in (*shown, *logged):
            assert not {"\r", "\n", "\x1b"} & set(line), line


@pytest.mark.security("O1")
async def test_every_decision_is_told_or_counted() -> None:
    async with open_shop(policy=Policy(per_user=2)) as shop:
        await story(shop)
        told = {event.type for event in await shop.events()}
        assert told >= {
            EventType.LOGIN,
            EventType.SESSION_CREATED,
            EventType.SESSION_RENEWED,
            EventType.SESSION_ENDED,
            EventType.TOKEN_REUSE,
            EventType.LOGIN_REFUSED,
            EventType.USER_REVOKED,
            EventType.USER_LOCKED,
        }
        counted = shop.db.counters
        assert counted["token_unknown"] == 1
        assert counted["token_ended"] == 1
        assert counted[EventType.CROSS_ORIGIN] == 1
        for event in told:
            assert counted[event] >= 1
        reasons = {event.reason for event in await shop.events(EventType.SESSION_ENDED)}
        assert {"logout", "reuse", "limit", "revoked"} <= reasons
