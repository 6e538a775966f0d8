"""Back-channel logout: a provider says that a user has signed out there, and the app's sessions of it end."""

from __future__ import annotations

import base64
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import oauth_apps
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from running import address_of, in_a_thread, listening
from starlette.applications import Starlette

from harness import Shop, open_shop
from sessiondb import ConfigurationError, IdP
from sessiondb.testing import Fail
from sessiondb.web import backchannel
from sessiondb.web.backchannel import LOGOUT_EVENT, backchannel_logout_route

ISSUER, CLIENT = "https://idp.example", "shop"
KEY = RSAKey.generate_key(2048, {"kid": "one"}, private=True)
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "one"}, private=True)


# -- the whole flow over HTTP ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    listener = listening()
    with in_a_thread(oauth_apps.provider(address_of(listener)), listener) as address:
        yield address


@contextlib.contextmanager
def signed_in(shop: str) -> Iterator[tuple[httpx.Client, str]]:
    """A browser in which a user has come from the provider, and the provider's ``sid``."""
    with httpx.Client(timeout=30, follow_redirects=True) as browser:
        answer = browser.get(f"{shop}/login")
        assert answer.status_code == 200, answer.text
        yield browser, answer.json()["idp_sid"]


@pytest.mark.security("L6", "L8", "W2")
def test_signing_out_at_the_provider_ends_the_session_here(provider: str, tmp_path: Path) -> None:
    listener = listening()
    app = oauth_apps.shop(f"sqlite:///{tmp_path}/sessions.db", provider, address_of(listener))
    with in_a_thread(app, listener) as shop, httpx.Client(timeout=30) as api:

        def sign_out(**claims: str) -> int:
            answer = api.post(f"{provider}/sign-out", params={"tell": f"{shop}/backchannel-logout"}, json=claims)
            status: int = answer.json()
            return status

        with signed_in(shop) as (laptop, sid), signed_in(shop) as (phone, _), signed_in(shop) as (tablet, _):
            assert {browser.get(f"{shop}/me").status_code for browser in (laptop, phone, tablet)} == {200}
            assert sign_out(sid=sid, sub=oauth_apps.SUBJECT) == 200
            statuses = [browser.get(f"{shop}/me").status_code for browser in (laptop, phone, tablet)]
            assert statuses == [401, 200, 200]
            assert sign_out(sub=oauth_apps.SUBJECT, nonce="of an ID token") == 400
            assert phone.get(f"{shop}/me").status_code == 200
            assert sign_out(sub=oauth_apps.SUBJECT) == 200
            assert {browser.get(f"{shop}/me").status_code for browser in (phone, tablet)} == {401}


# -- what is no logout token ----------------------------------------------------------------------------------


class Endpoint:
    """The endpoint of a shop in which somebody is signed in from the provider."""

    def __init__(self, shop: Shop, http: httpx.AsyncClient, browser: Any) -> None:
        self.shop = shop
        self.http = http
        self.browser = browser

    def token(self, *, key: Any = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
        now = self.shop.clock() // 1_000_000
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 120,
            "jti": "one",
            "sub": "a",
            "sid": "s1",
            "events": {LOGOUT_EVENT: {}},
        }
        claims.update(changes)
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "one", "typ": "logout+jwt", **(header or {})}, claims, key)

    async def post(self, token: str | None = None, **request: Any) -> httpx.Response:
        request.setdefault("data", {"logout_token": self.token() if token is None else token})
        answer = await self.http.post("/backchannel-logout", **request)
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        return answer

    async def refuses(self, token: str | None, why: str, **request: Any) -> None:
        answer = await self.post(token, **request)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert why in answer.json()["error_description"]
        assert await self.browser.user() == "ann"


