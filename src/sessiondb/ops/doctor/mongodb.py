"""What in a MongoDB deployment, and in how the URL writes to it, would lose sessions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from bson.errors import BSONError
from pymongo.errors import OperationFailure, PyMongoError

from sessiondb.ops.doctor.report import (
    APP_ENDS,
    MACHINE_LOST,
    POWER_CUT,
    SERVER_KILLED,
    Report,
    check_schema,
    measure_clock,
)
from sessiondb.stores._mongodb_errors import translated
from sessiondb.stores._mongodb_rows import MICROS_OF_NOW
from sessiondb.stores._mongodb_schema import SCHEMA_VERSION, indexes, missing_indexes
from sessiondb.stores._mongodb_url import Collection, Collections, parse


async def examine(url: str) -> Report:
    """See ``sessiondb.ops.doctor.examine``."""
    settings = parse(url)
    report = Report("MongoDB", settings.where)
    # One look needs no second connection that measures round trips; the driver may lose it, if it is closed so soon.
    collections = replace(settings, options={**settings.options, "serverMonitoringMode": "poll"}).connect()
    try:
        await _examine(report, collections)
    except (PyMongoError, BSONError, OSError) as error:
        raise translated(error, settings.where, "not_applied") from error
    finally:
        await collections.close()
    return report


async def _examine(report: Report, collections: Collections) -> None:
    hello = await collections.hello()
    said = await _ask(collections, "buildInfo")
    report.database = f"MongoDB {said.get('version', '')}".rstrip()

    async def clock() -> int:
        return int((await collections.hello())["localTime"]) * 1000 + MICROS_OF_NOW

    await measure_clock(report, clock)
    check_members(report, hello)
    check_writes(report, hello, collections.sessions.write_concern.document)
    await _check_default(report, collections)
    found = await collections.meta.find_one({"_id": "schema_version"})
    if check_schema(report, None if found is None else str(found.get("value")), SCHEMA_VERSION):
        await _check_indexes(report, collections)


async def _ask(collections: Collections, command: str) -> dict[str, Any]:
    """The answer to an administrator's command; empty where this user, or this server, may or can not."""
    try:
        return await collections.database.client.admin.command(command)
    except OperationFailure:
        return {}


def check_members(report: Report, hello: dict[str, Any]) -> None:
    """Add what a server's ``hello`` says of the set that it is in."""
    members = len(hello.get("hosts", ()))
    if hello.get("msg") == "isdbgrid":
        report.ok("members", "a sharded cluster")
    elif "setName" not in hello:
        report.add(
            "problem",
            "members",
            "a server alone, no replica set",
            "It cannot tell a repeated write from a new one, so the app refuses to start with it.",
            "Start it with --replSet rs0, then rs.initiate() in mongosh (one member is enough)",
        )
    elif not hello.get("isWritablePrimary"):
        report.add(
            "problem",
            "members",
            "a secondary",
            "Nothing can be stored here.",
            f"Name all members and ?replicaSet={hello['setName']} in the URL, without directConnection",
        )
    elif members < 3:
        report.add(
            "note",
            "members",
            f"replica set {hello['setName']} of {members}",
            "When a machine is lost, sessions are away, or gone, until it is back.",
            "rs.add('host:27017') in mongosh, until there are three",
        )
    else:
        report.ok("members", f"replica set {hello['setName']} of {members}")


def check_writes(report: Report, hello: dict[str, Any], concern: dict[str, Any]) -> None:
    """Add what the write ``concern`` of the store comes to, on such a deployment."""
    w, j = concern.get("w"), concern.get("j")
    shown = f"w={w}" + ("" if j is None else f", j={str(j).lower()}")
    majority = w == "majority"
    if majority and j is not False:
        report.ok("write concern", shown)
    else:
        means = {
            True: "A write is answered before it is in a journal: members that crash together lose it.",
            False: "A failover undoes logins and logouts that were answered; a crash loses those not in the journal.",
        }[majority]
        report.add(
            "problem", "write concern", shown, means, "Leave w and journal out of the URL: it is w=majority then"
        )
    why = "" if majority and j is not False else shown
    report.survives(APP_ENDS, w != 0, "w=0" if w == 0 else "")
    # A majority answers when it is in the members' journals, unless it is told otherwise.
    journaled = bool(j) or (majority and j is None)
    report.survives(SERVER_KILLED, journaled, why)
    report.survives(POWER_CUT, journaled, why)
    if len(hello.get("hosts", ())) > 1 or hello.get("msg") == "isdbgrid":
        report.survives(MACHINE_LOST, majority, why)


async def _check_default(report: Report, collections: Collections) -> None:
    default = (await _ask(collections, "getDefaultRWConcern")).get("defaultWriteConcern", {})
    if default.get("w", "majority") != "majority":
        report.add(
            "note",
            "default write concern",
            f"w={default['w']}",
            "sessiondb sends its own. What other programs write here may be undone by a failover.",
            "db.adminCommand({setDefaultRWConcern: 1, defaultWriteConcern: {w: 'majority'}})",
        )


async def _check_indexes(report: Report, collections: Collections) -> None:
    wanted = indexes()
    of: dict[str, Collection] = {name: getattr(collections, name) for name in wanted}
    missing = await asyncio.gather(*(missing_indexes(of[name], wanted[name]) for name in wanted))
    for name, lacking in zip(wanted, missing, strict=True):
        for index in (one.document["name"] for one in lacking):
            report.add(
                "problem",
                "index",
                f"{index} of {of[name].name} is missing",
                "Tombstones stay for ever where nothing sweeps."
                if index == "purge"
                else "Listing, revoking or sweeping reads the whole collection, and fails at the timeout once that is "
                "large.",
                "sessiondb init",
            )
    if not any(missing):
        report.ok("indexes", f"all {sum(map(len, wanted.values()))} there")
