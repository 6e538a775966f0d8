"""What the shop needs besides, where sessions are ended: locks, impersonation, identity providers, hooks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from sessiondb import CurrentSession, Ended, IdP, LoginRefused, Session, SessionDB, ended_message, hooks
from sessiondb.core.policy import SECOND
from sessiondb.stores import announcing


def with_endings(app: FastAPI, settings: dict[str, Any]) -> FastAPI:
    """``app``, with pages for all of these. Hooks write lines into the file ``settings["hooks"]``."""
    db: SessionDB = app.state.db
    gates = app.state.gates
    if "hooks" in settings:
        _register(db, settings["hooks"], hangs=settings.get("hangs", False))

    async def log_in(session: Session, user: str, idp: IdP | None = None) -> dict[str, Any]:
        try:
            await session.login(user, idp=idp)
        except LoginRefused as error:
            return {"refused": error.reason, "until": error.until, "sessions": [one.sid for one in error.sessions]}
        return {"refused": None}

    @app.get("/who")
    async def who(session: CurrentSession) -> dict[str, Any]:
        return {
            "sid": session.sid,
            "user": session.user_id,
            "impersonator": session.auth.impersonator,
            "reason": session.ended_reason,
            "message": ended_message(session.ended_reason),
            "data": session,
        }

    @app.post("/try-login/{user}")
    async def try_login(user: str, session: CurrentSession) -> dict[str, Any]:
        return await log_in(session, user)

    @app.post("/slow/try-login/{gate}/{user}")
    async def slow_try_login(gate: str, user: str, session: CurrentSession) -> dict[str, Any]:
        await gates.wait(gate)
        return await log_in(session, user)

    @app.post("/idp-login/{user}")
    async def idp_login(user: str, claims: dict[str, str], session: CurrentSession) -> dict[str, Any]:
        return await log_in(session, user, IdP(**claims))  # type: ignore[arg-type]

    @app.post("/slow/idp-login/{gate}/{user}")
    async def slow_idp_login(gate: str, user: str, claims: dict[str, str], session: CurrentSession) -> dict[str, Any]:
        await gates.wait(gate)
        return await log_in(session, user, IdP(**claims))  # type: ignore[arg-type]

    @app.post("/idp-logout")
    async def idp_logout(claims: dict[str, str]) -> int:
        return await db.revoke_idp(**claims)  # type: ignore[arg-type]

    @app.post("/lock/{user}")
    async def lock(user: str) -> int:
        return await db.lock_user(user)

    @app.post("/unlock/{user}")
    async def unlock(user: str) -> None:
        await db.unlock_user(user)

    @app.post("/revoke-where")
    async def revoke_where(criteria: dict[str, Any]) -> int:
        return await db.revoke_where(reason="admin", **criteria)

    @app.post("/revoke-everyone")
    async def revoke_everyone() -> int:
        return await db.revoke_everyone()

    @app.post("/revoke-others")
    async def revoke_others(session: CurrentSession) -> int:
        return await session.revoke_others(reason="password_changed")

    @app.post("/impersonate/{user}")
    async def impersonate(user: str, session: CurrentSession) -> None:
        await session.impersonate(user)

    @app.post("/stop-impersonating")
    async def stop_impersonating(session: CurrentSession) -> bool:
        return await session.stop_impersonating()

    @app.websocket("/watch")
    async def watch(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text(str(ws.session.user_id))  # type: ignore[attr-defined]
        with contextlib.suppress(WebSocketDisconnect):
            await ws.receive_text()

    @app.post("/sweep")
    async def sweep() -> dict[str, int]:
        swept = await db.sweep()
        return {"ended": len(swept.ended), "unannounced": len(swept.unannounced)}

    return app


def _register(db: SessionDB, path: str, *, hangs: bool) -> None:
    # A minute lasts two seconds here, or every test of a process that has died would take it.
    announcing.ANNOUNCE_AFTER = hooks.ANNOUNCE_AFTER = 2 * SECOND
    hooks._MARGIN = SECOND // 4

    @db.on_end
    async def note(ended: Ended) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {ended.sid} {ended.reason} {ended.user_id}\n")
        if hangs:
            await asyncio.Event().wait()
