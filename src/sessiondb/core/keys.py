"""Keys for encryption at rest: how one is written, what it is called, and which are refused.

A key is 32 random bytes. Nobody can see whether 32 bytes were drawn at random, but what people put into a setting
instead of a key can be seen: words, patterns, and keys that are printed in somebody's documentation (ASVS 11.6.1,
CVE-2023-27524).
"""

from __future__ import annotations

import binascii
import hashlib
import itertools
import re
import secrets
from typing import TYPE_CHECKING, Literal, NoReturn

from sessiondb.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Plain = Literal["refuse", "accept", "write"]

KEY_BYTES = 32
KEY_ID_LENGTH = 8
HOW_TO_MAKE_ONE = "Make one with: sessiondb keys generate (or KeyRing.generate())"

_ID_LABEL = b"sessiondb key id 1\0"
_LEAST_BYTES = 16  # 32 random bytes have 30 different ones; fewer than 16 come once in 10**10 keys
_LEAST_CHARACTERS = 18  # 43 random characters of base64 have 31 different ones
_LEAST_OF_A_CASE = 4
_HEX = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII).fullmatch
_BASE64 = re.compile(r"[A-Za-z0-9_+/-]{42}[AEIMQUYcgkosw048]=?", re.ASCII).fullmatch
_TO_STANDARD = str.maketrans("-_", "+/")
_PLACEHOLDERS = (
    "changeme",
    "change_me",
    "change-me",
    "default",
    "django",
    "dummykey",
    "encryption",
    "example",
    "insecure",
    "mysecret",
    "notasecret",
    "password",
    "placeholder",
    "replace",
    "secret",
    "sessiondb",
    "supersecret",
    "testkey",
    "yourkey",
    "your-key",
    "your_key",
)

# SHA-256 of the 32 bytes, so that no key is printed here again.
_WELL_KNOWN = frozenset(
    {
        "4d0f8dec4515d07a611c502f22adb95c854d943d6122fb8f96c9503b42356bac",  # the FastAPI tutorial
        "cbeb362f1fa69a6691db592f4529cf6bea1ce089eb132a3350c9081279ff8f34",  # the Fernet specification
        "5ca278330d08b9ce5bb4e0c8755263873be3b92f5db329c5562d445b3e022232",  # images of Airflow
        "3990442a9e73e2e289f7c0c4f1c9dc85d3d54268f208748631ecb46b1ef9f3df",  # examples for Airflow
        "73ec74458059c70cae3f0ade8663fe0da1dc4b114ed8cdac75364140b4458a4c",  # RFC 7520
        "b93c72b74bc8487d29827005f80d635918f91bc22b14d7ed05714d58f96702dd",  # NIST SP 800-38A
    }
)


def aes_gcm() -> tuple[type[AESGCM], type[Exception]]:
    """The cipher, and what it raises for a value that was not encrypted so. Raises ``ConfigurationError``."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ConfigurationError(
            "SessionDB(keys=...) needs cryptography, which is not installed: pip install 'sessiondb[crypto]'."
        ) from error
    return AESGCM, InvalidTag


class Key:
    """One key. ``id`` (8 ASCII bytes) names it in the database and in messages, and does not give it away."""

    __slots__ = ("id", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        digest = hashlib.sha256(_ID_LABEL + secret).digest()[:6]
        self.id = binascii.b2a_base64(digest, newline=False).replace(b"+", b"-").replace(b"/", b"_")

    def __repr__(self) -> str:
        return f"Key({self.id.decode()!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Key cannot be pickled or copied: it would leave this process.")


def generate_key() -> str:
    """A new key: 43 characters, base64url of 32 random bytes."""
    while True:
        text = binascii.b2a_base64(secrets.token_bytes(KEY_BYTES), newline=False).decode()
        text = text.rstrip("=").replace("+", "-").replace("/", "_")
        if _weakness_of_text(text) is None:  # one of ten million would look like a word or a pattern
            return text


def parse_key(given: object, where: str = "KeyRing") -> Key:
    """The key that ``given`` is: 43 or 44 characters of base64 (either alphabet), 64 hexadecimal ones, or 32 bytes.

    Raises ``ConfigurationError``, which names ``where`` and never shows what was given.
    """
    if isinstance(given, (bytes, bytearray, memoryview)):
        raw = bytes(given)
        if len(raw) != KEY_BYTES:
            # A file or KMS may give the text of a key as bytes.
            return parse_key(_ascii(raw, where), where)
        return _checked(raw, where)
    if not isinstance(given, str):
        _refuse(where, f"a key is a {type(given).__name__}; use text or bytes")
    text = given.strip()
    if not text:
        _refuse(where, "a key is empty")
    weakness = _weakness_of_text(text)
    if weakness is not None:
        _refuse(where, weakness)
    if _HEX(text):
        return _checked(bytes.fromhex(text), where)
    if _BASE64(text) is None:
        _refuse(
            where,
            f"a key has {len(text)} characters; 32 random bytes are 43 characters of base64url or 64 hexadecimal ones",
        )
    return _checked(binascii.a2b_base64(text.rstrip("=").translate(_TO_STANDARD) + "="), where)


def _ascii(raw: bytes, where: str) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        _refuse(where, f"a key has {len(raw)} bytes; it must have 32")


def _checked(raw: bytes, where: str) -> Key:
    weakness = _weakness_of_bytes(raw)
    if weakness is not None:
        _refuse(where, weakness)
    return Key(raw)


def _refuse(where: str, why: str) -> NoReturn:
    raise ConfigurationError(f"{where}: {why}. {HOW_TO_MAKE_ONE}.") from None


def _weakness_of_text(text: str) -> str | None:
    lower = text.lower()
    if any(word in lower for word in _PLACEHOLDERS):
        return "a key has a word in it that stands for a key in examples, so it is not random"
    if _HEX(text) or _BASE64(text) is None:
        return None
    # Among 43 random characters are 17 of each case; fewer than four come once in 10**6 keys, and letters alone with no
    # two capitals in a row, as words are written, once in 10**7.
    cases = (sum(map(str.isupper, text)), sum(map(str.islower, text)))
    like_words = re.fullmatch(r"(?:[A-Z]?[a-z])+[A-Z]?", text) is not None
    if len(set(text)) < _LEAST_CHARACTERS or min(cases) < _LEAST_OF_A_CASE or like_words:
        return "a key looks like words or a pattern, and not like random characters"
    return None


def _weakness_of_bytes(raw: bytes) -> str | None:
    if len(set(raw)) < _LEAST_BYTES:
        return "a key has few different bytes, so it is a pattern and not random"
    if any(raw == (raw[:period] * KEY_BYTES)[:KEY_BYTES] for period in range(1, KEY_BYTES // 2 + 1)):
        return "a key repeats itself, so it is not random"
    if len({(after - before) % 256 for before, after in itertools.pairwise(raw)}) <= 2:
        return "a key counts up or down, so it is not random"
    if all(0x20 <= byte < 0x7F for byte in raw):
        return "a key is 32 characters of text instead of 32 random bytes"
    if hashlib.sha256(raw).hexdigest() in _WELL_KNOWN:
        return "a key is printed in public documentation, so everybody has it"
    return None
