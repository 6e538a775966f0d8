"""A hundred thousand hostile ``Cookie`` headers: nobody gets in, nothing breaks, what is malformed costs nothing."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from serving import LIMIT, Server, raw_request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessiondb import Cookie, Session, SessionDB, SessionMiddleware
from sessiondb.core import token as tokens
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, ManualClock

COUNT = 100_000
# An independent reading of the grammar: a name that is equal byte for byte, and a token that is whole.
PAIR = re.compile(
    rb"(?:^|;)[ \t]*sid[ \t]*=[ \t]*([A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})[ \t]*(?=;|$)"
)
LETTERS = b"abcXYZ019-_.=;, \t\"'\\%\r\n\0\x7f\x80\xa0\xff"

Headers = list[tuple[bytes, bytes]]


class Site:
    """An app that tells who is asking, and a database whose calls are counted."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = CountingStore(MemoryStore(clock=self.clock))
        self.db = SessionDB(self.store, clock=self.clock, sweep_every=None, timeout=60)
        self.app: ASGIApp = SessionMiddleware(self.tell, self.db, cookie=Cookie(secure=False))
        self.user: object = None

    async def tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        assert isinstance(session, Session)
        self.user = session.user_id, dict(session)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"told"})

    async def ask(self, headers: Headers) -> tuple[object, list[Message]]:
        """Who the app took the sender of ``headers`` for, and what it answered."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "client": ("192.0.2.7", 1)}
        await self.app(scope, receive, send)
        return self.user, sent


def mutations(real: bytes, chance: random.Random) -> Iterator[Headers]:
    """Headers that are nearly right, and some that are nothing at all. Endless."""
    other = tokens.mint(chance.randrange(2**48)).encode().encode()
    sid, series, secret = real.split(b".")
    other_parts = other.split(b".")

    def some(count: int) -> bytes:
        return bytes(chance.choice(LETTERS) for _ in range(count))

    def at() -> int:
        return chance.randrange(len(real))

    def flip() -> bytes:
        place = at()
        return real[:place] + bytes([chance.randrange(256)]) + real[place + 1 :]

    def cut() -> bytes:
        first, second = sorted((at(), at()))
        return real[:first] + real[second:]

    def put_in() -> bytes:
        place = at()
        return real[:place] + some(chance.randrange(1, 4)) + real[place:]

    def encoded() -> bytes:
        place = at()
        return real[:place] + b"%%%02x" % real[place] + real[place + 1 :]

    def letter_for_letter() -> bytes:
        place = at()
        letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        return real[:place] + bytes([chance.choice(letters)]) + real[place + 1 :]

    def swapped() -> bytes:
        parts = [sid, series, secret]
        chance.shuffle(parts)
        return b".".join(parts)

    def grafted() -> bytes:
        return b".".join(chance.choice(pair) for pair in zip((sid, series, secret), other_parts, strict=True))

    values: list[Callable[[], bytes]] = [
        flip,
        cut,
        put_in,
        encoded,
        letter_for_letter,
        swapped,
        grafted,
        lambda: real[: at()],
        lambda: real + some(1),
        lambda: b'"' + real + b'"',
        lambda: real.swapcase(),
        lambda: real + b"=",
        lambda: real.replace(b".", b""),
        lambda: real * chance.randrange(2, 5),
        lambda: other,
        lambda: some(chance.randrange(120)),
        lambda: chance.randbytes(chance.randrange(120)),
        lambda: b"." * chance.randrange(90),
        lambda: real[::-1],
        lambda: b"s:" + real,
        lambda: b"\xef\xbb\xbf" + real,
    ]
    right = [b"sid=", b" sid=", b"\tsid =\t"]
    wrong = [
        b"\xa0sid=",
        b"Sid=",
        b"SID=",
        b"sid",
        b"sid==",
        b"sid%3d",
        b"xsid=",
        b"sid.=",
        b'"sid"=',
        b"sid\x00=",
        b"=sid=",
        b"",
    ]
    while True:
        value = chance.choice(values)()
        name = chance.choice(right)
        form = chance.randrange(10)
        if form == 0:
            # The true token, under a name that is not ours.
            yield [(b"cookie", chance.choice(wrong) + real)]
        elif form == 1:
            yield [(b"cookie", some(chance.randrange(30)) + name + value)]
        elif form == 2:
            yield [(b"cookie", b"; ".join(name + chance.choice(values)() for _ in range(chance.randrange(2, 9))))]
        elif form == 3:
            yield [(b"cookie", name + chance.choice(values)()) for _ in range(chance.randrange(2, 7))]
        elif form == 4:
            yield [(b"cookie", name + value + b";" * chance.randrange(50) + b"a=b")]
        elif form == 5 and chance.randrange(200) == 0:
            yield [(b"cookie", b"a=" + b"x" * 70_000 + b"; sid=" + real)]
        elif form == 6:
            yield [(chance.choice([b"cookie2", b"set-cookie", b"x-cookie", b"authorization"]), b"sid=" + real)]
        else:
            yield [(b"cookie", name + value)]


def well_formed(headers: Headers) -> set[bytes]:
    """The whole tokens under our name, by the independent reading."""
    found: set[bytes] = set()
    for name, value in headers:
        if name == b"cookie":
            for pair in value.split(b";"):
                found.update(PAIR.findall(pair))
    return found


@pytest.mark.security("T5", "T6", "C5")
async def test_nobody_gets_in_and_what_is_malformed_costs_nothing() -> None:
    site = Site()
    await site.db.open()
    issued = await site.db.create(user_id="ann", data={"secret": "of ann"})
    real = issued.token.encode()
    nobody = (None, {})
    seen: Counter[str] = Counter()
    headers_in_turn = mutations(real, random.Random(20_240_229))
    while seen.total() < COUNT:
        headers = next(headers_in_turn)
        candidates = well_formed(headers)
        if real in candidates and sum(len(value) for _, value in headers) < 64 * 1024:
            continue
        await site.db.runtime.background.flush()  # the events of those before
        site.store.reset()
        user, sent = await site.ask(headers)
        assert user == nobody, headers
        assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
        assert not [value for name, value in sent[0]["headers"] if name == b"set-cookie"], headers
        seen["well-formed" if candidates else "malformed"] += 1
        if not candidates:
            assert site.store.total == 0, headers
    assert min(seen.values()) > 10_000, seen
    # The session that they were after is as it was.
    assert (await site.ask([(b"cookie", b"sid=" + real)]))[0] == ("ann", {"secret": "of ann"})
    await site.db.close()


@pytest.mark.security("C4", "C5")
async def test_the_name_of_the_cookie_is_matched_byte_for_byte() -> None:
    site = Site()
    await site.db.open()
    real = (await site.db.create(user_id="ann")).token.encode()
    ann, nobody = ("ann", {}), (None, {})
    other = tokens.mint(1).encode().encode()
    for value, who in {
        b"sid=" + real: ann,
        b"a=b; sid=" + real: ann,
        b"a=b;sid=" + real + b"; c=d": ann,
        b"\t sid\t = \t" + real + b" \t;": ann,
        b"a; sid=" + real: ann,
        b"; ; sid=" + real: ann,
        b"sid=; sid=" + real: ann,
        b"sid=" + other + b"; sid=" + real: ann,
        b"sid=" + real + b"; sid=" + real: ann,
        b"SID=" + real: nobody,
        b"\xa0sid=" + real: nobody,
        b"\x0bsid=" + real: nobody,
        b"xsid=" + real: nobody,
        b"sid2=" + real: nobody,
        b"a=sid=" + real: nobody,
        b'sid="' + real + b'"': nobody,
        b"sid=" + real + b"\xa0": nobody,
        b"sid=" + real + b",": nobody,
        b"a=b, sid=" + real: nobody,
    }.items():
        assert (await site.ask([(b"cookie", value)]))[0] == who, value
    assert (await site.ask([(b"cookie", b"a=b"), (b"cookie", b"sid=" + real)]))[0] == ann
    await site.db.close()


@pytest.mark.security("D3")
async def test_at_most_four_tokens_of_one_request_are_looked_up() -> None:
    site = Site()
    await site.db.open()
    real = (await site.db.create(user_id="ann")).token.encode()
    noise = [tokens.mint(n).encode().encode() for n in range(200)]
    loaded: list[int] = []
    load = site.store.load

    async def counted(sids: Any) -> Any:
        loaded.append(len(sids))
        return await load(sids)

    site.store.load = counted  # type: ignore[method-assign]
    user, _ = await site.ask([(b"cookie", b"; ".join(b"sid=" + one for one in noise[:3]) + b"; sid=" + real)])
    assert user == ("ann", {})
    user, _ = await site.ask([(b"cookie", b"; ".join(b"sid=" + one for one in noise) + b"; sid=" + real)])
    assert user == (None, {})
    assert sum(loaded) == 8
    await site.db.close()


@pytest.mark.security("T5", "C5")
@pytest.mark.parametrize("chunk", range(4))
async def test_a_real_server_survives_them_too(pair: list[Server], client: httpx.AsyncClient, chunk: int) -> None:
    server = pair[chunk % 2]
    answer = await client.post(f"{server.url}/login/hostile{chunk}")
    real = answer.headers["set-cookie"].partition(";")[0].partition("=")[2].encode()
    chance = random.Random(chunk)
    before = server.logged().count("Traceback")
    statuses: Counter[bytes] = Counter()
    headers_in_turn = mutations(real, chance)
    while statuses.total() < 250:
        headers = next(headers_in_turn)
        if any(one.startswith(real[:45]) for one in well_formed(headers)):
            # Whoever knows the series but not the secret is a thief, and ends the session.
            continue
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        text = b"GET /session HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n" + lines + b"\r\n"
        try:
            reply = await raw_request(server.url, text)
        except ConnectionError:
            reply = b"closed by the server"
        statuses[reply[9:12]] += 1
        if reply.startswith(b"HTTP/1.1 200"):
            assert b'"user":null' in reply, headers
            assert b"set-cookie" not in reply.lower()
    # What is no HTTP at all, the server refuses before us.
    assert set(statuses) <= {b"200", b"400", b"431", b"the"}, statuses
    assert statuses[b"200"] > 100
    assert server.logged().count("Traceback") == before
    async with asyncio.timeout(LIMIT):
        seen = await client.get(f"{server.url}/session", headers={"cookie": f"sid={real.decode()}"})
    assert seen.json()["user"] == f"hostile{chunk}"