@contextlib.asynccontextmanager
async def endpoint(**settings: Any) -> AsyncIterator[Endpoint]:
    async with open_shop() as shop:
        settings = {"keys": KeySet([KEY]), **settings}
        app = Starlette(routes=[backchannel_logout_route(shop.db, issuer=ISSUER, client_id=CLIENT, **settings)])
        browser = await shop.logged_in("ann", idp=IdP(issuer=ISSUER, sid="s1", sub="a"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.test") as http:
            yield Endpoint(shop, http, browser)


async def test_a_logout_token_is_carried_out_once() -> None:
    async with endpoint() as at:
        token = at.token()
        assert (await at.post(token)).status_code == 200
        assert await at.browser.user() is None
        at.browser = await at.shop.logged_in("ann", idp=IdP(issuer=ISSUER, sid="s1", sub="a"))
        await at.refuses(token, "jti")
        # Another one of the same provider is another logout, known here or not.
        for sid in ("s1", "unknown"):
            assert (await at.post(at.token(jti=sid, sid=sid, sub=None))).status_code == 200


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://other.example"}, "iss"),
        ({"iss": None}, "iss"),
        ({"aud": "another client"}, "aud"),
        ({"aud": ["another", "third"]}, "aud"),
        ({"aud": None}, "aud"),
        ({"iat": None}, "iat"),
        ({"iat": 4_000_000_000}, "future"),
        ({"exp": None}, "exp"),
        ({"exp": 1_600_000_000}, "expired"),
        ({"exp": 4_000_000_000}, "more than a day"),
        ({"jti": None}, "jti"),
        ({"jti": 7}, "jti"),
        ({"nonce": "of an ID token"}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"events": None}, "events"),
        ({"events": {"http://schemas.openid.net/event/other": {}}}, "events"),
        ({"events": LOGOUT_EVENT}, "events"),
        ({"events": {LOGOUT_EVENT: True}}, "events"),
        ({"sub": None, "sid": None}, "neither sub nor sid"),
        ({"sub": 7, "sid": None}, "sub"),
        ({"sid": ""}, "sid"),
        ({"header": {"typ": "at+jwt"}}, "typ"),
        ({"key": OTHER_KEY}, "signature"),
        ({"header": {"alg": "HS256"}, "key": OctKey.import_key("the shop's secret, 32 bytes and more")}, "signature"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_logout_token_for_us_ends_nothing(changes: dict[str, Any], why: str) -> None:
    async with endpoint() as at:
        await at.refuses(at.token(**changes), why)


async def test_a_token_signed_by_nobody_or_with_the_public_key_is_refused() -> None:
    async with endpoint() as at:
        header, payload, _ = at.token().split(".")
        await at.refuses(f"{header}.{payload}.", "signature")
        none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"logout+jwt"}').rstrip(b"=").decode()
        await at.refuses(f"{none}.{payload}.", "signature")
        await at.refuses("not.a.token", "signature")
        await at.refuses("", "not one logout_token")


async def test_the_request_must_be_a_form_with_one_token() -> None:
    async with endpoint() as at:
        token = at.token()
        await at.refuses(None, "x-www-form-urlencoded", data=None, json={"logout_token": token})
        await at.refuses(None, "not one logout_token", data={"id_token": token})
        await at.refuses(None, "not one logout_token", data={"logout_token": [token, token]})
        await at.refuses(None, "too long", data={"logout_token": "x" * 70_000})
        form = {"content-type": "application/x-www-form-urlencoded"}
        await at.refuses(None, "not one logout_token", data=None, content=b"logout_token=\xff", headers=form)
        for method in ("GET", "PUT"):
            assert (await at.http.request(method, "/backchannel-logout")).status_code == 405


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+JWT", "JWT", None])
async def test_the_type_in_the_header_is_asked_for_only_where_that_is_wanted(typ: str | None) -> None:
    async with endpoint() as at:
        header = {"alg": "RS256", "kid": "one"} if typ is None else {"typ": typ}
        token = at.token(header=header)
        if typ is None:
            claims = jwt.decode(token, KEY).claims
            token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, KEY)
        assert (await at.post(token)).status_code == 200
    async with endpoint(require_typ=True) as at:
        assert (await at.post(token)).status_code == (200 if "logout" in str(typ) else 400)


async def test_keys_may_be_a_key_set_a_dict_or_a_function() -> None:
    as_dict = {"keys": [KEY.as_dict(private=False)]}

    async def fetched() -> Any:
        return as_dict

    for keys in (KeySet([KEY]), as_dict, lambda: as_dict, fetched):
        async with endpoint(keys=keys) as at:
            assert (await at.post()).status_code == 200
            assert await at.browser.user() is None
    async with endpoint(keys={"keys": [OTHER_KEY.as_dict(private=False)]}) as at:
        await at.refuses(None, "signature")


async def test_an_audience_of_several_names_us_too() -> None:
    async with endpoint() as at:
        assert (await at.post(at.token(aud=["another", CLIENT]))).status_code == 200


async def test_when_the_database_is_away_the_provider_is_told_and_may_try_again() -> None:
    async with endpoint() as at:
        token = at.token()
        at.shop.faults.next("end_where", Fail())
        answer = await at.post(token)
        assert (answer.status_code, answer.json()["error"]) == (400, "temporarily_unavailable")
        assert (await at.post(token)).status_code == 200
        assert await at.browser.user() is None


async def test_what_is_remembered_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backchannel, "MOST_REMEMBERED", 3)
    tokens = backchannel.LogoutTokens(issuer=ISSUER, client_id=CLIENT, keys=KeySet([KEY]))
    now = int(time.time())
    for number in range(10):
        tokens.remember({"jti": str(number)}, now)
    assert list(tokens._seen) == ["7", "8", "9"]
    tokens.remember({"jti": "later"}, now + 2 * backchannel.LONGEST_LIFE)
    assert list(tokens._seen) == ["later"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"issuer": ""}, "issuer is ''"),
        ({"client_id": None}, "client_id is None"),
        ({"keys": None}, "keys is None"),
        ({"keys": {}}, "keys is no JWKS"),
        ({"keys": "https://idp.example/jwks"}, "keys is no JWKS"),
        ({"algorithms": "RS256"}, "algorithms"),
        ({"algorithms": ()}, "algorithms"),
        ({"algorithms": ("RS256", "None")}, "'none' signs nothing"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"issuer": ISSUER, "client_id": CLIENT, "keys": KeySet([KEY]), **wrong}
    with pytest.raises(ConfigurationError, match=says):
        backchannel.LogoutTokens(**settings)


def test_without_joserfc_it_says_how_to_get_it() -> None:
    with mock.patch.dict(sys.modules, {"joserfc": None, "joserfc.jwt": None}):
        with pytest.raises(ConfigurationError, match=r"pip install 'sessiondb\[oidc\]'"):
            backchannel.LogoutTokens(issuer=ISSUER, client_id=CLIENT, keys=KeySet([KEY]))
