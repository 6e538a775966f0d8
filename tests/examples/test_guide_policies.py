"""The code in the guide's sections on policies and step-up does what they say."""

from __future__ import annotations

from typing import Any

import httpx
from guide import app_of, browser, run

from sessiondb import Policy, SessionDB


async def anything(*_: Any) -> Any:
    return None


async def test_lifetimes_and_policies() -> None:
    async def employees() -> set[str]:
        return {"ann"}

    made = run("Lifetimes and policies", employees=employees)
    written: SessionDB = made["db"]
    assert set(written.policies) == {"staff", "kiosk"}
    assert written.policies["staff"] == Policy.nist_aal2().with_(per_user=3, on_limit="refuse")
    async with SessionDB("memory://", policies=written.policies, policy_for=made["policy_for"]) as db:
        assert [(await db.create(user)).session.policy for user in ("ann", "bob")] == ["staff", "normal"]
        assert (await db.create("ann", policy="kiosk")).session.policy == "kiosk"


async def test_step_up_and_assurance_levels() -> None:
    yours = dict.fromkeys(("check_password", "check_code", "salaries_for", "store_email"), anything)
    async with SessionDB("memory://") as db:
        async with browser(app_of(db, "Step-up and assurance levels", **yours)) as http:

            async def asked() -> httpx.Response:
                return await http.get("/salaries")

            assert (await http.post("/one-time-code?code=1")).status_code == 401
            await http.post("/password-login?user=ann&password=x")
            refused = await asked()
            assert refused.status_code == 401
            for part in ('error="insufficient_user_authentication"', 'acr_values="2"', 'max_age="900"'):
                assert part in refused.headers["www-authenticate"]
            assert (await http.post("/one-time-code?code=1")).status_code == 200
            assert (await asked()).status_code == 200
            assert (await http.post("/email?email=ann@example.com")).status_code == 200
