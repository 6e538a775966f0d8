"""A hash is read the same whatever the order of its fields, in which each server has its own."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core import codec
from sessiondb.core.record import Record
from sessiondb.stores._redis_rows import to_record
from strategies import record

KEYS = st.dictionaries(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")), st.integers())


def flat(one: Record, shuffled: random.Random) -> list[bytes]:
    """What ``HGETALL`` answers."""
    fields: dict[bytes, bytes] = {}
    for name in Record.__struct_fields__:
        value = getattr(one, name)
        if name != "data" and value is not None:
            fields[name.encode()] = value if isinstance(value, bytes) else str(value).encode()
    for key, encoded in codec.split(one.data).items():
        fields[b"d:" + key.encode()] = bytes(encoded)
    pairs = list(fields.items())
    shuffled.shuffle(pairs)
    return [part for pair in pairs for part in pair]


@given(data=KEYS, seed=st.integers(0, 1000), user_id=st.none() | st.just("ann"), ended=st.booleans())
def test_any_order_gives_the_record(data: dict[str, int], seed: int, user_id: str | None, ended: bool) -> None:
    one = record(
        data=msgspec.json.encode(data),
        user_id=user_id,
        last_changes=b"8 bytes.",
        ended_at=5 if ended else None,
        end_reason="logout" if ended else None,
        purge_at=9 if ended else None,
    )
    found = to_record(flat(one, random.Random(seed)))
    assert found is not None
    assert msgspec.json.decode(found.data) == data
    assert msgspec.structs.replace(found, data=b"") == msgspec.structs.replace(one, data=b"")


def test_what_is_not_there_or_only_in_part_is_none() -> None:
    assert to_record([]) is None
    assert to_record([b"d:cart", b"[]"]) is None


@pytest.mark.parametrize("missing", [b"sid", b"series_hash", b"secret_hash", b"created_at", b"idle", b"check_at"])
def test_what_lacks_a_part_that_it_needs_is_refused(missing: bytes) -> None:
    fields = flat(record(), random.Random(1))
    at = fields.index(missing)
    with pytest.raises((ValueError, TypeError)):
        to_record(fields[:at] + fields[at + 2 :])


def test_fields_of_others_are_left_alone() -> None:
    one = record(data=b'{"n":1}')
    fields = [b"", b"x", b"d", b"y", b"links", b"z", *flat(one, random.Random(2))]
    assert to_record(fields) == one
