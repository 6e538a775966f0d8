"""How events are sealed: what a digest depends on, what it does not, and what erasing leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.events import Event, EventClass, EventType, Seal, class_of
from sessiondb.core.sealing import (
    GENESIS,
    GROUPS,
    STREAM_CHARS,
    Group,
    Lane,
    blanked,
    digest,
    erased_groups,
    new_stream,
    seal,
    stream_class,
    wrong_groups,
)

FULL = Event(
    type=EventType.LOGIN,
    at=1,
    sid="sid",
    user_id="ann",
    actor="bob",
    reason="why",
    ip="192.0.2.1",
    details={"b": 1, "a": "x"},
    personal={"user_agent": "Firefox", "n": 2},
)


def sealed(event: Event = FULL) -> tuple[Event, Seal]:
    found, _ = seal(event, "l0123456789abcde", 7, b"p" * 32)
    assert found.seal is not None
    return found, found.seal


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
detail = st.dictionaries(texts, st.one_of(texts, st.integers(-(2**63), 2**63 - 1)), max_size=4)
events = st.builds(
    Event,
    type=st.sampled_from(EventType),
    at=st.integers(0, 2**62),
    sid=st.none() | texts,
    user_id=st.none() | texts,
    actor=st.none() | texts,
    reason=st.none() | texts,
    ip=st.none() | texts,
    details=detail,
    personal=detail,
)


@given(events)
def test_what_was_sealed_is_whole_and_says_what_it_said(event: Event) -> None:
    found, own = sealed(event)
    assert found == event
    assert wrong_groups(found, own) == []
    assert erased_groups(own) == []


@given(st.text(st.sampled_from("a\0é\ud800\udfff\U0001f36a"), min_size=1, max_size=6))
def test_text_that_not_every_database_can_hold_is_replaced_wherever_it_stands(text: str) -> None:
    shown = "".join("\ufffd" if char in "\0\ud800\udfff" else char for char in text)
    texts = {"user_id": text, "actor": text, "reason": text, "ip": text}
    event = replace(FULL, **texts, details={text: text, "n": 1}, personal={text: text})
    found, own = sealed(event)
    assert found == replace(
        FULL, **dict.fromkeys(texts, shown), details={shown: shown, "n": 1}, personal={shown: shown}
    )
    assert wrong_groups(found, own) == []


@given(events, st.sets(st.sampled_from(GROUPS)))
def test_erasing_leaves_the_digest_and_neither_fields_nor_salts(event: Event, groups: set[Group]) -> None:
    found, own = sealed(event)
    left = blanked(found, groups)
    assert left.seal is not None
    assert digest(left, left.seal) == digest(found, own)
    assert wrong_groups(left, left.seal) == []
    assert set(erased_groups(left.seal)) == {group for group in groups if getattr(own, group)}
    if "who" in groups:
        assert (left.user_id, left.sid, left.seal.who_salt) == (None, None, None)
    if "actor" in groups:
        assert (left.actor, left.seal.actor_salt) == (None, None)
    if "where" in groups:
        assert (left.ip, left.personal, left.seal.where_salt) == (None, {}, None)


@pytest.mark.parametrize(
    "change",
    [
        {"type": EventType.SESSION_ENDED},
        {"at": 2},
        {"reason": None},
        {"reason": "whz"},
        {"details": {}},
        {"details": {"b": "1", "a": "x"}},
        {"details": {"b": 1, "a": "x", "c": ""}},
    ],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()),
)
def test_whatever_is_not_personal_is_in_the_digest(change: dict[str, Any]) -> None:
    found, own = sealed()
    assert digest(replace(found, **change), own) != digest(found, own)


@pytest.mark.parametrize("field", ["stream", "seq", "previous", "who", "actor", "where"])
def test_the_place_and_the_commitments_are_in_the_digest(field: str) -> None:
    found, own = sealed()
    other = {"stream": "l0123456789abcdf", "seq": 8}.get(field, b"x" * 32)
    assert digest(found, msgspec.structs.replace(own, **{field: other})) != digest(found, own)


@pytest.mark.parametrize(
    ("change", "group"),
    [
        ({"user_id": "Ann"}, "who"),
        ({"user_id": None}, "who"),
        ({"sid": None}, "who"),
        ({"sid": "ann", "user_id": "sid"}, "who"),
        ({"actor": "eve"}, "actor"),
        ({"actor": None}, "actor"),
        ({"ip": "192.0.2.2"}, "where"),
        ({"personal": {}}, "where"),
        ({"personal": {"user_agent": "Firefox", "n": "2"}}, "where"),
    ],
    ids=str,
)
def test_other_personal_fields_are_found_out(change: dict[str, Any], group: Group) -> None:
    found, own = sealed()
    assert wrong_groups(replace(found, **change), own) == [group]


def test_a_person_cannot_be_put_into_an_event_that_had_none() -> None:
    found, own = sealed(Event(type=EventType.LOGIN, at=1))
    assert erased_groups(own) == []
    named = replace(found, user_id="ann", actor="bob", ip="192.0.2.1")
    assert wrong_groups(named, own) == ["who", "actor", "where"]
    salted = msgspec.structs.replace(own, who_salt=bytes(16), actor_salt=bytes(16), where_salt=bytes(16))
    assert wrong_groups(named, salted) == ["who", "actor", "where"]


def test_the_order_of_details_does_not_count_and_databases_may_change_it() -> None:
    found, own = sealed()
    turned = replace(found, details={"a": "x", "b": 1}, personal={"n": 2, "user_agent": "Firefox"})
    assert digest(turned, own) == digest(found, own)
    assert wrong_groups(turned, own) == []


def test_the_same_event_is_committed_to_with_another_salt_each_time() -> None:
    one, other = sealed()[1], sealed()[1]
    assert {one.who, one.actor, one.where}.isdisjoint({other.who, other.actor, other.where})


def test_a_lane_is_a_chain_and_moves_only_when_told_so() -> None:
    lane = Lane(EventClass.SESSION)
    first = lane.seal([FULL, FULL])
    again = lane.seal([FULL])
    assert [event.seal.seq for event in first if event.seal] == [1, 2]
    assert [event.seal.seq for event in again if event.seal] == [1]
    lane.advance(first)
    [third] = lane.seal([FULL])
    assert third.seal is not None
    assert first[0].seal is not None
    assert first[1].seal is not None
    assert (first[0].seal.previous, first[1].seal.previous) == (GENESIS, digest(first[0], first[0].seal))
    assert (third.seal.seq, third.seal.previous) == (3, digest(first[1], first[1].seal))


def test_every_type_has_a_class_and_every_class_streams_of_its_own() -> None:
    assert {class_of(type_) for type_ in EventType} == set(EventClass)
    assert class_of("a type of a later version") is EventClass.SESSION
    for class_ in EventClass:
        name = new_stream(class_)
        assert len(name) == STREAM_CHARS
        assert stream_class(name) is class_
        assert new_stream(class_) != name
    assert stream_class("") is None
    assert stream_class("c000000000000000") is None
