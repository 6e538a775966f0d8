"""Apps under real uvicorn on 127.0.0.1: in a thread here, or in a process of their own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

START_WITHIN = 30.0
STOP_WITHIN = 10.0


def listening() -> socket.socket:
    """A socket on a free port that queues connections from now on, so that nobody has to wait for a server."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    return listener


def address_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def server_for(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(app, loop="asyncio", http="h11", ws="none", lifespan="on", log_level="warning")
    return uvicorn.Server(config)


@contextlib.contextmanager
def in_a_thread(app: ASGIApp, listener: socket.socket) -> Iterator[str]:
    """``app`` under uvicorn in this process; its address."""
    server = server_for(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join(START_WITHIN)
        listener.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def in_a_process(script: Path, listener: socket.socket, *arguments: str) -> Iterator[str]:
    """``python script FD arguments...``, which serves on the socket with the number ``FD``; its address."""
    process = subprocess.Popen(
        [sys.executable, str(script), str(listener.fileno()), *arguments], pass_fds=[listener.fileno()]
    )
    address = address_of(listener)
    listener.close()
    try:
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_on(descriptor: int, app: ASGIApp) -> None:
    """In the process of ``in_a_process``: serve until terminated."""
    server_for(app).run(sockets=[socket.socket(fileno=descriptor)])
