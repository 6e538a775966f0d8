"""Sinks: whoever is told of each event once it is written. The audit trail has them all, whatever becomes of a sink."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sessiondb.calling import call
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import Event
from sessiondb.core.exporting import FORMATS, Format
from sessiondb.core.keys import HOW_TO_MAKE_ONE

log = logging.getLogger("sessiondb")

Sink = Callable[[Sequence[Event]], "Awaitable[None] | None"]
"""Is given events as they are written, in batches. What it raises has them given again."""

MOST_WAITING = 10_000
BATCH = 100
TIMEOUT = 20.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
TRIES = 12


def log_events(events: Sequence[Event]) -> None:
    """A sink that logs each event as a line of JSON (logger ``sessiondb.audit``, level INFO)."""
    logger = logging.getLogger("sessiondb.audit")
    for event in events:
        logger.info("%s", FORMATS["jsonl"](event).rstrip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A sink that posts events to ``url``, signed as the Standard Webhooks specification has it.

    * ``secret``: at least 24 random bytes, as text or bytes; a ``whsec_`` before base64 is understood.
    * ``types`` (all): the types of events that are sent.
    * ``format`` (``"jsonl"``): ``"jsonl"``, ``"otel"`` or ``"ocsf"``, a line an event.

    Headers: ``webhook-id`` (the same for each try of one batch: whoever gets it twice can tell),
    ``webhook-timestamp``, ``webhook-signature`` (``v1,`` and the base64 of HMAC-SHA-256 over ``id.timestamp.body``);
    ``Webhook.verify`` checks them. Any answer but 2xx is a failure; what fails is sent again after 1, 2, 4, ...
    seconds, with jitter, twelve times (about half an hour). ``410 Gone`` stops it for good.
    """

    url: str
    secret: str | bytes = field(repr=False)
    types: Collection[str] | None = None
    format: Format = "jsonl"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url) if isinstance(self.url, str) else urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"Webhook: url is {self.url!r:.200}; use https://host/path.")
        if len(_secret_bytes(self.secret)) < 24:
            raise ConfigurationError(f"Webhook: secret is too short; use 24 random bytes or more. {HOW_TO_MAKE_ONE}.")
        if self.format not in ("jsonl", "otel", "ocsf"):
            raise ConfigurationError(f"Webhook: format is {self.format!r:.100}; use 'jsonl', 'otel' or 'ocsf'.")
        if isinstance(self.types, str):
            raise ConfigurationError("Webhook: types is one text; use a list of types of events.")

    async def __call__(self, events: Sequence[Event]) -> None:
        """Send ``events`` in one request. Raises ``OSError`` if they were not taken."""
        wanted = [event for event in events if self.types is None or event.type in self.types]
        if not wanted:
            return
        body = "".join(map(FORMATS[self.format], wanted)).encode()
        # Of the events themselves: a repeated try has the same.
        digest = hashlib.sha256(body).hexdigest()[:32]
        await asyncio.to_thread(self._post, f"msg_{digest}", body)

    def _post(self, message_id: str, body: bytes) -> None:
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/x-ndjson",
            "user-agent": "sessiondb",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": self.sign(message_id, timestamp, body),
        }
        request = urllib.request.Request(self.url, body, headers, method="POST")  # noqa: S310  checked above
        with _OPENER.open(request, timeout=self.timeout) as answer:
            answer.read(1)

    def sign(self, message_id: str, timestamp: str, body: bytes) -> str:
        """The value of ``webhook-signature``."""
        message = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.digest(_secret_bytes(self.secret), message, "sha256")
        return f"v1,{base64.b64encode(digest).decode()}"

    @staticmethod
    def verify(
        secret: str | bytes, message_id: str, timestamp: str, body: bytes, signature: str, *, tolerance: float = 300.0
    ) -> bool:
        """For whoever receives it: whether ``signature`` is right, and ``timestamp`` within ``tolerance`` seconds."""
        if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > tolerance:
            return False
        message = f"{message_id}.{timestamp}.".encode() + body
        expected = base64.b64encode(hmac.digest(_secret_bytes(secret), message, "sha256")).decode()
        versions = (one.partition(",") for one in signature.split())
        return any(version == "v1" and hmac.compare_digest(expected, given) for version, _, given in versions)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send what was signed for one place to another."""

    def redirect_request(self, *_: object) -> None:
        """None."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _secret_bytes(secret: str | bytes) -> bytes:
    if isinstance(secret, str):
        if secret.startswith("whsec_"):
            try:
                return base64.b64decode(secret[6:] + "=" * (-len(secret[6:]) % 4), validate=True)
            except ValueError:
                return b""
        return secret.encode()
    return secret


class Telling:
    """Gives events to the sinks of one event loop, each at its own pace, in the order of their coming.

    What a sink has not taken yet is kept, 10,000 events at most; what is over that is dropped and counted
    (``dropped_sink_events``), and what waits when the process is killed is lost to the sink.
    """

    def __init__(self, sinks: Sequence[Sink], counters: Counter[str]) -> None:
        self._lines = [_Line(sink, counters) for sink in sinks]

    def tell(self, events: Sequence[Event]) -> None:
        """``events`` have been written."""
        for line in self._lines:
            line.add(events)

    async def close(self, timeout: float) -> None:
        """Give what waits, for ``timeout`` seconds at most."""
        await asyncio.gather(*(line.close(timeout) for line in self._lines))


class _Line:
    def __init__(self, sink: Sink, counters: Counter[str]) -> None:
        self._sink = sink
        self._counters = counters
        self._waiting: deque[Event] = deque()
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._gone = False

    def add(self, events: Sequence[Event]) -> None:
        if self._gone:
            return
        room = max(0, MOST_WAITING - len(self._waiting))
        self._waiting.extend(events[:room])
        if len(events) > room:
            self._counters["dropped_sink_events"] += len(events) - room
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, timeout: float) -> None:
        self._hurry.set()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=timeout)
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._waiting:
            self._counters["dropped_sink_events"] += len(self._waiting)
            log.warning("%d events were not given to %s before closing.", len(self._waiting), _name(self._sink))
            self._waiting.clear()

    async def _run(self) -> None:
        pause, tries = FIRST_PAUSE, 0
        while self._waiting:
            batch = [self._waiting[at] for at in range(min(BATCH, len(self._waiting)))]
            try:
                async with asyncio.timeout(TIMEOUT):
                    await call(self._sink, batch)
            except Exception as error:
                tries += 1
                self._failed(error, tries)
                if self._hurry.is_set() or self._gone:
                    return
                if tries < TRIES:
                    await self._rest(pause * (0.5 + secrets.randbelow(1000) / 1000))
                    pause = min(pause * 2, LONGEST_PAUSE)
                    continue
                self._counters["dropped_sink_events"] += len(batch)
            for _ in batch:
                self._waiting.popleft()
            pause, tries = FIRST_PAUSE, 0

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def _failed(self, error: Exception, tries: int) -> None:
        self._counters["failed_sinks"] += 1
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code == 410:
                self._gone = True
                self._counters["dropped_sink_events"] += len(self._waiting)
                self._waiting.clear()
                log.error("%s answers 410 Gone and gets no more events.", _name(self._sink))
                return
        if tries == 1:
            log.error("%s failed, and is tried again: %s", _name(self._sink), error)
        elif tries == TRIES:
            log.error("%s failed %d times; a batch of events is not given to it.", _name(self._sink), tries)


def _name(sink: Sink) -> str:
    if isinstance(sink, Webhook):
        return f"The webhook {urlsplit(sink.url).hostname}"
    return f"The sink {getattr(sink, '__qualname__', type(sink).__qualname__)}"
