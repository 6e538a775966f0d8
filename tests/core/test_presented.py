"""Tokens that have come before are recognised, as if they had not, and nothing that opens a session is remembered."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessiondb.core.presented import Presented, Recogniser, presented, recognise
from sessiondb.core.token import TOKEN_LENGTH, Token, digest, mint, parse
from sessiondb.core.verify import Verdict, verify
from strategies import NOW, record

ANY_BYTES = st.binary(max_size=200) | st.binary(min_size=TOKEN_LENGTH, max_size=TOKEN_LENGTH)


def text(token: Token) -> bytes:
    return token.encode().encode("ascii")


@pytest.mark.security("T5")
@given(ANY_BYTES)
@example(b"")
@example(b"A" * 22 + b"." + b"A" * 22 + b"." + b"A" * 43)
@example(b"A" * 1_000_000)
def test_what_parse_refuses_is_not_recognised(raw: bytes) -> None:
    found = recognise(raw)
    assert (found is None) == (parse(raw) is None)
    assert found is None or found.raw == raw


@pytest.mark.security("T4")
def test_it_is_the_same_each_time_it_comes() -> None:
    recogniser, issued = Recogniser(), mint(NOW)
    first, again = recogniser(text(issued)), recogniser(text(issued))
    assert first == again == presented(issued)
    assert first is not None
    assert first.token() == issued
    assert (first.sid, first.series_hash, first.secret_hash) == (
        issued.sid,
        digest(issued.series),
        digest(issued.secret),
    )


@pytest.mark.security("T4")
def test_each_part_decides() -> None:
    """A token that has come before lends nothing to one that differs from it in a part."""
    issued, other = mint(NOW), mint(NOW)
    stored = record(
        sid=issued.sid, series_hash=digest(issued.series), secret_hash=digest(issued.secret), created_at=NOW
    )
    assert verify(stored, presented(issued), NOW) is Verdict.SERVE
    assert verify(stored, presented(Token(issued.sid, issued.series, other.secret)), NOW) is Verdict.STALE
    assert verify(stored, presented(Token(issued.sid, other.series, issued.secret)), NOW) is Verdict.FORGED


def test_every_one_character_mutation_of_a_known_token_is_another_one() -> None:
    issued = mint(NOW)
    raw = text(issued)
    known = recognise(raw)
    for at in range(len(raw)):
        for character in b"Aa0_-.=":
            changed = raw[:at] + bytes([character]) + raw[at + 1 :]
            if changed != raw:
                found = recognise(changed)
                assert found is None or found != known
                assert (found is None) == (parse(changed) is None)


def test_what_is_remembered_is_bounded() -> None:
    recogniser = Recogniser(10)
    for _ in range(100):
        recogniser(text(mint(NOW)))
        assert len(recogniser) <= 20
    for junk in range(100):
        recogniser(b"%089d" % junk)
    assert len(recogniser) <= 20


def test_who_comes_often_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser, often = Recogniser(10), text(mint(NOW))
    recogniser(often)
    parsed: list[bytes] = []

    def counting(raw: bytes) -> Token | None:
        parsed.append(raw)
        return parse(raw)

    monkeypatch.setattr("sessiondb.core.presented.parse", counting)
    for _ in range(50):
        recogniser(text(mint(NOW)))
        assert recogniser(often) is not None
    assert often not in parsed
    assert len(parsed) == 50


def everything_in(things: Iterable[Any]) -> bytes:
    """All text and bytes that can be reached from ``things``."""
    seen: set[int] = set()
    waiting, found = list(things), bytearray()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (str, bytes)):
            found += thing.encode() if isinstance(thing, str) else thing
        elif isinstance(thing, dict):
            waiting += [*thing, *thing.values()]
        else:
            assert isinstance(thing, tuple)
            waiting += thing
    return bytes(found)


@pytest.mark.security("T4")
def test_nothing_that_opens_a_session_is_remembered() -> None:
    recogniser = Recogniser(4)
    issued = [mint(NOW) for _ in range(6)]
    for token in issued:
        recogniser(text(token))
    remembered = everything_in([recogniser._young, recogniser._old])
    for token in issued:
        assert digest(token.secret) in remembered
        for part in (token.secret, token.series, text(token)[23:45], text(token)[46:]):
            assert part not in remembered


def test_no_repr_shows_a_secret() -> None:
    issued = mint(NOW)
    shown = f"{presented(issued)!r} {[presented(issued)]}"
    assert issued.sid in shown
    for part in (text(issued)[23:45], text(issued)[46:], digest(issued.secret)):
        assert part.decode("latin-1") not in shown
        assert repr(part)[2:-1] not in shown


def test_threads_share_it() -> None:
    recogniser = Recogniser(8)
    tokens = [text(mint(NOW)) for _ in range(40)]
    wrong: list[Presented | None] = []

    def look() -> None:
        for _ in range(200):
            for raw in tokens:
                found = recogniser(raw)
                if found is None or found.raw != raw or found.token() != parse(raw):
                    wrong.append(found)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
