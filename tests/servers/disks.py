"""Disks that fail: full, forbidden, damaged, or locked by somebody else."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    """An empty disk of ``kibibytes`` on ``folder``; skips the test where it cannot be had."""
    mount = shutil.which("mount")
    if sys.platform != "linux" or os.geteuid() != 0 or mount is None:
        pytest.skip("only root on Linux may mount a disk")
    folder.mkdir()
    options = f"size={kibibytes}k"
    done = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("no disk may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left of the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 512)
        except OSError:
            pass
    return filler


@contextmanager
def no_file_may_grow(pid: int, database: Path) -> Iterator[None]:
    """No file of the process ``pid`` may become larger than the write-ahead log of ``database`` is now."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process cannot be set here")
    size = Path(f"{database}-wal").stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def bound_by_permissions() -> tuple[str, ...]:
    """What to put before a command so that file permissions hold for it, even when root runs the tests."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("permissions do not hold for root, and there is no setpriv to change that")
    return (setpriv, "--bounding-set=-all", "--inh-caps=-all")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """``folder`` and the files in it may be read but not written."""
    for file in folder.iterdir():
        file.chmod(0o400)
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)
        for file in folder.iterdir():
            file.chmod(0o600)


@contextmanager
def locked(database: Path, transaction: str = "IMMEDIATE") -> Iterator[None]:
    """Another program is in the middle of a long write."""
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute(f"BEGIN {transaction}")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def damage(database: Path, *, keep: int) -> None:
    """Overwrite all but the first ``keep`` bytes."""
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(keep)
        file.write(b"\xa5" * (size - keep))
