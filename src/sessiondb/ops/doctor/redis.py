"""What in a Redis or Valkey server, or in one of a cluster, would lose sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hiredis

from sessiondb.core.errors import ConfigurationError
from sessiondb.ops.doctor.redis_persistence import check_failover, check_persistence
from sessiondb.ops.doctor.report import Finding, Report, Survival, check_schema, measure_clock
from sessiondb.stores._redis_cluster import Cluster
from sessiondb.stores._redis_errors import translated
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import SingleServer
from sessiondb.stores._redis_url import Settings, parse
from sessiondb.stores._redis_users import glance
from sessiondb.stores.redis import SCHEMA_VERSION, RedisStore

OLDEST = (6, 2)
SAMPLE = 200
_SAMPLE_SECONDS = 3.0
_NEARLY_FULL = 0.9
_SETTINGS = (
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "min-replicas-to-write",
)


async def examine(url: str) -> Report:
    """See ``sessiondb.ops.doctor.examine``."""
    settings = parse(url)
    report = Report("Redis", settings.where)
    nodes = settings.make()
    try:
        await _examine(report, settings, nodes, url)
    except Exception as error:
        raise translated(error, settings.where, "not_applied") from error.__cause__
    finally:
        await nodes.close()
    return report


async def _examine(report: Report, settings: Settings, nodes: SingleServer | Cluster, url: str) -> None:
    keys = Keys(settings.prefix)
    meta = keys.meta

    async def clock() -> int:
        [reply] = await nodes.run([(meta, ("TIME",))])
        seconds, micros = _checked(reply)
        return int(seconds) * 1_000_000 + int(micros)

    await measure_clock(report, clock)
    asked: list[tuple[str, ...]] = [("INFO",), *(("CONFIG", "GET", name) for name in _SETTINGS), ("CLUSTER", "INFO")]
    servers: dict[str, Report] = {}
    for address, (said, *settings_said, cluster) in (await nodes.on_each(asked)).items():
        info = _lines(_checked(said))
        config = {name: value for name, value in map(_setting, settings_said) if name}
        report.database = _version(info)
        own = servers[address] = Report(report.database, address)
        if not config:
            own.add(
                "note",
                "CONFIG",
                "not permitted",
                "The server is managed, or the user may not: appendfsync, save and replicas were not checked.",
                "Look at them in the provider's console, or: ACL SETUSER <user> +config|get",
            )
        _check_memory(own, info)
        check_persistence(own, info, config)
        check_failover(own, info, config, settings.wait)
        _check_cluster(own, info, cluster, is_cluster=nodes.is_cluster)
    _join(report, servers)
    [version] = await nodes.run([(meta, ("HGET", meta, "schema_version"))])
    version = _checked(version)
    if check_schema(report, None if version is None else version.decode(), SCHEMA_VERSION.decode()):
        await _check_trail(report, nodes, keys.trail_state, settings.max_events)
        await _check_lists(report, url)


def _join(report: Report, servers: dict[str, Report]) -> None:
    """Add what the servers have in common once, the rest with their addresses; what survives, survives on all."""
    places: dict[Finding, list[str]] = {}
    worst: dict[str, Survival] = {}
    for address, own in servers.items():
        for finding in own.findings:
            places.setdefault(finding, []).append(address)
        for one in own.durability:
            before = worst.get(one.event)
            if before is None or before.survives:
                worst[one.event] = one
            elif one.survives is False and one.why not in before.why:
                worst[one.event] = replace(one, why=f"{before.why}; {one.why}")
    for finding, where in places.items():
        alone = f" (on {', '.join(where)})" if len(where) < len(servers) else ""
        report.findings.append(replace(finding, found=finding.found + alone))
    report.durability = list(worst.values())


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _lines(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs if value}


def _setting(reply: Any) -> tuple[str, str]:
    """Name and value in the answer of ``CONFIG GET``, empty where it was refused or is unknown."""
    if isinstance(reply, hiredis.ReplyError) or len(reply) < 2:
        return "", ""
    return reply[0].decode(), reply[1].decode()


def _version(info: dict[str, str]) -> str:
    """Product and version. Raises ``ConfigurationError`` for one that is too old."""
    # Valkey says which Redis it is compatible with, too.
    valkey = info.get("valkey_version")
    version = valkey or info.get("redis_version", "0")
    found = f"{'Valkey' if valkey else 'Redis'} {version}"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        raise ConfigurationError(f"This server is {found}; sessiondb needs Redis 6.2 or newer: upgrade it.")
    return found


def _check_memory(report: Report, info: dict[str, str]) -> None:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy, evicted = info.get("maxmemory_policy", "noeviction"), int(info.get("evicted_keys", 0))
    limit = f"maxmemory {most / 1e6:,.0f} MB" if most else "no maxmemory"
    if policy != "noeviction" and most:
        report.add(
            "problem",
            "maxmemory-policy",
            f"{policy}, {limit}",
            "When memory is full, the server deletes living sessions: users are logged out at random.",
            "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE",
        )
    elif policy != "noeviction":
        report.add(
            "warning",
            "maxmemory-policy",
            f"{policy}, {limit}",
            "Nothing is evicted yet; as soon as somebody sets maxmemory, living sessions are.",
            "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE",
        )
    else:
        report.ok("maxmemory-policy", policy)
    if evicted:
        report.add(
            "problem" if policy != "noeviction" else "warning",
            "evicted keys",
            f"{evicted:,} since the server's start",
            "Sessions, or their places in the lists of users, may be among them.",
            "Give the server more memory (maxmemory), then: sessiondb repair",
        )
    if most and used > _NEARLY_FULL * most:
        report.add(
            "warning",
            "memory",
            f"{used / most:.0%} of {limit} used",
            "When it is full, nothing new is stored and nobody can log in.",
            "Raise maxmemory, or shorten the lifetimes of sessions",
        )
    else:
        report.ok("memory", f"{used / most:.0%} of {limit} used" if most else limit)


def _check_cluster(report: Report, info: dict[str, str], cluster: Any, *, is_cluster: bool) -> None:
    enabled = info.get("cluster_enabled") == "1"
    if enabled and not is_cluster:
        report.add(
            "problem",
            "cluster",
            "this is a node of one, and the URL names one server",
            "Most sessions belong to other nodes, and are refused here.",
            "Write redis+cluster://host1,host2 (rediss+cluster:// with TLS)",
        )
    elif enabled and isinstance(cluster, bytes):
        state = _lines(cluster)
        covered = state.get("cluster_slots_ok", "0")
        if state.get("cluster_state") != "ok" or covered != "16384":
            report.add(
                "problem",
                "cluster",
                f"state {state.get('cluster_state')}, {covered} of 16384 slots served",
                "Sessions in the other slots can be neither read nor written.",
                "CLUSTER NODES shows which node is down; start it, or let its replica take over",
            )
        else:
            report.ok("cluster", "all slots served")


async def _check_trail(report: Report, nodes: SingleServer | Cluster, state: bytes, most: int) -> None:
    """How full the audit trail is, and whether it has been cut."""
    [reply] = await nodes.run([(state, ("HMGET", state, "count", "dropped"))])
    count, dropped = (int(number or 0) for number in _checked(reply))
    found = f"{count:,} of at most {most:,} events"
    mend = (
        "Raise ?max_events= where there is memory, or keep events for a shorter time: SessionDB(audit=Audit(keep=...))"
    )
    if dropped:
        report.add(
            "warning",
            "audit trail",
            f"{found}; {dropped:,} older ones were dropped to make room",
            "Nobody learns any more what those said, and verifying tells that the beginning is missing.",
            mend,
        )
    elif count > _NEARLY_FULL * most:
        report.add("warning", "audit trail", found, "When it is full, the oldest are dropped, whatever they say.", mend)
    else:
        report.ok("audit trail", found)


async def _check_lists(report: Report, url: str) -> None:
    """Whether sessions are in the lists of their users and of the sweeper; looks at some, wherever SCAN begins."""
    # Only here, where the layout is there: to open the store writes it.
    store = RedisStore(url)
    await store.open()
    try:
        looked, unlisted = 0, 0
        try:
            async with asyncio.timeout(_SAMPLE_SECONDS):
                async for sids in store.all_sids():
                    found = await _unlisted(store, sids[: SAMPLE - looked])
                    looked += min(len(sids), SAMPLE - looked)
                    unlisted += found
                    if looked >= SAMPLE:
                        break
        except TimeoutError:
            pass  # among many keys of others; what was seen counts
    finally:
        await store.close()
    if unlisted:
        report.add(
            "problem",
            "lists",
            f"{unlisted} of {looked} sessions are in no list",
            "No revoke by user finds them, or no sweep.",
            "sessiondb repair",
        )
    else:
        report.ok("lists", f"{looked} sessions looked at, all in theirs")


async def _unlisted(store: RedisStore, sids: list[Any]) -> int:
    records = [record for record in await glance(store, sids) if record is not None]
    keys = store.keys

    def places(list_of: Callable[[str], bytes], about: list[Any]) -> list[Any]:
        return [(key := list_of(of), ("ZSCORE", key, sid)) for of, sid in about]

    owned = [(record.user_id, record.sid) for record in records if record.user_id is not None]
    due = await store.run(places(keys.due, [(record.sid, record.sid) for record in records]))
    living = await store.run(places(keys.user, owned))
    ended = await store.run(places(keys.ended, owned))
    missing = {record.sid for record, score in zip(records, due, strict=True) if score is None}
    missing |= {sid for (_, sid), one, two in zip(owned, living, ended, strict=True) if one is None and two is None}
    if missing:
        # Some may have been purged, or ended, between the questions.
        again = await glance(store, sorted(missing))
        return sum(record is not None for record in again)
    return 0
