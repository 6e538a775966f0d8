"""What of a Redis or Valkey server's data survives: its log, its snapshots, its replicas."""

from __future__ import annotations

from sessiondb.ops.doctor.report import APP_ENDS, MACHINE_LOST, POWER_CUT, SERVER_KILLED, Report
from sessiondb.stores._redis_nodes import Wait

_AOF_ON = "CONFIG SET appendonly yes, then CONFIG REWRITE"


def check_persistence(report: Report, info: dict[str, str], config: dict[str, str]) -> None:
    """Add what the append-only file and the snapshots come to; ``config`` is empty where it may not be read."""
    report.survives(APP_ENDS, True)
    if info.get("aof_enabled") == "1":
        _check_log(report, config.get("appendfsync"))
    else:
        _check_snapshots(report, config.get("save"))
    for name, what, cure in (
        ("aof_last_write_status", "write to the append-only file", "Free space on its disk"),
        ("aof_last_bgrewrite_status", "rewrite of the append-only file", "Free space and memory, then BGREWRITEAOF"),
        ("rdb_last_bgsave_status", "snapshot", "Free space on its disk, then BGSAVE"),
    ):
        if info.get(name, "ok") != "ok":
            report.add(
                "problem",
                name,
                info[name],
                f"The last {what} failed: the server may refuse writes, and a restart loses what is not on disk.",
                f"{cure}; the server's log says more",
            )


def _check_log(report: Report, fsync: str | None) -> None:
    report.survives(SERVER_KILLED, True)
    if fsync is None:
        report.ok("appendonly", "yes")
        report.survives(POWER_CUT, None, "appendfsync could not be read")
        return
    lost = {"everysec": "up to 2 s are lost", "no": "up to 30 s are lost"}.get(fsync, "")
    report.survives(POWER_CUT, fsync == "always", lost)
    if fsync == "always":
        report.ok("appendonly", "yes, appendfsync always")
    else:
        report.add(
            "warning",
            "appendonly",
            f"yes, appendfsync {fsync}",
            f"A power cut undoes the newest logins and logouts: {lost}.",
            "CONFIG SET appendfsync always, then CONFIG REWRITE (each batch then waits for the disk)",
        )


def _check_snapshots(report: Report, save: str | None) -> None:
    if save is None:
        found, lost = "no", "what was written since the last snapshot, if there is one, is lost"
    elif save:
        longest = max(int(part) for part in save.split()[::2])
        found = f"no; snapshots (save {save})"
        lost = f"up to {longest // 60} min are lost" if longest >= 120 else f"up to {longest} s are lost"
    else:
        found, lost = "no, and no snapshots", "all sessions are lost"
    report.add("problem", "appendonly", found, f"When the server is killed, {lost}.", _AOF_ON)
    for event in (SERVER_KILLED, POWER_CUT):
        report.survives(event, False, lost)


def check_failover(report: Report, info: dict[str, str], config: dict[str, str], wait: Wait | None) -> None:
    """Add what the server's place among its replicas means; ``wait``: what the URL's ``?wait_replicas=`` asks for."""
    if info.get("role") == "slave":
        report.add(
            "problem",
            "role",
            "a replica",
            "Nothing can be stored here.",
            "Name the primary in the URL, or follow it: redis+sentinel://host1,host2/primary-name",
        )
        return
    replicas = int(info.get("connected_slaves", 0))
    if wait is not None and replicas < wait.replicas:
        report.add(
            "problem",
            "wait_replicas",
            f"{wait.replicas}, and {replicas} connected",
            "Each login and logout waits in vain, and is answered with an error.",
            "Start the replicas, or lower ?wait_replicas= in the URL",
        )
    if not replicas:
        report.ok("role", "primary, without replicas")
        return
    report.ok("role", f"primary of {replicas}")
    only = f"; not logins and ends, by ?wait_replicas={wait.replicas}" if wait is not None else ""
    report.survives(MACHINE_LOST, False, f"replication is asynchronous, the newest writes are lost{only}")
    least = config.get("min-replicas-to-write")
    if least == "0":
        report.add(
            "note",
            "min-replicas-to-write",
            least,
            "A primary that was cut off goes on taking logins, which are lost when it rejoins.",
            "CONFIG SET min-replicas-to-write 1, then CONFIG REWRITE",
        )
    elif least is not None:
        report.ok("min-replicas-to-write", least)
