"""The driver behind ``make demo``, as a program: what it says, its exit status, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import NETWORK, new_url
from examples.demo.databases import KINDS
from examples.demo.peek import CannotLook
from examples.demo.peek.sqlite import SQLitePeek
from examples.demo.steps import STEPS
from sessiondb import SessionDB

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 90.0
DEMO = (sys.executable, "-m", "examples.demo")

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files; when the test is over, neither files nor servers may be left of it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # a database server may run as another user
    yield folder
    assert servers_in(folder) == []
    shutil.rmtree(folder)


def servers_in(folder: Path) -> list[int]:
    """Those that serve the shop or are the database's: the demo was told to keep its files there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            serves = b"examples.demo.serve" in (process / "cmdline").read_bytes()
            if (serves and str(folder).encode() in (process / "environ").read_bytes()) or (
                (process / "cwd").readlink().is_relative_to(folder)
            ):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8"}


def run(folder: Path, *arguments: str, command: tuple[str, ...] = DEMO) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_story(folder: Path, kind: str) -> None:
    began = time.monotonic()
    done = run(folder, "--db", kind)
    if " is missing: " in done.stdout and os.environ.get("CI") != "true":
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for number, step in enumerate(STEPS, 1):
        assert f"{number:2}. {step.title}" in done.stdout
    assert f"All {len(STEPS)} steps held" in done.stdout
    assert "\x1b[" not in done.stdout
    assert done.stderr == ""
    assert time.monotonic() - began < LIMIT
    assert list(folder.iterdir()) == []


def test_a_step_that_fails(folder: Path) -> None:
    # No file may grow beyond 224 KiB, as on a full disk: some steps in, the database cannot be written.
    limited = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (224 * 1024, 224 * 1024))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = run(folder, "--no-stay", command=(sys.executable, "-c", limited, *DEMO))
    assert done.returncode == 1
    assert STEPS[0].title in done.stdout
    assert STEPS[-1].title not in done.stdout
    assert "The demo has failed." in done.stdout
    assert "expected:" in done.stdout
    assert "came:" in done.stdout
    assert "ulimit -f" in done.stdout
    assert list(folder.iterdir()) == []


def test_a_database_that_is_deleted_during_the_story(folder: Path) -> None:
    with subprocess.Popen(
        DEMO,
        cwd=ROOT,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as demo:
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if STEPS[1].title in line:
                    break
            [path] = folder.glob("*/sessions.db")
            path.unlink()
            path.mkdir()  # nobody can make the file anew
            rest = demo.stdout.read()
            status = demo.wait(LIMIT)
        finally:
            demo.kill()
    assert status == 1, rest
    assert "The demo has failed." in rest
    assert "Traceback" not in rest
    assert list(folder.iterdir()) == []


async def test_a_database_that_cannot_be_looked_at(folder: Path) -> None:
    peek = SQLitePeek(folder / "missing.db")
    with pytest.raises(CannotLook, match=r"Cannot read the file .*/missing\.db: unable to open"):
        await peek.rows()


def test_a_database_that_cannot_be_made(folder: Path) -> None:
    done = run(folder, "--db", f"sqlite:///{folder}/missing/sessions.db")
    assert done.returncode == 1
    assert "The demo has failed." in done.stdout
    assert "does not exist" in done.stdout


@pytest.mark.parametrize("kind", NETWORK)
async def test_a_database_that_is_somebodys(folder: Path, kind: str) -> None:
    url = new_url(kind, folder)
    async with SessionDB(url) as db:
        issued = await db.create("ann")
        done = await asyncio.to_thread(run, folder, "--db", url)
        assert done.returncode == 1
        assert "There are sessions in" in done.stdout
        [session] = await db.sessions_of("ann")
    assert session.sid == issued.session.sid


@pytest.mark.parametrize("url", ["memory://", "carrier-pigeon://loft"])
def test_a_database_that_it_cannot_look_into(folder: Path, url: str) -> None:
    done = run(folder, "--db", url)
    assert done.returncode == 1
    assert "sqlite:///" in done.stdout


def test_a_file_that_is_somebodys(folder: Path) -> None:
    path = folder / "mine.db"
    path.touch()
    done = run(folder, "--db", f"sqlite:///{path}")
    assert done.returncode == 1
    assert "exists" in done.stdout
    assert path.read_bytes() == b""


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(folder, "--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stdout


STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}


@pytest.mark.parametrize(
    ("how", "kind", "amid"),
    [
        (signal.SIGTERM, "sqlite", STEPS[1].title),
        (signal.SIGINT, "sqlite", STEPS[1].title),
        (signal.SIGKILL, "sqlite", STEPS[1].title),
        (signal.SIGTERM, "redis", STEPS[1].title),
        (signal.SIGINT, "postgresql", "Starting"),
    ],
)
def test_it_leaves_no_server_behind(folder: Path, how: signal.Signals, kind: str, amid: str) -> None:
    with subprocess.Popen(
        [*DEMO, "--stay", "--db", kind],
        cwd=ROOT,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as demo:
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if amid in line:
                    break
            if amid != "Starting":
                assert len(servers_in(folder)) == 2 + (kind != "sqlite")
            demo.send_signal(how)
            rest = demo.stdout.read()
            status = demo.wait(LIMIT)
        finally:
            demo.kill()
    assert status == STATUS[how], rest
    if how is signal.SIGKILL:
        # Nobody could stop them: they notice by themselves that they are alone.
        give_up_at = time.monotonic() + 15
        while servers_in(folder) and time.monotonic() < give_up_at:
            time.sleep(0.05)
    else:
        assert "Traceback" not in rest
        assert list(folder.iterdir()) == []
