"""Sessions that began at an identity provider, and how its logout finds them.

OpenID Connect Back-Channel Logout 1.0 ends by issuer and ``sid`` (a session there) or ``sub`` (a user there).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from sessiondb.core.errors import SessionDataError
from sessiondb.core.events import EventType
from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.ending import end_links, noted
from sessiondb.runtime import Runtime

_LONGEST = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class IdP:
    """Where a login comes from: ``IdP(issuer=claims["iss"], sub=claims["sub"], sid=claims.get("sid"))``.

    ``issuer``, ``sid`` and ``sub`` are as in the ID token, at most 2048 characters each; one of ``sid`` and ``sub`` is
    needed. Only digests of them are stored. Raises ``SessionDataError``.
    """

    issuer: str
    sid: str | None = None
    sub: str | None = None

    def __post_init__(self) -> None:
        for name in ("issuer", "sid", "sub"):
            _check(name, getattr(self, name))
        if self.sid is None and self.sub is None:
            raise SessionDataError("IdP: neither sid nor sub is given; pass at least sub=claims['sub'].")


def links_of(idp: IdP | None) -> tuple[bytes, ...]:
    """The links of a session that began there.

    By its session there and by its user there. Where the provider has told no session, also by the user alone: a logout
    that names both must end it, but none that has another session of that user's. Raises ``SessionDataError``.
    """
    if idp is None:
        return ()
    if not isinstance(idp, IdP):
        raise SessionDataError(f"idp is a {type(idp).__name__}; use IdP(issuer=claims['iss'], sub=claims['sub']).")
    sid, sub = idp.sid, idp.sub
    links = [_link("sid", idp.issuer, sid)] if sid is not None else []
    if sub is not None:
        links += [_link("sub", idp.issuer, sub)] + ([_link("only sub", idp.issuer, sub)] if sid is None else [])
    return tuple(links)


def _logout_links(idp: IdP) -> list[bytes]:
    """The links of the sessions that a logout of ``idp`` means."""
    if idp.sid is None:
        return [_link("sub", idp.issuer, idp.sub or "")]
    links = [_link("sid", idp.issuer, idp.sid)]
    if idp.sub is not None:
        links.append(_link("only sub", idp.issuer, idp.sub))
    return links


async def revoke_idp(runtime: Runtime, idp: IdP, reason: EndReason = EndReason.IDP_LOGOUT) -> int:
    """End the sessions that a logout of ``idp`` means, and refuse the logins under way from there; how many."""
    async with noted(runtime, EventType.IDP_LOGOUT, None, reason, {"issuer": idp.issuer[:200]}) as details:
        ended = details["ended"] = await end_links(runtime, _logout_links(idp), reason)
    return ended


def _link(kind: str, issuer: str, value: str) -> bytes:
    # As JSON, no two triples are spelled alike.
    return hashlib.sha256(msgspec.json.encode(("sessiondb idp", kind, issuer, value))).digest()[:LINK_BYTES]


def _check(name: str, value: object) -> None:
    if value is None and name != "issuer":
        return
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST:
        raise SessionDataError(f"IdP: {name} is {value!r:.100}; use the text in the ID token.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SessionDataError(f"IdP: {name} is not valid UTF-8 (a lone surrogate); pass the claim as is.") from None
