"""Programs from the PATH, or from Debian's packages where they may be installed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")


def find_or_install(program: str, package: str) -> str | None:
    """The path of ``program``; as root on Debian and Ubuntu, ``package`` is installed where it is missing."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    found = shutil.which(program, path=path)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with Path(tempfile.gettempdir(), "sessiondb-apt-get.lock").open("w") as lock:
            # Processes that need it at the same time: one of them installs it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = shutil.which(program, path=path) or _install(program, package, path)
    return found


def _install(program: str, package: str, path: str) -> str | None:
    # A package would start its server at once; at this run level it does not.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "-q", "update"], ["apt-get", "-qy", "install", package]):
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    return shutil.which(program, path=path)
