"""The shop's pages, in process."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from examples.shop import moments
from examples.shop.app import HERE, create_app
from examples.shop.catalogue import ITEMS
from examples.shop.pages import PageRenderer
from examples.shop.sign_in import own_path
from examples.shop.user_agent import describe
from sessiondb import Cookie, CurrentSession, SessionDB

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_2 like Mac OS X) AppleWebKit/605.1.15 Version/19.2 Safari/604.1"
LAPTOP = "Mozilla/5.0 (X11; Linux x86_64; rv:152.0) Gecko/20100101 Firefox/152.0"


@pytest.fixture
async def db() -> AsyncIterator[SessionDB]:
    async with SessionDB("memory://", sweep_every=None) as db:
        yield db


@asynccontextmanager
async def browser(db: SessionDB, user_agent: str = LAPTOP, **options: object) -> AsyncIterator[httpx.AsyncClient]:
    app = options.pop("app", None) or create_app(db, cookie=Cookie(secure=False))
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://shop.test",
        headers={"User-Agent": user_agent, "Accept": "text/html"},
        **options,
    ) as client:
        yield client


async def sign_in(client: httpx.AsyncClient, user: str = "ada", **form: str) -> httpx.Response:
    return await client.post("/sign-in", data={"user": user, **form})


async def test_looking_costs_nothing(db: SessionDB) -> None:
    async with browser(db) as client:
        home = await client.get("/")
        assert home.status_code == 200
        assert all(item.name in home.text for item in ITEMS.values())
        assert len(ITEMS) == 12
        assert "set-cookie" not in home.headers
        assert "nothing is stored for a visitor" in home.text
        assert "<script" not in home.text
    assert (await db.stats()).live == 0


async def test_the_cart_counts_and_says_so_once(db: SessionDB) -> None:
    async with browser(db, follow_redirects=True) as client:
        page = await client.post("/cart/tide-bowl/add")
        assert "Tide bowl is in your cart." in page.text
        assert 'class="count">1<' in page.text
        page = await client.get("/cart")
        assert "is in your cart." not in page.text
        assert "€42" in page.text
        page = await client.post("/cart/tide-bowl", data={"quantity": "3"})
        assert "€126" in page.text
        page = await client.post("/cart/tide-bowl", data={"quantity": "0"})
        assert "nothing in it yet" in page.text


async def test_pieces_added_at_the_same_moment_are_all_in_the_cart(db: SessionDB) -> None:
    async with browser(db) as client:
        await client.post("/cart/tide-bowl/add")
        names = [*ITEMS] * 2
        answers = await asyncio.gather(*(client.post(f"/cart/{name}/add") for name in names))
        assert {answer.status_code for answer in answers} == {303}
        page = await client.get("/cart")
        assert 'class="count">25<' in page.text


async def test_quantities_and_pieces_are_checked(db: SessionDB) -> None:
    async with browser(db) as client:
        for quantity in ("-1", "100", "many", ""):
            assert (await client.post("/cart/tide-bowl", data={"quantity": quantity})).status_code == 422
        missing = await client.post("/cart/unicorn/add")
        assert missing.status_code == 404
        assert "Nothing on this shelf" in missing.text
        assert (await client.get("/nowhere", headers={"Accept": "*/*"})).text == "Not Found"
        assert "set-cookie" not in missing.headers


async def test_signing_in_brings_the_cart_along(db: SessionDB) -> None:
    async with browser(db) as client:
        await client.post("/cart/tide-bowl/add")
        before = client.cookies["sid"]
        answer = await sign_in(client, next="/cart")
        assert (answer.status_code, answer.headers["location"]) == (303, "/cart")
        assert "Max-Age" not in answer.headers["set-cookie"]
        assert client.cookies["sid"] != before
        page = await client.get("/cart")
        assert "Tide bowl" in page.text
        assert "Welcome, Ada." in page.text
        await sign_in(client, "noor")
        assert "Tide bowl" not in (await client.get("/cart")).text
        assert (await sign_in(client, "nobody")).status_code == 404


async def test_a_remembered_login_outlives_the_browser(db: SessionDB) -> None:
    async with browser(db) as client:
        answer = await sign_in(client, remember="1")
        assert re.search(r"Max-Age=77\d{5};", answer.headers["set-cookie"])
        assert "Remembered" in (await client.get("/devices")).text


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/cart", "/cart"),
        ("/devices?x=1", "/devices?x=1"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_nobody_can_send_our_users_elsewhere(target: str, expected: str) -> None:
    assert own_path(target) == expected


async def test_the_checkout_wants_a_login(db: SessionDB) -> None:
    async with browser(db) as client:
        await client.post("/cart/tide-bowl/add")
        assert "/sign-in?next=/cart" in (await client.get("/cart")).text
        answer = await client.post("/checkout")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        await sign_in(client)
        assert (await client.post("/checkout")).headers["location"] == "/cart"
        page = await client.get("/cart")
        assert "Thank you, Ada." in page.text
        assert "nothing in it yet" in page.text


async def test_devices_are_listed_and_signed_out(db: SessionDB) -> None:
    async with browser(db) as laptop, browser(db, PHONE) as phone:
        answer = await laptop.get("/devices?tab=1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/devices%3Ftab%3D1")
        assert (await laptop.get("/api/devices")).status_code == 401
        await sign_in(laptop)
        await sign_in(phone, remember="1")
        page = (await laptop.get("/devices")).text
        assert "Firefox on Linux" in page
        assert "Safari on iPhone" in page
        assert page.count("This device") == 1
        listed = (await laptop.get("/api/devices")).json()
        sid = next(one["sid"] for one in listed if one["remembered"])
        assert (await laptop.post(f"/devices/{sid}/revoke")).status_code == 303
        page = (await laptop.get("/devices")).text
        assert "Safari on iPhone is signed out." in page
        assert "signed out from another device" in page
        location = (await phone.get("/devices")).headers["location"]
        assert "signed out from another one of yours" in (await phone.get(location)).text


async def test_only_ones_own_devices_can_be_signed_out(db: SessionDB) -> None:
    async with browser(db) as ada, browser(db) as noor:
        await sign_in(ada)
        await sign_in(noor, "noor")
        sid = (await ada.get("/whoami")).json()["sid"]
        assert (await noor.post(f"/devices/{sid}/revoke")).status_code == 404
        assert (await noor.post("/devices/not-a-sid/revoke")).status_code == 404
        assert (await ada.get("/whoami")).json()["user"] == "ada"


async def test_sign_out_everywhere_else(db: SessionDB) -> None:
    async with browser(db) as laptop, browser(db, PHONE) as phone:
        await sign_in(laptop)
        await sign_in(phone)
        await laptop.post("/devices/revoke-others")
        assert "1 other device is signed out." in (await laptop.get("/devices")).text
        assert (await phone.get("/whoami")).json()["user"] is None


async def test_a_new_key_for_the_same_session(db: SessionDB) -> None:
    async with browser(db) as client:
        await sign_in(client)
        sid, token = (await client.get("/whoami")).json()["sid"], client.cookies["sid"]
        await client.post("/devices/renew-key")
        assert client.cookies["sid"] != token
        assert (await client.get("/whoami")).json()["sid"] == sid


async def test_signing_out(db: SessionDB) -> None:
    async with browser(db) as client:
        await sign_in(client)
        answer = await client.post("/sign-out")
        assert "sid" not in client.cookies
        assert "You signed out." in (await client.get(answer.headers["location"])).text
        assert (await client.get("/whoami")).json()["user"] is None


async def test_a_session_that_ends_during_a_request(db: SessionDB) -> None:
    app = create_app(db, cookie=Cookie(secure=False))

    async def ended_just_now(session: CurrentSession) -> None:
        await db.revoke(session.sid or "")

    async with browser(db, app=app) as client:
        await sign_in(client)
        app.dependency_overrides[PageRenderer] = ended_just_now
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


async def test_other_sites_can_post_nothing(db: SessionDB) -> None:
    async with browser(db) as client:
        await sign_in(client)
        answer = await client.post(
            "/sign-out", headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        )
        assert answer.status_code == 403
        assert (await client.get("/whoami")).json()["user"] == "ada"


async def test_visits_are_counted_for_those_who_have_a_session(db: SessionDB) -> None:
    async with browser(db) as client:
        await sign_in(client)
        await asyncio.gather(*(client.get("/") for _ in range(10)))
        assert (await client.get("/whoami")).json()["visits"] == 10
        assert "10 visits to the shop" in (await client.get("/cart")).text


async def test_static_files_and_the_health_check_have_no_session() -> None:
    # This database cannot be opened: its folder is missing.
    async with browser(SessionDB("sqlite:////nonexistent/sessions.db")) as client:
        client.cookies.set("sid", "x" * 109)
        for path in ("/static/shop.css", "/static/favicon.svg", "/healthz"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "vary" not in answer.headers or "Cookie" not in answer.headers["vary"]


class Reader(HTMLParser):
    """Finds elements that are not closed, controls without a name for screen readers, and links elsewhere."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        for name in ("href", "src", "action"):
            if not (values.get(name) or "/").startswith(("/", "#")):
                self.problems.append(f"{tag} {name}={values[name]}")
        if tag == "input" and values.get("type") != "hidden" and "label" not in self.open:
            self.problems.append(f"input {values.get('name')} has no label")
        if (tag == "script" and not values.get("src")) or not (values.get("style") or "--").startswith("--"):
            self.problems.append(f"{tag} is not plain: {values}")
        if "id" in values:
            self.ids.append(values["id"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG shapes close themselves."""

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")


async def test_the_html_is_sound(db: SessionDB) -> None:
    async with browser(db) as client:
        await client.post("/cart/tide-bowl/add")
        pages = [await client.get(path) for path in ("/", "/cart", "/sign-in", "/nowhere")]
        await sign_in(client)
        pages += [await client.get(path) for path in ("/devices", "/cart", "/sign-in?next=%22%3E%3Cscript%3E")]
    assert ["/static/shop.js" in page.text for page in pages] == [False] * 4 + [True] * 3
    for page in pages:
        reader = Reader()
        reader.feed(page.text)
        assert not reader.problems, page.url
        assert not reader.open, page.url
        assert len(reader.ids) == len(set(reader.ids)), page.url
        assert page.text.count("<h1>") == 1


def variables(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", css))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_text_can_be_read_by_day_and_by_night() -> None:
    css = Path(HERE / "static" / "shop.css").read_text()
    light, _, rest = css.partition("@media (prefers-color-scheme: dark)")
    dark = rest.partition("\n}\n")[0]
    for colours in (variables(light), variables(light) | variables(dark)):
        for text in ("ink", "muted", "accent", "danger"):
            for ground in ("paper", "surface"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
        assert contrast(colours["on-accent"], colours["accent-hover"]) >= 4.5
        assert contrast(colours["accent"], colours["tint"]) >= 4.5
        assert contrast(colours["ink"], colours["tint"]) >= 4.5


@pytest.mark.parametrize(
    ("agent", "name", "kind"),
    [
        (LAPTOP, "Firefox on Linux", "desktop"),
        (PHONE, "Safari on iPhone", "phone"),
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit Chrome/152.0 Safari/537.36 Edg/152.0",
            "Edge on Windows",
            "desktop",
        ),
        ("Mozilla/5.0 (Linux; Android 16; Pixel) Chrome/152.0 Mobile Safari/537.36", "Chrome on Android", "phone"),
        ("Mozilla/5.0 (Linux; Android 16; Tab) Chrome/152.0 Safari/537.36", "Chrome on Android", "tablet"),
        ("curl/8.14.1", "curl", "program"),
        ("", "Unknown device", "program"),
        (None, "Unknown device", "program"),
        ("<script>alert(1)</script>", "<script>alert(1)<", "program"),
    ],
)
def test_devices_have_names(agent: str | None, name: str, kind: str) -> None:
    device = describe(agent)
    assert (device.name, device.kind) == (name, kind)


def test_times_are_for_people() -> None:
    now = int(time.time() * 1e6)
    second = 1_000_000
    assert moments.ago(now - 5 * second) == "just now"
    assert moments.ago(now - 61 * second) == "1 minute ago"
    assert moments.ago(now - 7_300 * second) == "2 hours ago"
    assert moments.ago(now + 60 * second) == "just now"
    assert moments.until(now + 14 * 86_400 * second) == "in 14 days"
    assert moments.until(now + 90 * second) == "in 1 minute"
    assert moments.until(now - second) == "now"
    assert moments.iso(1_700_000_000 * second) == "2023-11-14T22:13:20+00:00"
    assert moments.exact(1_700_000_000 * second) == "14 Nov 2023, 22:13 UTC"
