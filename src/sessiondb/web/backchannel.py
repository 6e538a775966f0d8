"""The endpoint at which an identity provider says that a user has logged out there.

OpenID Connect Back-Channel Logout 1.0, sections 2.5 to 2.8. Needs ``sessiondb[oidc]``.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError
from sessiondb.core.policy import SECOND
from sessiondb.db import SessionDB

log = logging.getLogger("sessiondb")

Keys = Any
"""A ``joserfc.jwk.KeySet``, a JWKS as a dict, or a function, ``async`` or not, that returns one of them."""

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
LONGEST_BODY = 64 * 1024
MOST_REMEMBERED = 10_000
LEEWAY = 60
LONGEST_LIFE = 86_400
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_TYPES = ("logout+jwt", "application/logout+jwt")
_ANY_TYPES = (*_TYPES, "jwt", "application/jwt", "")


class InvalidLogoutToken(Exception):
    """Why a logout token is refused. Never holds the token."""


class LogoutTokens:
    """Checks logout tokens of one issuer (section 2.6), each ``jti`` once in this process.

    ``issuer`` and ``client_id`` are as in the ID tokens; ``keys`` are the issuer's. ``algorithms``: those that may
    sign, never ``none``; for a shared secret, ``("HS256",)`` with its key. ``typ="logout+jwt"`` in the header is
    asked for only with ``require_typ``: not every provider writes it, and the ``events`` claim tells logout tokens
    from ID tokens too. Raises ``ConfigurationError`` without joserfc, and for settings that cannot work.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        keys: Keys,
        algorithms: Collection[str] = ALGORITHMS,
        require_typ: bool = False,
    ) -> None:
        for name, value in (("issuer", issuer), ("client_id", client_id)):
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"backchannel: {name} is {value!r:.100}; use the text in the ID tokens.")
        if isinstance(algorithms, str) or not algorithms or "none" in {str(one).lower() for one in algorithms}:
            raise ConfigurationError(
                "backchannel: algorithms must name those that may sign, and 'none' signs nothing: ('RS256',)."
            )
        if keys is None:
            raise ConfigurationError("backchannel: keys is None; pass the provider's JWKS, or a function that gets it.")
        self._jwt, self._jwk, self._error = _joserfc()
        self._issuer = issuer
        self._client_id = client_id
        self._keys = keys if callable(keys) else self._key_set(keys)
        self._algorithms = list(algorithms)
        self._types = _TYPES if require_typ else _ANY_TYPES
        self._seen: dict[str, int] = {}

    async def check(self, token: str, now: int) -> Mapping[str, Any]:
        """The claims of ``token`` at ``now`` (seconds since the epoch). Raises ``InvalidLogoutToken``."""
        keys: Any = self._keys
        if callable(keys):
            keys = keys()
            if inspect.isawaitable(keys):
                keys = await keys
            keys = self._key_set(keys)
        try:
            decoded = self._jwt.decode(token, keys, algorithms=self._algorithms)
        except (self._error, ValueError) as error:
            raise InvalidLogoutToken(f"its signature cannot be verified ({type(error).__name__})") from error
        typ = decoded.header.get("typ", "")
        if not isinstance(typ, str) or typ.lower() not in self._types:
            raise InvalidLogoutToken("its header has another typ")
        claims: dict[str, Any] = decoded.claims
        self._check_claims(claims, now)
        return claims

    def remember(self, claims: Mapping[str, Any], now: int) -> None:
        """The token with ``claims`` has been carried out: it is not accepted again."""
        for jti, until in list(self._seen.items()):
            if until >= now:
                break
            del self._seen[jti]
        if len(self._seen) >= MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[claims["jti"]] = now + LONGEST_LIFE + LEEWAY

    def _check_claims(self, claims: dict[str, Any], now: int) -> None:
        registry = self._jwt.JWTClaimsRegistry(
            now=now,
            leeway=LEEWAY,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True},
            iat={"essential": True},
            exp={"essential": True},
            jti={"essential": True},
        )
        try:
            registry.validate(claims)
        except self._error as error:
            raise InvalidLogoutToken(str(error)) from error
        aud = claims["aud"]
        if self._client_id not in ([aud] if isinstance(aud, str) else aud):
            raise InvalidLogoutToken("it is meant for another client (aud)")
        if not claims["exp"] <= now + LONGEST_LIFE:
            # For so long its jti is remembered; the specification recommends two minutes.
            raise InvalidLogoutToken("it lasts for more than a day (exp)")
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
            raise InvalidLogoutToken("it is no logout token (events)")
        if "nonce" in claims:
            raise InvalidLogoutToken("it has a nonce, as ID tokens have")
        for name in ("sub", "sid"):
            if name in claims and (not isinstance(claims[name], str) or not claims[name]):
                raise InvalidLogoutToken(f"its {name} is no text")
        if "sub" not in claims and "sid" not in claims:
            raise InvalidLogoutToken("it has neither sub nor sid")
        if claims["jti"] in self._seen:
            raise InvalidLogoutToken("it was carried out before (jti)")

    def _key_set(self, keys: Any) -> Any:
        joserfcs_own = not isinstance(keys, (Mapping, str, bytes, list, tuple))
        if joserfcs_own:
            return keys
        try:
            return self._jwk.KeySet.import_key_set(dict(keys))
        except (TypeError, KeyError, ValueError, self._error) as error:
            raise ConfigurationError(
                f"backchannel: keys is no JWKS ({type(error).__name__}); pass what the provider's jwks_uri answers "
                'as a dict, {"keys": [...]}, or a function that gets it.'
            ) from None


