"""Checkpoints of the audit trail: where every stream stood at one time, signed, each with the digest of the one before.

Whoever keeps the last one outside the database can tell whether anything before it has been changed since. The root is
the Merkle tree hash of RFC 9162 over all heads, so that one number stands for the whole trail.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from hashlib import sha256

import msgspec

from sessiondb.core.merkle import tree_hash
from sessiondb.core.sealing import GENESIS
from sessiondb.core.signing import Signer, Verifier

VERSION = 1
FULL_EVERY = 64
CHECKPOINT_STREAM = "c000000000000000"
"""The stream that has the checkpoints: who takes the next place in it has made the next one."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The end of a stream: the number of its last event and that one's digest, in hexadecimal."""

    stream: str
    seq: int
    digest: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint. ``at`` is int64 microseconds UTC.

    ``heads`` are those that have moved since the one before, or all if it is ``full``; ``gone`` are streams of which
    nothing is left because they were purged. ``size`` streams make up the ``root``. ``previous`` is the digest of the
    checkpoint before (hexadecimal).
    """

    version: int = VERSION
    number: int
    at: int
    previous: str
    full: bool
    heads: tuple[Head, ...]
    gone: tuple[str, ...] = ()
    size: int
    root: str
    key: str | None = None
    signature: str | None = None

    @property
    def digest(self) -> str:
        """What the next checkpoint holds of this one, and anybody may write down: SHA-256, hexadecimal."""
        return sha256(_body(self)).hexdigest()

    @property
    def line(self) -> str:
        """The checkpoint as one line of JSON, for a file or a log."""
        return _encode(self).decode()


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Checkpoint, strict=True).decode


def parse_checkpoint(line: str | bytes) -> Checkpoint:
    """The checkpoint in a ``line``. Raises ``ValueError`` for anything else."""
    try:
        found = _decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is no checkpoint: {error}") from None
    if found.version != VERSION:
        raise ValueError(f"this checkpoint has version {found.version}, and this sessiondb knows {VERSION}")
    return found


def root_of(heads: Iterable[Head]) -> str:
    """The root over ``heads``, sorted by stream (hexadecimal)."""
    return tree_hash([_encode(head) for head in sorted(heads, key=lambda head: head.stream)]).hex()


def make_checkpoint(
    before: Checkpoint | None, state: Mapping[str, Head], now: Mapping[str, Head], at: int, signer: Signer | None
) -> Checkpoint | None:
    """The checkpoint after ``before``, whose heads are ``state``, that says ``now``. ``None``: nothing has moved."""
    number = 1 if before is None else before.number + 1
    full = number % FULL_EVERY == 1
    moved = [head for head in now.values() if state.get(head.stream) != head]
    gone = sorted(state.keys() - now.keys())
    if before is not None and not moved and not gone:
        return None
    heads = now.values() if full else moved
    checkpoint = Checkpoint(
        number=number,
        at=at,
        previous=GENESIS.hex() if before is None else before.digest,
        full=full,
        heads=tuple(sorted(heads, key=lambda head: head.stream)),
        gone=tuple(gone),
        size=len(now),
        root=root_of(now.values()),
        key=None if signer is None else signer.key_id,
    )
    if signer is None:
        return checkpoint
    signature = base64.urlsafe_b64encode(signer.sign(_body(checkpoint))).rstrip(b"=").decode()
    return msgspec.structs.replace(checkpoint, signature=signature)


def advance(state: Mapping[str, Head], checkpoint: Checkpoint) -> dict[str, Head]:
    """All heads as of ``checkpoint``, which follows the one of ``state`` or is full.

    Raises ``ValueError`` if its root or size says otherwise.
    """
    heads = {} if checkpoint.full else {name: head for name, head in state.items() if name not in checkpoint.gone}
    heads.update((head.stream, head) for head in checkpoint.heads)
    if len(heads) != checkpoint.size or root_of(heads.values()) != checkpoint.root:
        raise ValueError(f"the heads of checkpoint {checkpoint.number} are not those of its root")
    return heads


def is_signed(checkpoint: Checkpoint, verifiers: Iterable[Verifier]) -> bool:
    """Whether one of ``verifiers`` has signed it."""
    signature = checkpoint.signature or ""
    try:
        raw = base64.b64decode(signature + "=" * (-len(signature) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    return any(one.key_id == checkpoint.key and one.verify(_body(checkpoint), raw) for one in verifiers)


def _body(checkpoint: Checkpoint) -> bytes:
    return b"checkpoint\n" + _encode(msgspec.structs.replace(checkpoint, signature=None))
