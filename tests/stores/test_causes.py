"""What a driver has said is the cause of our error, for whoever has to find out why; no password is in it."""

from __future__ import annotations

import socket
import traceback

import asyncpg
import pytest
from asyncmy.errors import OperationalError

from databases import NETWORK
from sessiondb import StoreUnavailable, open_store
from sessiondb.stores import _mysql_errors, _postgresql_errors


@pytest.mark.parametrize("kind", NETWORK)
async def test_the_drivers_error_is_the_cause_of_ours(kind: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and not listening
        option = "?serverSelectionTimeoutMS=200" if kind == "mongodb" else ""
        database = "" if kind == "redis" else "/app"
        store = open_store(f"{kind}://user:s3cret@127.0.0.1:{held.getsockname()[1]}{database}{option}")
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
    assert caught.value.__cause__ is not None
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_what_may_have_been_committed_is_not_called_undone() -> None:
    """Error codes that no test can bring about: a commit that failed, and engines that do not know themselves."""
    for undecided, decided in (
        (asyncpg.StatementCompletionUnknownError, asyncpg.DiskFullError),
        (asyncpg.AdminShutdownError, asyncpg.ReadOnlySQLTransactionError),
    ):
        assert outcome_of(_postgresql_errors.translated(undecided("?"), "here", "unknown")) == "unknown"
        assert outcome_of(_postgresql_errors.translated(decided("?"), "here", "unknown")) == "not_applied"
    for number, outcome in ((1180, "unknown"), (2013, "unknown"), (1053, "unknown"), (1114, "not_applied")):
        assert outcome_of(_mysql_errors.translated(OperationalError(number, "?"), "here", "unknown")) == outcome


def outcome_of(error: Exception) -> str:
    assert isinstance(error, StoreUnavailable)
    return error.outcome
