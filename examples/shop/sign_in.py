"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from examples.shop.pages import Page, see_other
from examples.shop.users import USERS
from sessiondb import CurrentSession, ended_message, flash, require_login

router = APIRouter()

# The user's id; visitors are sent to the sign-in page, and back afterwards.
SignedIn = Annotated[str, Depends(require_login(redirect="/sign-in"))]

WHY_SIGNED_OUT = {
    "logout": "You signed out.",
    "revoked": "This device was signed out from another one of yours.",
    "expired_idle": "You were away for a long time, so this device was signed out.",
    "expired_absolute": "This sign-in had reached its end, so this device was signed out.",
    "limit": "You signed in on too many devices, so this one was signed out.",
    "reuse": "This sign-in was used from two places at once, so it was ended. Please sign in again.",
}


@router.get("/sign-in")
async def choose(page: Page, session: CurrentSession, next: str = "/", bye: bool = False) -> HTMLResponse:
    """Who are you? If this browser's session has been ended, the page says why."""
    reason = "logout" if bye else session.ended_reason
    return page(
        "sign_in.html",
        users=USERS.values(),
        next=next,
        why=ended_message(reason, WHY_SIGNED_OUT) if session.user_id is None else None,
    )


@router.post("/sign-in")
async def sign_in(
    user: Annotated[str, Form()],
    session: CurrentSession,
    remember: Annotated[bool, Form()] = False,
    next: Annotated[str, Form()] = "/",
) -> RedirectResponse:
    """A new session with a new token; the visitor's cart comes along, another user's does not."""
    if user not in USERS:
        raise HTTPException(404, "There is no such user.")
    # Here a real shop checks a password or a passkey.
    session.login(user, remember=remember)
    flash(session, f"Welcome, {USERS[user].name}.")
    return see_other(own_path(next))


@router.post("/sign-out")
async def sign_out(session: CurrentSession) -> RedirectResponse:
    """End this session. A request of it that is still under way cannot bring it back."""
    session.logout()
    return see_other("/sign-in?bye=1")


def own_path(target: str) -> str:
    """``target`` if it is a path of this site, else the home page: nobody may send our users elsewhere."""
    own = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if own else "/"
