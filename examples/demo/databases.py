"""Where the demo's sessions live: a file, a server that is started for it, or a database that the visitor names."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from examples.demo.console import Console
from examples.demo.peek import Peek, can_look_into, open_peek
from sessiondb import SessionDB, open_store

# What can be started here: by which module, what people call it, and with which options.
SERVERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "postgresql": ("provision.postgresql", "PostgreSQL", ()),
    "mysql": ("provision.mariadb", "MariaDB", ("--innodb-log-file-size=8M",)),
    "redis": ("provision.valkey", "Valkey", ()),
    "mongodb": ("provision.mongodb", "MongoDB", ()),
}
KINDS = ("sqlite", *SERVERS)


class CannotStart(Exception):
    """What is missing, and what to do."""


@asynccontextmanager
async def database(given: str, folder: Path, console: Console) -> AsyncIterator[tuple[str, Peek]]:
    """The URL of what was ``given``, a kind or a URL, and a peek into it: empty, and stopped at the end if it was
    started here. Raises ``CannotStart``.
    """
    if given in SERVERS:
        async with _started(given, console) as server, _looked_into(server.url) as peek:
            peek.folder = server.process.folder
            yield server.url, peek
        return
    url = f"sqlite:///{folder}/sessions.db" if given == "sqlite" else given
    _check(url)
    async with _looked_into(url) as peek:
        yield url, peek


def _check(url: str) -> None:
    open_store(url)  # says what is wrong with it
    if not can_look_into(url):
        raise CannotStart(
            f"The demo shows what the database holds, and cannot look into {url!r}. Name one of {', '.join(KINDS)}, "
            "or a database of yours: --db sqlite:///new-file.db, --db postgresql://user:password@host/database."
        )
    if url.startswith("sqlite:"):
        from examples.demo.peek.sqlite import path_of

        path = path_of(url)
        if path.exists():
            raise CannotStart(f"{path} exists. The story ends sessions, so name a new file, or leave --db out.")


@asynccontextmanager
async def _looked_into(url: str) -> AsyncIterator[Peek]:
    """A peek into a database that is nobody's: the story ends sessions."""
    async with SessionDB(url, sweep_every=None):
        pass  # the schema is there now
    peek = await open_peek(url)
    try:
        if await peek.rows():
            raise CannotStart(f"There are sessions in {peek.where}. The story ends sessions: name an empty database.")
        yield peek
    finally:
        await peek.close()


@asynccontextmanager
async def _started(kind: str, console: Console) -> AsyncIterator[Any]:
    """A server of that kind, for as long as the block runs."""
    module, name, options = SERVERS[kind]
    console.line(f"Starting {name} ...")
    try:
        # Not in a thread: a signal waits until the server is up, and then it is stopped in order.
        server: Any = getattr(importlib.import_module(module), name)(*options)
    except Exception as error:
        # Ctrl-C reaches what the start has started: then it is the signal that counts. It is seen by the next turn.
        await asyncio.sleep(0.05)
        raise CannotStart(f"{error}\nOr name a database that runs: --db {kind}://...") from error
    try:
        yield server
    finally:
        server.stop()
