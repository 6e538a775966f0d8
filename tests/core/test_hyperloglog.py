"""Different things: counted exactly while they are few, then as the theory of HyperLogLog promises."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.hyperloglog import MOST_EXACT, REGISTERS, STANDARD_ERROR, Distinct, HyperLogLog, hash_of

hashes = st.integers(0, 2**64 - 1)


def hashes_of(count: int, seed: int) -> Iterator[int]:
    chance = random.Random(seed)
    return (chance.getrandbits(64) for _ in range(count))


def drawn(count: int, chance: random.Random) -> HyperLogLog:
    """A sketch of ``count`` random hashes, by the distribution that its registers have then.

    A register that was given n hashes is at most k with the probability (1 - 2^-k)^n. With a number of hashes that is
    itself Poisson distributed the registers are independent of each other, each with exp(-n / (m 2^k)).
    """
    registers = bytearray(REGISTERS)
    for index in range(REGISTERS):
        u = chance.random()
        rank = math.ceil(math.log2(count / REGISTERS / -math.log(u)))
        registers[index] = min(max(rank, 0), 53)
    return HyperLogLog(registers)


def test_the_standard_error_is_that_of_the_paper() -> None:
    assert pytest.approx(1.04 / math.sqrt(REGISTERS), rel=0.002) == STANDARD_ERROR


@pytest.mark.parametrize("count", [1, 10, 100, 1000, 3000, 10_000, 30_000])
def test_estimates_of_real_hashes_are_as_far_off_as_the_theory_says(count: int) -> None:
    errors = []
    for seed in range(30):
        sketch = HyperLogLog()
        for hash_ in hashes_of(count, seed):
            sketch.add(hash_)
        errors.append(sketch.estimate() / count - 1)
    # Below the size of the sketch it is better than that.
    assert math.sqrt(statistics.fmean(error * error for error in errors)) < 1.35 * STANDARD_ERROR
    assert abs(statistics.fmean(errors)) < 4 * STANDARD_ERROR / math.sqrt(len(errors))


@pytest.mark.parametrize(
    "count", [2_000, 5_000, 8_192, 12_000, 20_000, 50_000, 10**6, 10**9, 10**12, 10**15], ids="{:.0e}".format
)
def test_there_is_no_bias_at_any_size(count: int) -> None:
    # Where plain HyperLogLog goes over from linear counting (2.5 m: 10,240) it would be some percent off.
    chance, tries = random.Random(count), 60
    errors = [drawn(count, chance).estimate() / count - 1 for _ in range(tries)]
    assert abs(statistics.fmean(errors)) < 4 * STANDARD_ERROR / math.sqrt(tries)
    # The number of hashes varies here by itself, by the root of it.
    expected = math.hypot(STANDARD_ERROR, 1 / math.sqrt(count))
    assert statistics.pstdev(errors) < 1.3 * expected


def test_an_empty_sketch_and_a_full_one() -> None:
    assert HyperLogLog().estimate() == 0.0
    assert HyperLogLog(bytes([53]) * REGISTERS).estimate() == math.inf
    assert Distinct.decode(b"h" + bytes([53]) * REGISTERS).count == 2**63


def test_users_are_spread_over_all_registers() -> None:
    sketch = HyperLogLog()
    for number in range(100_000):
        sketch.add(hash_of(f"user{number}"))
    assert sketch.registers.count(0) == 0
    assert sketch.estimate() == pytest.approx(100_000, rel=3 * STANDARD_ERROR)


def test_hashes_are_the_same_in_every_process_and_version() -> None:
    assert [hash_of(user) for user in ("ann", "Ann", "\ud800")] == [
        0x800266388BA00229,
        0x54266BC55BC298DD,
        0x491B0EE1BF685A1C,
    ]


def test_it_is_exact_up_to_so_many_and_estimated_above() -> None:
    distinct = Distinct()
    for number, hash_ in enumerate(hashes_of(MOST_EXACT, 1), 1):
        distinct.add(hash_)
        distinct.add(hash_)
        assert (distinct.count, distinct.is_exact) == (number, True)
    distinct.add(0)
    assert not distinct.is_exact
    assert distinct.count == pytest.approx(MOST_EXACT + 1, rel=4 * STANDARD_ERROR)


def everything(parts: list[list[int]]) -> Distinct:
    return Distinct(hash_ for part in parts for hash_ in part)


many = st.integers(0, 50).flatmap(
    lambda seed: st.sampled_from([3, MOST_EXACT - 1, MOST_EXACT, MOST_EXACT + 1, 3000]).map(
        lambda count: list(hashes_of(count, seed))
    )
)


@given(st.lists(st.one_of(st.lists(hashes, max_size=30), many), max_size=4))
def test_merging_is_as_if_all_had_been_added_to_one(parts: list[list[int]]) -> None:
    merged = Distinct()
    for part in parts:
        merged.merge(Distinct(part))
    whole = everything(parts)
    if merged.is_exact:
        assert merged.encode() == whole.encode()
    else:
        whole.estimate()
        assert merged.encode() == whole.encode()
    backwards = Distinct()
    for part in reversed(parts):
        backwards.merge(Distinct(part))
        backwards.merge(Distinct(part))
    assert backwards.encode() == merged.encode()


@given(st.one_of(st.lists(hashes, max_size=30), many))
def test_what_is_encoded_comes_back(part: list[int]) -> None:
    distinct = Distinct(part)
    data = distinct.encode()
    assert len(data) <= 1 + 8 * MOST_EXACT
    back = Distinct.decode(data)
    assert (back.count, back.is_exact, back.encode()) == (distinct.count, distinct.is_exact, data)


@given(st.binary(max_size=40))
def test_bytes_that_are_none_are_refused(data: bytes) -> None:
    try:
        found = Distinct.decode(data)
    except ValueError:
        return
    assert found.is_exact


@pytest.mark.parametrize(
    "data",
    [
        b"h" + bytes(REGISTERS - 1),
        b"h" + bytes(REGISTERS + 1),
        b"h" + b"\x36" * REGISTERS,
        b"e" + bytes(8 * 1025),
        b"x",
    ],
    ids=["short", "long", "a rank that cannot be", "too many", "another kind"],
)
def test_a_sketch_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no set of hashes"):
        Distinct.decode(data)


def test_one_can_be_taken_out_of_an_exact_set_alone() -> None:
    distinct = Distinct([1, 2])
    assert distinct.discard(1)
    assert not distinct.discard(1)
    assert distinct.count == 1
    distinct.estimate()
    assert not distinct.discard(2)
    assert distinct.count == 1
