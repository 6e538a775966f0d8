"""The token: unguessable, of one spelling, and its parts never shown."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import string
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessiondb.core import token
from sessiondb.core.token import TOKEN_LENGTH, Token, digest, is_sid, mint, parse
from strategies import NOW, record

ALPHABET = (string.ascii_letters + string.digits + "-_").encode()


@pytest.mark.security("T5")
@given(st.binary(max_size=200) | st.binary(min_size=TOKEN_LENGTH, max_size=TOKEN_LENGTH))
@example(b"")
@example(b"." * TOKEN_LENGTH)
@example(b"A" * 22 + b"." + b"A" * 22 + b"." + b"A" * 43)
@example(b"\0" * TOKEN_LENGTH)
@example(b'{"$ne":""}')
@example(b"../../etc/passwd")
@example(b"A" * 1_000_000)
def test_parse_never_raises(raw: bytes) -> None:
    found = parse(raw)
    assert found is None or found.encode().encode() == raw


@given(st.integers(0, 2**47), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_tokens_round_trip(now: int, series: bytes, secret: bytes) -> None:
    for issued in (mint(now), Token(mint(now).sid, series, secret)):
        text = issued.encode()
        assert len(text) == TOKEN_LENGTH
        assert parse(text.encode("ascii")) == issued


def test_every_one_character_mutation_is_another_token_or_none() -> None:
    for issued in (mint(NOW) for _ in range(3)):
        text = issued.encode().encode()
        for at in range(len(text)):
            for character in range(256):
                changed = text[:at] + bytes([character]) + text[at + 1 :]
                if changed == text:
                    continue
                found = parse(changed)
                assert found is None or found != issued
                assert found is None or character in ALPHABET
        for changed in (text + b"=", text + b"\n", b" " + text, text[:-1], text.upper(), text.lower(), text + b"A"):
            assert parse(changed) is None or parse(changed) != issued


@pytest.mark.security("T1")
def test_a_hundred_thousand_tokens_are_unique_and_their_bits_even() -> None:
    count = 100_000
    issued = [mint(NOW) for _ in range(count)]
    assert len({one.sid for one in issued}) == count
    assert len({one.series for one in issued}) == count
    assert len({one.secret for one in issued}) == count
    # Monobit per position: a fair bit is off by more than 6 standard deviations once in 5e8 positions.
    for part, width in ((lambda one: one.series, 128), (lambda one: one.secret, 256), (_random_of_sid, 74)):
        ones = [0] * width
        for one in issued:
            number = int.from_bytes(part(one)) if width != 74 else part(one)
            for at in range(width):
                ones[at] += number >> at & 1
        worst = max(abs(found - count / 2) for found in ones)
        assert worst < 6 * math.sqrt(count) / 2


def _random_of_sid(one: Token) -> int:
    number = uuid.UUID(one.sid).int
    return (number >> 64 & 0xFFF) << 62 | number & (1 << 62) - 1


def test_sids_are_version_7_and_sort_by_the_millisecond() -> None:
    times = [0, 999, 1_000, NOW, NOW + 999, NOW + 1_000, NOW + 10**12]
    sids = [mint(now).sid for now in times]
    for now, sid in zip(times, sids, strict=True):
        parsed = uuid.UUID(sid)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == now // 1000
        assert str(parsed) == sid
        assert is_sid(sid)
    assert sorted(sids, key=lambda sid: sid[:13]) == sids
    later = [mint(NOW + 1000 * number).sid for number in range(100)]
    assert sorted(later) == later


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(uuid.UUID(int=1)),
        "01A3185C-5000-7BB8-A481-BC211D06D7E0 ",
        "01a3185c-5000-7bb8-a481-bc211d06d7e0\n",
        "01a3185C-5000-7bb8-a481-bc211d06d7e0",
        "{01a3185c-5000-7bb8-a481-bc211d06d7e0}",
        "01a3185c50007bb8a481bc211d06d7e0",
        "01a3185c-5000-4bb8-a481-bc211d06d7e0",
        "01a3185c-5000-7bb8-2481-bc211d06d7e0",
        "٠1a3185c-5000-7bb8-a481-bc211d06d7e0",
    ],
)
def test_only_the_canonical_spelling_is_a_sid(text: str) -> None:
    assert not is_sid(text)


def test_a_token_of_another_version_is_none() -> None:
    issued = mint(NOW)
    for version_4 in ("4", "0", "f"):
        sid = token.Sid(issued.sid[:14] + version_4 + issued.sid[15:])
        assert parse(Token(sid, issued.series, issued.secret).encode().encode()) is None


def test_parallel_rotations_derive_the_same_secret() -> None:
    issued = mint(NOW)
    salt = token.new_salt()
    one, other = issued.rotated(salt), issued.rotated(salt)
    assert one == other
    assert (one.sid, one.series) == (issued.sid, issued.series)
    assert len(one.secret) == 32
    assert one.secret != issued.secret
    assert issued.rotated(token.new_salt()).secret != one.secret
    # RFC 4231 test case 2: the derivation is HMAC-SHA256 with the salt as its key.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert token.derive(b"what do ya want for nothing?", b"Jefe").hex() == expected


def test_no_repr_shows_a_secret() -> None:
    issued = mint(NOW)
    salt = token.new_salt()
    stored = record(
        sid=issued.sid,
        series_hash=digest(issued.series),
        secret_hash=digest(issued.secret),
        previous_hash=digest(issued.rotated(salt).secret),
        salt=salt,
        data=b'{"card":"4111"}',
        client_first=b'{"ip":"192.0.2.1"}',
        user_id="alice",
    )
    shown = f"{issued!r} {issued} {stored!r} {stored} {[issued, stored]!r}"
    assert issued.sid in shown
    parts = [issued.series, issued.secret, salt, stored.series_hash, stored.secret_hash, stored.previous_hash]
    for part in parts:
        assert part is not None
        for spelling in (part.hex(), repr(part)[2:-1], issued.encode()[23:45], issued.encode()[46:]):
            assert spelling not in shown
    for private in ("4111", "192.0.2.1"):
        assert private not in shown


@pytest.mark.security("T2")
def test_no_bit_of_a_tokens_secrets_depends_on_the_time() -> None:
    """Nothing else is given to ``mint``: no user, no role, no address."""
    assert list(inspect.signature(mint).parameters) == ["now"]
    for now in (0, 1_800_000_000_000_000):
        minted = [mint(now) for _ in range(256)]
        for parts in ([one.series for one in minted], [one.secret for one in minted]):
            ones = functools.reduce(operator.or_, (int.from_bytes(part) for part in parts))
            zeros = functools.reduce(operator.and_, (int.from_bytes(part) for part in parts))
            # Every bit was 1 in one of them, and 0 in another.
            assert (ones, zeros) == (2 ** (8 * len(parts[0])) - 1, 0)
