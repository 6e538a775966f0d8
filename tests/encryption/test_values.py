"""One value in its envelope: it comes out as it went in, at its own place alone, and in no other way."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from sessiondb import KeyRing, SessionDataError, SessionDB
from sessiondb.core import codec
from sessiondb.core.change import Create
from sessiondb.core.record import Record
from sessiondb.stores._sealing import MARK, Sealer, UnknownKey
from sessiondb.stores.encrypting import EncryptingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import Builders
from sessiondb.testing.checks import same_data

NEW, OLD = KeyRing.generate(), KeyRing.generate()
RING = KeyRing(NEW, OLD)
SEALER = Sealer(RING)
BUILD = Builders(1_800_000_000_000_000)
SID, OTHER = BUILD.record().sid, BUILD.record().sid

json_values = strategies.values.map(lambda value: codec.encode_value("v", value))


@given(strategies.keys, json_values)
def test_a_value_comes_out_as_it_went_in(name: str, value: bytes) -> None:
    sealed = SEALER.seal(SID, name, value)
    assert SEALER.open(SID, name, sealed) == value
    assert isinstance(json.loads(sealed), str)
    assert sealed.isascii() and b"\\" not in sealed and b"/" not in sealed, "databases spell such text in other ways"
    assert sealed != SEALER.seal(SID, name, value), "the nonce is another one each time"


@given(strategies.data)
def test_data_comes_out_equal(data: dict[str, Any]) -> None:
    encoded = codec.encode_data(data)
    record = BUILD.record(None, data)
    sealed = msgspec.structs.replace(record, data=SEALER.seal_data(record.sid, encoded))
    assert set(codec.split(sealed.data)) == set(data)
    opened = SEALER.open_record(sealed)
    assert opened.data == encoded
    same_data(codec.decode_data(opened.data), data, "data")
    for field in Record.__struct_fields__:
        assert getattr(opened, field) == getattr(record, field)


@pytest.mark.security("K2")
@given(json_values, strategies.keys, strategies.keys)
def test_a_value_opens_at_its_own_place_alone(value: bytes, name: str, other: str) -> None:
    sealed = SEALER.seal(SID, name, value)
    with pytest.raises(SessionDataError, match="cannot be decrypted"):
        SEALER.open(OTHER, name, sealed)
    if other != name:
        with pytest.raises(SessionDataError, match="cannot be decrypted"):
            SEALER.open(SID, other, sealed)


@pytest.mark.security("K2", "K3")
def test_every_bit_counts() -> None:
    sealed = SEALER.seal(SID, "cart", b'["tea"]')
    for at in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[at] ^= 1 << bit
            with pytest.raises(SessionDataError):
                SEALER.open(SID, "cart", bytes(flipped))


@pytest.mark.security("K2", "K3")
def test_nothing_can_be_cut_off_or_added() -> None:
    sealed = SEALER.seal(SID, "cart", b'["tea"]')
    cut = [sealed[:end] for end in range(len(sealed))] + [sealed[:end] + b'"' for end in range(len(sealed) - 1)]
    more = [sealed[:-1] + tail for tail in (b'="', b'A"', b'AAAA"', b'" ', b'""')]
    for changed in (*cut, *more, sealed + sealed):
        with pytest.raises(SessionDataError):
            SEALER.open(SID, "cart", changed)


@pytest.mark.security("K3")
@given(st.binary(max_size=80).map(lambda tail: MARK + tail) | st.binary(max_size=80) | json_values)
def test_what_is_not_ours_is_refused(stored: bytes) -> None:
    with pytest.raises(SessionDataError):
        SEALER.open(SID, "cart", stored)


@pytest.mark.security("K3")
@pytest.mark.parametrize("plain", ["accept", "write"])
def test_a_broken_envelope_is_never_taken_for_a_plain_value(plain: Any) -> None:
    sealer = Sealer(KeyRing(NEW, OLD, plain=plain))
    sealed = sealer.seal(SID, "cart", b'["tea"]') if plain == "accept" else SEALER.seal(SID, "cart", b'["tea"]')
    for broken in (sealed[:-2] + b'"', sealed.replace(b"sdb1.", b"sdb1.x"), MARK + b'"'):
        with pytest.raises(SessionDataError):
            sealer.open(SID, "cart", broken)
    assert sealer.open(SID, "cart", b'["tea"]') == b'["tea"]'


@pytest.mark.security("K3")
@pytest.mark.parametrize("plain", ["refuse", "accept", "write"])
def test_users_cannot_forge_an_envelope(plain: Any) -> None:
    """Text that looks like an envelope, or is one from elsewhere, is text: it comes out as it went in."""
    sealer = Sealer(KeyRing(NEW, OLD, plain=plain))
    stolen = json.loads(SEALER.seal(OTHER, "role", b'"admin"'))
    for text in (stolen, "sdb1.", "sdb1.AAAAAAAA.AAAA", MARK.decode()):
        value = codec.encode_value("v", text)
        assert sealer.open(SID, "v", sealer.seal(SID, "v", value)) == value


@pytest.mark.security("K4")
def test_the_newest_key_encrypts_and_all_decrypt() -> None:
    by_old = Sealer(KeyRing(OLD)).seal(SID, "cart", b"1")
    by_new = Sealer(KeyRing(NEW)).seal(SID, "cart", b"1")
    assert SEALER.open(SID, "cart", by_old) == SEALER.open(SID, "cart", by_new) == b"1"
    assert RING.ids == (*KeyRing(NEW).ids, *KeyRing(OLD).ids)
    mine = SEALER.seal(SID, "cart", b"1")
    assert Sealer(KeyRing(NEW)).open(SID, "cart", mine) == b"1"
    with pytest.raises(UnknownKey):
        Sealer(KeyRing(OLD)).open(SID, "cart", mine)
    # The order is what counts, not the age.
    assert Sealer(KeyRing(NEW)).open(SID, "cart", Sealer(KeyRing(NEW, OLD)).seal(SID, "cart", b"2")) == b"2"
    assert Sealer(KeyRing(OLD)).open(SID, "cart", Sealer(KeyRing(OLD, NEW)).seal(SID, "cart", b"2")) == b"2"


@pytest.mark.security("K4")
def test_a_retired_key_is_refused() -> None:
    by_old = Sealer(KeyRing(OLD)).seal(SID, "cart", b"1")
    with pytest.raises(UnknownKey, match="not in the ring"):
        Sealer(KeyRing(NEW)).open(SID, "cart", by_old)
    # Also under the name of a key that is still there.
    renamed = by_old.replace(KeyRing(OLD).ids[0].encode(), KeyRing(NEW).ids[0].encode())
    with pytest.raises(SessionDataError, match="cannot be decrypted"):
        Sealer(KeyRing(NEW)).open(SID, "cart", renamed)


async def test_a_key_that_is_retired_while_the_app_runs_is_refused_at_once() -> None:
    keys = [NEW, OLD]
    ring = KeyRing.from_callable(lambda: list(keys))
    await ring.prepare()
    sealer = Sealer(ring)
    by_old = Sealer(KeyRing(OLD)).seal(SID, "cart", b"1")
    assert sealer.open(SID, "cart", by_old) == b"1"
    keys.remove(OLD)
    await ring.refresh()
    with pytest.raises(UnknownKey):
        sealer.open(SID, "cart", by_old)


async def test_an_unknown_key_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has not seen the new key yet reads what others wrote with it; nobody can make it ask for ever."""
    keys, asked = [OLD], 0

    async def fetch() -> list[str]:
        nonlocal asked
        asked += 1
        return list(keys)

    memory = MemoryStore(clock=ManualClock())
    here = EncryptingStore(memory, KeyRing.from_callable(fetch))
    await here.open()
    records = [BUILD.record("ann", {"n": number}) for number in range(20)]
    for key, record in zip([NEW] * 10 + [KeyRing.generate()] * 10, records, strict=True):
        there = EncryptingStore(memory, KeyRing(key))
        await there.open()
        await there.apply([Create(record)])
    keys.insert(0, NEW)
    assert asked == 1
    loads = [here.load([record.sid for record in records]) for _ in range(5)]
    for found in await asyncio.gather(*loads):
        for number, record in enumerate(found):
            assert record is not None
            if number < 10:
                assert codec.decode_data(record.data) == {"n": number}
            else:
                with pytest.raises(SessionDataError, match="not in the ring"):
                    codec.decode_data(record.data)
    assert asked == 2
    await here.load([records[-1].sid])
    assert asked == 2
    monkeypatch.setattr("sessiondb.stores.encrypting.ASK_EVERY", 0.0)
    await here.load([records[-1].sid])
    assert asked == 3


