"""A server as a child process: started, waited for, paused, killed, started again, and always stopped at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

STARTS_WITHIN = 30.0


class NotHere(Exception):
    """A server that cannot be had on this machine; the message says how to get it."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def other_user() -> str | None:
    """Whom to run servers as that refuse to be run by root; ``None``: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NotHere("This server does not run as root, and there is no user 'nobody': run the tests as another user.")


def make_folder(user: str | None = None) -> Path:
    """A new folder, of ``user`` where one is named."""
    folder = Path(tempfile.mkdtemp(prefix="sessiondb-server-"))
    if user is not None:
        shutil.chown(folder, user)
    return folder


class ServerProcess:
    """``command`` in ``folder`` (removed at the end), ready when ``is_ready`` says so."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        is_ready: Callable[[], bool],
        *,
        user: str | None = None,
        environment: dict[str, str] | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.command = list(command)
        self.folder = folder
        self.log = folder / "server.log"
        self._is_ready = is_ready
        self._user = user
        self._environment = environment
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises ``RuntimeError`` with the end of its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
                env=self._environment,
                # Ctrl-C is for the tests: they stop their servers themselves.
                start_new_session=True,
            )
        end = time.monotonic() + STARTS_WITHIN
        try:
            while not self._is_ready():
                if self._process.poll() is not None or time.monotonic() > end:
                    said = self.log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.command[0]} did not start:\n{said}")
                time.sleep(0.02)
        except BaseException:
            self.kill()  # also where somebody has lost patience
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def pause(self) -> None:
        """Stop answering, without closing a connection."""
        members = family(self.pid)
        _signal(members, signal.SIGSTOP)
        # A thread that is at work stops a moment later, and could still answer.
        end = time.monotonic() + 5
        while not all(_is_stopped(pid) for pid in members) and time.monotonic() < end:
            time.sleep(0.001)

    def resume(self) -> None:
        """Answer again."""
        _signal(family(self.pid), signal.SIGCONT)

    def kill(self) -> None:
        """End it and its children at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            _signal(family(process.pid), signal.SIGKILL)
            process.wait(10)

    def stop(self) -> None:
        """End it in good order, then remove its folder."""
        process = self._process
        if process is not None and process.poll() is None:
            try:
                self.resume()
                process.send_signal(self._stop_signal)
                process.wait(10)
            except (subprocess.TimeoutExpired, ProcessLookupError):
                pass
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def family(pid: int) -> list[int]:
    """``pid`` and its descendants, which may lead groups of their own."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
        except OSError:
            continue  # it has just ended
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _is_stopped(pid: int) -> bool:
    try:
        # The state comes after the name, which may hold anything. T: stopped; a thread that has ended counts too.
        stats = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    return all(state in "TtZX" for state in stats)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def listens(port: int) -> bool:
    """Whether somebody listens on ``port`` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
