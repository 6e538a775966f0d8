"""A small OpenID provider, and an app that signs its users in there with Authlib. Run as a script, it is the app."""

from __future__ import annotations

import base64
import hashlib
import secrets
import sys
import time
import warnings
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from joserfc import jwt
from joserfc.jwk import RSAKey
from running import serve_on
from starlette.responses import Response

from sessiondb import Cookie, CrossOrigin, CurrentSession, IdP, RequireLogin, SessionDB, SessionMiddleware
from sessiondb.web.backchannel import backchannel_logout_route

with warnings.catch_warnings(record=True):
    # Authlib asks for httpx2, and shows that whatever the filters say.
    from authlib.integrations.starlette_client import OAuth, OAuthError

CLIENT_ID, CLIENT_SECRET = "shop", "the shop's secret"
SUBJECT = "248289761001"
Basic = Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]


def provider(address: str) -> FastAPI:
    """Authorization code with PKCE (S256), an RS256 ``id_token`` and user info. Everybody consents at once."""
    app = FastAPI()
    key = RSAKey.generate_key(2048, {"kid": "only"}, private=True)
    codes: dict[str, dict[str, str]] = {}
    tokens: dict[str, str] = {}

    @app.get("/.well-known/openid-configuration")
    async def metadata() -> dict[str, Any]:
        return {
            "issuer": address,
            "authorization_endpoint": f"{address}/authorize",
            "token_endpoint": f"{address}/token",
            "userinfo_endpoint": f"{address}/userinfo",
            "jwks_uri": f"{address}/jwks",
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    @app.get("/jwks")
    async def jwks() -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False)]}

    @app.get("/authorize")
    async def authorize(request: Request) -> RedirectResponse:
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe()
        codes[code] = {**asked, "sid": secrets.token_urlsafe()}
        return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}", 302)

    @app.post("/token")
    async def token(
        client: Basic,
        grant_type: Annotated[str, Form()],
        code: Annotated[str, Form()],
        redirect_uri: Annotated[str, Form()],
        code_verifier: Annotated[str, Form()],
    ) -> dict[str, Any]:
        asked = codes.pop(code, None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).rstrip(b"=").decode()
        if (
            (client.username, client.password) != (CLIENT_ID, CLIENT_SECRET)
            or grant_type != "authorization_code"
            or asked is None
            or asked["redirect_uri"] != redirect_uri
            or asked["code_challenge"] != challenge
        ):
            raise HTTPException(400, "invalid_grant")
        access_token = secrets.token_urlsafe()
        tokens[access_token] = SUBJECT
        now = int(time.time())
        claims = {
            "iss": address,
            "sub": SUBJECT,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 3600,
            "nonce": asked["nonce"],
            "sid": asked["sid"],
        }
        id_token = jwt.encode({"alg": "RS256", "kid": "only"}, claims, key)
        return {"access_token": access_token, "token_type": "Bearer", "expires_in": 3600, "id_token": id_token}

    @app.get("/userinfo")
    async def userinfo(authorization: Annotated[str, Header()]) -> dict[str, str]:
        subject = tokens[authorization.removeprefix("Bearer ")]
        return {"sub": subject, "email": "ann@example.com"}

    @app.post("/sign-out")
    async def sign_out(claims: dict[str, Any], tell: str) -> int:
        """The user signs out here, and ``tell`` is told (Back-Channel Logout 1.0); what it answers."""
        now = int(time.time())
        said = {"iss": address, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": secrets.token_urlsafe()}
        events = {"http://schemas.openid.net/event/backchannel-logout": {}}
        header = {"alg": "RS256", "kid": "only", "typ": "logout+jwt"}
        token = jwt.encode(header, {**said, "events": events, **claims}, key)
        async with httpx.AsyncClient(timeout=30) as client:
            return (await client.post(tell, data={"logout_token": token})).status_code

    return app


def shop(db_url: str, provider_address: str, callback_address: str, *, exempt: tuple[str, ...] = ()) -> FastAPI:
    """Authlib as its documentation shows it; only the session middleware is ours."""
    db = SessionDB(db_url)
    app = FastAPI(lifespan=db.lifespan)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False), csrf=CrossOrigin(exempt=exempt))
    oauth = OAuth()
    oauth.register(
        "idp",
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        server_metadata_url=f"{provider_address}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid email", "code_challenge_method": "S256"},
    )

    @app.get("/cart/{item}")
    async def cart(item: str, request: Request) -> list[str]:
        request.session.setdefault("cart", []).append(item)
        return list(request.session["cart"])

    @app.get("/login")
    async def login(request: Request) -> Response:
        response: Response = await oauth.idp.authorize_redirect(request, f"{callback_address}/callback")
        return response

    @app.api_route("/callback", methods=["GET", "POST"])
    async def callback(request: Request, session: CurrentSession) -> dict[str, Any]:
        try:
            token = await oauth.idp.authorize_access_token(request)
        except OAuthError as error:
            raise HTTPException(401, f"{error.error}: {error.description}") from error
        profile = await oauth.idp.userinfo(token=token)
        claims = token["userinfo"]
        idp = IdP(issuer=claims["iss"], sid=claims.get("sid"), sub=claims["sub"])
        await session.login(claims["sub"], methods=["fed"], idp=idp)
        session["email"] = profile["email"]
        return {"sid": session.sid, "user": session.user_id, "idp_sid": claims["sid"]}

    async def provider_keys() -> Any:
        async with httpx.AsyncClient(timeout=30) as client:
            return (await client.get(f"{provider_address}/jwks")).json()

    route = backchannel_logout_route(db, issuer=provider_address, client_id=CLIENT_ID, keys=provider_keys)
    app.router.routes.append(route)

    @app.get("/me")
    async def me(user_id: RequireLogin, session: CurrentSession) -> dict[str, Any]:
        return {"user": user_id, "data": session, "methods": session.auth.methods}

    return app


if __name__ == "__main__":
    serve_on(int(sys.argv[1]), shop(*sys.argv[2:]))
