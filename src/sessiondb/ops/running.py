"""What every command does: finds the database, runs on it, and says an error in one line."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sessiondb.auditing import Audit
from sessiondb.core.errors import ConfigurationError, SessionDBError
from sessiondb.core.policy import Policy
from sessiondb.db import DEFAULT_URL, SessionDB
from sessiondb.keyring import KeyRing
from sessiondb.ops import schema

Url = Annotated[
    str | None,
    typer.Argument(metavar="[URL]", help=f"$SESSIONDB_URL if left out, else {DEFAULT_URL}.", show_default=False),
]
UrlOption = Annotated[
    str | None, typer.Option("--url", help=f"$SESSIONDB_URL if left out, else {DEFAULT_URL}.", show_default=False)
]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="The user's id.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeysFile = Annotated[
    Path | None, typer.Option("--keys", metavar="FILE", help="$SESSIONDB_KEYS if left out.", show_default=False)
]

Answer = TypeVar("Answer")

# Only the app knows its policy. With the longest lifetimes, what is stored with each session decides alone.
_LONGEST = timedelta(days=3650)
_POLICY = Policy(idle=_LONGEST, absolute=_LONGEST, remember=_LONGEST)


def actor() -> str:
    """Who acts at the command line, for the audit trail."""
    try:
        return f"cli:{getpass.getuser()}"[:200]
    except (KeyError, OSError):  # no such user in this container
        return "cli"


def url_of(given: str | None) -> str:
    """The URL that was given, or is in the environment, or the default."""
    return given or os.environ.get("SESSIONDB_URL") or DEFAULT_URL


@asynccontextmanager
async def database(
    given: str | None, *, new: bool = False, keys: KeyRing | None = None, audit: Audit | None = None
) -> AsyncIterator[SessionDB]:
    """The opened database. Without ``new`` it must be there."""
    url = url_of(given)
    if not new:
        schema.check_exists(url)
    # With announce, the apps' hooks are told of what ends here.
    async with SessionDB(
        url,
        policy=_POLICY,
        timeout=30,
        announce=True,
        sweep_every=None,
        keys=keys,
        audit=Audit() if audit is None else audit,
    ) as db:
        yield db


def run(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """What ``work`` returns; an error of ours becomes one line and an exit code."""
    # The line says it; without a handler the log would say it again.
    logging.getLogger("sessiondb").addHandler(logging.NullHandler())

    async def main() -> Answer:
        return await work()

    return checked(lambda: asyncio.run(main()))


def checked(work: Callable[[], Answer]) -> Answer:
    """What ``work`` returns; an error of ours becomes one line and an exit code."""
    try:
        return work()
    except SessionDBError as error:
        typer.echo(f"sessiondb: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from None
