"""What of a login is compared, and the marks that stand for it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.features import LEVELS, Features, Marker, features_of

KEY = bytes(range(32))
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

texts = st.none() | st.text(max_size=60)
features = st.builds(Features, **dict.fromkeys(LEVELS, texts))


def test_the_levels_are_the_fields() -> None:
    assert tuple(field.name for field in msgspec.structs.fields(Features)) == LEVELS


def test_an_address_and_a_user_agent_are_known_at_each_precision() -> None:
    assert features_of("192.0.2.7", FIREFOX, asn=64500, country="NO") == Features(
        ip="192.0.2.7",
        network="192.0.2.0/24",
        region="AS64500",
        country="NO",
        agent=FIREFOX,
        browser="Firefox 128",
        system="Linux ",
        device="desktop",
    )
    wide = features_of("2001:db8:1:2::3", None)
    assert (wide.network, wide.region, wide.country) == ("2001:db8:1::/48", "2001:db8::/32", None)
    assert wide.agent is wide.browser is wide.system is wide.device is None


@pytest.mark.parametrize("nothing", [(None, None), ("no address", ""), ("", "")])
def test_what_says_nothing_is_not_known(nothing: tuple[str | None, str | None]) -> None:
    assert Marker(KEY)(features_of(*nothing)) == (0,) * 8


@given(features)
def test_marks_are_the_same_for_the_same_key_alone(one: Features) -> None:
    marks = Marker(KEY)(one)
    assert marks == Marker(KEY)(one)
    other = Marker(KEY[::-1])(one)
    for name, mark, elsewhere in zip(LEVELS, marks, other, strict=True):
        assert (mark == 0) == (getattr(one, name) is None)
        assert 0 <= mark < 1 << 32
        assert mark == 0 or mark != elsewhere


def test_a_text_has_another_mark_at_each_level() -> None:
    assert len(set(Marker(KEY)(Features(**dict.fromkeys(LEVELS, "same"))))) == 8


@pytest.mark.parametrize(
    "text", ["\ud800", "\0", "", "é" * 100_000, "\x1b[31m"], ids=["surrogate", "nul", "empty", "long", "escape"]
)
def test_no_text_is_too_odd(text: str) -> None:
    assert 0 not in Marker(KEY)(Features(**dict.fromkeys(LEVELS, text)))


def test_different_texts_have_different_marks() -> None:
    marks = {Marker(KEY)(Features(ip=f"192.0.2.{host}"))[0] for host in range(256)}
    assert len(marks) == 256


def test_keys_of_any_length_will_do_but_short_ones() -> None:
    one = Features(ip="192.0.2.1")
    assert len({Marker(KEY[:1] * length)(one) for length in (16, 32, 64, 65, 200)}) == 5
    with pytest.raises(ConfigurationError, match="has 15 bytes, and needs 16"):
        Marker(bytes(15))
