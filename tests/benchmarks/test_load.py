"""The load generator sends what it should, checks what comes back, and notices what an app loses."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks import cpu, load, machine
from benchmarks.load import LOGIN, LOGOUT, READ, WRITE
from benchmarks.measure import Cell, Scale, check
from benchmarks.variants import VARIANTS

Answer = Callable[[str, str], tuple[str, str]]  # from a path and a cookie to a body and the cookie to set


class Site:
    """A server on the wire, and what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: Counter[tuple[str, str]] = Counter()
        self.under_way: Counter[str] = Counter()
        self.most_of_one_session = 0
        self.port = 0
        self.pieces = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ", 2)[1]
                found = re.search("Cookie: (.*)\r\n", head)
                cookie = found[1] if found else ""
                self.asked[path, cookie] += 1
                self.under_way[cookie] += 1
                self.most_of_one_session = max(self.most_of_one_session, self.under_way[cookie])
                await asyncio.sleep(0)
                self.under_way[cookie] -= 1
                body, new = self.answer(path, cookie)
                lines = [
                    "HTTP/1.1 200 OK",
                    f"content-length: {len(body)}",
                    *([f"set-cookie: {new}; path=/"] if new else []),
                ]
                answer = "\r\n".join([*lines, "", body]).encode()
                for part in (answer[:20], answer[20:-3], answer[-3:]) if self.pieces else (answer,):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def site(answer: Answer) -> AsyncIterator[Site]:
    made = Site(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


def right(path: str, cookie: str) -> tuple[str, str]:
    return {"/read": '{"items":3}', "/write": '{"seen":2}'}.get(path, '{"ok":true}'), ""


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in pieces"])
async def test_reads_take_all_sessions_in_turn_and_none_twice_at_once(pieces: bool) -> None:
    async with site(right) as there:
        there.pieces = pieces
        cookies = [f"sid={number}".encode() for number in range(20)]
        outcome = await load.run(there.port, READ, cookies, 200, 8)
        assert outcome.requests == len(outcome.latencies) == there.asked.total() == 200
        assert {cookie for _, cookie in there.asked} == {cookie.decode() for cookie in cookies}
        assert there.most_of_one_session == 1
        assert 0 < outcome.quantile(0.5) <= outcome.quantile(0.99)
        assert outcome.own_cpu > 0


async def test_the_next_request_has_the_cookie_that_was_set() -> None:
    def count(path: str, cookie: str) -> tuple[str, str]:
        return '{"seen":9}', f"n={int(cookie.removeprefix('n=')) + 1}"

    async with site(count) as there:
        cookies = [b"n=0"]
        await load.run(there.port, WRITE, cookies, 5, 1)
        assert cookies == [b"n=5"]
        assert sorted(cookie for _, cookie in there.asked) == ["n=0", "n=1", "n=2", "n=3", "n=4"]


async def test_each_login_and_each_logout_is_sent_once() -> None:
    numbers = iter(range(1000))

    async with site(lambda path, cookie: ('{"ok":true}', f"sid={next(numbers)}" if path == "/login" else "")) as there:
        cookies = [b""] * 50
        await load.run(there.port, LOGIN, cookies, 50, 8)
        assert there.asked == {("/login", ""): 50}
        assert len(set(cookies)) == 50
        there.asked.clear()
        outcome = await load.run(there.port, LOGOUT, cookies, 5000, 8)
        assert outcome.requests == 50
        assert sorted(there.asked.values()) == [1] * 50


async def test_it_stops_after_a_time() -> None:
    async with site(right) as there:
        outcome = await load.run(there.port, READ, [b"a=1"], 1_000_000_000, 2, longest=0.0)
        assert outcome.requests == 2


@pytest.mark.parametrize(
    "answer", [lambda path, cookie: ('{"items":0}', ""), lambda path, cookie: ("", "")], ids=["lost", "empty"]
)
async def test_a_wrong_answer_ends_it(answer: Answer) -> None:
    async with site(answer) as there:
        with pytest.raises(RuntimeError, match="/read answered"):
            await load.run(there.port, READ, [b"a=1"], 100, 4)


async def test_a_server_that_hangs_up_ends_it() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ConnectionError):
            await load.run(server.sockets[0].getsockname()[1], READ, [b"a=1"], 10, 2)


