"""JSON numbers for databases that read them again instead of keeping their text."""

from __future__ import annotations

import re
from decimal import Decimal

_HAS_EXPONENT = re.compile(rb"\d[eE][-+]?\d").search
_HAS_MINUS_ZERO = re.compile(rb"-0\.0(?!\d)").search
# Strings are matched first, so that what looks like a number inside them is left alone.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?[eE][-+]?\d+|-0\.0(?!\d)')
# Exact numbers have no negative zero. This is smaller than the smallest double and is read as -0.0 again.
_MINUS_ZERO = b"-1e-400"


def positional(data: bytes) -> bytes:
    """``data`` (JSON) with each float spelled so that an exact decimal type gives back an equal float.

    ``1e23`` would be stored as an integer, and come back as one: it becomes ``100000000000000000000000.0``.
    """
    if _HAS_EXPONENT(data) is None and _HAS_MINUS_ZERO(data) is None:
        return data
    return _TOKENS.sub(_spell, data)


def _spell(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token[0] == 0x22:
        return token
    if token == b"-0.0":
        return _MINUS_ZERO
    text = format(Decimal(token.decode()), "f").encode()
    return text if b"." in text else text + b".0"
