"""Headless Chromium, by Playwright's library and Debian's or the system's program, and the sites that it visits."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import create_server
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

from provision.debian import find_or_install
from tls import certificate

APP = Path(__file__).with_name("browser_app.py")
HOW_TO_GET = "Chromium is missing: apt-get install chromium, or name one in SESSIONDB_TEST_CHROMIUM."
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

Serve = Callable[..., int]


def _program() -> str | None:
    named = os.environ.get("SESSIONDB_TEST_CHROMIUM")
    if named:
        return named
    found = (find_or_install(program, "chromium") for program in PROGRAMS)
    return next((program for program in found if program is not None), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    program = _program()
    if program is None:
        pytest.skip(HOW_TO_GET)
    return program


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    # Every host of .test is this machine. Only a container's root needs the sandbox to be off.
    options = ["--host-resolver-rules=MAP *.test 127.0.0.1"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, args=options)
        try:
            yield launched
        finally:
            await launched.close()


@pytest.fixture
async def context(browser: Browser) -> BrowserContext:
    return await browser.new_context(ignore_https_errors=True)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """``serve(https=True, cookie={...})`` starts a server process on one SQLite file and gives its port."""
    with ExitStack() as stack:

        def start(*, https: bool, cookie: dict[str, Any] | None = None) -> int:
            settings: dict[str, Any] = {"url": f"sqlite:///{tmp_path}/sessions.db", "cookie": cookie or {}}
            if https:
                settings["certificate"], settings["key"] = certificate(tmp_path)
            return stack.enter_context(_served(settings))

        yield start


@contextmanager
def _served(settings: dict[str, Any]) -> Iterator[int]:
    with create_server(("127.0.0.1", 0), backlog=128) as listener:
        port: int = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, str(APP), str(listener.fileno()), json.dumps(settings)], pass_fds=[listener.fileno()]
        )
    try:
        _wait_until_up(port, "certificate" in settings)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _wait_until_up(port: int, https: bool) -> None:
    trusting = ssl._create_unverified_context() if https else None
    url = f"http{'s' if https else ''}://127.0.0.1:{port}/up"
    give_up_at = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, context=trusting, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < give_up_at, "the server did not start"
            time.sleep(0.05)
