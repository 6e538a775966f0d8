"""Statements: what they vouch for, and that nobody else can make one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import EventType
from sessiondb.core.keys import generate_key
from sessiondb.core.signing import Ed25519Signer, Ed25519Verifier, HmacSigner, Signer, Verifier
from sessiondb.core.statements import MOST_PLACES, Vouched, in_parts, is_signed, parsed, spelled, statement

streams = st.sampled_from(["l000000000000001", "s000000000000002", "a000000000000003"])
places = st.dictionaries(streams, st.sets(st.integers(1, 60), min_size=1).map(sorted))


@given(places)
def test_places_are_read_as_they_were_spelled(given_places: dict[str, list[int]]) -> None:
    assert parsed(spelled(given_places)) == {stream: set(numbers) for stream, numbers in given_places.items()}


def test_places_are_short() -> None:
    assert spelled({"b": [2, 3, 4, 9], "a": [1]}) == "a:1 b:2-4,9"


@pytest.mark.parametrize("text", ["a", "a:", "a:x", "a:0", "a:3-1", "a:1-99999999999", "a:-1", ":"])
def test_other_text_is_no_place(text: str) -> None:
    with pytest.raises(ValueError):
        parsed(text)


@given(st.lists(st.tuples(streams, st.integers(1, 2000)), max_size=50))
def test_parts_have_every_place_once(given_places: list[tuple[str, int]]) -> None:
    found = [
        (stream, number) for part in in_parts(given_places) for stream, numbers in part.items() for number in numbers
    ]
    assert sorted(found) == sorted(set(given_places))


def test_parts_are_not_longer_than_one_event_may_be() -> None:
    parts = list(in_parts(("l000000000000001", 2 * number) for number in range(1, 1201)))
    assert [sum(len(numbers) for numbers in part.values()) for part in parts] == [MOST_PLACES, MOST_PLACES, 200]
    assert max(len(spelled(part)) for part in parts) < 8_000


def signers() -> list[Signer]:
    return [HmacSigner(generate_key()), Ed25519Signer(generate_key())]


@pytest.mark.parametrize("signer", signers(), ids=lambda signer: type(signer).__name__)
def test_a_statement_is_signed_by_its_key_and_says_nothing_else(signer: Signer) -> None:
    said = statement(EventType.AUDIT_PURGED, 5, {"through": "l000000000000001:7"}, signer)
    assert is_signed(said, [signer])
    assert not is_signed(said, [])
    assert not is_signed(said, signers())
    for changed in (
        replace(said, at=6),
        replace(said, type=EventType.USER_FORGOTTEN),
        replace(said, details={**said.details, "through": "l000000000000001:8"}),
        replace(said, details={**said.details, "more": 1}),
        replace(said, details={**said.details, "signature": ""}),
        replace(said, details={**said.details, "signature": "é"}),
        replace(said, details={**said.details, "signature": 7}),
        replace(said, details={"through": "l000000000000001:7"}),
    ):
        assert not is_signed(changed, [signer])
    assert is_signed(replace(said, type=str(said.type)), [signer])
    assert not is_signed(statement(EventType.AUDIT_PURGED, 5, {"through": "l000000000000001:7"}, None), [signer])


def test_an_auditor_needs_the_public_key_alone() -> None:
    signer = Ed25519Signer(generate_key())
    auditor: Verifier = Ed25519Verifier(signer.public_key)
    said = statement(EventType.AUDIT_AGED, 5, {"before": 3}, signer)
    assert auditor.key_id == signer.key_id
    assert is_signed(said, [auditor])
    assert not isinstance(auditor, Signer)
    assert signer.public_key not in repr(signer)


def test_the_same_key_signs_the_same_way_in_another_process() -> None:
    key = generate_key()
    assert HmacSigner(key).sign(b"x") == HmacSigner(key).sign(b"x")
    assert HmacSigner(key).key_id == HmacSigner(key).key_id != HmacSigner(generate_key()).key_id
    assert Ed25519Signer(key).public_key == Ed25519Signer(key).public_key


@pytest.mark.parametrize("make", [HmacSigner, Ed25519Signer, Ed25519Verifier])
@pytest.mark.parametrize("key", ["", "secret", b"short", "x" * 42, b"\0" * 31])
def test_keys_that_are_none_are_refused(make: type[HmacSigner], key: str | bytes) -> None:
    with pytest.raises(ConfigurationError) as error:
        made = make(key)
        made.verify(b"", b"")
    assert not key or str(key) not in str(error.value)


def test_what_is_vouched_for() -> None:
    vouched = Vouched()
    vouched.add(statement(EventType.AUDIT_PURGED, 1, {"through": "l000000000000001:7 s000000000000002:3"}, None))
    vouched.add(statement(EventType.AUDIT_PURGED, 1, {"through": "l000000000000001:5"}, None))
    vouched.add(statement(EventType.USER_FORGOTTEN, 1, {"groups": "who where", "places": "l000000000000001:9"}, None))
    vouched.add(statement(EventType.AUDIT_AGED, 1, {"before": 100}, None))
    assert vouched.purged == {"l000000000000001": 7, "s000000000000002": 3}
    assert vouched.is_erased("who", "l000000000000001", 9, 500)
    assert not vouched.is_erased("who", "l000000000000001", 8, 500)
    assert not vouched.is_erased("who", "s000000000000002", 9, 500)
    assert not vouched.is_erased("actor", "l000000000000001", 9, 500)
    assert vouched.is_erased("where", "s000000000000002", 1, 99)
    assert not vouched.is_erased("where", "s000000000000002", 1, 100)
    assert not vouched.is_erased("who", "s000000000000002", 1, 99)
