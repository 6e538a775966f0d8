"""The demo's shop in a real browser: what its one script does."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest
from playwright.async_api import Browser, Page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    """The address of the shop, in a process of its own."""
    serve = [sys.executable, "-m", "examples.demo.serve", "--db", f"sqlite:///{tmp_path}/shop.db"]
    with create_server(("127.0.0.1", 0), backlog=128) as listener:
        fd = listener.fileno()
        process = subprocess.Popen([*serve, "--fd", str(fd)], pass_fds=[fd], stdin=subprocess.PIPE, cwd=ROOT)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        give_up_at = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < give_up_at, "the shop did not start"
                time.sleep(0.05)
        yield url
    finally:
        process.communicate(timeout=20)


async def opened(page: Page, url: str) -> None:
    """Go there, and wait until the page's socket is open."""
    await page.goto(url)
    await page.evaluate("new Promise(opened => socket.readyState ? opened() : socket.addEventListener('open', opened))")


async def signed_in(browser: Browser, shop: str, path: str = "/") -> Page:
    """A page of Ada's, in a browser window with cookies of its own."""
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{shop}/sign-in")
    await page.get_by_role("button", name="Ada").click()
    await opened(page, shop + path)
    return page


async def test_an_open_page_goes_to_the_sign_in_page_when_it_is_signed_out_elsewhere(
    browser: Browser, shop: str
) -> None:
    phone = await signed_in(browser, shop)
    laptop = await signed_in(browser, shop, "/devices")
    await laptop.get_by_role("button", name="Sign out everywhere else").click()
    await phone.wait_for_url("**/sign-in")
    assert "signed out from another one of yours" in await phone.get_by_role("status").inner_text()
    assert await laptop.get_by_role("heading", level=1).inner_text() == "Where you are signed in"


async def test_a_page_that_ends_its_own_session_goes_where_its_form_says(browser: Browser, shop: str) -> None:
    page = await signed_in(browser, shop, "/sign-in?next=/cart")
    other_tab = await page.context.new_page()
    await opened(other_tab, f"{shop}/cart")
    await page.get_by_role("button", name="Noor").click()
    await page.wait_for_url("**/cart")
    assert "Noor" in await page.get_by_role("navigation").inner_text()
    # Another tab was a page of Ada's.
    await other_tab.wait_for_url("**/sign-in")
    await other_tab.reload()  # it may have been quicker than the cookie
    assert await other_tab.get_by_role("heading", level=1).inner_text() == "You are Noor"
