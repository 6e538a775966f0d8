"""MariaDB from the PATH, or from Debian's packages where they may be installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from provision.debian import find_or_install
from provision.process import NotHere, ServerProcess, free_port, listens, make_folder, other_user

PASSWORD = "throw-away"  # of a server that lives for one test run, on this machine alone
HOW_TO_GET = (
    "MariaDB is missing: apt-get install mariadb-server, or name a server in SESSIONDB_TEST_MYSQL_URL "
    "(mysql://user:password@host/database)."
)


def server_program() -> str:
    """The path of ``mariadbd`` or ``mysqld``, installed first where that is possible. Raises ``NotHere``."""
    program = find_or_install("mariadbd", "mariadb-server")
    if program is None:
        raise NotHere(HOW_TO_GET)
    return program


class MariaDB:
    """A server with the user ``sessiondb`` and the database ``sessiondb``. ``options`` are the server's."""

    def __init__(self, *options: str) -> None:
        program = server_program()
        user = other_user()
        folder = make_folder(user)
        try:
            data = folder / "data"
            self._initialise(program, data, folder, user)
            # As late as can be: until it is taken, others may take it.
            self.port, pid = free_port(), folder / "pid"
            command = [program, "--no-defaults", f"--datadir={data}", f"--port={self.port}", "--bind-address=127.0.0.1"]
            command += [f"--socket={folder}/socket", f"--pid-file={pid}", "--skip-name-resolve", *options]
            # Its own sign, too: who listens on that port may be somebody else, while it gives up.
            self.process = ServerProcess(
                command,
                folder,
                lambda: pid.exists() and listens(self.port),
                user=user,
                environment=_environment(folder),
            )
            self.process.start()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @property
    def url(self) -> str:
        """Its database, for ``SessionDB``."""
        return f"mysql://sessiondb:{PASSWORD}@127.0.0.1:{self.port}/sessiondb"

    def stop(self) -> None:
        """Stop it and remove everything."""
        self.process.stop()

    def _initialise(self, program: str, data: Path, folder: Path, user: str | None) -> None:
        """Make the system tables, and a user. Nothing listens meanwhile."""
        install = shutil.which("mariadb-install-db", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
        if install is None:
            raise NotHere(HOW_TO_GET)
        command = [
            install,
            "--no-defaults",
            f"--datadir={data}",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ]
        _run([*command, *([f"--user={user}"] if user else [])], folder, None)
        statements = (
            "CREATE DATABASE sessiondb; "
            f"CREATE USER sessiondb@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; "
            "GRANT ALL ON *.* TO sessiondb@'127.0.0.1' WITH GRANT OPTION; FLUSH PRIVILEGES;\n"
        )
        script = "FLUSH PRIVILEGES;\n" + statements.replace("; ", ";\n")
        _run([program, "--no-defaults", f"--datadir={data}", "--bootstrap"], folder, user, script)


def _environment(folder: Path) -> dict[str, str]:
    # It writes temporary files, and may run as another user than who was given this TMPDIR.
    return {**os.environ, "TMPDIR": str(folder)}


def _run(command: list[str], folder: Path, user: str | None, given: str | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        user=user,
        extra_groups=[] if user else None,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}"[-3000:])
