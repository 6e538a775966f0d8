"""A throw-away Redis for the peers that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import wait_for


@contextmanager
def redis_server(folder: Path, *, wanted: bool) -> Iterator[str | None]:
    """The URL of a Redis or Valkey started for this run; ``None`` if there is no server binary."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if not wanted or binary is None:
        if wanted:
            print("no redis-server or valkey-server on the PATH: its variants are left out", file=sys.stderr)
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)