class Sessions:
    """An app that keeps sessions, and may do so badly."""

    def __init__(self, *, forgets: bool = False, revokes: bool = True, cookies: bool = True) -> None:
        self.seen: dict[str, int] = {}
        self.forgets, self.revokes, self.cookies = forgets, revokes, cookies

    def __call__(self, path: str, cookie: str) -> tuple[str, str]:
        if path == "/login":
            self.seen["sid=1"] = 1
            return '{"ok":true}', "sid=1" if self.cookies else ""
        if path == "/logout":
            if self.revokes:
                self.seen.pop(cookie, None)
            return '{"ok":true}', ""
        if path == "/read":
            return f'{{"items":{3 if cookie in self.seen else 0}}}', ""
        seen = self.seen.get(cookie, 0) + 1
        if not self.forgets:
            self.seen[cookie] = seen
        return f'{{"seen":{seen}}}', ""


async def test_what_keeps_sessions_is_let_in() -> None:
    async with site(Sessions()) as there:
        await check(there.port, VARIANTS["sessiondb memory"])
    async with site(Sessions(revokes=False)) as there:
        await check(there.port, VARIANTS["cookie"])


@pytest.mark.parametrize(
    "bad", [Sessions(forgets=True), Sessions(revokes=False), Sessions(cookies=False)], ids=["forgets", "keeps", "mute"]
)
async def test_what_does_not_keep_sessions_is_noticed(bad: Sessions) -> None:
    async with site(bad) as there:
        with pytest.raises(RuntimeError):
            await check(there.port, VARIANTS["sessiondb memory"])


def test_the_cpu_of_a_process_and_of_its_children() -> None:
    code = (
        "import subprocess, sys, time\n"
        "burn = 'import time\\nwhile time.process_time() < 0.2: pass\\nprint(flush=True)\\ninput()'\n"
        "child = subprocess.Popen([sys.executable, '-c', burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(flush=True)\ninput()\nchild.communicate(b'\\n')\nprint(flush=True)\ninput()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdout.readline()
    assert cpu.of_family(parent.pid) >= 0.2
    parent.stdin.write(b"\n")
    parent.stdin.flush()
    parent.stdout.readline()
    # The child has ended: what it took stays with its parent, in ticks.
    assert cpu.of_family(parent.pid) >= 0.17
    parent.communicate(b"\n")
    assert cpu.of_process(parent.pid) == cpu.of_family(parent.pid) == 0.0


def test_the_cpu_of_this_process() -> None:
    before, end = cpu.of_process(os.getpid()), time.process_time() + 0.01
    while time.process_time() < end:
        pass
    assert 0.009 <= cpu.of_process(os.getpid()) - before < 10


def test_the_parts_of_a_round_count_by_what_they_took() -> None:
    parts = [load.Outcome(1.0, 2, 0.1, [0.3, 0.1]), load.Outcome(3.0, 1, 0.5, [0.2])]
    assert load.Outcome.of(parts) == load.Outcome(4.0, 3, pytest.approx(0.4), [0.3, 0.1, 0.2])


@pytest.mark.parametrize(
    ("kind", "connections", "parts"),
    [("read", 32, [1142] * 7), ("login", 32, [1333] * 3), ("read", 1, [1000] * 2), ("read", 256, [8000])],
)
def test_a_round_goes_in_parts_in_which_each_connection_has_some_turns(
    kind: str, connections: int, parts: list[int]
) -> None:
    assert Scale(5, 8000, 5000).parts(Cell(kind, connections)) == parts


def test_the_app_has_a_processor_of_its_own_for_as_long_as_it_is_measured() -> None:
    before = os.sched_getaffinity(0)
    with machine.divided() as processors:
        assert not processors & os.sched_getaffinity(0) if len(before) > 1 else not processors
        assert processors | os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before
