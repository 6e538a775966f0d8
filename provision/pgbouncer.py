"""PgBouncer from the PATH, or from Debian's packages where they may be installed, in front of a PostgreSQL server."""

from __future__ import annotations

import shutil
from urllib.parse import unquote, urlsplit

from provision.debian import find_or_install
from provision.process import NotHere, ServerProcess, free_port, listens, make_folder, other_user

HOW_TO_GET = "PgBouncer is missing: apt-get install pgbouncer, or name one in SESSIONDB_TEST_PGBOUNCER_URL."


class PgBouncer:
    """A pooler for the server of ``url``. ``mode`` is ``"session"``, ``"transaction"`` or ``"statement"``.

    ``size``: how many connections to the server all clients share. ``settings`` are lines of ``pgbouncer.ini``.
    """

    def __init__(
        self, url: str, mode: str = "transaction", *, size: int = 4, settings: dict[str, str] | None = None
    ) -> None:
        program = find_or_install("pgbouncer", "pgbouncer")
        if program is None:
            raise NotHere(HOW_TO_GET)
        self._behind = urlsplit(url)
        user = other_user()
        folder = make_folder(user)
        self.port = free_port()
        users = folder / "users"
        users.write_text(f'"{unquote(self._behind.username or "")}" "{unquote(self._behind.password or "")}"\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "pool_mode": mode,
            "default_pool_size": str(size),
            "max_client_conn": "500",
            **(settings or {}),
        }
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={self._behind.hostname} port={self._behind.port or 5432}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in options.items())
        )
        if user is not None:
            for path in (users, configuration):
                shutil.chown(path, user)
        self.process = ServerProcess([program, str(configuration)], folder, lambda: listens(self.port), user=user)
        try:
            self.process.start()
        except BaseException:
            self.process.stop()
            raise

    @property
    def url(self) -> str:
        """The server's database, through this; sessiondb needs ``?pooler=transaction`` besides in that mode."""
        who = self._behind.netloc.rpartition("@")[0]
        return f"postgresql://{who}@127.0.0.1:{self.port}{self._behind.path}"

    def stop(self) -> None:
        """Stop it and remove everything."""
        self.process.stop()
