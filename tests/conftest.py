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
