"""Signatures over checkpoints and statements of the audit trail."""

from __future__ import annotations

import base64
import hmac
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.keys import HOW_TO_MAKE_ONE, parse_key

_PREFIX = b"sessiondb audit v1\n"
_ID_CHARS = 16


@runtime_checkable
class Verifier(Protocol):
    """Checks signatures of one key. ``key_id`` names the key, and says nothing of it."""

    @property
    def key_id(self) -> str:
        """The name of the key."""
        ...

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's of ``message``."""
        ...


@runtime_checkable
class Signer(Verifier, Protocol):
    """Signs, and checks what it has signed."""

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message``."""
        ...


class HmacSigner:
    """HMAC-SHA-256: whoever can verify can sign too, so keep the key from those who can write to the database.

    ``key``: 32 random bytes, as for a ``KeyRing`` (``sessiondb keys generate`` makes one). Raises
    ``ConfigurationError`` for any other.
    """

    def __init__(self, key: str | bytes) -> None:
        self._key = hmac.digest(parse_key(key, "HmacSigner").secret, b"sessiondb audit", "sha256")
        self.key_id = "hmac:" + sha256(b"id" + self._key).hexdigest()[:_ID_CHARS]

    def __repr__(self) -> str:
        return f"HmacSigner({self.key_id!r})"

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message``, 32 bytes."""
        return hmac.digest(self._key, _PREFIX + message, "sha256")

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's of ``message``."""
        return hmac.compare_digest(self.sign(message), signature)


class Ed25519Verifier:
    """Ed25519 (RFC 8032) with a public key: for auditors, who need not be trusted with the private one.

    ``public_key``: 32 bytes, or as base64url text, as ``Ed25519Signer.public_key`` gives it. Needs the extra
    ``crypto``.
    """

    def __init__(self, public_key: str | bytes) -> None:
        public = _bytes_of(public_key, "Ed25519Verifier", "public_key")
        self._public = _ed25519().Ed25519PublicKey.from_public_bytes(public)
        self.public_key = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
        self.key_id = "ed25519:" + sha256(public).hexdigest()[:_ID_CHARS]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key_id!r})"

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's of ``message``."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, _PREFIX + message)
        except InvalidSignature:
            return False
        return True


class Ed25519Signer(Ed25519Verifier):
    """Ed25519 (RFC 8032) with a private key.

    ``private_key``: the 32 bytes of its seed, or as base64url text or 64 hexadecimal digits; any 32 random bytes are
    one (``sessiondb keys generate``). ``public_key`` is what an auditor needs. Needs the extra ``crypto``.
    """

    def __init__(self, private_key: str | bytes) -> None:
        seed = parse_key(private_key, "Ed25519Signer").secret
        self._private = _ed25519().Ed25519PrivateKey.from_private_bytes(seed)
        super().__init__(self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message``, 64 bytes."""
        signature: bytes = self._private.sign(_PREFIX + message)
        return signature


def _bytes_of(key: str | bytes, where: str, name: str) -> bytes:
    if isinstance(key, str):
        try:
            key = base64.b64decode(key.strip() + "=" * (-len(key.strip()) % 4), altchars=b"-_", validate=True)
        except ValueError:
            key = b""
    if len(key) != 32:
        raise ConfigurationError(f"{where}: {name} must be 32 bytes, or 43 characters of base64url. {HOW_TO_MAKE_ONE}.")
    return key


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Ed25519 needs cryptography, which is not installed: pip install 'sessiondb[crypto]'. HmacSigner does not."
        ) from None
    return ed25519
