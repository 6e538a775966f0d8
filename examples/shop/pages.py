"""What every page has in common: the template, the signed-in user, the cart's count."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from examples.shop import moments
from examples.shop.users import USERS
from sessiondb import CurrentSession
from sessiondb.web.templates import setup

templates = setup(Jinja2Templates(directory=Path(__file__).parent / "templates"))
templates.env.filters.update(ago=moments.ago, until=moments.until, iso=moments.iso, exact=moments.exact)
templates.env.globals["pid"] = os.getpid


class PageRenderer:
    """Renders a template: ``return page("cart.html", lines=lines)``."""

    def __init__(self, request: Request, session: CurrentSession) -> None:
        self.request = request
        self.session = session

    def __call__(self, template: str, **context: Any) -> HTMLResponse:
        """``template`` with ``context`` and what all pages show."""
        session = self.session
        shared = {
            "user": USERS.get(session.user_id or ""),
            "cart_count": sum(session.get("cart", {}).values()),
            "visits": session.get("visits", 0),
            "sid": session.sid,
        }
        return templates.TemplateResponse(self.request, template, shared | context)


Page = Annotated[PageRenderer, Depends()]


def see_other(path: str) -> RedirectResponse:
    """After a POST, send the browser to a page that may be reloaded (Post/Redirect/Get)."""
    return RedirectResponse(path, status_code=303)


async def not_found(request: Request, error: Exception) -> Response:
    """A page for people, a line for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        detail = error.detail if isinstance(error, HTTPException) else "Not Found"
        return PlainTextResponse(detail, status_code=404)
    return templates.TemplateResponse(request, "not_found.html", status_code=404)
