"""Behind proxies: whose word is taken for the address that a request came from.

``X-Forwarded-For`` and ``Forwarded`` (RFC 7239) grow to the right: each proxy adds whom it has seen, behind whatever
the client has sent. So they are read from the right, as far as those who wrote them are trusted, and no further.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.networks import Address, Network, address_of, is_in, networks_from

log = logging.getLogger("sessiondb")

X_FORWARDED_FOR = b"x-forwarded-for"
FORWARDED = b"forwarded"
UNIX = "unix"

MOST_HOPS = 32
LONGEST_ELEMENT = 1024  # bytes of one element of Forwarded that are looked at
LOOKED_AT = 1000  # requests in which a header that is not read is noticed
_KEPT = 512  # bytes of a header whose answer is kept

Headers = Iterable[tuple[bytes, bytes]]
Client = Sequence[Any] | None

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII).fullmatch
# Ports are numbers, or hidden behind a name of their own (RFC 7239, 6.2 and 6.3).
_PORT = rb"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_IPV4 = re.compile(rb"([0-9.]{7,15})" + _PORT).fullmatch
_IPV6 = re.compile(rb"\[([0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~-]{1,16})?)\]" + _PORT).fullmatch
_BARE_IPV6 = re.compile(rb"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~-]{1,16})?").fullmatch
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class TrustedProxies:
    """Which proxies are believed when they say for whom a request is: ``SessionMiddleware(..., proxies=...)``.

    * ``count``: so many proxies stand before the app, and nobody reaches it past them. Each adds one address.
    * ``networks``: theirs (``["10.0.0.0/8", "2001:db8::/32"]``; ``"unix"`` for a Unix socket), however many there are:
      the client is the first from the right that is in none.
    * ``header`` (``"x-forwarded-for"``): where they write it. ``"forwarded"`` is read as RFC 7239 has it; any other
      name is that of a header with one address (``"cf-connecting-ip"``, ``"x-real-ip"``), which the last proxy must
      overwrite.

    A peer that is not trusted is taken as it is, whatever it has sent. What a trusted proxy does not know
    (``unknown``, ``_hidden``), or nobody can read, ends the walk: the last address that somebody trusted has named
    counts. Give either ``count`` or ``networks``; raises ``ConfigurationError``.
    """

    def __init__(
        self, *, count: int | None = None, networks: Iterable[str] | None = None, header: str = "x-forwarded-for"
    ) -> None:
        if (count is None) == (networks is None):
            raise ConfigurationError(
                "TrustedProxies: name either how many proxies there are, TrustedProxies(count=1), or where they are, "
                "TrustedProxies(networks=['10.0.0.0/8'])."
            )
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_HOPS):
            raise ConfigurationError(f"TrustedProxies: count is {count!r:.100}; use 1 to {MOST_HOPS} proxies.")
        if not isinstance(header, str) or _HEADER_NAME(header) is None:
            raise ConfigurationError(
                f"TrustedProxies: header is {header!r:.100}; use 'x-forwarded-for', 'forwarded', or the name of a "
                "header with one address."
            )
        self._name = header.lower().encode("ascii")
        self._count = count
        self._networks, self._trusts_unix = _networks(networks)
        if self._name not in (X_FORWARDED_FOR, FORWARDED) and count not in (None, 1):
            raise ConfigurationError(
                f"TrustedProxies: {header} holds one address, which the last proxy writes; use count=1, or networks."
            )
        # Requests of one visitor bring the same header.
        self._resolve_kept = lru_cache(maxsize=4096)(self._resolve)

    def __repr__(self) -> str:
        rule = f"count={self._count}" if self._count is not None else f"networks=<{len(self._networks)}>"
        return f"TrustedProxies({rule}, header={self._name.decode()!r})"

    def client(self, peer: Client, headers: Headers) -> Client:
        """Whom the request came from, as ASGI's ``scope["client"]``: ``peer``, or an address without a port."""
        name = self._name
        values = [value for key, value in headers if key == name]
        if not values:
            return peer
        # Header lines are one list (RFC 9110, 5.3), but a quoted string that is not closed ends with its line.
        host = str(peer[0]) if peer else None
        short = len(values) == 1 and len(values[0]) <= _KEPT and (host is None or len(host) <= _KEPT)
        found = self._resolve_kept(host, values[0]) if short else self._resolve(host, *values)
        return peer if found is None else (found, 0)

    def _resolve(self, peer: str | None, *values: bytes) -> str | None:
        """The client's address; ``None``: the peer's own."""
        if self._count is None:
            address = address_of(peer)
            trusted = is_in(address, self._networks) if address is not None else self._trusts_unix and not peer
            if not trusted:
                return None
        if self._name == X_FORWARDED_FOR:
            hops = _hops(values)
        elif self._name == FORWARDED:
            hops = _forwarded_hops(values)
        else:
            hops = iter((_address(values[0].strip(b" \t")) if len(values) == 1 else None,))
        return self._by_count(hops, self._count) if self._count is not None else self._by_networks(hops)

    def _by_count(self, hops: Iterable[Address | None], count: int) -> str | None:
        last: Address | None = None
        for number, hop in enumerate(hops, 1):
            if hop is None:
                break
            last = hop
            if number == count:
                return str(hop)
        else:
            # Fewer than stand there: somebody came another way, and may have written all of it.
            return None
        return None if last is None else str(last)

    def _by_networks(self, hops: Iterable[Address | None]) -> str | None:
        last: Address | None = None
        for hop in hops:
            if hop is None:
                break
            last = hop
            if not is_in(hop, self._networks):
                break
        return None if last is None else str(last)


