"""The session database as a dependency, for pages that look at more than their own session."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from sessiondb import SessionDB


def get_db(request: Request) -> SessionDB:
    """The one that ``create_app`` was given."""
    db: SessionDB = request.app.state.db
    return db


Database = Annotated[SessionDB, Depends(get_db)]
