"""An open page learns that its session has ended: ``static/shop.js`` keeps this socket open."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from sessiondb import RequireLogin

router = APIRouter()


@router.websocket("/open-page")
async def open_page(socket: WebSocket, user_id: RequireLogin) -> None:
    """Nothing is said here. When the session ends, the middleware closes the socket with 4401 and the reason."""
    await socket.accept()
    async for _ in socket.iter_text():
        pass
