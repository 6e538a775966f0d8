"""The code in the guide's sections on policies and step-up does what they say."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI
from test_life_cycle_forms import blocks, browser

from sessiondb import Cookie, Policy, SessionDB, SessionMiddleware


def run(heading: str, **names: Any) -> dict[str, Any]:
    """The names that the section's code makes."""
    names["__name__"] = "guide"
    exec(compile("\n".join(blocks(heading, "python")), "life-cycle.md", "exec", dont_inherit=True), names)
    return names


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
    async with SessionDB("memory://") as db:
        made = run(
            "Step-up and assurance levels", db=db, check_password=anything, check_code=anything, salaries_for=anything
        )
        app: FastAPI = made["app"]
        app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
        async with browser(app) as http:

            async def asked() -> httpx.Response:
                return await http.get("/salaries")

            assert (await http.post("/one-time-code?code=1")).status_code == 401
            await http.post("/login?user=ann&password=x")
            refused = await asked()
            assert refused.status_code == 401
            for part in ('error="insufficient_user_authentication"', 'acr_values="2"', 'max_age="900"'):
                assert part in refused.headers["www-authenticate"]
            assert (await http.post("/one-time-code?code=1")).status_code == 200
            assert (await asked()).status_code == 200
            assert (await http.post("/password")).status_code == 200
