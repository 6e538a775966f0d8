"""Shared by all tests."""

from __future__ import annotations

import signal
import sys

import pytest

from databases import stop_all
from summary import tables


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


def pytest_sessionfinish() -> None:
    """The database servers end with the tests."""
    stop_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests have counted."""
    for title, lines in tables():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
