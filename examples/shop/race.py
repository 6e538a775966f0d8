"""Endpoints to race against: the demo uses them, a shop would not have them."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from sessiondb import CurrentSession

router = APIRouter(tags=["race"])


@router.get("/whoami")
async def who_am_i(session: CurrentSession) -> dict[str, Any]:
    """Which process answers, and whose session this is."""
    return {"pid": os.getpid(), "sid": session.sid, "user": session.user_id, "visits": session.get("visits", 0)}


@router.post("/race/{key}")
async def write_one_key(
    key: Annotated[str, Path(pattern="^[a-z0-9-]{1,32}$")], value: Annotated[int, Query()], session: CurrentSession
) -> dict[str, Any]:
    """Only this key is sent to the database, so requests that write other keys lose nothing."""
    session[f"race:{key}"] = value
    return {"pid": os.getpid()}


@router.post("/slow")
async def slow(session: CurrentSession, seconds: Annotated[float, Query(ge=0, le=10)] = 1.0) -> dict[str, Any]:
    """Writes, works for a while, and writes again: what if the user signs out meanwhile?"""
    session["slow"] = "started"
    await session.save()
    await asyncio.sleep(seconds)
    session["slow"] = "finished"
    return {"pid": os.getpid()}
