"""Which keys are taken, what they are called, and where a ring gets them from."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import re
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb import ConfigurationError, KeyRing, SessionDB, StoreUnavailable
from sessiondb.core.keys import generate_key, parse_key
from sessiondb.keyring import MOST_THREADS

ROOT = Path(__file__).parents[2]


def spelled(raw: bytes) -> list[Any]:
    """The spellings of one key."""
    text = base64.b64encode(raw).decode()
    urlsafe = base64.urlsafe_b64encode(raw).decode()
    return [raw, raw.hex(), raw.hex().upper(), text, text.rstrip("="), urlsafe, urlsafe.rstrip("="), f" {text}\n"]


def test_a_key_has_one_id_in_each_spelling() -> None:
    raw = secrets.token_bytes(32)
    keys = [parse_key(one) for one in (*spelled(raw), raw.hex().encode())]
    assert {key.secret for key in keys} == {raw}
    [key_id] = {key.id for key in keys}
    assert re.fullmatch(rb"[A-Za-z0-9_-]{8}", key_id)
    assert parse_key(secrets.token_bytes(32)).id != key_id


def test_what_is_generated_is_taken() -> None:
    made = {generate_key() for _ in range(2000)}
    assert len(made) == 2000
    for text in made:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", text)
        parse_key(text)


KNOWN = [
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # the FastAPI tutorial
    "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",  # the Fernet specification
    "46BKJoQYlPPOexq0OhDZnIlNepKFf87WFwLbfzqDDho=",  # images of Airflow
    "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs=",
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",  # RFC 7520
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",  # NIST SP 800-38A
]
WEAK: list[Any] = [
    "",
    " ",
    b"",
    None,
    7,
    "changeme",
    "CHANGE_ME_TO_A_COMPLEX_RANDOM_SECRET_KEY",
    "django-insecure-#9l_2^@8x$0v1q",
    "your-256-bit-secret",
    "secret",
    "short",
    "x" * 43,
    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopE",
    "correcthorsebatterystaplecorrecthorsebatteA",
    "ThisIsTheLongAndVeryWellHiddenPhraseOfMineA",
    "0123456789abcdef" * 4,
    "00" * 32,
    "ff" * 32,
    bytes(32),
    bytes(range(32)),
    bytes(range(100, 132)),
    bytes(range(31, -1, -1)),
    b"ab" * 16,
    b"0123456789abcdef" * 2,
    secrets.token_bytes(16) * 2,
    secrets.token_bytes(8) * 4,
    b"an ordinary sentence of 32 bytes",
    base64.b64encode(b"an ordinary sentence of 32 bytes").decode(),
    secrets.token_bytes(16),
    secrets.token_bytes(31),
    secrets.token_bytes(33),
    secrets.token_hex(16),
    secrets.token_urlsafe(16),
    secrets.token_urlsafe(48),
    "é" * 43,
    "not base64!" + "A" * 32,
    *KNOWN,
    *(one.rstrip("=") for one in KNOWN),
]


@pytest.mark.security("K5")
@pytest.mark.parametrize("weak", WEAK, ids=range(len(WEAK)))
def test_weak_and_well_known_keys_are_refused(weak: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeyRing(weak)
    message = str(caught.value)
    assert "sessiondb keys generate" in message
    assert "\n" not in message
    text = weak.decode("latin-1") if isinstance(weak, bytes) else str(weak)
    assert len(text) < 12 or text not in message, "the message shows the key"


@pytest.mark.security("K5")
@given(st.binary(min_size=0, max_size=64) | st.text(max_size=64))
def test_whatever_is_given_is_a_key_or_refused(given_: bytes | str) -> None:
    try:
        key = parse_key(given_)
    except ConfigurationError:
        return
    assert len(key.secret) == 32


@pytest.mark.security("K5")
def test_no_text_of_ours_holds_a_key_that_works() -> None:
    """Whoever copies a key from the documentation, the examples or the tests is told so."""
    looks_like_one = re.compile(r"(?<![A-Za-z0-9+/_=-])(?:[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{43}=?)(?![A-Za-z0-9+/_=-])")
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("examples/**/*.py")]
    assert len(files) > 50
    digests = (ROOT / "src/sessiondb/core/keys.py").read_text(encoding="utf-8")
    for file in files:
        for found in looks_like_one.findall(file.read_text(encoding="utf-8")):
            if found in digests:
                continue  # the digests of the keys that are refused
            with pytest.raises(ConfigurationError):
                KeyRing(found)


@pytest.mark.security("K6")
def test_no_repr_shows_a_key() -> None:
    raw = secrets.token_bytes(32)
    ring = KeyRing(raw, KeyRing.generate())
    db = SessionDB("memory://", keys=ring)
    shown = f"{ring!r} {ring.current!r} {ring.current} {db!r} {db._settings!r}"
    for spelling in spelled(raw):
        assert (spelling if isinstance(spelling, str) else repr(spelling)) not in shown
    assert repr(ring) == f"KeyRing({ring.ids[0]!r}, {ring.ids[1]!r})"
    with pytest.raises(TypeError):
        pickle.dumps(ring.current)


def test_a_ring_refuses_what_makes_no_sense() -> None:
    key = KeyRing.generate()
    for make in (
        lambda: KeyRing(key, key),
        lambda: KeyRing(*(KeyRing.generate() for _ in range(33))),
        lambda: KeyRing(key, plain="maybe"),  # type: ignore[arg-type]
        lambda: KeyRing.from_callable("key"),  # type: ignore[arg-type]
        lambda: KeyRing.from_callable(lambda: key, timeout=0),
        lambda: KeyRing.from_callable(lambda: key, refresh_every=0.1),
        lambda: SessionDB("memory://", keys=key),  # type: ignore[arg-type]
        lambda: SessionDB("memory://", keys=[key]),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert key not in str(caught.value)


def test_without_cryptography_it_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import sessiondb\n"
        "try: sessiondb.KeyRing(sessiondb.KeyRing.generate())\n"
        "except sessiondb.ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'sessiondb[crypto]'" in done.stdout


def test_an_app_without_keys_never_imports_cryptography() -> None:
    code = (
        "import asyncio, sys, sessiondb\n"
        "async def main():\n"
        "    async with sessiondb.SessionDB('memory://') as db: await db.create('ann', {'a': 1})\n"
        "asyncio.run(main())\n"
        "print('cryptography' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


# -- where keys come from ---------------------------------------------------------------------------------


def test_keys_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old, oldest = (KeyRing.generate() for _ in range(3))
    monkeypatch.setenv("SESSIONDB_KEYS", f" {new}, {old}\n{oldest} ")
    assert KeyRing.from_env().ids == KeyRing(new, old, oldest).ids
    monkeypatch.setenv("OTHER", old)
    assert KeyRing.from_env("OTHER", plain="accept").plain == "accept"
    for wrong in ("", " ", ",", "changeme", f"{new},"[:-2], f"{new},{new}"):
        monkeypatch.setenv("SESSIONDB_KEYS", wrong)
        with pytest.raises(ConfigurationError, match=r"\$SESSIONDB_KEYS"):
            KeyRing.from_env()
    monkeypatch.delenv("SESSIONDB_KEYS")
    with pytest.raises(ConfigurationError, match="not set"):
        KeyRing.from_env()


def test_keys_from_a_file(tmp_path: Path) -> None:
    new, old = KeyRing.generate(), KeyRing.generate()
    path = tmp_path / "keys"
    path.write_text(f"# the keys of the shop\n{new}\n\n{old}\n")
    path.chmod(0o600)
    assert KeyRing.from_file(path).ids == KeyRing(new, old).ids
    path.chmod(0o400)
    assert KeyRing.from_file(str(path)).ids == KeyRing(new, old).ids
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="one key a line"):
        KeyRing.from_file(path)
    path.write_text("# nothing else\n")
    with pytest.raises(ConfigurationError, match="no key"):
        KeyRing.from_file(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        KeyRing.from_file(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        KeyRing.from_file(tmp_path)


@pytest.mark.security("K5")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o610])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text(KeyRing.generate())
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {re.escape(str(path))}"):
        KeyRing.from_file(path)


async def test_keys_from_a_function() -> None:
    new, old = KeyRing.generate(), KeyRing.generate()

    async def waits() -> list[str]:
        await asyncio.sleep(0)
        return [new, old]

    for fetch in (waits, lambda: [new, old], lambda: waits(), lambda: (bytes(new, "ascii"), old)):
        ring = KeyRing.from_callable(fetch)
        assert ring.ids == ()
        with pytest.raises(StoreUnavailable, match="not been fetched"):
            _ = ring.current
        await ring.prepare()
        assert ring.ids == KeyRing(new, old).ids
    ring = KeyRing.from_callable(lambda: new)
    await ring.prepare()
    assert ring.ids == KeyRing(new).ids


async def test_a_function_in_a_thread_does_not_hold_up_the_loop() -> None:
    import threading

    started, release = threading.Event(), threading.Event()
    key = KeyRing.generate()

    def fetch() -> str:
        started.set()
        release.wait(60)
        return key

    ring = KeyRing.from_callable(fetch, timeout=60)
    task = asyncio.create_task(ring.prepare())
    while not started.is_set():
        await asyncio.sleep(0)
    release.set()
    await task
    assert len(ring.ids) == 1


async def test_a_function_that_hangs_or_fails_is_unavailable() -> None:
    key = KeyRing.generate()

    async def hangs() -> str:
        await asyncio.Event().wait()
        return key

    def fails() -> str:
        raise RuntimeError(f"the answer was {key}")

    with pytest.raises(StoreUnavailable, match=r"within 0\.01 s"):
        await KeyRing.from_callable(hangs, timeout=0.01).prepare()
    with pytest.raises(StoreUnavailable, match="RuntimeError") as caught:
        await KeyRing.from_callable(fails).prepare()
    assert key not in str(caught.value)
    for wrong in ([], [key, key], "changeme", None, 7, [None]):
        with pytest.raises(ConfigurationError):
            await KeyRing.from_callable(lambda wrong=wrong: wrong).prepare()  # type: ignore[misc]


async def test_a_refresh_that_fails_keeps_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    new, old = KeyRing.generate(), KeyRing.generate()
    path.write_text(old)
    path.chmod(0o600)
    ring = KeyRing.from_file(path)
    path.write_text("half a ke")
    with pytest.raises(ConfigurationError):
        await ring.refresh()
    assert ring.ids == KeyRing(old).ids
    path.write_text(f"{new}\n{old}\n")
    await ring.refresh()
    assert ring.ids == KeyRing(new, old).ids
    os.unlink(path)
    with pytest.raises(ConfigurationError):
        await ring.refresh()
    assert ring.ids == KeyRing(new, old).ids


async def test_a_refresh_that_finds_the_same_keys_keeps_what_was_derived_of_them() -> None:
    new, old = KeyRing.generate(), KeyRing.generate()
    keys = [old]
    ring = KeyRing.from_callable(lambda: list(keys))
    await ring.prepare()
    first = ring.current
    keys.insert(0, new)
    await ring.refresh()
    assert ring.ids == KeyRing(new, old).ids
    assert ring.find(first.id) is first


async def test_a_function_that_hangs_does_not_take_ever_more_threads() -> None:
    go, calls = threading.Event(), 0

    def hangs() -> list[str]:
        nonlocal calls
        calls += 1
        go.wait(60)
        return [key]

    key = KeyRing.generate()
    ring = KeyRing.from_callable(hangs, timeout=0.01)
    try:
        with pytest.raises(StoreUnavailable, match="within"):
            await ring.prepare()
        for _ in range(50):
            with pytest.raises(StoreUnavailable):
                await ring.prepare()
        assert calls <= MOST_THREADS
    finally:
        go.set()
    patient = KeyRing.from_callable(hangs)
    await patient.prepare()
    assert patient.ids == KeyRing(key).ids
