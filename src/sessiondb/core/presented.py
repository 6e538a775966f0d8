"""What a client presents: its token, recognised quickly where it has come before.

Most requests bring a token that an earlier one has brought. What was made of its text then, the sid and the two
digests that a record is compared with, is remembered: as the database's records, that holds nothing which opens a
session. The text is looked up by its BLAKE2s, so that no token outlives its request here;
that is Python's own code, and OpenSSL's SHA-256 costs several times as much where little else uses it.
"""

from __future__ import annotations

from hashlib import blake2s

import msgspec

from sessiondb.core.token import TOKEN_LENGTH, Sid, Token, digest, parse

REMEMBERED = 8192

_Known = tuple[Sid, bytes, bytes]


class Presented(msgspec.Struct, frozen=True, gc=False):
    """A well-formed token as it came, ``raw``, and the SHA-256 digests of its parts. Its ``repr`` shows the sid."""

    raw: bytes
    sid: Sid
    series_hash: bytes
    secret_hash: bytes

    def __repr__(self) -> str:
        return f"Presented(sid={self.sid!r})"

    def token(self) -> Token:
        """The token itself, for who derives another one from it."""
        token = parse(self.raw)
        assert token is not None
        return token


class Recogniser:
    """Remembers the last ``most`` tokens for certain, and never more than twice as many."""

    __slots__ = ("_most", "_old", "_young")

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._young: dict[bytes, _Known] = {}
        self._old: dict[bytes, _Known] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __call__(self, raw: bytes) -> Presented | None:
        """The token in ``raw``, or ``None`` if it is not one exactly. Never raises, whatever the bytes."""
        if len(raw) != TOKEN_LENGTH:
            return None
        key = blake2s(raw).digest()
        known = self._young.get(key)
        return Presented(raw, *known) if known is not None else self._look(key, raw)

    def _look(self, key: bytes, raw: bytes) -> Presented | None:
        known = self._old.get(key)
        if known is None:
            token = parse(raw)
            if token is None:
                return None
            known = _known(token)
        young = self._young
        young[key] = known
        if len(young) >= self._most:
            # Other threads may be looking: each finds one pair of dictionaries or the other.
            self._old, self._young = young, {}
        return Presented(raw, *known)


recognise = Recogniser()


def presented(token: Token) -> Presented:
    """``token`` as a client presents it."""
    return Presented(token.encode().encode("ascii"), *_known(token))


def _known(token: Token) -> _Known:
    return token.sid, digest(token.series), digest(token.secret)
