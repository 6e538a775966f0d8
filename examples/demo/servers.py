"""Two server processes that accept on one listening socket; each also has a port of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import httpx

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0


class ServerFailed(Exception):
    """A server process did not come up; the message has the end of its log."""


def listen(port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises ``OSError`` if the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


class Server:
    """One process. Its socket outlives it, so a restarted process has the same address."""

    def __init__(self, name: str, db_url: str, shared: socket.socket, log: Path) -> None:
        self.name = name
        self.log = log
        self._db_url = db_url
        self._shared = shared
        self._own = listen(0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where only this process answers."""
        return url_of(self._own)

    @property
    def pid(self) -> int:
        """The process id, 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; ``ready`` waits for it."""
        fds = (self._shared.fileno(), self._own.fileno())
        command = [sys.executable, "-m", "examples.demo.serve", "--db", self._db_url]
        for fd in fds:
            command += ["--fd", str(fd)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                # Ctrl-C in the terminal is for the demo alone, which then stops its servers in order.
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Wait until it answers. Raises ``ServerFailed``."""
        process = self._process
        assert process is not None
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        async with httpx.AsyncClient(base_url=self.url, timeout=1.0, trust_env=False) as client:
            while asyncio.get_running_loop().time() < deadline:
                if process.poll() is not None:
                    raise ServerFailed(f"Server {self.name} ended with status {process.returncode}.\n{self.log_tail()}")
                try:
                    await client.get("/healthz")
                    return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        raise ServerFailed(f"Server {self.name} did not answer within {START_TIMEOUT:.0f} s.\n{self.log_tail()}")

    def kill(self) -> None:
        """``kill -9``: no time for a last word."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the process and free its port."""
        self._end(signal.SIGTERM)
        self._own.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that the process has written."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


class Servers:
    """Both, as ``async with Servers(...)``: started together, and stopped whatever happens."""

    def __init__(self, db_url: str, shared: socket.socket, logs: Path) -> None:
        self.url = url_of(shared)
        self.a = Server("A", db_url, shared, logs / "server-a.log")
        self.b = Server("B", db_url, shared, logs / "server-b.log")
        self.both = (self.a, self.b)

    async def __aenter__(self) -> Servers:
        try:
            await self.start()
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def start(self) -> None:
        """Start both at once, as a deployment would."""
        for server in self.both:
            server.start()
        await asyncio.gather(*(server.ready() for server in self.both))

    def kill(self) -> None:
        """``kill -9`` both."""
        for server in self.both:
            server.kill()

    def stop(self) -> None:
        """Stop both."""
        for server in self.both:
            server.stop()
