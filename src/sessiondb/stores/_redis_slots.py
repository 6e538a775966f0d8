"""The slot of a key in a Redis or Valkey Cluster: CRC-16 (XMODEM) of its hash tag, modulo 16384."""

from __future__ import annotations

import binascii

SLOTS = 16384


def slot_of(key: bytes) -> int:
    """See the Redis Cluster specification, "Hash tags"."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS
