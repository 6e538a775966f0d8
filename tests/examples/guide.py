"""Takes the code out of the guide's pages, and runs it where they say: below the quick start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from sessiondb import Cookie, SessionDB, SessionMiddleware

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "life-cycle.md",
    "login.md",
    "session-data.md",
    "transports.md",
    "operations.md",
    "activity.md",
    "usage.md",
    "audit.md",
    "suspicious-logins.md",
)


def sections() -> dict[str, str]:
    """The text of each section, by its heading."""
    found: dict[str, str] = {}
    for page in PAGES:
        for section in (DOCS / page).read_text(encoding="utf-8").split("\n## ")[1:]:
            heading, _, text = section.partition("\n")
            assert heading not in found
            found[heading] = text
    return found


SECTIONS = sections()


def blocks(heading: str, language: str) -> list[str]:
    """The code of that language in the section."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", SECTIONS[heading], re.DOTALL)
    assert found, heading
    return found


def run(heading: str, **names: Any) -> dict[str, Any]:
    """What the names are after the section's code has run."""
    names["__name__"] = "guide"
    exec(compile("\n".join(blocks(heading, "python")), heading, "exec", dont_inherit=True), names)
    return names


def app_of(db: SessionDB, heading: str, **names: Any) -> FastAPI:
    """The quick start's app on ``db``, with the section's code below it."""
    app = FastAPI(lifespan=db.lifespan)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
    run(heading, app=app, db=db, **names)
    return app


def browser(app: FastAPI) -> httpx.AsyncClient:
    """One that sends its requests to ``app``."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop.test")
