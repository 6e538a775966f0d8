"""What the doctor says of Redis and Valkey servers, good and bad, alone and in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from findings import finding, problems, survives

from databases import had, new_prefix, with_option
from provision.valkey import Valkey, ValkeyCluster, ask, server, wait_until
from sessiondb import ConfigurationError, SessionDB
from sessiondb.ops.doctor import examine
from sessiondb.ops.doctor.report import MACHINE_LOST, POWER_CUT, SERVER_KILLED
from sessiondb.stores.redis import RedisStore


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    server = had(lambda: Valkey("--appendfsync", "always"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    server = had(ValkeyCluster)
    yield server
    server.stop()


@pytest.fixture
async def url(valkey: Valkey) -> str:
    """Two users with a session each."""
    url = with_option(valkey.url, f"prefix={new_prefix()}")
    async with SessionDB(url, sweep_every=None) as db:
        await db.create("ada")
        await db.create("bob")
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def configure(valkey: Valkey) -> Iterator[Callable[..., None]]:
    """Sets settings of the server, and puts them back afterwards."""
    before: list[tuple[str, str]] = []

    def configure(**settings: str) -> None:
        for name, value in settings.items():
            name = name.replace("_", "-")
            before.append((name, ask(valkey.port, "CONFIG", "GET", name).split("\r\n")[-2]))
            assert ask(valkey.port, "CONFIG", "SET", name, value).startswith("+OK")

    yield configure
    for name, value in reversed(before):
        ask(valkey.port, "CONFIG", "SET", name, value)


async def test_a_server_that_writes_everything_to_disk_loses_nothing(url: str) -> None:
    report = await examine(url)
    assert [one for one in report.findings if one.level != "ok"] == []
    assert report.database.startswith(("Valkey ", "Redis "))
    assert [one.survives for one in report.durability] == [True, True, True]
    assert finding(report, "lists").found == "2 sessions looked at, all in theirs"


async def test_a_database_without_sessions_stays_without(valkey: Valkey) -> None:
    prefix = new_prefix()
    report = await examine(with_option(valkey.url, f"prefix={prefix}"))
    assert finding(report, "schema").level == "note"
    assert ask(valkey.port, "KEYS", f"{prefix}*") == "*0\r\n"


@pytest.mark.parametrize(
    ("settings", "check", "level", "mend", "kill", "power"),
    [
        (
            {"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"},
            "maxmemory-policy",
            "problem",
            "maxmemory-policy noeviction",
            True,
            True,
        ),
        (
            {"maxmemory": "100mb", "maxmemory_policy": "volatile-ttl"},
            "maxmemory-policy",
            "problem",
            "maxmemory-policy noeviction",
            True,
            True,
        ),
        ({"maxmemory_policy": "volatile-lru"}, "maxmemory-policy", "warning", "noeviction", True, True),
        ({"appendonly": "no"}, "appendonly", "problem", "CONFIG SET appendonly yes", False, False),
        ({"appendonly": "no", "save": "3600 1"}, "appendonly", "problem", "CONFIG SET appendonly yes", False, False),
        ({"appendfsync": "everysec"}, "appendonly", "warning", "appendfsync always", True, False),
        ({"appendfsync": "no"}, "appendonly", "warning", "appendfsync always", True, False),
    ],
    ids=["allkeys", "volatile", "no-maxmemory", "no-log", "snapshots", "everysec", "never"],
)
async def test_settings_that_lose_sessions_are_found(
    url: str,
    configure: Callable[..., None],
    settings: dict[str, str],
    check: str,
    level: str,
    mend: str,
    kill: bool,
    power: bool,
) -> None:
    configure(**settings)
    report = await examine(url)
    assert [(one.check, one.level) for one in problems(report)] == [(check, level)]
    assert mend in finding(report, check).mend
    assert survives(report, SERVER_KILLED) is kill
    assert survives(report, POWER_CUT) is power


async def test_snapshots_are_said_to_lose_what_came_since(url: str, configure: Callable[..., None]) -> None:
    configure(appendonly="no", save="3600 1 300 100")
    assert "up to 60 min are lost" in finding(await examine(url), "appendonly").means


async def test_full_memory_is_foretold(url: str, valkey: Valkey, configure: Callable[..., None]) -> None:
    used = int(ask(valkey.port, "INFO", "memory").partition("used_memory:")[2].partition("\r")[0])
    configure(maxmemory=str(int(used * 1.05)))
    assert finding(await examine(url), "memory").level == "warning"


async def test_evicted_keys_are_a_problem(configure: Callable[..., None]) -> None:
    own = had(lambda: Valkey("--appendfsync", "always", "--maxmemory-policy", "allkeys-random"))
    try:
        for number in range(100):
            ask(own.port, "SET", f"cache{number}", "x" * 1000)
        ask(own.port, "CONFIG", "SET", "maxmemory", "1000000")  # less than it has already
        wait_until(lambda: "evicted_keys:0\r" not in ask(own.port, "INFO", "stats"))
        found = finding(await examine(own.url), "evicted keys")
    finally:
        own.stop()
    assert found.level == "problem"
    assert "sessiondb repair" in found.mend


async def test_a_disk_that_took_no_snapshot_is_a_problem() -> None:
    own = had(lambda: Valkey("--appendfsync", "always", "--dbfilename", "gone.rdb"))
    try:
        (own.process.folder / "gone.rdb").mkdir()  # a file cannot take the place of a folder
        ask(own.port, "BGSAVE")
        wait_until(lambda: "rdb_last_bgsave_status:err" in ask(own.port, "INFO", "persistence"))
        found = finding(await examine(own.url), "rdb_last_bgsave_status")
    finally:
        own.stop()
    assert (found.level, found.found) == ("problem", "err")


async def test_lists_that_disagree_with_sessions_are_found_and_repaired(url: str, store: RedisStore) -> None:
    listed = store.keys.user("ada")
    await store.run([(listed, ("DEL", listed))])
    found = finding(await examine(url), "lists")
    assert (found.level, found.found) == ("problem", "1 of 2 sessions are in no list")
    assert found.mend == "sessiondb repair"
    await store.repair()
    assert finding(await examine(url), "lists").level == "ok"


async def test_sessions_that_no_sweep_would_find_are_found(url: str, store: RedisStore) -> None:
    await store.run([(key, ("DEL", key)) for key in store.keys.due_lists])
    assert finding(await examine(url), "lists").found == "2 of 2 sessions are in no list"


async def test_an_audit_trail_that_was_cut_or_soon_will_be_is_told(url: str, store: RedisStore) -> None:
    state = store.keys.trail_state
    assert finding(await examine(url), "audit trail").found == "2 of at most 1,000,000 events"
    url = with_option(url, "max_events=1000")
    await store.run([(state, ("HSET", state, "count", "900"))])
    assert finding(await examine(url), "audit trail").level == "ok"
    await store.run([(state, ("HSET", state, "count", "901"))])
    full = finding(await examine(url), "audit trail")
    assert (full.level, full.found) == ("warning", "901 of at most 1,000 events")
    await store.run([(state, ("HSET", state, "count", "2"))])
    async with SessionDB(url, sweep_every=None) as db:
        for _ in range(12):
            await asyncio.gather(*(db.create("ada") for _ in range(100)))
    cut = finding(await examine(url), "audit trail")
    [kept, dropped] = await store.run([(state, ("HGET", state, name)) for name in ("count", "dropped")])
    assert int(dropped) > 0
    assert cut.level == "warning"
    assert cut.found == f"{int(kept)} of at most 1,000 events; {int(dropped)} older ones were dropped to make room"
    assert "max_events" in cut.mend


async def test_a_newer_layout_is_a_problem(url: str, store: RedisStore) -> None:
    await store.run([(store.keys.meta, ("HSET", store.keys.meta, "schema_version", "99"))])
    assert finding(await examine(url), "schema").level == "problem"


async def test_what_a_managed_server_hides_is_said_not_to_be_known(url: str, valkey: Valkey) -> None:
    ask(valkey.port, "ACL", "SETUSER", "app", "on", ">throw-away", "~*", "&*", "+@all", "-config")
    report = await examine(url.replace("redis://", "redis://app:throw-away@"))
    assert finding(report, "CONFIG").level == "note"
    assert finding(report, "maxmemory-policy").level == "ok"
    assert survives(report, SERVER_KILLED) is True
    assert survives(report, POWER_CUT) is None


async def test_a_replica_given_as_primary_is_a_problem_and_replicas_are_counted(valkey: Valkey, url: str) -> None:
    replica, port = server("--replicaof", "127.0.0.1", str(valkey.port), "--appendfsync", "always")
    replica.start()
    try:
        wait_until(lambda: "master_link_status:up" in ask(port, "INFO", "replication"))
        of_replica = await examine(f"redis://127.0.0.1:{port}")
        of_primary = await examine(url)
        waited_for = await examine(with_option(url, "wait_replicas=2"))
    finally:
        replica.stop()
    assert finding(of_replica, "role").level == "problem"
    assert "redis+sentinel://" in finding(of_replica, "role").mend
    assert finding(of_primary, "role").found == "primary of 1"
    assert finding(of_primary, "min-replicas-to-write").level == "note"
    assert survives(of_primary, MACHINE_LOST) is False
    assert finding(waited_for, "wait_replicas").level == "problem"


async def test_a_cluster_is_looked_at_node_by_node(cluster: ValkeyCluster) -> None:
    url = with_option(cluster.url, f"prefix={new_prefix()}")
    async with SessionDB(url, sweep_every=None) as db:
        await db.create("ada")
    odd = cluster.nodes[1][1]
    for _, port in cluster.nodes:
        ask(port, "CONFIG", "SET", "appendfsync", "always")
    ask(odd, "CONFIG", "SET", "appendonly", "no")
    report = await examine(url)
    [found] = problems(report)
    assert (found.check, found.level) == ("appendonly", "problem")
    assert f"(on 127.0.0.1:{odd})" in found.found
    assert finding(report, "cluster").found == "all slots served"
    assert finding(report, "lists").found == "1 sessions looked at, all in theirs"
    assert survives(report, SERVER_KILLED) is False


async def test_a_node_of_a_cluster_as_a_single_server_is_a_problem(cluster: ValkeyCluster) -> None:
    # The key of the layout's version has to be on the node that is named.
    async def of(port: int) -> Any:
        return await examine(f"redis://127.0.0.1:{port}")

    reports = [await of(port) for _, port in cluster.nodes]
    assert all(report.has_problems for report in reports)
    found = [one for report in reports for one in report.findings if one.check == "cluster"]
    assert found
    assert all("redis+cluster://" in one.mend for one in found)


async def test_a_wrong_password_is_a_configuration_error_that_does_not_show_it(valkey: Valkey) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await examine(valkey.url.replace("redis://", "redis://ada:hunter2@"))
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_is_not_there_is_a_problem() -> None:
    report = await examine("redis://:hunter2@127.0.0.1:9")
    assert report.has_problems
    assert "Start it" in finding(report, "usable").means
    assert "hunter2" not in str(report)
