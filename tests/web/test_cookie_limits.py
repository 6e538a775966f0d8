"""What a ``Cookie`` header may hold: look-alikes are counted, floods ignored, both in linear time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessiondb import Cookie
from sessiondb.core import token as tokens
from sessiondb.core.client import agent_text
from sessiondb.core.presented import Presented, presented
from sessiondb.web.cookie import MOST_HEADER_BYTES, MOST_PAIRS
from sessiondb.web.lookalike import Lookalikes

COOKIE = Cookie()
NAME = b"__Host-sid"
GOOD = presented(tokens.mint(1))
RAW = GOOD.raw
EVIL = tokens.mint(2).encode().encode()
OURS = NAME + b"=" + RAW


def read(*values: bytes) -> tuple[list[Presented], Counter[str]]:
    counters: Counter[str] = Counter()
    return COOKIE.tokens([(b"cookie", value) for value in values], counters), counters


LOOKALIKES = [
    b"\xa0" + NAME,
    b"\x85" + NAME,
    b"\x1c" + NAME,
    b"\x0b" + NAME,
    b"\x00" + NAME,
    b"\x7f" + NAME,
    NAME + b"\xa0",
    NAME + b"\x1f",
    "\u2003".encode() + NAME,
    "\ufeff".encode() + NAME,
    NAME + "\u200b".encode(),
    b"__host-sid",
    b"__HOST-SID",
    b"__Host-SID",
    b"%5f_Host-sid",
    b"%5F%5fHost-sid",
    b"__Host%2dsid",
    b"__Host-si%64",
    b"%a0__Host-sid",
    b"%5f_host-sid%20",
    b'"__Host-sid"',
    b"=" + NAME,
    b"=\xa0" + NAME,
]


@pytest.mark.security("C4", "C5", "C6")
@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.parametrize("place", ["before", "after", "alone", "another header"])
async def test_a_look_alike_is_ignored_and_counted(name: bytes, place: str) -> None:
    pair = name + b"=" + EVIL
    values = {
        "before": [pair + b"; " + OURS],
        "after": [OURS + b"; a=b; " + pair],
        "alone": [b"a=b; " + pair],
        "another header": [OURS, pair],
    }[place]
    found, counters = read(*values)
    assert found == ([] if place == "alone" else [GOOD])
    # Next to ours in the plainest form, another case alone is left uncounted: browsers refuse it, and nobody reads it.
    if name.lower() != NAME.lower() or place == "alone" or place == "another header":
        assert counters == {"cookie_smuggling": 1}


@pytest.mark.security("C5")
@pytest.mark.parametrize(
    "value",
    [
        OURS,
        b"a=b; " + OURS,
        OURS + b'; $Version=1; a="x; __Hostsid=evil"',
        b"$Version=1; " + OURS,
        b'x="; ' + OURS,
        b"prefs=%7B%22theme%22%3A%22dark%22%7D; " + OURS,
        b"name=J%C3%B6rg; " + OURS + b"; other=%5B1%5D",
        b"sid=1; host-sid=2; __Host-sid2=3; x__Host-sid=4; " + OURS,
        b"a=__Host-sid; " + OURS,
        b"JSESSIONID=1; PHPSESSID=2; connect.sid=s%3Aabc; " + OURS,
    ],
    ids=lambda value: value.replace(OURS, b"ours").decode(),
)
async def test_honest_headers_are_not_counted(value: bytes) -> None:
    assert read(value) == ([GOOD], Counter())


@pytest.mark.security("C4")
@given(
    before=st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=40)), max_size=5),
    after=st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=40)), max_size=5),
)
@example(before=[(b"\xa0__Host-sid", b"x")], after=[(b"%5f_Host-sid", b"y")])
def test_whatever_stands_beside_it_ours_is_found(
    before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]
) -> None:
    def clean(pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
        kept = [name.replace(b";", b"") + b"=" + value.replace(b";", b"") for name, value in pairs]
        return [pair for pair in kept if pair.partition(b"=")[0].strip(b" \t") != NAME]

    found, _ = read(b"; ".join([*clean(before), OURS, *clean(after)]))
    assert found == [GOOD]


@pytest.mark.security("D3")
@given(st.lists(st.binary(max_size=3000), max_size=6))
@example([b"%5f" * 1000])
@example([b"\xff" * 3000, b"=;=;="])
def test_any_bytes_are_read_without_an_exception(values: list[bytes]) -> None:
    found, counters = read(*values)
    assert found == []
    assert set(counters) <= {"cookie_smuggling", "cookie_oversize"}


@pytest.mark.security("D3")
async def test_a_header_that_no_browser_would_send_is_ignored_and_counted() -> None:
    assert read(OURS + b"; a=" + b"x" * MOST_HEADER_BYTES) == ([], {"cookie_oversize": 1})
    # As many cookies as are allowed, and one more.
    assert read(b"\xa0__Host-sid=1; " + b"a=b; " * (MOST_PAIRS - 2) + OURS)[0] == [GOOD]
    assert read(b"\xa0__Host-sid=1; " + b"a=b; " * (MOST_PAIRS - 1) + OURS) == ([], {"cookie_oversize": 1})


class Counted(bytes):
    """Bytes that count how often they are walked through."""

    walks = 0

    def split(self, *args: object, **kwargs: object) -> list[bytes]:  # type: ignore[override]
        Counted.walks += 1
        return super().split(*args, **kwargs)  # type: ignore[arg-type]


@pytest.mark.security("D3")
@pytest.mark.parametrize(
    "flood",
    [b";" * 65_000, NAME * 6_500, (NAME + b"=;") * 5_000, b"%5f" * 20_000, b"__HOST-SID=;" * 5_000, b"=" * 65_000],
)
async def test_a_flood_is_walked_through_a_bounded_number_of_times(flood: bytes) -> None:
    Counted.walks = 0
    assert read(Counted(flood))[0] == []
    assert Counted.walks <= 2
    if flood.count(b";") >= MOST_PAIRS:
        assert Counted.walks == 0


@pytest.mark.security("D3")
@given(st.binary(max_size=2000))
@example(b"\xc3\xa4" * 1000)
@example(b"x" * 100_000)
def test_a_user_agent_is_capped_before_anything_reads_it(agent: bytes) -> None:
    kept = agent_text(agent) or ""
    assert len(kept.encode()) <= 512
    plain = agent[:600].decode("utf-8", "ignore").isprintable()
    assert agent.startswith(kept.encode()[:100]) or not plain or not _is_utf8(agent[:512])


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", ["sid", "__Host-sid", "__Secure-shop", "a.b~c"])
async def test_every_letter_of_a_name_may_be_disguised(name: str) -> None:
    lookalikes = Lookalikes(name)
    for place, letter in enumerate(name):
        for code in (f"%{ord(letter):02x}", f"%{ord(letter):02X}"):
            value = f"{name[:place]}{code}{name[place + 1 :]}=x".encode()
            assert lookalikes.is_encoded(value), value
            assert lookalikes.has(value), value
    assert not lookalikes.has(f"{name}=x; {name}2=y; z{name}=%20".encode())
