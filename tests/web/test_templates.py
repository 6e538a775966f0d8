"""Jinja templates: tokens, messages and the session, escaped, and only looked at where a template asks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jinja2
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from pages import PLAIN, app_on, browser

from sessiondb import ConfigurationError, Cookie, RequireCsrfToken, SessionDB, SessionMiddleware, csrf_token, flash
from sessiondb.web.templates import session_context, setup

PAGES = {
    "form.html": '<form method="post" action="/sent">{{ csrf_input() }}</form>',
    "transfer.html": "<form>{{ csrf_input('/transfer') }}</form>",
    "meta.html": '<meta name="csrf-token" content="{{ csrf_token() }}">',
    "messages.html": "{% if get_flashed_messages() %}<ul>{% for message in get_flashed_messages() %}"
    "<li>{{ message }}</li>{% endfor %}</ul>{% endif %}",
    "categories.html": "{% for category, message in get_flashed_messages(with_categories=true) %}"
    "<p class={{ category }}>{{ message }}</p>{% endfor %}",
    "errors.html": "{% for message in get_flashed_messages(category_filter=['error']) %}{{ message }},{% endfor %};"
    "{% for message in get_flashed_messages(category_filter=['info']) %}{{ message }},{% endfor %}",
    "session.html": "{{ session.user_id }} {{ session.theme }} {{ session['theme'] }} {{ session.get('none', '-') }} "
    "{{ 'theme' in session }} {{ session | length }} {% for key in session %}{{ key }}{% endfor %}",
    "verbs.html": "{{ session.logout is defined }} {{ session.rotate is defined }} {{ session.clear is defined }} "
    "{{ session._state is defined }}",
    "plain.html": "<p>hello</p>",
    "macros.html": '{% macro form() %}<form method="post">{{ csrf_input() }}</form>{% endmacro %}',
    "with_macro.html": '{% from "macros.html" import form with context %}{{ form() }}',
}


def jinja(**settings: Any) -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.DictLoader(PAGES), **({"autoescape": True} | settings))


def with_pages(app: FastAPI, templates: Jinja2Templates) -> FastAPI:
    @app.get("/page/{name}")
    async def page(name: str, request: Request) -> HTMLResponse:
        return templates.TemplateResponse(request, f"{name}.html")

    @app.post("/flash")
    async def flash_(messages: list[list[str]], request: Request) -> None:
        for message in messages:
            flash(request, *message)

    @app.post("/sent", dependencies=[Depends(RequireCsrfToken())])
    async def sent() -> str:
        return "sent"

    @app.post("/transfer", dependencies=[Depends(RequireCsrfToken(action="/transfer"))])
    async def transfer() -> str:
        return "sent"

    @app.post("/theme")
    async def theme(request: Request) -> None:
        request.session["theme"] = "<dark>"

    return app


@pytest.fixture(params=["setup", "context_processors"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    if request.param == "setup":
        templates = setup(Jinja2Templates(env=jinja()))
    else:
        templates = Jinja2Templates(env=jinja(), context_processors=[session_context])
    async with SessionDB("memory://") as db, browser(with_pages(app_on(db), templates)) as http:
        yield http


def value_in(page: str) -> str:
    [value] = re.findall(r'value="([^"]*)"', page)
    return str(value)


@pytest.mark.security("W1")
async def test_a_form_gets_its_hidden_field(http: httpx.AsyncClient) -> None:
    page = (await http.get("/page/form")).text
    assert re.search(r'><input type="hidden" name="csrf_token" value="[\w-]{64}"></form>', page)
    assert (await http.post("/sent", data={"csrf_token": value_in(page)})).status_code == 200
    page = (await http.get("/page/transfer")).text
    assert (await http.post("/transfer", data={"csrf_token": value_in(page)})).status_code == 200
    page = (await http.get("/page/with_macro")).text
    assert (await http.post("/sent", data={"csrf_token": value_in(page)})).status_code == 200


async def test_scripts_find_the_token_in_the_page(http: httpx.AsyncClient) -> None:
    page = (await http.get("/page/meta")).text
    token = re.findall(r'content="([^"]*)"', page)[0]
    assert (await http.post("/sent", headers={"X-CSRF-Token": token})).status_code == 200


async def test_messages_are_shown_once_and_may_be_asked_for_twice(http: httpx.AsyncClient) -> None:
    await http.post("/flash", json=[["one"], ["two", "error"]])
    assert (await http.get("/page/messages")).text == "<ul><li>one</li><li>two</li></ul>"
    assert (await http.get("/page/messages")).text == ""


async def test_messages_have_categories_as_in_flask(http: httpx.AsyncClient) -> None:
    await http.post("/flash", json=[["one"], ["two", "error"]])
    assert (await http.get("/page/categories")).text == "<p class=info>one</p><p class=error>two</p>"
    await http.post("/flash", json=[["one"], ["two", "error"], ["three", "success"]])
    assert (await http.get("/page/errors")).text == "two,;one,"
    assert (await http.get("/page/categories")).text == "<p class=success>three</p>"


async def test_what_is_in_messages_and_the_session_is_escaped(http: httpx.AsyncClient) -> None:
    await http.post("/flash", json=[["<script>alert(1)</script>", '"><b>']])
    page = (await http.get("/page/categories")).text
    assert "<script>" not in page and "<b>" not in page
    assert "&lt;script&gt;" in page
    await http.post("/theme")
    assert "<dark>" not in (await http.get("/page/session")).text


async def test_the_session_can_be_read(http: httpx.AsyncClient) -> None:
    await http.post("/theme")
    await http.post("/login/ann")
    assert (await http.get("/page/session")).text == "ann &lt;dark&gt; &lt;dark&gt; - True 1 theme"


async def test_the_verbs_of_the_session_are_not_for_templates(http: httpx.AsyncClient) -> None:
    await http.post("/login/ann")
    assert (await http.get("/page/verbs")).text == "False False False False"


@pytest.mark.security("H1", "D1")
async def test_only_a_template_that_asks_uses_the_session(http: httpx.AsyncClient) -> None:
    await http.post("/login/ann")
    plain = await http.get("/page/plain")
    assert "vary" not in plain.headers and "cache-control" not in plain.headers
    for name in ("form", "meta", "messages", "categories", "session"):
        assert (await http.get(f"/page/{name}")).headers["vary"] == "Cookie"
    http.cookies.clear()
    for name in ("plain", "messages", "session"):
        assert "set-cookie" not in (await http.get(f"/page/{name}")).headers
    assert "set-cookie" in (await http.get("/page/form")).headers


async def test_an_error_page_of_a_path_without_sessions_can_be_shown() -> None:
    app = app_on(SessionDB("memory://"), skip=("/page",))
    async with browser(with_pages(app, setup(Jinja2Templates(env=jinja())))) as http:
        assert (await http.get("/page/messages")).text == ""
        assert (await http.get("/page/session")).text == "None   - False 0 "
        with pytest.raises(ConfigurationError, match="SessionMiddleware"):
            await http.get("/page/form")


async def test_cookie_and_field_can_have_other_names() -> None:
    db = SessionDB("memory://")
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=PLAIN)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie("admin", secure=False))
    with_pages(app, setup(Jinja2Templates(env=jinja()), cookie="admin", field="_token"))

    @app.post("/admin", dependencies=[Depends(RequireCsrfToken(cookie="admin", field="_token"))])
    async def admin(request: Request) -> str:
        return csrf_token(request, cookie="admin")

    async with db, browser(app) as http:
        page = (await http.get("/page/form")).text
        assert 'name="_token"' in page
        assert set(http.cookies) == {"admin"}
        assert (await http.post("/admin", data={"_token": value_in(page)})).status_code == 200


@pytest.mark.parametrize("given", [None, "templates", jinja2.Environment(autoescape=True)])
def test_what_is_no_jinja2templates_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes Starlette's Jinja2Templates"):
        setup(given)


def test_an_environment_that_escapes_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="escapes nothing"):
        setup(Jinja2Templates(env=jinja(autoescape=False)))
    setup(Jinja2Templates(env=jinja(autoescape=jinja2.select_autoescape())))
