"""The token that a client holds: ``sid.series.secret``, base64url without padding (RFC 4648 section 5).

* **sid**: UUIDv7 (RFC 9562), the public, immutable id. It proves nothing and may be logged.
* **series**: 128 random bits, fixed for the life of the sid.
* **secret**: 256 random bits, replaced by each rotation.

Only SHA-256 digests of series and secret are ever stored, so a dump of the database holds no usable token
(OWASP ASVS 7.2.3; CVE-2019-16782).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from binascii import a2b_base64, b2a_base64
from typing import NewType

import msgspec

Sid = NewType("Sid", str)

TOKEN_LENGTH = 89
SALT_BYTES = 32

# The last character of each part may only carry the bits that the part has: otherwise several spellings of
# one token would be accepted, and a changed token could still log in. In the sid, the ninth character begins with the
# version of the UUID (7), and the eleventh ends with its variant (binary 10).
_FORMAT = re.compile(
    rb"[A-Za-z0-9_-]{8}[c-f][A-Za-z0-9_-][CGKOSWaeimquy26-][A-Za-z0-9_-]{10}[AQgw]\."
    rb"[A-Za-z0-9_-]{21}[AQgw]\."
    rb"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"
).fullmatch
_sha256 = hashlib.sha256
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")


class Token(msgspec.Struct, frozen=True, gc=False):
    """A parsed token. Its ``repr`` shows the sid alone; ``encode()`` is the only way to the secret text."""

    sid: Sid
    series: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Token(sid={self.sid!r})"

    def encode(self) -> str:
        """The text for the client: 89 ASCII characters."""
        raw = bytes.fromhex(self.sid.replace("-", ""))
        parts = (b2a_base64(part, newline=False).rstrip(b"=") for part in (raw, self.series, self.secret))
        return b".".join(parts).translate(_TO_URLSAFE).decode("ascii")

    def rotated(self, salt: bytes) -> Token:
        """The token after a rotation with ``salt`` (32 bytes): parallel requests derive the same one."""
        return Token(self.sid, self.series, derive(self.secret, salt))


def mint(now: int) -> Token:
    """A new token; ``now`` (microseconds since the epoch, UTC) goes into the sid, in milliseconds."""
    random = secrets.token_bytes(58)
    return Token(_uuid7(now // 1000, random[:10]), random[10:26], random[26:])


def parse(raw: bytes) -> Token | None:
    """The token in ``raw``, or ``None`` if it is not one exactly. Never raises, whatever the bytes."""
    if len(raw) != TOKEN_LENGTH or _FORMAT(raw) is None:
        return None
    standard = raw.translate(_TO_STANDARD)
    return Token(
        format_sid(a2b_base64(standard[:22] + b"==")),
        a2b_base64(standard[23:45] + b"=="),
        a2b_base64(standard[46:] + b"="),
    )


def digest(part: bytes) -> bytes:
    """SHA-256. Series and secret are uniformly random, so neither salt nor stretching would add anything."""
    return _sha256(part).digest()


def derive(secret: bytes, salt: bytes) -> bytes:
    """The next secret: HMAC-SHA256(salt, secret)."""
    return hmac.digest(salt, secret, "sha256")


def new_secret() -> bytes:
    """32 random bytes for a token that is not derived from the one before."""
    return secrets.token_bytes(32)


def new_salt() -> bytes:
    """32 random bytes for a rotation."""
    return secrets.token_bytes(SALT_BYTES)


def is_sid(text: str) -> bool:
    """Whether ``text`` is a sid in its one canonical spelling: a lower-case UUID of version 7."""
    return _SID(text) is not None


_SID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII).fullmatch


def _uuid7(milliseconds: int, random: bytes) -> Sid:
    value = bytearray(milliseconds.to_bytes(6, "big") + random)
    value[6] = 0x70 | (value[6] & 0x0F)
    value[8] = 0x80 | (value[8] & 0x3F)
    return format_sid(bytes(value))


def format_sid(raw: bytes) -> Sid:
    """Sixteen bytes as a sid."""
    text = raw.hex()
    return Sid(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")
