"""Every kind of tampering with a stream is found, and where it was done; what was done for good reason is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.checkpoints import Head
from sessiondb.core.events import Event, EventClass, EventType, Seal
from sessiondb.core.sealing import GROUPS, Group, Lane, blanked, digest, seal
from sessiondb.core.statements import Vouched, statement
from sessiondb.core.verifying import MOST_PROBLEMS, Problem, StreamVerifier

SIZE = 9


class Trail:
    """A stream of nine events, and its end as a checkpoint has it."""

    def __init__(self) -> None:
        lane = Lane(EventClass.LOGIN)
        self.events = lane.seal(
            Event(
                type=EventType.LOGIN,
                at=number,
                sid=f"sid{number}",
                user_id=f"user{number % 3}",
                actor="bob" if number % 2 else None,
                ip="192.0.2.1",
                details={"n": number},
                personal={"user_agent": "Firefox"},
            )
            for number in range(1, SIZE + 1)
        )
        lane.advance(self.events)
        self.stream = lane.stream
        self.head = Head(lane.stream, lane.seq, lane.head.hex())


def seal_of(event: Event) -> Seal:
    assert event.seal is not None
    return event.seal


def verified(
    trail: Trail,
    events: list[Event] | None = None,
    *,
    vouched: Vouched | None = None,
    page: int = 4,
    begins_after: int = 0,
) -> list[Problem]:
    verifier = StreamVerifier(trail.stream, vouched or Vouched(), trail.head, begins_after)
    events = trail.events if events is None else events
    for start in range(0, len(events), page):
        verifier.feed(events[start : start + page])
    return verifier.close()


def at(events: list[Event], number: int, change: Callable[[Event], Event]) -> list[Event]:
    return [change(event) if seal_of(event).seq == number else event for event in events]


def with_seal(**fields: object) -> Callable[[Event], Event]:
    return lambda event: replace(event, seal=msgspec.structs.replace(seal_of(event), **fields))


@pytest.mark.parametrize("page", [1, 2, 4, 100])
def test_what_was_written_is_sound(page: int) -> None:
    assert verified(Trail(), page=page) == []


EDITS: dict[str, Callable[[Event], Event]] = {
    "type": lambda event: replace(event, type=EventType.LOGIN_FAILED),
    "time": lambda event: replace(event, at=event.at + 1),
    "reason": lambda event: replace(event, reason="because"),
    "details": lambda event: replace(event, details={}),
    "user": lambda event: replace(event, user_id="eve"),
    "session": lambda event: replace(event, sid="other"),
    "address": lambda event: replace(event, ip="203.0.113.9"),
    "agent": lambda event: replace(event, personal={"user_agent": "curl"}),
    "actor": lambda event: replace(event, actor="mallory"),
    "commitment": with_seal(who=b"x" * 32),
    "previous": with_seal(previous=b"x" * 32),
    "salt": with_seal(where_salt=b"x" * 16),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("number", [1, 2, 5, SIZE - 1, SIZE])
def test_an_edit_is_found_where_it_was_made(edit: str, number: int) -> None:
    trail = Trail()
    found = verified(trail, at(trail.events, number, EDITS[edit]))
    assert {(problem.kind, problem.seq) for problem in found} == {("altered", number)}
    assert all(problem.stream == trail.stream for problem in found)


@given(st.data())
def test_a_deletion_is_found_where_it_was_made(data: st.DataObject) -> None:
    trail = Trail()
    first = data.draw(st.integers(1, SIZE))
    last = data.draw(st.integers(first, SIZE))
    left = [event for event in trail.events if not first <= seal_of(event).seq <= last]
    [problem] = verified(trail, left)
    assert (problem.kind, problem.seq) == ("truncated" if last == SIZE else "missing", first)


@given(st.integers(1, SIZE - 1))
def test_a_deletion_that_is_closed_up_is_found(number: int) -> None:
    trail = Trail()
    left = [
        with_seal(seq=seal_of(event).seq - (seal_of(event).seq > number))(event)
        for event in trail.events
        if seal_of(event).seq != number
    ]
    found = verified(trail, left)
    assert min(problem.seq for problem in found if problem.kind == "altered") in (number - 1, number)
    assert ("truncated", SIZE) in {(problem.kind, problem.seq) for problem in found}


@given(st.integers(1, SIZE), st.booleans())
def test_an_insertion_is_found_where_it_was_made(number: int, knows_the_chain: bool) -> None:
    trail = Trail()
    before = trail.events[number - 2] if number > 1 else None
    previous = digest(before, seal_of(before)) if before is not None and knows_the_chain else bytes(32)
    forged, _ = seal(Event(type=EventType.LOGIN, at=1, user_id="eve"), trail.stream, number, previous)
    later = [with_seal(seq=seal_of(event).seq + 1)(event) for event in trail.events[number - 1 :]]
    found = verified(trail, [*trail.events[: number - 1], forged, *later])
    # One that fits its predecessor is told from its successor, which does not fit.
    assert number - 1 <= min(problem.seq for problem in found) <= number + 1


@given(st.data())
def test_a_swap_is_found_at_both_places(data: st.DataObject) -> None:
    trail = Trail()
    one, other = sorted(data.draw(st.sets(st.integers(1, SIZE), min_size=2, max_size=2)))
    events = list(trail.events)
    events[one - 1] = with_seal(seq=one)(trail.events[other - 1])
    events[other - 1] = with_seal(seq=other)(trail.events[one - 1])
    found = {problem.seq for problem in verified(trail, events)}
    assert found
    assert min(found) in (one - 1, one)


def test_a_stream_written_anew_is_found_by_its_end() -> None:
    trail, other = Trail(), Trail()
    lane = Lane(EventClass.LOGIN)
    lane.stream = trail.stream
    assert [problem.seq for problem in verified(trail, lane.seal(other.events))] == [SIZE]


def test_what_comes_after_the_checkpoint_is_a_chain_too() -> None:
    trail = Trail()
    more, last = seal(Event(type=EventType.LOGIN, at=10), trail.stream, SIZE + 1, bytes.fromhex(trail.head.digest))
    again, _ = seal(Event(type=EventType.LOGIN, at=11), trail.stream, SIZE + 2, last)
    assert verified(trail, [*trail.events, more, again]) == []
    [problem] = verified(trail, [*trail.events, replace(more, at=12), again])
    assert (problem.kind, problem.seq) == ("altered", SIZE + 1)


@pytest.mark.parametrize("group", GROUPS)
def test_erased_fields_need_a_statement(group: Group) -> None:
    trail = Trail()
    events = at(trail.events, 5, lambda event: blanked(event, [group]))
    [problem] = verified(trail, events)
    assert (problem.kind, problem.seq) == ("erased", 5)
    vouched = Vouched()
    vouched.add(statement(EventType.USER_FORGOTTEN, 1, {"groups": group, "places": f"{trail.stream}:5"}, None))
    assert verified(trail, events, vouched=vouched) == []
    assert verified(trail, at(trail.events, 7, lambda event: blanked(event, [group])), vouched=vouched) != []


def test_aged_addresses_need_a_statement_of_a_later_time() -> None:
    trail = Trail()
    events = at(trail.events, 5, lambda event: blanked(event, ["where"]))
    for before, sound in ((5, False), (6, True)):
        vouched = Vouched()
        vouched.add(statement(EventType.AUDIT_AGED, 1, {"before": before}, None))
        assert (verified(trail, events, vouched=vouched) == []) is sound


def test_a_purged_start_is_sound_as_far_as_it_was_purged() -> None:
    trail = Trail()
    assert verified(trail, trail.events[4:], begins_after=4) == []
    assert verified(trail, trail.events[3:], begins_after=4) == []  # stated, and interrupted before it was done
    assert verified(trail, [trail.events[0], *trail.events[4:]], begins_after=4) == []
    [problem] = verified(trail, trail.events[5:], begins_after=4)
    assert (problem.kind, problem.seq) == ("missing", 5)
    assert "event 5 is missing" in problem.text
    assert [one.seq for one in verified(trail, at(trail.events[4:], 6, EDITS["time"]), begins_after=4)] == [6]


def test_a_ruined_stream_does_not_fill_the_memory() -> None:
    lane = Lane(EventClass.LOGIN)
    events = [replace(event, user_id="eve") for event in lane.seal(Event(type="x", at=1) for _ in range(500))]
    verifier = StreamVerifier(lane.stream, Vouched(), None)
    verifier.feed(events)
    assert len(verifier.close()) == MOST_PROBLEMS


def test_a_problem_says_where_it_is() -> None:
    trail = Trail()
    [problem] = verified(trail, at(trail.events, 5, EDITS["user"]))
    assert str(problem) == f"{trail.stream}:5: personal fields (user and session) are not those that were written"
