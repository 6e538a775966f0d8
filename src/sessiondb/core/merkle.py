"""The Merkle tree hash of RFC 9162, section 2.1.1."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def tree_hash(entries: Sequence[bytes]) -> bytes:
    """``MTH(entries)``: a leaf is ``SHA-256(0x00 || entry)``, a node ``SHA-256(0x01 || left || right)``.

    Level by level; an odd one out moves up as it is, which is the same tree as RFC 9162's split at the largest power of
    two.
    """
    if not entries:
        return sha256().digest()
    level = [sha256(b"\x00" + entry).digest() for entry in entries]
    while len(level) > 1:
        paired = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]