def test_each_session_has_its_own_key_and_the_cache_is_bounded() -> None:
    """The bound of 2**32 random nonces holds for one session, not for all together."""
    sealer = Sealer(KeyRing(NEW))
    place = sealer._place
    key = KeyRing(NEW).current
    nonce = secrets.token_bytes(12)
    assert place(key, SID)[0](nonce, b"x", b"") != place(key, OTHER)[0](nonce, b"x", b"")
    for number in range(10_000):
        place(key, str(number))
    assert place.cache_info().currsize <= 4096  # type: ignore[attr-defined]


def test_the_envelope_is_what_the_documentation_says() -> None:
    """Anybody can decrypt with the key at hand: HKDF-Expand and AES-256-GCM, as written in ``_sealing``."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    sealed = json.loads(SEALER.seal(SID, "cart", b'["tea"]'))
    mark, key_id, text = sealed.split(".")
    assert mark == "sdb1" and key_id == RING.ids[0]
    raw = msgspec.convert(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), bytes)
    label = b"sessiondb value 1\0"
    derived = HKDFExpand(SHA256(), 32, label + SID.encode()).derive(RING.current.secret)
    opened = AESGCM(derived).decrypt(raw[:12], raw[12:], label + key_id.encode() + SID.encode() + b"cart")
    assert opened == b'["tea"]'


async def test_a_key_service_that_hangs_fails_nobody_else() -> None:
    """Who waits for an unknown key waits less than a call of the store may take: the rest of the batch is answered."""
    hanging = False

    async def fetch() -> list[str]:
        if hanging:
            await asyncio.Event().wait()
        return [OLD]

    memory = MemoryStore()
    there = SessionDB(memory, keys=KeyRing(NEW, OLD), sweep_every=None)
    here = SessionDB(memory, keys=KeyRing.from_callable(fetch, timeout=60), sweep_every=None, timeout=4)
    async with there, here:
        new = await there.create("ann", {"n": 1})
        old = await here.create("bob", {"n": 2})
        hanging = True
        found = await asyncio.gather(here.get(new.session.sid), here.get(old.session.sid))
        assert [one.data for one in found if one is not None] == [{}, {"n": 2}]
