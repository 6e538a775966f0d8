"""Sinks are given every event once it is written, and hold nobody up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sessiondb import sinks
from sessiondb.auditing import Audit
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import Event, EventType
from sessiondb.sinks import Telling, Webhook, log_events
from sessiondb.testing import Fail
from tests.harness import open_shop

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(sinks, "LONGEST_PAUSE", 0.002)


class Received:
    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []


@contextmanager
def receiver() -> Iterator[tuple[str, Received]]:
    """A server that keeps what it is sent, and answers with the next of ``answers``, or 204."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(received.answers.pop(0) if received.answers else 204)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def event(number: int = 1, type_: EventType = EventType.LOGIN) -> Event:
    return Event(type=type_, at=number, user_id="ann")


async def settled(telling: Telling) -> None:
    for line in telling._lines:
        if line._task is not None:
            await asyncio.wait_for(line._task, 20)


class TestTelling:
    async def test_a_sink_gets_what_was_written_in_its_order(self) -> None:
        found: list[Event] = []

        async def sink(events: Sequence[Event]) -> None:
            found.extend(events)

        async with open_shop(audit=Audit(sinks=[sink])) as shop:
            browser = await shop.logged_in("ann")
            await browser.do(lambda session: session.logout())
            await shop.db.revoke_all("bob")
            await shop.flush()
            await settled(shop.db.runtime.telling)
            types = [EventType.LOGIN, EventType.SESSION_ENDED, EventType.USER_REVOKED]
            assert [one.type for one in found] == types
            assert all(one.seal is not None for one in found)

    async def test_what_was_not_written_is_not_told(self) -> None:
        found: list[Event] = []
        async with open_shop(audit=Audit(sinks=[found.extend], required=True)) as shop:
            shop.faults.next("apply", Fail())
            assert (await shop.browser().do(lambda session: session.login("ann"))).status == 503
            await settled(shop.db.runtime.telling)
            assert found == []

    async def test_one_that_fails_is_given_the_same_again_and_holds_no_other_up(self) -> None:
        counters: Counter[str] = Counter()
        good: list[int] = []
        bad: list[list[int]] = []

        def broken(events: Sequence[Event]) -> None:
            bad.append([one.at for one in events])
            if len(bad) < 3:
                raise OSError("away")

        telling = Telling([broken, lambda events: good.extend(one.at for one in events)], counters)
        telling.tell([event(1), event(2)])
        await settled(telling)
        assert bad == [[1, 2]] * 3
        assert good == [1, 2]
        assert counters == {"failed_sinks": 2}

    async def test_after_twelve_tries_a_batch_is_dropped_and_counted(self) -> None:
        counters: Counter[str] = Counter()
        tries: list[int] = []

        def broken(events: Sequence[Event]) -> None:
            tries.append(events[0].at)
            if events[0].at == 1:
                raise OSError("away")

        telling = Telling([broken], counters)
        telling.tell([event(1)] * sinks.BATCH)
        telling.tell([event(2)])
        await settled(telling)
        assert tries == [1] * sinks.TRIES + [2]
        assert counters["dropped_sink_events"] == sinks.BATCH

    async def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sinks, "MOST_WAITING", 5)
        counters: Counter[str] = Counter()
        found: list[int] = []
        telling = Telling([lambda events: found.extend(one.at for one in events)], counters)
        telling.tell([event(number) for number in range(8)])
        await settled(telling)
        assert (found, counters["dropped_sink_events"]) == ([0, 1, 2, 3, 4], 3)

    async def test_closing_gives_what_waits_and_does_not_wait_for_ever(self) -> None:
        counters: Counter[str] = Counter()
        found: list[int] = []
        telling = Telling([lambda events: found.extend(one.at for one in events)], counters)
        telling.tell([event(1)])
        await telling.close(20)
        assert found == [1]

        async def hangs(events: Sequence[Event]) -> None:
            await asyncio.Event().wait()

        telling = Telling([hangs], counters)
        telling.tell([event(1)])
        await telling.close(0.01)
        assert counters["dropped_sink_events"] == 1

    async def test_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "sessiondb.audit")
        telling = Telling([log_events], Counter())
        telling.tell([event(7)])
        await settled(telling)
        [record] = caplog.records
        assert json.loads(record.getMessage())["at"] == 7


class TestWebhook:
    async def test_events_arrive_signed(self) -> None:
        with receiver() as (url, received):
            hook = Webhook(url=url, secret=SECRET)
            await hook([event(1), event(2)])
            [(headers, body)] = received.requests
            assert [json.loads(line)["at"] for line in body.splitlines()] == [1, 2]
            signed = headers["webhook-id"], headers["webhook-timestamp"], body, headers["webhook-signature"]
            assert Webhook.verify(SECRET, *signed)
            assert not Webhook.verify(SECRET[::-1], *signed)
            assert not Webhook.verify(SECRET, signed[0], signed[1], body + b" ", signed[3])
            assert not Webhook.verify(SECRET, "msg_other", signed[1], body, signed[3])
            assert not Webhook.verify(SECRET, signed[0], "1", body, hook.sign(signed[0], "1", body))
            assert not Webhook.verify(SECRET, signed[0], "x", body, signed[3])
            assert SECRET not in repr(hook)

    async def test_each_try_has_the_same_id_and_only_2xx_is_a_success(self) -> None:
        with receiver() as (url, received):
            received.answers = [500, 302, 429]
            counters: Counter[str] = Counter()
            telling = Telling([Webhook(url=url, secret=SECRET)], counters)
            telling.tell([event(1)])
            await settled(telling)
            assert len(received.requests) == 4
            assert len({headers["webhook-id"] for headers, _ in received.requests}) == 1
            assert counters == {"failed_sinks": 3}

    async def test_gone_is_the_end(self) -> None:
        with receiver() as (url, received):
            received.answers = [410]
            counters: Counter[str] = Counter()
            telling = Telling([Webhook(url=url, secret=SECRET)], counters)
            telling.tell([event(1)])
            await settled(telling)
            telling.tell([event(2)])
            await settled(telling)
            assert len(received.requests) == 1
            assert counters["dropped_sink_events"] == 1

    async def test_only_what_is_asked_for_is_sent(self) -> None:
        with receiver() as (url, received):
            hook = Webhook(url=url, secret=SECRET, types=[EventType.RISK_FOUND], format="ocsf")
            await hook([event(1)])
            assert received.requests == []
            await hook([event(1), event(2, EventType.RISK_FOUND)])
            [(_, body)] = received.requests
            assert json.loads(body)["class_uid"] == 2004

    def test_the_vector_of_the_specification(self) -> None:
        # standard-webhooks/standard-webhooks, libraries/python/tests
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        hook = Webhook(url="https://app.test/hook", secret=secret)
        signature = hook.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
        assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"url": "app.test"}, "https://host/path"),
            ({"url": "file:///etc/passwd"}, "https://host/path"),
            ({"secret": "short"}, "24 random bytes"),
            ({"secret": "whsec_!"}, "24 random bytes"),
            ({"format": "csv"}, "jsonl"),
            ({"types": "risk_found"}, "list of types"),
        ],
        ids=str,
    )
    def test_settings(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said) as error:
            Webhook(**{"url": "https://app.test/hook", "secret": SECRET, **settings})
        assert "short" not in str(error.value).replace("too short", "")
