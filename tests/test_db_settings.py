"""Which database a ``SessionDB`` uses, and which settings it refuses at once, with the way to mend them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine

from sessiondb import ConfigurationError, Policy, SessionDB, Store
from sessiondb.stores.memory import MemoryStore


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"on_load_error": "ignore"}, "on_load_error"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": "2"}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"max_session_bytes": 0}, "max_session_bytes"),
        ({"max_session_bytes": 10**9}, "max_session_bytes"),
        ({"sweep_every": 0}, "sweep_every"),
        ({"sweep_every": 1e9}, "sweep_every"),
        ({"policy": {"idle": 1}}, "policy"),
        ({"policy": 60}, "policy"),
        ({"clock": 5}, "clock"),
        ({"breaker": True}, "breaker"),
        ({"breaker": 5}, "breaker"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_and_named(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"SessionDB: {setting}"):
        SessionDB("memory://", **settings)


@pytest.mark.parametrize(
    "source",
    ["", "memory", "nosuch://host/db", "://", "memory://?unknown=1", "memory://host", "memory://?max_sessions=0"],
)
def test_a_url_that_names_no_database_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SESSIONDB_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"memory|Memory|URL"):
        SessionDB(source)


@pytest.mark.parametrize("source", [5, b"memory://", object(), ["memory://"], Path("sessions.db")])
def test_what_is_neither_url_nor_store_nor_engine_is_refused(source: object) -> None:
    with pytest.raises(ConfigurationError, match="SessionDB takes a URL"):
        SessionDB(source)


@pytest.mark.security("S8")
def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        SessionDB("nosuch://user:hunter2@host/db")
    assert "hunter2" not in str(refused.value)


def test_the_url_comes_from_the_environment_if_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONDB_URL", "memory://")
    assert repr(SessionDB()) == "SessionDB(memory)"


def test_without_any_url_it_is_a_file_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SESSIONDB_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert repr(SessionDB()) == "SessionDB(sqlite)"
    monkeypatch.setenv("SESSIONDB_URL", "")
    assert repr(SessionDB()) == "SessionDB(sqlite)"
    assert list(tmp_path.iterdir()) == []


async def test_the_default_database_is_made_where_the_app_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SESSIONDB_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    async with SessionDB() as db:
        token = (await db.create("ann", {"a": 1})).token
    async with SessionDB() as db, db.session(token) as session:
        assert (session.user_id, session) == ("ann", {"a": 1})
    assert (tmp_path / "sessions.db").stat().st_mode & 0o777 == 0o600


def test_a_store_is_taken_as_it_is() -> None:
    store = MemoryStore()
    assert isinstance(store, Store)
    assert SessionDB(store)._store is store


def test_the_url_of_a_sqlalchemy_engine_is_used(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    named_driver = create_engine(f"sqlite+pysqlite:///{tmp_path}/app.db")
    asynchronous = SimpleNamespace(sync_engine=named_driver)  # as an AsyncEngine has it
    for given in (engine, named_driver, asynchronous):
        db = SessionDB(given)
        assert repr(db) == "SessionDB(sqlite)"
        assert db._store.path == f"{tmp_path}/app.db"  # type: ignore[attr-defined]


def test_a_policy_is_kept_as_given() -> None:
    policy = Policy(idle=60)
    assert SessionDB("memory://", policy=policy).policy is policy
    assert SessionDB("memory://").policy == Policy()
