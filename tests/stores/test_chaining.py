"""Events are sealed on their way: whatever becomes of a call, streams have no gaps and no place comes twice."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from held import NOW, end, put, record, touch
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiondb.core.change import Applied, Change, Create, Gone
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event, EventClass, EventType, class_of
from sessiondb.core.sealing import GENESIS, Lane, digest, stream_class
from sessiondb.core.token import Sid
from sessiondb.stores import chaining
from sessiondb.stores.base import Batching, ChangeResult, EventQuery, NotTogether, Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.recovering import RecoveringStore

LOST = StoreError("the connection broke", outcome="unknown")
AWAY = StoreUnavailable("nobody listens")
LOCKED = StoreError("the row is locked")


class Scripted(MemoryStore):
    """Each call of ``apply`` with events, and of ``append``, follows a word of its script, then all goes well.

    ``lost``: done, but nobody hears of it; ``never``: not even that; ``away``, ``locked``: certainly not done;
    ``each``: done, and each change answered "unknown";
    ``hang``: not done and never answered; ``done and hang``; ``bug``: raises what is no error of ours. Reads, and
    writes without events, always go well; each call takes a turn of the loop.
    """

    def __init__(self, *, together: bool = True) -> None:
        super().__init__(clock=lambda: NOW)
        self.batching = Batching(together=together)
        self.script: dict[str, list[str]] = {"apply": [], "append": []}
        self.calls: list[tuple[int, int]] = []  # changes and events of each call
        self.bad: set[Sid] = set()  # sessions whose data cannot be read
        self.lands_late: list[tuple[Sequence[Change], Sequence[Event]]] = []

    def _decide(self, change: Change, now: int, room: int) -> Any:
        if change.sid in self.bad:
            return None, SessionDataError("cannot be read", key="a")
        return super()._decide(change, now, room)

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        self.calls.append((len(changes), len(events)))
        await asyncio.sleep(0)
        if not events:
            return await super().apply(changes)
        done = await self._begin("apply")
        results = await super().apply(changes, events)
        await self._end(done)
        return [LOST for _ in results] if done == "each" else results

    async def append(self, events: Sequence[Event]) -> None:
        self.calls.append((0, len(events)))
        await asyncio.sleep(0)
        done = await self._begin("append")
        await super().append(events)
        await self._end(done)

    async def _begin(self, method: str) -> str:
        word = self.script[method].pop(0) if self.script[method] else "well"
        if word == "never":
            raise LOST
        if word == "away":
            raise AWAY
        if word == "locked":
            raise LOCKED
        if word == "bug":
            raise KeyError("bug")
        if word == "hang":
            await asyncio.Event().wait()
        return word

    async def _end(self, word: str) -> None:
        await asyncio.sleep(0)
        if word == "lost":
            raise LOST
        if word == "done and hang":
            await asyncio.Event().wait()


class Chain:
    """A store whose events are chained, and what was put off."""

    def __init__(self, *, together: bool = True, required: bool = False, recovering: bool = False) -> None:
        self.inner = Scripted(together=together)
        self.later: list[Event] = []
        self.told: list[Event] = []
        self.counters: Counter[str] = Counter()
        inner: Store = RecoveringStore(self.inner, pause=0) if recovering else self.inner
        self.store = ChainingStore(
            inner, later=self.later.append, required=required, told=self.told.extend, counters=self.counters
        )

    async def start(self, *changes: Change) -> None:
        await self.inner.open()
        if changes:
            await MemoryStore.apply(self.inner, changes)

    async def cancelled(self, call: Any) -> None:
        """Begin ``call``, and cancel it once it hangs."""
        task = asyncio.ensure_future(call)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def numbers(self) -> list[int]:
        """The numbers of all events that there are, sorted; the streams must be sound."""
        found: list[int] = []
        for stream in await self.inner.streams():
            events = await self.inner.trail(stream.name, 0, 10_000)
            head = GENESIS
            for seq, one in enumerate(events, 1):
                assert one.seal is not None
                assert (one.seal.stream, one.seal.seq, one.seal.previous) == (stream.name, seq, head)
                assert class_of(one.type) == stream_class(stream.name)
                head = digest(one, one.seal)
                found.append(int(one.details["n"]))
        return sorted(found)

    async def streams(self) -> int:
        return len(await self.inner.streams())


def event(number: int, sid: str | None = None, type_: EventType = EventType.LOGIN) -> Event:
    return Event(type=type_, at=NOW, sid=sid, details={"n": number})


async def opened(*changes: Change, **options: Any) -> Chain:
    chain = Chain(**options)
    await chain.start(*changes)
    return chain


class TestStreams:
    async def test_calls_one_after_the_other_share_a_stream_for_each_class(self) -> None:
        chain = await opened()
        for n in range(5):
            one = record()
            assert await chain.store.apply([Create(one)], [event(2 * n, one.sid)]) == [Applied(1)]
            await chain.store.append([event(2 * n + 1, type_=EventType.SESSION_ENDED)])
        assert await chain.numbers() == list(range(10))
        assert await chain.streams() == 2

    async def test_one_call_may_have_events_of_every_class(self) -> None:
        chain = await opened()
        kinds = [
            EventType.LOGIN,
            EventType.USER_LOCKED,
            EventType.SESSION_ENDED,
            EventType.LOGIN,
            EventType.SESSION_ENDED,
        ]
        await chain.store.append([event(n, type_=kind) for n, kind in enumerate(kinds)])
        await chain.store.append([event(n + 5, type_=kind) for n, kind in enumerate(kinds)])
        assert await chain.numbers() == list(range(10))
        assert await chain.streams() == len(EventClass)

    async def test_concurrent_calls_make_streams_without_gaps(self) -> None:
        chain = await opened()

        async def call(n: int) -> None:
            for _ in range(n % 7):
                await asyncio.sleep(0)
            if n % 3:
                one = record()
                assert await chain.store.apply([Create(one)], [event(n, one.sid)]) == [Applied(1)]
            else:
                await chain.store.append([event(n)])

        await asyncio.gather(*(call(n) for n in range(200)))
        assert await chain.numbers() == list(range(200))
        before = await chain.streams()
        await asyncio.gather(*(call(n + 200) for n in range(200)))
        assert await chain.numbers() == list(range(400))
        assert await chain.streams() <= before + 10, "streams are used again"

    async def test_what_has_been_written_is_told_once(self) -> None:
        chain = await opened()
        one = record()
        chain.inner.script["append"] = ["never", "lost"]
        await chain.store.apply([Create(one)], [event(0, one.sid)])
        for n in (1, 2):
            with pytest.raises(StoreError):
                await chain.store.append([event(n)])
        await chain.store.append([event(3)])
        assert sorted(one.details["n"] for one in chain.told) == [0, 1, 3]
        assert all(one.seal is not None for one in chain.told)

    async def test_a_sealed_event_goes_where_its_seal_says(self) -> None:
        chain = await opened()
        events = Lane(EventClass.ADMIN).seal([event(n, type_=EventType.USER_LOCKED) for n in range(3)])
        await chain.store.append(events)
        assert await chain.numbers() == [0, 1, 2]
        assert chain.told == events

    async def test_an_event_that_cannot_be_sealed_fails_its_own_change_alone(self) -> None:
        chain = await opened()
        good, bad = record(), record()
        odd = dataclasses.replace(event(1, bad.sid), details={"n": object()})
        [first, second] = await chain.store.apply([Create(good), Create(bad)], [event(0, good.sid), odd])
        assert first == Applied(1)
        assert isinstance(second, StoreError)
        assert second.outcome == "not_applied"
        with pytest.raises(StoreError, match="authn_login_success holds what cannot be written"):
            await chain.store.append([odd])
        await chain.store.append([event(2)])
        assert await chain.numbers() == [0, 2]
        assert await chain.streams() == 1


class TestFailures:
    """After each of them the next calls go on as if nothing had been."""

    @pytest.mark.parametrize(("word", "written"), [("away", 0), ("never", 0), ("lost", 1)])
    async def test_a_call_that_raises(self, word: str, written: int) -> None:
        chain = await opened()
        one, two = record(), record()
        await chain.store.append([event(0)])
        chain.inner.script["apply"] = [word]
        with pytest.raises(StoreError):
            await chain.store.apply([Create(one), Create(two)], [event(1, one.sid), event(2, two.sid)])
        chain.inner.script["apply"] = [word]
        with pytest.raises(StoreError):
            await chain.store.apply([Create(record())], [event(3)])
        for n in (4, 5):
            new = record()
            assert await chain.store.apply([Create(new)], [event(n, new.sid)]) == [Applied(1)]
        assert await chain.numbers() == [0, *[1, 2, 3] * written, 4, 5]
        assert await chain.streams() == {"away": 1, "never": 2, "lost": 3}[word]

    @pytest.mark.parametrize(("word", "written"), [("hang", 0), ("done and hang", 1)])
    async def test_a_call_that_is_cancelled(self, word: str, written: int) -> None:
        chain = await opened()
        one, two = record(), record()
        await chain.store.append([event(0)])
        chain.inner.script["apply"] = [word]
        await chain.cancelled(chain.store.apply([Create(one), Create(two)], [event(1), event(2)]))
        chain.inner.script["apply"] = [word]
        await chain.cancelled(chain.store.apply([Create(one)], [event(3)]))
        new = record()
        assert await chain.store.apply([Create(new)], [event(4, new.sid)]) == [Applied(1)]
        assert await chain.numbers() == [0, *[1, 2, 3] * written, 4]

    async def test_a_change_that_is_answered_unknown(self) -> None:
        chain = await opened()
        one, two = record(), record()
        chain.inner.script["apply"] = ["each", "each"]
        assert await chain.store.apply([Create(one)], [event(0)]) == [LOST]
        assert await chain.store.apply([Create(two), Create(record())], [event(1), event(2)]) == [LOST, LOST]
        await chain.store.append([event(3)])
        assert await chain.numbers() == [0, 1, 2, 3]

    async def test_a_refused_change_leaves_its_event(self) -> None:
        chain = await opened()
        one = record()
        assert await chain.store.apply([put(one.sid, a=1)], [event(0, one.sid)]) == [Gone(None)]
        assert await chain.store.apply([put(one.sid, a=1), end(one.sid)][:1], [event(1, one.sid)]) == [Gone(None)]
        assert await chain.numbers() == [0, 1]

    async def test_a_session_that_cannot_be_read_leaves_none_and_ends_no_stream(self) -> None:
        one = record()
        chain = await opened(Create(one))
        chain.inner.bad.add(one.sid)
        for n in range(3):
            [result] = await chain.store.apply([put(one.sid, a=1)], [event(n, one.sid)])
            assert isinstance(result, SessionDataError)
            await chain.store.append([event(10 + n)])
        assert await chain.numbers() == [10, 11, 12]
        assert (await chain.streams(), chain.later) == (1, [])

    async def test_a_late_first_attempt_does_no_harm(self) -> None:
        """Cancelled, and written by the database all the same when the next calls have long gone on."""
        chain = await opened()
        chain.inner.script["apply"] = ["hang"]
        late: list[tuple[Sequence[Change], Sequence[Event]]] = []
        real = chain.inner.apply

        async def remember(changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
            late.append((changes, events))
            return await real(changes, events)

        chain.inner.apply = remember  # type: ignore[method-assign]
        await chain.store.append([event(0)])
        await chain.cancelled(chain.store.apply([Create(record())], [event(1)]))
        for n in (2, 3):
            assert await chain.store.apply([Create(record())], [event(n)]) == [Applied(1)]
        await MemoryStore.apply(chain.inner, *late[0])
        assert await chain.numbers() == [0, 1, 2, 3]


class TestSplitting:
    async def test_one_that_cannot_be_written_fails_alone(self) -> None:
        old, bad, gone = record(), record(), record()
        chain = await opened(Create(old), Create(bad))
        chain.inner.bad.add(bad.sid)
        new = record()
        changes = [put(bad.sid, a=1), put(gone.sid, a=1), Create(new), end(old.sid), touch(record().sid)]
        events = [event(0, bad.sid), event(1, gone.sid), event(2, new.sid), event(3, old.sid), event(4), event(5, "x")]
        results = await chain.store.apply(changes, events)
        assert isinstance(results[0], SessionDataError)
        assert results[1:] == [Gone(None), Applied(1), Applied(2), Gone(None)]
        assert await chain.numbers() == [1, 2, 3, 4, 5], "those of none come with the first that can be written"
        assert chain.later == []

    async def test_where_a_place_is_taken_all_are_written_into_another_stream(self) -> None:
        for required in (False, True):
            chain = await opened(required=required)
            await chain.store.append([event(0)])
            await self.take(chain)
            one, two = record(), record()
            results = await chain.store.apply([Create(one), Create(two)], [event(1, one.sid), event(2, two.sid)])
            assert results == [Applied(1), Applied(1)]
            assert chain.later == []
            assert chain.counters == {"taken_places": 1}
            found = sorted(int(one.details["n"]) for one in (await chain.inner.events(EventQuery())).events)
            assert found == [0, 1, 2, 99]
            assert await chain.streams() == 2

    async def test_where_a_place_is_taken_a_lone_change_is_written_into_another_stream(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        chain = await opened(required=True)
        await chain.store.append([event(0)])
        await self.take(chain)
        one = record()
        assert await chain.store.apply([Create(one)], [event(1, one.sid)]) == [Applied(1)]
        assert "has been tampered with. Run sessiondb audit verify." in caplog.text

    async def test_one_whose_fate_is_unknown_does_not_take_the_others_answers(self) -> None:
        one, bad, two = record(), record(), record()
        chain = await opened(Create(bad))
        chain.inner.bad.add(bad.sid)
        chain.inner.script["apply"] = ["well", "lost"]
        results = await chain.store.apply(
            [Create(one), put(bad.sid, a=1), Create(two)], [event(0, one.sid), event(1, two.sid)]
        )
        assert results[0] == LOST
        assert isinstance(results[1], SessionDataError)
        assert results[2] == Applied(1)
        assert await chain.numbers() == [0, 1]

    @staticmethod
    async def take(chain: Chain) -> None:
        """Somebody writes where this process would write next."""
        [stream] = await chain.inner.streams()
        lane = Lane(EventClass.LOGIN)
        lane.stream, lane.seq = stream.name, 1
        await MemoryStore.append(chain.inner, lane.seal([event(99)]))


class TestRequired:
    async def test_by_default_a_change_is_written_without_the_event_that_cannot_be(self) -> None:
        chain = await opened()
        one, lone = record(), event(0)
        chain.inner.script["apply"] = ["locked"]
        assert await chain.store.apply([Create(one)], [lone]) == [Applied(1)]
        assert (chain.later, chain.counters) == ([lone], {"unsealed_events": 1})
        assert await chain.numbers() == []

    async def test_where_it_is_required_it_is_not(self) -> None:
        chain = await opened(required=True)
        one = record()
        chain.inner.script["apply"] = ["locked"]
        assert await chain.store.apply([Create(one)], [event(0)]) == [LOCKED]
        assert await chain.inner.load([one.sid]) == [None]
        assert (chain.later, chain.counters) == ([], {})
        assert await chain.store.apply([Create(one)], [event(1)]) == [Applied(1)]
        assert await chain.numbers() == [1]

    async def test_an_outage_is_an_outage_in_either_case(self) -> None:
        for required in (False, True):
            chain = await opened(required=required)
            chain.inner.script["apply"] = ["away"]
            with pytest.raises(StoreUnavailable):
                await chain.store.apply([Create(record())], [event(0)])
            assert (chain.inner.calls, chain.later) == ([(1, 1)], [])


class TestBeside:
    async def test_events_go_beside_the_changes(self) -> None:
        chain = await opened(together=False)
        one, two = record(), record()
        results = await chain.store.apply([Create(one), Create(two)], [event(0), event(1)])
        assert results == [Applied(1), Applied(1)]
        assert sorted(chain.inner.calls) == [(0, 2), (2, 0)]
        assert await chain.numbers() == [0, 1]

    async def test_but_with_them_where_that_is_required(self) -> None:
        chain = await opened(together=False, required=True)
        assert await chain.store.apply([Create(record())], [event(0)]) == [Applied(1)]
        assert chain.inner.calls == [(1, 1)]

    async def test_what_cannot_be_written_comes_later(self) -> None:
        chain = await opened(together=False)
        chain.inner.script["append"] = ["away"]
        assert await chain.store.apply([Create(record())], [event(0)]) == [Applied(1)]
        assert [one.details["n"] for one in chain.later] == [0]
        assert await chain.numbers() == []

    @pytest.mark.parametrize("word", ["never", "lost"])
    async def test_what_nobody_knows_of_is_written_again_and_not_put_off(self, word: str) -> None:
        chain = await opened(together=False)
        chain.inner.script["append"] = [word]
        assert await chain.store.apply([Create(record())], [event(0)]) == [Applied(1)]
        assert chain.later == []
        await chain.store.append([])
        assert await chain.numbers() == [0]

    async def test_an_event_is_written_whatever_becomes_of_its_change(self) -> None:
        one = record()
        chain = await opened(Create(one), together=False)
        chain.inner.bad.add(one.sid)
        [result] = await chain.store.apply([put(one.sid, a=1)], [event(0)])
        assert isinstance(result, SessionDataError)
        assert await chain.numbers() == [0]

    @pytest.mark.parametrize("word", ["hang", "done and hang"])
    async def test_a_cancelled_call_is_let_go_at_once_and_its_event_is_kept(self, word: str) -> None:
        chain = await opened(together=False)
        chain.inner.script["append"] = [word]
        await chain.cancelled(chain.store.apply([Create(record())], [event(0)]))
        await chain.store.append([event(1)])
        assert await chain.numbers() == [0, 1]


class TestOpen:
    @pytest.mark.parametrize("word", ["never", "lost"])
    async def test_what_nobody_knows_of_is_written_again_with_the_next(self, word: str) -> None:
        chain = await opened()
        await chain.store.append([event(0)])
        chain.inner.script["append"] = [word]
        with pytest.raises(StoreError) as caught:
            await chain.store.append([event(1), event(2)])
        assert caught.value.outcome == "unknown"
        await chain.store.append([event(3)])
        assert await chain.numbers() == [0, 1, 2, 3]

    @pytest.mark.parametrize("word", ["hang", "done and hang"])
    async def test_so_is_what_was_cancelled(self, word: str) -> None:
        chain = await opened()
        chain.inner.script["append"] = [word]
        await chain.cancelled(chain.store.append([event(0)]))
        await asyncio.gather(*(chain.store.append([event(n)]) for n in range(1, 10)))
        assert await chain.numbers() == list(range(10))

    async def test_as_long_as_that_cannot_be_told_the_next_are_not_tried(self) -> None:
        chain = await opened()
        chain.inner.script["append"] = ["never", "away", "never"]
        with pytest.raises(StoreError) as caught:
            await chain.store.append([event(0)])
        assert caught.value.outcome == "unknown"
        for n in (1, 2):
            with pytest.raises(StoreError, match="were not tried") as caught:
                await chain.store.append([event(n)])
            assert caught.value.outcome == "not_applied"
        assert [events for _, events in chain.inner.calls] == [1, 1, 1]
        await chain.store.append([event(3)])
        assert await chain.numbers() == [0, 3]

    async def test_what_was_cancelled_while_it_waited_for_that_is_kept_too(self) -> None:
        chain = await opened()
        chain.inner.script["append"] = ["never", "hang"]
        with pytest.raises(StoreError):
            await chain.store.append([event(0)])
        await chain.cancelled(chain.store.append([event(1)]))
        await chain.store.append([])
        assert await chain.numbers() == [0, 1]

    async def test_closing_writes_it_again(self) -> None:
        chain = await opened()
        chain.inner.script["append"] = ["never"]
        with pytest.raises(StoreError):
            await chain.store.append([event(0)])
        await chain.store.close()
        await chain.inner.open()
        assert await chain.numbers() == [0]
        assert chain.counters == {}

    async def test_what_cannot_be_written_at_the_end_is_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        chain = await opened()
        chain.inner.script["append"] = ["never", "away"]
        with pytest.raises(StoreError):
            await chain.store.append([event(0), event(1)])
        await chain.store.close()
        assert chain.counters == {"dropped_events": 2}
        assert "memory: 2 events were dropped: nobody knows whether they were written." in caplog.text
        with pytest.raises(StoreUnavailable):
            await chain.inner.streams()

    async def test_there_is_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chaining, "MOST_OPEN", 5)
        chain = await opened()
        chain.inner.script["append"] = ["hang"] * 4
        for n in range(4):
            await chain.cancelled(chain.store.append([event(2 * n), event(2 * n + 1)]))
        assert chain.counters == {"dropped_events": 4}
        await chain.store.append([event(8)])
        assert await chain.numbers() == [4, 5, 6, 7, 8]

    async def test_what_the_store_does_not_take_stands_in_nobodys_way(self) -> None:
        chain = await opened()
        chain.inner.script["append"] = ["bug"]
        with pytest.raises(KeyError):
            await chain.store.append([event(0)])
        await chain.store.append([event(1)])
        chain.inner.script["append"] = ["never", "bug"]
        with pytest.raises(StoreError):
            await chain.store.append([event(2)])
        await chain.store.append([event(3)])
        assert await chain.numbers() == [1, 3]
        assert chain.counters == {"dropped_events": 2}

    async def test_a_store_around_settles_lost_replies_at_once(self) -> None:
        chain = await opened(recovering=True)
        chain.inner.script["append"] = ["never", "lost"]
        await chain.store.append([event(0)])
        chain.inner.script["append"] = ["never"] * 4
        with pytest.raises(StoreError) as caught:
            await chain.store.append([event(1)])
        assert caught.value.outcome == "unknown"
        await chain.store.append([event(2)])
        assert await chain.numbers() == [0, 1, 2]


words = st.sampled_from(["well", "well", "lost", "never", "away", "locked", "each"])
calls = st.lists(
    st.tuples(st.sampled_from(["append", "one", "three", "bad", "gone"]), st.integers(0, 6), st.integers(0, 25)),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(calls, st.lists(words, max_size=30), st.lists(words, max_size=30), st.booleans(), st.booleans(), st.booleans())
def test_whatever_happens(
    made: list[tuple[str, int, int]],
    applies: list[str],
    appends: list[str],
    required: bool,
    together: bool,
    recovering: bool,
) -> None:
    """Streams are sound; what was answered is there once; where that is required, no change is without its event."""

    async def run() -> None:
        bad = record()
        chain = await opened(Create(bad), required=required, together=together, recovering=recovering)
        chain.inner.bad.add(bad.sid)
        chain.inner.script = {"apply": list(applies), "append": list(appends)}
        answered: set[int] = set()
        changed: dict[int, Sid] = {}

        async def call(kind: str, start: int, cancelled_after: int, first: int) -> None:
            for _ in range(start):
                await asyncio.sleep(0)
            if kind == "append":
                await chain.store.append([event(first)])
                answered.add(first)
                return
            changes: list[Change] = [Create(record()) for _ in range(3 if kind == "three" else 1)]
            if kind == "bad":
                changes.append(put(bad.sid, a=1))
            if kind == "gone":
                changes = [put(record().sid, a=1)]
            numbers = range(first, first + len(changes))
            for n, change in zip(numbers, changes, strict=True):
                if isinstance(change, Create):
                    changed[n] = change.sid
            results = await chain.store.apply(
                changes, [event(n, change.sid) for n, change in zip(numbers, changes, strict=True)]
            )
            for n, result in zip(numbers, results, strict=True):
                if not isinstance(result, (StoreError, SessionDataError)):
                    answered.add(n)

        async def cancelling(number: int, kind: str, start: int, turns: int) -> None:
            task = asyncio.ensure_future(call(kind, start, turns, number * 10))
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns % 2:
                task.cancel()
            try:
                await task
            except (StoreError, asyncio.CancelledError):
                pass

        await asyncio.gather(*(cancelling(number, *one) for number, one in enumerate(made)))
        chain.inner.script = {"apply": [], "append": []}
        await chain.store.append([])
        await chain.store.append(chain.later)
        numbers = Counter(await chain.numbers())
        assert max(numbers.values(), default=1) == 1
        assert answered <= numbers.keys()
        if required:
            for n, sid in changed.items():
                [found] = await chain.inner.load([sid])
                assert found is None or n in numbers

    asyncio.run(run())


async def test_not_together_never_reaches_the_caller() -> None:
    one = record()
    chain = await opened(Create(one))
    chain.inner.bad.add(one.sid)
    try:
        await chain.store.apply([put(one.sid, a=1), Create(record())], [event(0)])
    except NotTogether:
        pytest.fail("it was not split up")
