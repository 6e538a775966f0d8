"""``python -m benchmarks.activity``: what it costs to know who uses a session, in nanoseconds of CPU a call.

Each call is timed over fresh objects, as a server makes them for each request: the least of many rounds, and the
median.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

from sessiondb import Geo, SessionDB, TrustedProxies
from sessiondb.clients import note_request
from sessiondb.core.agents import LONGEST_AGENT, _parse
from sessiondb.core.record import Record
from sessiondb.state import State, Visitor
from sessiondb.writes import touch_when_due

ROUNDS = 60
CALLS = 1000
IP = "203.0.113.7"
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
    "Mobile/15E148 Safari/604.1"
)
HEADERS = [
    (b"host", b"shop.example"),
    (b"connection", b"keep-alive"),
    (b"sec-ch-ua", b'"Chromium";v="137"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"upgrade-insecure-requests", b"1"),
    (b"user-agent", CHROME.encode()),
    (b"accept", b"text/html"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"x-forwarded-for", b"6.6.6.6, 203.0.113.7"),
    (b"cookie", b"sid=x"),
]
HOSTILE = {"tokens": "a/1 " * 200, "brackets": "(" * 600, "letters beyond Latin-1": "ж" * 600}


def fresh() -> list[tuple[bytes, bytes]]:
    """The headers as new objects, of which none is any other."""
    return [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in HEADERS]


def say(name: str, call: Callable[[int], object]) -> None:
    """Time ``call`` and print it."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        for number in range(CALLS):
            call(number)
        rounds.append((time.process_time_ns() - begun) / CALLS)
    print(f"{name:<58}{min(rounds):>9,.0f}{statistics.median(rounds):>9,.0f}")


async def requests() -> None:
    """A request whose session is known, is new, and is due for a touch."""
    async with SessionDB("memory://") as db:
        made = await db.create("ann", ip=IP, user_agent=CHROME)
        runtime = db.runtime
        [record] = await runtime.load([made.session.sid])
        assert record is not None
        now = runtime.now()
        states = [State(runtime, now, Visitor(("".join([IP]), 1), fresh())) for _ in range(CALLS)]
        records: Sequence[Record] = [
            msgspec.structs.replace(record, sid=type(record.sid)("".join([*record.sid]))) for _ in range(CALLS)
        ]
        note_request(states[0], record)
        touch_when_due(states[0], record)
        recent = runtime.clients.recent

        def forgotten(number: int) -> None:
            recent.clear()
            note_request(states[number], records[number])

        def touched(number: int) -> None:
            runtime.clients.touched(states[number], records[number], now)

        say("a call of nothing", lambda number: None)
        say("a request of a session that is remembered", lambda number: note_request(states[number], records[number]))
        say("what it saves: whether a touch is due", lambda number: touch_when_due(states[number], records[number]))
        say("the first request of a session", forgotten)
        say("the client of a touch", touched)


def main() -> None:
    """Print all of it."""
    print(f"{'nanoseconds':<58}{'least':>9}{'median':>9}")
    asyncio.run(requests())
    for name, agent in {"Chrome": CHROME, "Safari": SAFARI, "curl": "curl/8.5.0", **HOSTILE}.items():
        cut = agent[:LONGEST_AGENT]
        say(f"a user agent that is new: {name}", lambda _, cut=cut: _parse.__wrapped__(cut))  # type: ignore[misc]
    peer = ("10.0.0.1", 1)
    headers = [fresh() for _ in range(CALLS)]
    for rule in (TrustedProxies(count=1), TrustedProxies(networks=["10.0.0.0/8"])):
        say(f"{rule}", lambda number, rule=rule: rule.client(peer, headers[number]))  # type: ignore[misc]
        say(
            "  a header that is new",
            lambda number, rule=rule: rule._resolve(peer[0], headers[number][9][1]),  # type: ignore[misc]
        )
    geo = Geo()
    say("the country of an address that is remembered", lambda number: geo.place(IP))


if __name__ == "__main__":
    main()
