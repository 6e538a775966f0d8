"""Cookies that pretend to be ours to a lenient parser: ``\\xa0__Host-sid``, ``%5f_Host-sid``, ``__HOST-SID``.

They are ignored anyway, because names are compared byte for byte. That somebody sends one is worth counting: it is how
a sibling domain tries to plant a session (GHSA-j6w9-fv6q-3q52, CVE-2023-29401 and the like).
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# Whitespace and control characters of Unicode, in Latin-1 and in UTF-8, quotes, and the "=" of a nameless cookie.
_AROUND = "".join(chr(code) for code in (*range(0x21), *range(0x7F, 0xA1), 0xAD)) + (
    "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f"
    "\u2060\u3000\ufeff\"'="
)

LONGEST = 1024


class Lookalikes:
    """What a name of ours looks like when it is disguised."""

    def __init__(self, name: str) -> None:
        self._raw = name.encode("ascii")
        self._lower = self._raw.lower()
        self._folded = name.casefold()
        low: dict[str, str] = {}
        for pair in sorted({f"{code:02x}" for code in self._raw + self._raw.swapcase()}):
            high, digit = pair[0], pair[1]
            low[high] = low.get(high, "") + digit + (digit.upper() if digit.isalpha() else "")
        # Spelt out, because to ignore case is slow.
        self._encoded = re.compile(
            f"%(?:{'|'.join(f'{high}[{digits}]' for high, digits in low.items())})".encode("ascii")
        ).search

    def suspects(self, value: bytes) -> bool:
        """Whether anything in ``value`` resembles our name, itself included, so that it is worth to look closer."""
        return self._lower in value.lower() or self.is_encoded(value)

    def is_encoded(self, value: bytes) -> bool:
        """Whether a letter of our name stands percent-encoded in ``value``. Quick, for it is asked of everybody."""
        return b"%" in value and self._encoded(value) is not None

    def has(self, value: bytes) -> bool:
        """Whether a cookie in ``value`` (a ``Cookie`` header) is a look-alike."""
        return any(self._is(pair) for pair in value.split(b";"))

    def _is(self, pair: bytes) -> bool:
        name, _, rest = pair.strip(b" \t").partition(b"=")
        if name.rstrip(b" \t") == self._raw:
            return False
        if not name.strip(b" \t"):
            # Browsers send a cookie without a name as its bare value.
            name = rest.partition(b"=")[0]
        if len(name) > LONGEST:
            return False
        if b"%" in name:
            name = unquote_to_bytes(name)
        return any(
            name.decode(charset, "ignore").strip(_AROUND).casefold() == self._folded for charset in ("latin-1", "utf-8")
        )
