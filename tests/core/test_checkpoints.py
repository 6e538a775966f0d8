"""Checkpoints: what they say of every stream, and that no other line can take the place of one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.checkpoints import (
    FULL_EVERY,
    Checkpoint,
    Head,
    advance,
    is_signed,
    make_checkpoint,
    parse_checkpoint,
    root_of,
)
from sessiondb.core.keys import generate_key
from sessiondb.core.signing import Ed25519Signer, HmacSigner

SIGNER = HmacSigner(generate_key())


def head(stream: str, seq: int) -> Head:
    return Head(stream, seq, f"{seq:064x}")


def made(now: dict[str, Head], before: Checkpoint | None = None, state: dict[str, Head] | None = None) -> Checkpoint:
    found = make_checkpoint(before, state or {}, now, 1_000, SIGNER)
    assert found is not None
    return found


heads = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5)).map(
    lambda found: {name: head(name, seq) for name, seq in found.items()}
)


@given(st.lists(heads, min_size=1, max_size=6), st.integers(1, FULL_EVERY + 1))
def test_any_row_of_checkpoints_is_replayed_to_where_it_stood(states: list[dict[str, Head]], start: int) -> None:
    before: Checkpoint | None = None
    state: dict[str, Head] = {}
    if start > 1:
        # Somewhere in a long row, where a full one may be due.
        first = made({"z": head("z", 1)})
        before, state = msgspec.structs.replace(first, number=start), {"z": head("z", 1)}
    for now in states:
        found = make_checkpoint(before, state, now, 1_000, SIGNER)
        if found is None:
            assert now == state
            continue
        assert found.full == (found.number % FULL_EVERY == 1)
        assert found.previous == ("0" * 64 if before is None else before.digest)
        assert parse_checkpoint(found.line) == found
        assert is_signed(found, [SIGNER])
        state = advance(state, found)
        assert state == now
        assert found.root == root_of(now.values())
        before = found


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"at": 1_001},
        {"previous": "1" * 64},
        {"full": False},
        {"heads": (head("a", 2),)},
        {"gone": ("b",)},
        {"size": 2},
        {"root": "1" * 64},
        {"key": "hmac:0000000000000000"},
        {"signature": None},
        {"signature": "é"},
        {"signature": "AAAA"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_signed(change: dict[str, Any]) -> None:
    found = made({"a": head("a", 1)})
    other = msgspec.structs.replace(found, **change)
    assert not is_signed(other, [SIGNER])
    if "signature" not in change:
        assert other.digest != found.digest


def test_the_signature_is_of_its_key() -> None:
    found = made({"a": head("a", 1)})
    assert not is_signed(found, [HmacSigner(generate_key()), Ed25519Signer(generate_key())])
    assert is_signed(found, [Ed25519Signer(generate_key()), SIGNER])


@pytest.mark.parametrize(
    "change", [{"heads": (head("a", 2),)}, {"size": 3}, {"root": "1" * 64}, {"heads": ()}], ids=str
)
def test_heads_that_are_not_those_of_the_root_are_refused(change: dict[str, Any]) -> None:
    found = made({"a": head("a", 1), "b": head("b", 2)})
    with pytest.raises(ValueError, match="checkpoint 1"):
        advance({}, msgspec.structs.replace(found, **change))


@pytest.mark.parametrize("line", ["", "{}", "null", "7", "[]", '{"version":1}', "é", '{"version":"1"}'])
def test_other_lines_are_no_checkpoints(line: str) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        parse_checkpoint(line)


def test_a_checkpoint_of_another_version_says_so() -> None:
    line = msgspec.structs.replace(made({}), version=2).line
    with pytest.raises(ValueError, match="version 2"):
        parse_checkpoint(line)
