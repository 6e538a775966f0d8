"""What attackers would like of a database: tokens that it holds, statements that they may write, passwords in a log."""

from __future__ import annotations

import gc
import logging
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pytest
from lines import line_to

from databases import KINDS, NETWORK, new_url, with_login
from harness import Shop, put, unawaited
from provision.process import free_port
from sessiondb import SessionDB, StoreUnavailable, open_store
from sessiondb.core import token as tokens
from sessiondb.testing import ManualClock

HOSTILE = [
    "'; DROP TABLE sessiondb_sessions; --",
    "ann' OR '1'='1",
    'ann" OR ""="',
    "ann\\' OR 1=1 -- ",
    "ann\\",
    "%",
    "ann%",
    "_nn",
    '{"$ne": null}',
    '{"$gt": ""}',
    "$where",
    "a.b.$c",
    "ann\r\nFLUSHALL\r\n",
    "*",
    "ann:*",
    "ann{1}",
    "ANN",
    "ann ",
    "änn",
    "$1; SELECT 1",
    "%s %(name)s {0}",
    "-- ",
    "/*",
]


def spellings(part: bytes) -> list[bytes]:
    """How a store might write bytes."""
    texts = [part.hex(), part.hex().upper(), *(f(part).decode().rstrip("=") for f in (b64encode, urlsafe_b64encode))]
    return [part, *(text.encode() for text in texts)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.security("T3", "T4")
async def test_no_part_of_a_token_that_opens_anything_ever_reaches_the_database(kind: str, tmp_path: Path) -> None:
    async with line_to(kind, tmp_path) as line:
        shop = Shop(ManualClock(), open_store(line.url))  # type: ignore[arg-type]
        async with shop.http:
            await shop.db.open()
            heard = line.listen()
            held: list[tokens.Token] = []
            for user in ("ann", "bob"):
                browser = await shop.with_cart()
                held.append(browser.parsed)
                for action in (
                    lambda session, user=user: session.login(user),
                    unawaited(lambda session: session.rotate()),
                    dict,  # confirms it
                    put(a=1),
                    lambda session, user=user: session.login(user),
                    lambda session: session.modify(lambda data: data.update(b=2)),
                ):
                    assert (await browser.do(action)).status == 200
                    held.append(browser.parsed)
            stolen = shop.browser(held[0].encode())
            await stolen.do(put(a=1))
            await shop.db.create("carl")
            await shop.flush()
            found = heard()
            await shop.db.close()
    gc.collect()
    # It has listened well: the digests, which are stored, are found as the secrets would be.
    assert any(spelt in found for spelt in spellings(tokens.digest(held[0].secret)))
    for one in held:
        for spelt in (*spellings(one.series), *spellings(one.secret)):
            assert spelt not in found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.security("S3")
async def test_no_user_id_and_no_key_is_a_part_of_a_statement_or_an_operator(kind: str, tmp_path: Path) -> None:
    async with SessionDB(new_url(kind, tmp_path), sweep_every=None) as db:
        ann = await db.create("ann", {"whose": "ann"})
        for text in HOSTILE:
            issued = await db.create(text, {text: text, "other": {text: [text]}}, user_agent=text)
            [found] = await db.sessions_of(text)
            assert (found.sid, found.user_id) == (issued.session.sid, text)
            assert found.data == {text: text, "other": {text: [text]}}
            async with db.session(issued.token) as session:
                session[text] = "changed"
            async with db.session(issued.token) as session:
                assert session.pop(text) == "changed"
            assert not await db.revoke(text)
            assert await db.get(text) is None
            assert not await db.revoke(ann.session.sid, user_id=text)
            page = await db.events(user_id=text)
            assert {event.user_id for event in page.events} <= {text}
        for text in HOSTILE:
            assert await db.revoke_all(text) == 1, text
        [left] = await db.sessions_of("ann")
        assert left.data == {"whose": "ann"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.security("S2")
async def test_two_apps_in_one_database_never_meet(kind: str, tmp_path: Path) -> None:
    urls = [new_url(kind, tmp_path) for _ in range(2)]
    if kind == "sqlite":
        urls = [f"{url}?prefix={name}_" for url, name in zip(urls, ("one", "two"), strict=True)]
    async with SessionDB(urls[0], sweep_every=None) as one, SessionDB(urls[1], sweep_every=None) as two:
        first, second = await one.create("ann", {"app": 1}), await two.create("ann", {"app": 2})
        for db, mine, other in ((one, first, second), (two, second, first)):
            assert [info.sid for info in await db.sessions_of("ann")] == [mine.session.sid]
            assert await db.get(other.session.sid) is None
            assert not await db.revoke(other.session.sid)
            async with db.session(other.token) as session:
                assert session.user_id is None
        assert await one.revoke_all("ann") == 1
        assert (await two.stats()).live == 1
        async with two.session(second.token) as session:
            assert session == {"app": 2}


@pytest.mark.parametrize("kind", NETWORK)
@pytest.mark.security("S8")
async def test_a_server_that_cannot_be_reached_or_refuses_us_never_shows_the_password(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheme = {"postgresql": "postgresql", "mysql": "mysql", "redis": "redis", "mongodb": "mongodb"}[kind]
    path = "0" if kind == "redis" else "app"
    url = with_login(f"{scheme}://127.0.0.1:{free_port()}/{path}", "app", "hunter2-p@ss")
    shown = []
    with caplog.at_level(logging.DEBUG):
        db = SessionDB(url, timeout=1.0)
        for _ in range(2):
            with pytest.raises(StoreUnavailable) as failed:
                await db.create("ann")
            shown.append(f"{failed.value!r} {failed.value.__cause__!r}")
        shown += [repr(await db.ready()), repr(db), caplog.text]
        await db.close()
    gc.collect()
    assert not any("hunter2" in text for text in shown)