def backchannel_logout_route(
    db: SessionDB,
    *,
    issuer: str,
    client_id: str,
    keys: Keys,
    path: str = "/backchannel-logout",
    algorithms: Collection[str] = ALGORITHMS,
    require_typ: bool = False,
) -> Route:
    """A route for ``app.router.routes.append(...)`` whose address the provider is told as ``backchannel_logout_uri``.

    It takes ``POST`` with a ``logout_token``, and ends the sessions that ``session.login(idp=IdP(...))`` has begun:
    200, or 400 with an ``error`` where the token is not valid or the sessions could not be ended, so that the
    provider tries again. It uses no session and needs no exemption from the cross-origin check. For ``keys``,
    ``algorithms`` and ``require_typ`` see ``LogoutTokens``; a function for ``keys`` is called for each logout, and
    should remember what it has fetched.
    """
    tokens = LogoutTokens(issuer=issuer, client_id=client_id, keys=keys, algorithms=algorithms, require_typ=require_typ)

    async def endpoint(request: Request) -> Response:
        now = db.runtime.now() // SECOND
        try:
            token = await _logout_token(request)
            claims = await tokens.check(token, now)
            await db.revoke_idp(issuer, sid=claims.get("sid"), sub=claims.get("sub"))
        except (InvalidLogoutToken, SessionDataError) as error:
            log.warning("A logout token of %s was refused: %s.", issuer, error)
            return _refusal("invalid_request", str(error))
        except StoreError:
            # Logged where it happened. The provider is told that it has failed (section 2.8), and may try again.
            return _refusal("temporarily_unavailable", "the sessions could not be ended; please try again")
        tokens.remember(claims, now)
        return Response(status_code=200, headers=_NO_STORE)

    return Route(path, endpoint, methods=["POST"], name="backchannel_logout")


async def _logout_token(request: Request) -> str:
    """The ``logout_token`` of the form. Raises ``InvalidLogoutToken``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidLogoutToken("the request is not application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise InvalidLogoutToken("the request is too long")
    try:
        found = parse_qs(body.decode("ascii"), max_num_fields=16).get("logout_token", [])
    except ValueError:
        found = []
    if len(found) != 1:
        raise InvalidLogoutToken("the request has not one logout_token")
    return found[0]


def _refusal(error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status_code=400, headers=_NO_STORE)


def _joserfc() -> tuple[Any, Any, type[Exception]]:
    try:
        modules = [importlib.import_module(f"joserfc.{name}") for name in ("jwt", "jwk", "errors")]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "joserfc":
            raise
        raise ConfigurationError(
            "Back-channel logout needs joserfc, which is not installed: pip install 'sessiondb[oidc]'."
        ) from None
    jwt, jwk, errors = modules
    return jwt, jwk, errors.JoseError
