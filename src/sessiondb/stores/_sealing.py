"""What encryption at rest does to one value: AES-256-GCM (NIST SP 800-38D), in an envelope that is a JSON string.

``"sdb1.<id of the key>.<base64url of nonce, ciphertext and tag>"``. While a key ring is in use every value is in such
an envelope, so that what users write cannot pass for one: their text is inside. What does not decrypt is refused, and
never tried in another way (CVE-2026-39324).

Each session has a key of its own: HKDF-Expand (RFC 5869) of the ring's key with the sid. Random nonces are good for
2**32 values under one key; so that bound holds for each session, and no ring wears out. The associated data are the
purpose, the id of the key, the sid and the name of the top-level key: a value that was moved to another place does not
decrypt there.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import msgspec

from sessiondb.core import codec
from sessiondb.core.errors import SessionDataError
from sessiondb.core.keys import KEY_ID_LENGTH, Key, Plain, aes_gcm
from sessiondb.core.record import Record

MARK = b'"sdb1.'
_AT = len(MARK) + KEY_ID_LENGTH + 1  # where the base64 begins
_NONCE = 12
_LABEL = b"sessiondb value 1\0"
_CACHED = 4096
_EMPTY = b"{}"

_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
# The standard alphabet and padding are no second spelling: they become what no alphabet has.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
# By the length of the base64: its last character, which may only carry the bits that are there (otherwise one value had
# several spellings), and the padding that was left out.
_ALL = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_TAILS: tuple[tuple[frozenset[int], bytes], ...] = (
    (_ALL, b""),
    (frozenset(), b""),  # no bytes have this length
    (frozenset(b"AQgw"), b"=="),
    (frozenset(b"AEIMQUYcgkosw048"), b"="),
)
_DOT, _QUOTE = ord("."), ord('"')


class Keys(Protocol):
    """What is needed of a key ring."""

    @property
    def plain(self) -> Plain:
        """What becomes of values that are not encrypted."""
        ...

    @property
    def current(self) -> Key:
        """The key that encrypts. Raises ``StoreUnavailable`` while there is none yet."""
        ...

    def find(self, key_id: bytes) -> Key | None:
        """The key of that id, if it is in the ring."""
        ...


class UnknownKey(SessionDataError):
    """A value was encrypted with a key that is not in the ring."""


class Opened(Record, frozen=True, gc=False):
    """A record that was decrypted: ``sealed`` is its data as stored, ``opened`` the data that this became.

    As long as ``data`` is ``opened``, the two belong together.
    """

    sealed: bytes = _EMPTY
    opened: bytes = _EMPTY


# How to encrypt and decrypt (nonce, data, associated data) for one session, and what its associated data begin with.
Place = tuple[Callable[[bytes, bytes, bytes], bytes], Callable[[bytes, bytes, bytes], bytes], bytes]

_opened: Callable[..., Opened] = Opened
_DATA = Record.__struct_fields__.index("data")


class Sealer:
    """Encrypts and decrypts values and whole records with the keys of a ring."""

    __slots__ = ("_invalid", "_keys", "_place")

    def __init__(self, keys: Keys) -> None:
        cipher, self._invalid = aes_gcm()
        self._keys = keys

        # A key of a session costs as much as decrypting five values. The cache is small, and forgets what is not used.
        @lru_cache(_CACHED)
        def of_session(key: Key, sid: str) -> Place:
            raw = sid.encode()
            own = cipher(hmac.digest(key.secret, _LABEL + raw + b"\x01", "sha256"))
            # Label, id and sid have fixed lengths, so no two places share one spelling.
            return own.encrypt, own.decrypt, _LABEL + key.id + raw

        self._place: Callable[[Key, str], Place] = of_session

    # -- one value ----------------------------------------------------------------------------------------

    def seal(self, sid: str, name: str, value: bytes) -> bytes:
        """``value`` (JSON) as it is stored under the top-level key ``name`` of the session ``sid``."""
        # What looks like an envelope is put into one, also while encryption is being turned off.
        if self._keys.plain == "write" and not is_sealed(value):
            return value
        key = self._keys.current
        encrypt, _, place = self._place(key, sid)
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + encrypt(nonce, value, place + name.encode())
        text = binascii.b2a_base64(sealed, newline=False).translate(_TO_URLSAFE).rstrip(b"=")
        return b'%b%b.%b"' % (MARK, key.id, text)

    def open(self, sid: str, name: str, stored: bytes) -> bytes:
        """The value (JSON) in ``stored``. Raises ``UnknownKey``, or ``SessionDataError`` for what is refused."""
        if not is_sealed(stored):
            if self._keys.plain != "refuse":
                return stored
            raise SessionDataError(
                f"session[{name!r}] is not encrypted, and SessionDB(keys=...) takes nothing else. If this database "
                "was used without keys until now: KeyRing(..., plain='accept') until 'sessiondb reencrypt' is done.",
                key=name,
            )
        key_id = stored[len(MARK) : _AT - 1]
        key = self._keys.find(key_id)
        if key is None:
            raise UnknownKey(
                f"session[{name!r}] was encrypted with the key {key_id.decode('ascii', 'replace')!r}, "
                "which is not in the ring: retired, or not here yet.",
                key=name,
            )
        try:
            text = stored[_AT:-1]
            last, padding = _TAILS[len(text) & 3]
            if stored[_AT - 1] != _DOT or stored[-1] != _QUOTE or text[-1] not in last:
                raise ValueError("no envelope")
            sealed = binascii.a2b_base64(text.translate(_TO_STANDARD) + padding, strict_mode=True)
            _, decrypt, place = self._place(key, sid)
            return decrypt(sealed[:_NONCE], sealed[_NONCE:], place + name.encode())
        except (self._invalid, ValueError, IndexError):
            raise SessionDataError(
                f"session[{name!r}] cannot be decrypted: it was changed in the database, or moved there from "
                "another session or key.",
                key=name,
            ) from None

    def is_stale(self, sid: str, name: str, stored: bytes) -> bool:
        """Whether ``stored`` should be written again, because it is not as ``seal`` would make it now."""
        if self._keys.plain == "write":
            return is_sealed(stored) and not is_sealed(self.open(sid, name, stored))
        return key_id_of(stored) != self._keys.current.id

    # -- a whole record -----------------------------------------------------------------------------------

    def seal_data(self, sid: str, data: bytes) -> bytes:
        """``data`` (a JSON object), each value encrypted. Raises ``SessionDataError`` if it is none."""
        if data == _EMPTY:
            return data
        return codec.join({name: self.seal(sid, name, bytes(value)) for name, value in codec.split(data).items()})

    def open_record(self, record: Record) -> Record:
        """``record`` with its data decrypted. Raises ``SessionDataError`` if any value is refused."""
        sealed = record.data
        if sealed == _EMPTY:
            return record
        sid = record.sid
        opened = codec.join({name: self.open(sid, name, bytes(value)) for name, value in codec.split(sealed).items()})
        fields = list(msgspec.structs.astuple(record))
        fields[_DATA] = opened
        return _opened(*fields, sealed, opened)


def is_sealed(stored: bytes) -> bool:
    """Whether ``stored`` claims to be an envelope; then it is opened as one, or refused."""
    return stored[: len(MARK)] == MARK


def key_id_of(stored: bytes) -> bytes | None:
    """The id of the key that ``stored`` names; ``None`` for a value that is not encrypted."""
    return stored[len(MARK) : _AT - 1] if is_sealed(stored) else None
