"""The demo: ``python -m examples.demo [--port 8000] [--stay | --no-stay] [--db KIND-OR-URL]``.

Exit status: 0 when every check held, 1 when one failed or the demo could not start, 2 for wrong arguments, 130 and 143
when it was interrupted during the story. Whatever happens, the processes it has started are stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from examples.demo.browser import PHONE, TABLET
from examples.demo.console import CheckFailed, Console
from examples.demo.databases import KINDS, CannotStart, database
from examples.demo.peek import CannotLook
from examples.demo.servers import HOST, ServerFailed, Servers, listen
from examples.demo.steps import STEPS
from examples.demo.world import World
from sessiondb import SessionDB, SessionDBError

DEFAULT_PORT = 8000
STORY_TIMEOUT = 60.0


class Interrupted(Exception):
    """By a signal, before the story was over."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    """Parse the arguments and run. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="The shop on two server processes.")
    parser.add_argument("--port", type=int, help=f"of the shop (default: {DEFAULT_PORT}, or a free one if it is taken)")
    parser.add_argument(
        "--stay", action=argparse.BooleanOptionalAction, help="keep serving afterwards (default: if on a terminal)"
    )
    parser.add_argument(
        "--db",
        default="sqlite",
        help=f"where the sessions live: {', '.join(KINDS)}, made for the demo and gone afterwards (default: sqlite); "
        "or the URL of an empty database of yours",
    )
    arguments = parser.parse_args()
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="sessiondb-demo-"))
    try:
        return asyncio.run(demo(console, folder, arguments))
    except Interrupted as interrupted:
        console.line("\nStopped.")
        return 128 + interrupted.number
    except (CannotStart, CannotLook, ServerFailed, SessionDBError, CheckFailed) as error:
        console.error(str(error))
    except TimeoutError:
        console.error(f"A step did not come to its end (the whole story has {STORY_TIMEOUT:.0f} s).")
    except httpx.HTTPError as error:
        console.error(f"A request got no answer: {error!r}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1


async def demo(console: Console, folder: Path, arguments: argparse.Namespace) -> int:
    """Start, tell, stay, stop."""
    with listen_for_all(arguments.port) as shared, interruptible() as interruption:
        async with (
            database(arguments.db, folder, console) as (url, peek),
            Servers(url, shared, folder) as servers,
        ):
            world = World(console, servers, peek, url)
            await tell(world)
            interruption.expected = True
            if arguments.stay if arguments.stay is not None else console.is_terminal:
                await stay(world)
    return 0


class Interruption:
    """Which signal, and whether the story was over by then."""

    expected = False
    number = 0


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Ctrl-C and SIGTERM end what is under way in order. Raises ``Interrupted`` unless that is expected."""
    task, loop, interruption = asyncio.current_task(), asyncio.get_running_loop(), Interruption()
    assert task is not None

    def interrupt(number: signal.Signals) -> None:
        interruption.number = number
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        yield interruption
    except asyncio.CancelledError:
        # In the stay it is how the visitor leaves, and no failure.
        if not interruption.expected:
            raise Interrupted(interruption.number) from None


def listen_for_all(port: int | None) -> socket.socket:
    """The socket that both processes accept on."""
    try:
        return listen(DEFAULT_PORT if port is None else port)
    except OSError as error:
        if port is None:
            return listen(0)
        raise CannotStart(f"Cannot listen on {HOST}:{port} ({error.strerror}); name another one with --port.") from None


async def tell(world: World) -> None:
    """The story. Raises ``CheckFailed`` at the first check that does not hold."""
    console, servers = world.console, world.servers
    console.line(f"The shop is at {servers.url}, on the processes {servers.a.pid} and {servers.b.pid}.")
    console.line(f"Its sessions are in {world.peek.where}")
    console.line(f"After each step, what that holds: {world.peek.means}")
    began = time.monotonic()
    try:
        async with asyncio.timeout(STORY_TIMEOUT), world.laptop, world.phone:
            for step in STEPS:
                console.step(step.title, step.story)
                await step.tell(world)
                await world.show_database()
    except (CheckFailed, CannotLook, TimeoutError, httpx.HTTPError):
        for server in servers.both:
            if log := server.log_tail():
                console.line(f"\nThe end of the log of server {server.name}:\n{log}")
        raise
    console.line()
    console.line(console.paint(f"All {len(STEPS)} steps held, in {time.monotonic() - began:.1f} s.", "1;32"))


async def stay(world: World) -> None:
    """Leave the shop to the visitor until Ctrl-C."""
    console, servers = world.console, world.servers
    # Sessions can be made outside a request too; here, so that the devices page has something to show.
    async with SessionDB(world.db_url, sweep_every=None) as db:
        for agent, remember in ((TABLET, False), (PHONE, True), ("photo-backup/2.1", False)):
            issued = await db.create("ada", remember=remember, ip="192.0.2.7", user_agent=agent)
            if agent == TABLET:
                await db.revoke(issued.session.sid)
    console.line()
    console.line(f"Now it is your shop: {console.paint(servers.url, '1;4')}")
    alone = " and ".join(f"{server.url} (process {server.pid})" for server in servers.both)
    console.line(f"Both processes answer there; each also alone, with the same session: {alone}")
    console.line("Sign in as Ada (one click, no password), then open Devices: two more of hers are signed in.")
    console.line("Sign her in in a second browser too, and sign that one out here: its open page knows.")
    console.line(f"Ask the database: {world.peek.by_hand}")
    console.line("Ctrl-C stops all servers; a database that was made for the demo goes with them.")
    while True:
        await asyncio.sleep(0.5)
        for server in servers.both:
            if not server.running:
                raise ServerFailed(f"Server {server.name} has ended.\n{server.log_tail()}")


if __name__ == "__main__":
    sys.exit(main())