def _networks(given: object) -> tuple[tuple[Network, ...], bool]:
    if given is None:
        return (), False
    try:
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise ValueError(f"{given!r:.100} is no list")
        texts = list(given)
        networks = networks_from([text for text in texts if text != UNIX])
    except ValueError as error:
        raise ConfigurationError(
            f"TrustedProxies: networks: {error}; list them: networks=['10.0.0.0/8', '2001:db8::/32', 'unix']."
        ) from None
    if not texts:
        raise ConfigurationError("TrustedProxies: networks is empty, so no proxy is trusted; leave out proxies=.")
    return networks, UNIX in texts


def _hops(values: Sequence[bytes]) -> Iterable[Address | None]:
    """The addresses of ``X-Forwarded-For``, from the right; ``None`` for what is none."""
    left = MOST_HOPS
    for value in reversed(values):
        elements = value.rsplit(b",", left)
        if len(elements) > left:
            elements = elements[1:]
        for element in reversed(elements):
            yield _address(element.strip(b" \t"))
        left -= len(elements)
        if left <= 0:
            break
    if left <= 0:
        yield None


def _forwarded_hops(values: Sequence[bytes]) -> Iterable[Address | None]:
    """The addresses of ``Forwarded``, from the right."""
    left = MOST_HOPS
    for value in reversed(values):
        end: int | None = len(value)
        while end is not None:
            if left <= 0:
                yield None
                return
            left -= 1
            element, end = _last_element(value, end)
            yield _for(element)


def _last_element(value: bytes, end: int) -> tuple[bytes | None, int | None]:
    """The element that ends at ``end``, and where the one before it ends; ``None`` for one that cannot be read.

    Looked for from the right, because what a client has sent, which stands to the left, may open a quoted string that
    would swallow what the proxies have added.
    """
    least = max(0, end - LONGEST_ELEMENT)
    at: int | None = end
    while at is not None:
        comma, quote = value.rfind(b",", least, at), value.rfind(b'"', least, at)
        if quote > comma:
            at = _opening(value, quote, least)
        elif comma >= 0:
            return value[comma + 1 : end], comma
        else:
            return (value[:end], None) if least == 0 else (None, None)
    return None, None


def _opening(value: bytes, closing: int, least: int) -> int | None:
    """Where the quoted string begins that ends at ``closing``."""
    at = closing
    while (at := value.rfind(b'"', least, at)) >= 0:
        before = value[least:at]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return at
    return None


def _for(element: bytes | None) -> Address | None:
    """The address in the ``for`` of one element, which may stand there once."""
    if element is None:
        return None
    found: bytes | None = None
    for pair in _pairs(element):
        name, equals, value = pair.partition(b"=")
        if equals and name.strip(b" \t").lower() == b"for":
            if found is not None:
                return None
            found = value.strip(b" \t")
    if found is None:
        return None
    if len(found) >= 2 and found[:1] == b'"' == found[-1:]:
        found = _ESCAPED.sub(rb"\1", found[1:-1])
    return _address(found)


def _pairs(element: bytes) -> Iterable[bytes]:
    """The parts between the semicolons that are in no quoted string."""
    start = at = 0
    quoted = False
    while at < len(element):
        byte = element[at]
        if quoted and byte == 0x5C:
            at += 1
        elif byte == 0x22:
            quoted = not quoted
        elif byte == 0x3B and not quoted:
            yield element[start:at]
            start = at + 1
        at += 1
    yield element[start:]


def _address(text: bytes) -> Address | None:
    """What ``192.0.2.7``, ``192.0.2.7:80``, ``2001:db8::1`` or ``[2001:db8::1]:80`` is; ``None`` for anything else."""
    if len(text) > 80:
        return None
    found = _IPV4(text) or _IPV6(text)
    if found is not None:
        return address_of(found.group(1).decode("ascii"))
    return address_of(text.decode("ascii")) if _BARE_IPV6(text) is not None else None


class Unread:
    """Says once that proxies name a client, and nobody has said that they may be believed.

    Looks at the first requests alone, and costs the later ones nothing: ``done`` then.
    """

    _NAMES = frozenset({X_FORWARDED_FOR, FORWARDED, b"x-real-ip", b"cf-connecting-ip", b"true-client-ip"})

    def __init__(self) -> None:
        self._left = LOOKED_AT

    @property
    def done(self) -> bool:
        """Whether there is nothing to look for any more."""
        return self._left <= 0

    def look(self, peer: Client, headers: Headers) -> None:
        """Warn if ``headers`` name a client other than ``peer``."""
        self._left -= 1
        found = [(name, value) for name, value in headers if name in self._NAMES]
        # A server that goes by the header itself has told that client as the peer, and mostly without a port.
        if not found or (peer and len(peer) > 1 and not peer[1]):
            return
        host = str(peer[0]).encode("utf-8", "replace") if peer else b""
        if host and any(host in value for _, value in found):
            return
        self._left = 0
        log.warning(
            "A request from %s has the header %s, which is not read: anybody can send it. Sessions, limits and events "
            "take the proxy for the client. Say whom to believe: SessionMiddleware(..., "
            "proxies=TrustedProxies(count=1)), or to the server: uvicorn --proxy-headers "
            "--forwarded-allow-ips=10.0.0.1.",
            host.decode() or "a Unix socket",
            found[0][0].decode("ascii"),
        )
