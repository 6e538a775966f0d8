"""Shared by all tests."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Generator
from types import FrameType
from typing import Any

import pytest

import summary
from databases import stop_all


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """asyncio is what FastAPI runs on under uvicorn."""
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--security", metavar="ID", help="run only the tests that prove this check of docs/security.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the check that was asked for."""
    wanted = config.getoption("--security")
    if wanted is None:
        return
    kept = [item for item in items if any(wanted in mark.args for mark in item.iter_markers("security"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_configure() -> None:
    """Told to end (by a time limit, say), the tests still stop the servers that they have started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


LONGEST = 300  # seconds that one test may take, and its set-up: what hangs fails, and says where it waits


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """No test hangs for ever."""

    def give_up(number: int, frame: FrameType | None) -> None:
        for task in [one for one in gc.get_objects() if issubclass(type(one), asyncio.Task) and not one.done()]:
            task.print_stack()
        raise TimeoutError(f"{item.nodeid} has not ended after {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, 30)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The database servers end with the tests."""
    stop_all()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = summary.notes()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has run its tests (pytest-xdist)."""
    summary.add(getattr(node, "workeroutput", {}).get("notes", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests have counted."""
    for title, lines in summary.tables():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
