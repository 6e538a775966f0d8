"""Where a user is signed in: see it, end one, end all others."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from examples.shop.database import Database
from examples.shop.pages import Page, see_other
from examples.shop.sign_in import SignedIn
from examples.shop.user_agent import describe
from sessiondb import CurrentSession, RequireLogin, SessionInfo, flash

router = APIRouter()

WHY_ENDED = {
    "logout": "signed out",
    "login": "somebody signed in here",
    "revoked": "signed out from another device",
    "expired_idle": "not used for too long",
    "expired_absolute": "reached its end",
    "limit": "too many devices",
    "refused": "sign-in refused",
    "reuse": "stolen key",
    "undelivered": "sign-in did not complete",
}


@router.get("/devices")
async def devices(page: Page, user_id: SignedIn, session: CurrentSession, db: Database) -> HTMLResponse:
    """All sessions of the user, this one first, and the ones that ended in the last days."""
    sessions = await db.sessions_of(user_id, include_ended=True)
    living = [info for info in sessions if info.ended_at is None]
    ended = [info for info in sessions if info.ended_at is not None]
    living.sort(key=lambda info: (info.sid == session.sid, info.last_seen_at), reverse=True)
    ended.sort(key=lambda info: info.ended_at or 0, reverse=True)
    return page("devices.html", living=living, ended=ended[:8], describe=describe, why_ended=WHY_ENDED)


@router.post("/devices/{sid}/revoke")
async def revoke(sid: str, user_id: SignedIn, db: Database, session: CurrentSession) -> RedirectResponse:
    """End one session of the user. The sid is public, so whose it is must be checked."""
    info = await db.get(sid)
    if info is None or info.user_id != user_id:
        raise HTTPException(404, "There is no such device.")
    name = describe(info.client.user_agent).name
    revoked = await db.revoke(sid)
    flash(session, f"{name} is signed out." if revoked else f"{name} was signed out already.")
    return see_other("/devices")


@router.post("/devices/revoke-others")
async def revoke_others(user_id: SignedIn, session: CurrentSession) -> RedirectResponse:
    """Sign out everywhere else."""
    count = await session.revoke_others()
    flash(session, f"{count} other {'device is' if count == 1 else 'devices are'} signed out.")
    return see_other("/devices")


@router.post("/devices/renew-key")
async def renew_key(user_id: SignedIn, session: CurrentSession) -> RedirectResponse:
    """The same session with a new secret. Soon after the browser has used it, the old one is a theft alarm."""
    session.rotate()
    flash(session, "This device has a new key.")
    return see_other("/devices")


@router.get("/api/devices")
async def list_devices(user_id: RequireLogin, db: Database) -> list[dict[str, Any]]:
    """For programs: without a login this is a 401 instead of a page. A ``SessionInfo`` holds no secret."""
    return [as_json(info) for info in await db.sessions_of(user_id)]


def as_json(info: SessionInfo) -> dict[str, Any]:
    """What a program may know of a session."""
    return {
        "sid": info.sid,
        "device": describe(info.client.user_agent).name,
        "ip": info.client.ip,
        "created_at": info.created_at,
        "last_seen_at": info.last_seen_at,
        "expires_at": info.expires_at,
        "remembered": info.remembered,
    }
