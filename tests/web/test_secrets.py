"""What opens a session is in the browser alone: no file, log line, event, repr or traceback has it."""

from __future__ import annotations

import base64
import gc
import logging
import traceback
from pathlib import Path

import httpx
import pytest
from racing import logged_in
from serving import LAST, Browser, eventually, serving, sqlite_url

from sessiondb import SessionDB
from sessiondb.core import token as tokens
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import Fail, FaultyStore


def spellings(token: str) -> list[bytes]:
    """The secret parts of a token, as they may be written somewhere."""
    parsed = tokens.parse(token.encode())
    assert parsed is not None
    found: list[bytes] = []
    for text, raw in zip(token.split(".")[1:], (parsed.series, parsed.secret), strict=True):
        found += [text.encode(), raw, raw.hex().encode(), raw.hex().upper().encode()]
        found += [base64.b64encode(raw).rstrip(b"="), repr(raw).encode()[2:-1]]
    return found


@pytest.mark.security("T3")
async def test_a_server_s_files_and_its_log_at_debug_level_have_none(tmp_path: Path, client: httpx.AsyncClient) -> None:
    held: list[str] = []

    def keep(browser: Browser) -> None:
        assert browser.token is not None
        held.append(browser.token)

    with serving("outside", tmp_path, url=sqlite_url(tmp_path), log_level="debug") as [server]:
        anonymous = Browser(client, server.url)
        await anonymous.post("/put", {"cart": ["tea"]})
        keep(anonymous)
        await anonymous.post("/login/ann")
        keep(anonymous)
        for path in ("/rotate", "/rotate", "/login/ann", "/increment", "/staged-login/bob"):
            assert (await anonymous.post(path)).status == 200
            keep(anonymous)
        for path in ("/boom", "/raise", "/login-then-raise/ann"):
            method = "GET" if path == "/boom" else "POST"
            body = {"json": {"a": 1}} if path == "/raise" else {}
            assert (await anonymous.send(method, path, headers=LAST, **body)).status == 500
        await eventually(lambda: server.logged().count("Traceback") >= 3)
        thief = Browser(client, server.url, held[2])
        await thief.session()
        forged = await logged_in(client, server, "carl")
        keep(forged)
        mutated = held[-1][:-2] + ("AA" if not held[-1].endswith("AA") else "BA")
        assert (await Browser(client, server.url, mutated).session())["user"] is None
        await forged.post("/put", {"a": 1}, headers={"origin": "https://evil.test"})
        await forged.post("/logout")
        events = (await client.get(f"{server.url}/events")).content
        stats = (await client.get(f"{server.url}/stats")).content
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert {"sessions.db", "sessions.db-wal", "server-0.log"} <= files.keys()
    files |= {f"{file.name} after": file.read_bytes() for file in tmp_path.iterdir()}
    files |= {"events": events, "stats": stats}
    assert len(set(held)) >= 6
    for token in held:
        # The sid is no secret: it is what rows and events are found by.
        parsed = tokens.parse(token.encode())
        assert parsed is not None
        assert parsed.sid.encode() in files["sessions.db after"]
        for name, content in files.items():
            for text in spellings(token):
                assert text not in content, (name, text)


@pytest.mark.security("T3")
async def test_no_repr_and_no_traceback_shows_one(caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultyStore(MemoryStore())
    db = SessionDB(faults)
    with caplog.at_level(logging.DEBUG):
        async with db:
            issued = await db.create(user_id="ann", data={"a": 1})
            token = issued.token
            shown: list[str] = []
            async with db.session(token) as session:
                shown += [repr(session), str(session), repr(issued), repr(db), str(await db.get(issued.session.sid))]
                shown += [repr(one) for one in await db.sessions_of("ann")]
                session["b"] = 2
                faults.next("apply", Fail())
                try:
                    await session.save()
                except Exception as error:
                    shown += traceback.format_exception(error)
                    for frame, _ in traceback.walk_tb(error.__traceback__):
                        # What tools that show local variables would print.
                        shown += [repr(value) for value in frame.f_locals.values() if value is not issued.token]
            shown += [repr(one) for one in (await db.events()).events]
    gc.collect()
    text = "\n".join([*shown, caplog.text]).replace(repr(token), "")
    assert issued.session.sid in text
    for spelling in spellings(token):
        assert spelling.decode("latin-1") not in text
