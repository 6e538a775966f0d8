"""The code in the guide's sections on ending, single sign-on, impersonation and hooks does what they say."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import Request
from guide import app_of, browser, run
from joserfc.jwk import RSAKey

from sessiondb import Policy, SessionDB


async def anything(*_: Any) -> Any:
    return True


async def test_ending_sessions() -> None:
    async with SessionDB("memory://", policy=Policy(per_user=2, on_limit="ask")) as db:
        app = app_of(db, "Ending sessions", check_password=anything, store_password=anything)

        async def sign_in(http: httpx.AsyncClient, **more: str) -> Any:
            return (await http.post("/sign-in", params={"user": "ann", "password": "x", **more})).json()

        async with browser(app) as first, browser(app) as second, browser(app) as third:
            assert (await sign_in(first))["refused"] is None
            assert (await sign_in(second))["refused"] is None
            refused = await sign_in(third)
            assert (refused["refused"], len(refused["sessions"])) == ("limit", 2)
            sids = [one.sid for one in await db.sessions_of("ann")]
            assert (await sign_in(third, end=sids[0]))["refused"] is None
            answer = await third.post("/password", params={"new": "y"})
            assert answer.json() == {"signed out elsewhere": 1}
            notices = {(await http.get("/sign-in")).json()["notice"] for http in (first, second, third)}
            assert notices == {
                "You were signed out because your password was changed.",
                "You were signed out from another device.",
                None,
            }


async def test_single_sign_on() -> None:
    async def claims_of_id_token(code: str) -> dict[str, str]:
        return {"iss": "https://idp.example", "sub": code, "sid": f"session of {code}"}

    key = RSAKey.generate_key(2048, {"kid": "one"}, private=True)
    async with SessionDB("memory://") as db:
        app = app_of(
            db,
            "Single sign-on and back-channel logout",
            claims_of_id_token=claims_of_id_token,
            provider_keys={"keys": [key.as_dict(private=False)]},
        )
        async with browser(app) as http:
            assert (await http.get("/callback", params={"code": "ann"})).status_code == 200
            assert (await http.post("/backchannel-logout", data={"logout_token": "none"})).status_code == 400
        assert await db.revoke_idp("https://idp.example", sid="session of ann") == 1


async def test_impersonation() -> None:
    async with SessionDB("memory://") as db:
        app = app_of(db, "Impersonation", may_impersonate=anything)

        @app.post("/login/{user}")
        async def login(user: str, request: Request) -> None:
            await request.session.login(user)  # type: ignore[attr-defined]

        async with browser(app) as http:
            await http.post("/login/root")
            assert (await http.post("/delete-account")).status_code == 200
            assert (await http.post("/become/ann")).status_code == 200
            assert [one.auth.impersonator for one in await db.sessions_of("ann")] == ["root"]
            assert (await http.post("/delete-account")).status_code == 403
            assert (await http.post("/back")).status_code == 200
            assert (await http.post("/delete-account")).status_code == 200


async def test_hooks() -> None:
    released: list[str] = []

    async def release_reservations(sid: str) -> None:
        released.append(sid)

    db = SessionDB("memory://")
    run("Hooks", db=db, release_reservations=release_reservations, warn=anything)
    async with db:
        sid = (await db.create("ann")).session.sid
        assert await db.revoke(sid)
    assert released == [sid]
