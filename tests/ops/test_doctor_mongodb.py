"""What the doctor says of MongoDB deployments, good and bad."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from findings import finding, problems, survives

from databases import had, new_prefix, with_option
from provision.mongodb import MongoDB
from sessiondb import open_store
from sessiondb.ops.doctor import examine
from sessiondb.ops.doctor.mongodb import check_members, check_writes
from sessiondb.ops.doctor.report import APP_ENDS, MACHINE_LOST, POWER_CUT, SERVER_KILLED, Report
from sessiondb.stores._mongodb_url import Collections, parse

# Clients that live for a moment: the driver's connection that measures round trips may still be under way when they
# are closed, and is lost then.
SHORT = "serverMonitoringMode=poll"


@pytest.fixture(scope="module")
def server() -> Iterator[MongoDB]:
    server = had(MongoDB)
    yield server
    server.stop()


@pytest.fixture
async def url(server: MongoDB) -> str:
    """Empty collections of the store."""
    url = with_option(server.url, f"prefix={new_prefix()}&{SHORT}")
    store = open_store(url)
    await store.open()
    await store.close()
    return url


@pytest.fixture
async def collections(url: str) -> AsyncIterator[Collections]:
    collections = parse(url).connect()
    yield collections
    await collections.close()


async def test_a_replica_set_loses_nothing(url: str) -> None:
    report = await examine(url)
    assert problems(report) == []
    assert finding(report, "members").level == "note"  # one member: its machine is all there is
    assert finding(report, "write concern").found == "w=majority"
    assert finding(report, "indexes").found == "all 15 there"
    assert [one.survives for one in report.durability] == [True, True, True]


async def test_a_database_without_collections_stays_without(server: MongoDB) -> None:
    url = with_option(server.url, f"prefix={new_prefix()}&{SHORT}")
    assert finding(await examine(url), "schema").level == "note"
    collections = parse(url).connect()
    try:
        assert collections.sessions.name not in await collections.database.list_collection_names()
    finally:
        await collections.close()


@pytest.mark.parametrize(
    ("option", "app", "kill"), [("w=1", True, False), ("w=1&journal=true", True, True), ("journal=false", True, False)]
)
async def test_writes_that_no_majority_holds_are_a_problem(url: str, option: str, app: bool, kill: bool) -> None:
    report = await examine(with_option(url, option))
    assert [one.check for one in problems(report)] == ["write concern"]
    assert "w=majority" in finding(report, "write concern").mend
    assert survives(report, APP_ENDS) is app
    assert survives(report, SERVER_KILLED) is kill
    assert survives(report, POWER_CUT) is kill


@pytest.mark.parametrize("name", ["user", "check", "purge"])
async def test_a_missing_index_is_found_and_mended(url: str, collections: Collections, name: str) -> None:
    await collections.sessions.drop_index(name)
    found = finding(await examine(url), "index")
    assert found.level == "problem"
    assert f"{name} of {collections.sessions.name}" in found.found
    assert found.mend == "sessiondb init"
    store = open_store(url)
    await store.open()
    await store.close()
    assert finding(await examine(url), "indexes").level == "ok"


async def test_a_newer_layout_is_a_problem(url: str, collections: Collections) -> None:
    await collections.meta.update_one({"_id": "schema_version"}, {"$set": {"value": 99}})
    assert finding(await examine(url), "schema").level == "problem"


@pytest.mark.parametrize(
    ("hello", "level", "mend"),
    [
        ({}, "problem", "--replSet"),
        ({"setName": "rs0", "hosts": ["a", "b", "c"], "isWritablePrimary": False}, "problem", "?replicaSet=rs0"),
        ({"setName": "rs0", "hosts": ["a", "b", "c"], "isWritablePrimary": True}, "ok", ""),
        ({"msg": "isdbgrid", "isWritablePrimary": True}, "ok", ""),
    ],
    ids=["alone", "secondary", "three", "sharded"],
)
def test_what_a_server_says_of_its_members_is_judged(hello: dict[str, object], level: str, mend: str) -> None:
    report = Report("MongoDB", "")
    check_members(report, hello)
    assert finding(report, "members").level == level
    assert mend in finding(report, "members").mend


def test_with_three_members_a_majority_survives_the_loss_of_one() -> None:
    for w, lives in (("majority", True), (1, False)):
        report = Report("MongoDB", "")
        check_writes(report, {"setName": "rs0", "hosts": ["a", "b", "c"]}, {"w": w})
        assert survives(report, MACHINE_LOST) is lives


def test_a_server_that_is_not_there_is_a_problem() -> None:
    # In a process of its own: the driver loses the socket of a connection that is given up while it is made.
    url = "mongodb://ada:hunter2@127.0.0.1:9/sessions?serverSelectionTimeoutMS=200"
    done = subprocess.run(
        [sys.executable, "-m", "sessiondb", "doctor", url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Start it" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
