"""Behind proxies: the address of the client, and never one that somebody has made up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from serving import browsing, serving, sqlite_url
from starlette.applications import Starlette

from harness import open_shop, put
from sessiondb import ConfigurationError, Limits, SessionDB, SessionMiddleware, TrustedProxies

ONE = TrustedProxies(count=1)
TWO = TrustedProxies(count=2)
OURS = TrustedProxies(networks=["10.0.0.0/8", "2001:db8:a::/48", "unix"])
ONE_F = TrustedProxies(count=1, header="Forwarded")
TWO_F = TrustedProxies(count=2, header="forwarded")
OURS_F = TrustedProxies(networks=["10.0.0.0/8", "2001:db8:a::/48"], header="forwarded")
CLOUD = TrustedProxies(networks=["10.0.0.0/8"], header="CF-Connecting-IP")

PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"


def seen(rule: TrustedProxies, *lines: str | bytes, peer: str | None = PROXY) -> str | None:
    """The address that is taken, of a request with these lines of the rule's header."""
    name = rule._name
    headers = [(b"host", b"shop.test"), (b"forwarder", b"6.6.6.6")]
    headers += [(name, line if isinstance(line, bytes) else line.encode("latin-1")) for line in lines]
    found = rule.client(None if peer is None else (peer, 50_000), headers)
    return None if found is None else found[0]


# What proxies write, and what the client had sent before them.
X_FORWARDED_FOR: list[tuple[TrustedProxies, Sequence[str], str | None]] = [
    # One proxy.
    (ONE, [], PROXY),
    (ONE, [CLIENT], CLIENT),
    (ONE, [f"6.6.6.6, {CLIENT}"], CLIENT),
    (ONE, [f"6.6.6.6,7.7.7.7,{CLIENT}"], CLIENT),
    (ONE, ["6.6.6.6", CLIENT], CLIENT),
    (ONE, ["6.6.6.6, 7.7.7.7", f"8.8.8.8, {CLIENT}"], CLIENT),
    (ONE, [f"{CLIENT}:51234"], CLIENT),
    (ONE, [f"6.6.6.6, {CLIENT}:0"], CLIENT),
    (ONE, ["2001:db8::7"], "2001:db8::7"),
    (ONE, ["2001:DB8:0:0:0:0:0:7"], "2001:db8::7"),
    (ONE, ["[2001:db8::7]"], "2001:db8::7"),
    (ONE, ["[2001:db8::7]:51234"], "2001:db8::7"),
    (ONE, ["[fe80::1%eth0]:51234"], "fe80::1"),
    (ONE, ["fe80::1%25eth0"], "fe80::1"),
    (ONE, [f"::ffff:{CLIENT}"], CLIENT),
    (ONE, [f"[::ffff:{CLIENT}]:80"], CLIENT),
    (ONE, [f"  6.6.6.6 \t,\t {CLIENT} "], CLIENT),
    # What the proxy does not know, or should not have written: never a step further to the left.
    (ONE, ["6.6.6.6, unknown"], PROXY),
    (ONE, ["6.6.6.6, _hidden"], PROXY),
    (ONE, ["6.6.6.6, unix:"], PROXY),
    (ONE, ["6.6.6.6, "], PROXY),
    (ONE, ["6.6.6.6,,"], PROXY),
    (ONE, ["6.6.6.6", ""], PROXY),
    (ONE, ["6.6.6.6, localhost"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.999"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.09"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.9:port"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.9:123456"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.9 7.7.7.7"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.9;7.7.7.7"], PROXY),
    (ONE, ["6.6.6.6, [2001:db8::7"], PROXY),
    (ONE, ["6.6.6.6, 2001:db8::7]"], PROXY),
    (ONE, ["6.6.6.6, [203.0.113.9]"], CLIENT),
    (ONE, ['6.6.6.6, "203.0.113.9"'], PROXY),
    (ONE, ["6.6.6.6, for=203.0.113.9"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.9\x00"], PROXY),
    (ONE, ["6.6.6.6, 203.0.113.9%eth0"], PROXY),
    (ONE, ["6.6.6.6, \xb2\xb9.0.113.9"], PROXY),
    (ONE, ["6.6.6.6, 3405803785"], PROXY),
    (ONE, ["6.6.6.6, 0xcb.0.113.9"], PROXY),
    # Two proxies: the one before the last saw the client.
    (TWO, [f"{CLIENT}, 198.51.100.1"], CLIENT),
    (TWO, [f"6.6.6.6, {CLIENT}, 198.51.100.1"], CLIENT),
    (TWO, [f"6.6.6.6, {CLIENT}", "198.51.100.1"], CLIENT),
    (TWO, ["6.6.6.6"], PROXY),  # came past the first of them: what is there may be anybody's
    (TWO, ["6.6.6.6, unknown, 198.51.100.1"], "198.51.100.1"),
    (TWO, ["6.6.6.6, 7.7.7.7, unknown"], PROXY),
    # By networks, however many.
    (OURS, [], PROXY),
    (OURS, [CLIENT], CLIENT),
    (OURS, [f"6.6.6.6, {CLIENT}"], CLIENT),
    (OURS, [f"6.6.6.6, 10.6.6.6, {CLIENT}, 10.1.1.1, 10.2.2.2"], CLIENT),
    (OURS, [f"6.6.6.6, 10.6.6.6, {CLIENT}", "10.1.1.1", "2001:db8:a::1, 10.2.2.2"], CLIENT),
    (OURS, [f"6.6.6.6, {CLIENT}, ::ffff:10.1.1.1"], CLIENT),
    (OURS, [f"6.6.6.6, {CLIENT}:80, [2001:db8:a::1]:443"], CLIENT),
    (OURS, ["10.7.7.7"], "10.7.7.7"),  # somebody inside
    (OURS, ["6.6.6.6, unknown"], PROXY),
    (OURS, ["6.6.6.6, unknown, 10.1.1.1"], "10.1.1.1"),
    (OURS, ["6.6.6.6, , 10.1.1.1"], "10.1.1.1"),
    (OURS, ["6.6.6.6, 10.1.1.1:x, 10.2.2.2"], "10.2.2.2"),
]

FORWARDED: list[tuple[TrustedProxies, Sequence[str], str | None]] = [
    (ONE_F, [], PROXY),
    (ONE_F, [f"for={CLIENT}"], CLIENT),
    (ONE_F, [f"For={CLIENT};Proto=https;By=10.0.0.1"], CLIENT),
    (ONE_F, [f'proto=https ; host="a,b;c" ; FOR="{CLIENT}:443"'], CLIENT),
    (ONE_F, ['for="[2001:db8::7]"'], "2001:db8::7"),
    (ONE_F, ['for="[2001:db8::7]:51234";proto=http'], "2001:db8::7"),
    (ONE_F, ['for="[2001:db8::7]:_port"'], "2001:db8::7"),
    (ONE_F, ["for=[2001:db8::7]"], "2001:db8::7"),
    (ONE_F, ['for="2001:db8::7"'], "2001:db8::7"),
    (ONE_F, [f'for="{CLIENT[:5]}\\{CLIENT[5:]}"'], CLIENT),
    (ONE_F, [f"for=6.6.6.6, for={CLIENT}"], CLIENT),
    (ONE_F, [f"for=6.6.6.6,for=7.7.7.7;by=8.8.8.8,for={CLIENT};by=10.0.0.1"], CLIENT),
    (ONE_F, ["for=6.6.6.6", f"for={CLIENT}"], CLIENT),
    # Quotes that a client leaves open swallow nothing.
    (ONE_F, [f'for="6.6.6.6, for={CLIENT}'], CLIENT),
    (ONE_F, [f'for=6.6.6.6;host="x, for={CLIENT};proto=https'], CLIENT),
    (ONE_F, [f'for=6.6.6.6;host="x\\", for={CLIENT};host="shop.test"'], CLIENT),
    (ONE_F, [f'for=6.6.6.6;host="x, for="{CLIENT}:80"'], CLIENT),
    (ONE_F, ['for="6.6.6.6', f"for={CLIENT}"], CLIENT),
    (ONE_F, [f'for="6.6.6.6\\", for={CLIENT}'], CLIENT),
    (ONE_F, [f'for=6.6.6.6;host="\\\\", for="{CLIENT}"'], CLIENT),
    # What the proxy hides or does not know.
    (ONE_F, ["for=6.6.6.6, for=unknown"], PROXY),
    (ONE_F, ["for=6.6.6.6, for=_hidden"], PROXY),
    (ONE_F, ['for=6.6.6.6, for="_SEVKISEK:80"'], PROXY),
    (ONE_F, ["for=6.6.6.6, proto=https"], PROXY),
    (ONE_F, ["for=6.6.6.6, "], PROXY),
    (ONE_F, ["for=6.6.6.6, for="], PROXY),
    (ONE_F, ["for=6.6.6.6, for"], PROXY),
    (ONE_F, ['for=6.6.6.6, for=""'], PROXY),
    (ONE_F, ['for=6.6.6.6, for="'], PROXY),
    (ONE_F, [f"for=6.6.6.6, for={CLIENT};for=7.7.7.7"], PROXY),
    (ONE_F, [f'for=6.6.6.6, by="for={CLIENT}"'], PROXY),
    (ONE_F, [f"for=6.6.6.6, xfor={CLIENT}"], PROXY),
    (ONE_F, [f"6.6.6.6, {CLIENT}"], PROXY),
    (ONE_F, [f"for=6.6.6.6, for={CLIENT};" + "x=" + "y" * 2000], PROXY),
    (TWO_F, [f"for=6.6.6.6, for={CLIENT}, for=198.51.100.1;by=10.0.0.1"], CLIENT),
    (TWO_F, ["for=6.6.6.6"], PROXY),
    (TWO_F, ["for=6.6.6.6, for=unknown, for=198.51.100.1"], "198.51.100.1"),
    (OURS_F, [f'for=6.6.6.6, for=10.6.6.6, for="{CLIENT}:1", for="[2001:db8:a::1]:2", for=10.1.1.1'], CLIENT),
    (OURS_F, ["for=6.6.6.6, for=_hidden, for=10.1.1.1"], "10.1.1.1"),
]


@pytest.mark.parametrize(("rule", "lines", "address"), X_FORWARDED_FOR + FORWARDED, ids=repr)
@pytest.mark.security("A5")
def test_the_client_is_whom_the_trusted_have_seen(rule: TrustedProxies, lines: Sequence[str], address: str) -> None:
    assert seen(rule, *lines) == address


@pytest.mark.parametrize(
    ("rule", "lines", "address"),
    [
        (CLOUD, [], PROXY),
        (CLOUD, [CLIENT], CLIENT),
        (CLOUD, [" 2001:db8::7 "], "2001:db8::7"),
        (CLOUD, [f"6.6.6.6, {CLIENT}"], PROXY),
        (CLOUD, ["6.6.6.6", CLIENT], PROXY),
        (CLOUD, ["nobody"], PROXY),
    ],
    ids=repr,
)
def test_a_header_with_one_address(rule: TrustedProxies, lines: Sequence[str], address: str) -> None:
    assert seen(rule, *lines) == address


@pytest.mark.parametrize("peer", ["198.51.100.77", "2001:db8:b::1", "::ffff:198.51.100.77", "testclient", "", None])
@pytest.mark.parametrize("rule", [OURS_F, CLOUD], ids=repr)
def test_a_peer_that_is_not_trusted_is_taken_as_it_is(rule: TrustedProxies, peer: str | None) -> None:
    for line in ("6.6.6.6", "for=6.6.6.6", "10.0.0.1", "for=10.0.0.1"):
        assert seen(rule, line, peer=peer) == peer


@pytest.mark.parametrize("peer", ["10.9.9.9", "::ffff:10.9.9.9", "2001:db8:a:1::1", "", None])
def test_the_peer_is_compared_in_its_one_form_and_a_unix_socket_has_none(peer: str | None) -> None:
    assert seen(OURS, f"6.6.6.6, {CLIENT}", peer=peer) == CLIENT


@pytest.mark.parametrize("peer", ["198.51.100.77", None])
def test_a_count_is_of_whoever_comes(peer: str | None) -> None:
    assert seen(ONE, f"6.6.6.6, {CLIENT}", peer=peer) == CLIENT
    assert seen(ONE, peer=peer) == peer


def test_long_headers() -> None:
    flood = ", ".join(f"6.6.{number // 256}.{number % 256}" for number in range(20_000))
    assert seen(ONE, f"{flood}, {CLIENT}") == CLIENT
    assert seen(OURS, f"{flood}, {CLIENT}") == CLIENT
    assert seen(ONE, *["6.6.6.6"] * 20_000, CLIENT) == CLIENT
    assert seen(ONE, "6" * 1_000_000) == PROXY
    assert seen(ONE, "," * 1_000_000) == PROXY
    # Nobody has so many proxies: what is behind the thirty-second is nobody's word.
    assert seen(OURS, ", ".join(["6.6.6.6", *["10.1.1.1"] * 31])) == "6.6.6.6"
    assert seen(OURS, ", ".join(["6.6.6.6", *["10.1.1.1"] * 32])) == "10.1.1.1"
    assert seen(OURS, *["6.6.6.6", *["10.1.1.1"] * 32]) == "10.1.1.1"
    assert seen(OURS_F, ", ".join(["for=6.6.6.6", *["for=10.1.1.1"] * 32])) == "10.1.1.1"
    for hostile in ('"' * 500_000, '\\"' * 250_000, ";" * 500_000, 'for="' + "\\" * 500_000, "for=" * 100_000):
        assert seen(ONE_F, hostile) == PROXY
        assert seen(ONE_F, f"{hostile},for={CLIENT}") == CLIENT


# -- properties -----------------------------------------------------------------------------------------------

ANY = st.binary(max_size=200) | st.lists(
    st.sampled_from([b"6.6.6.6", b"10.1.1.1", b"unknown", b"for=", b":80", *(b"%c" % byte for byte in b'"\\,;= []')]),
    max_size=40,
).map(b"".join)
ADDRESSES = st.ip_addresses().map(str)
RULES = st.sampled_from([ONE, TWO, OURS, ONE_F, TWO_F, OURS_F, CLOUD])


@given(RULES, st.lists(ANY, max_size=4), st.none() | ADDRESSES | st.text(max_size=20))
def test_no_header_is_an_exception(rule: TrustedProxies, lines: list[bytes], peer: str | None) -> None:
    seen(rule, *lines, peer=peer)


@given(st.lists(ANY, max_size=3), ANY, st.booleans())
@example([], b'for="', False)
@pytest.mark.security("A5")
def test_nothing_that_a_client_sends_changes_what_the_proxy_has_added(
    lines: list[bytes], last: bytes, own_line: bool
) -> None:
    for rule, added in ((ONE, b"203.0.113.9"), (ONE_F, b'for="203.0.113.9:80";proto=https'), (OURS, b"203.0.113.9")):
        sent = [*lines, last, added] if own_line else [*lines, last + b", " + added]
        assert seen(rule, *sent) == CLIENT


@given(ANY, ANY)
def test_nor_what_two_have(sent: bytes, more: bytes) -> None:
    assert seen(TWO, sent, more + b", 203.0.113.9, 198.51.100.1") == CLIENT
    assert seen(TWO_F, sent, more + b', for="203.0.113.9:80";host="a,b", for=198.51.100.1') == CLIENT
    assert seen(OURS, sent, more + b", 203.0.113.9, 10.1.1.1, 10.2.2.2") == CLIENT


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either how many"),
        ({"count": 1, "networks": ["10.0.0.0/8"]}, "either how many"),
        ({"count": 0}, "count is 0"),
        ({"count": 33}, "count is 33"),
        ({"count": True}, "count is True"),
        ({"count": "1"}, "count is '1'"),
        ({"networks": []}, "networks is empty"),
        ({"networks": "10.0.0.0/8"}, "is no list"),
        ({"networks": ["*"]}, r"'\*'"),
        ({"networks": ["10.0.0.1/8"]}, "host bits"),
        ({"networks": [None]}, "None is no text"),
        ({"networks": 5}, "5 is no list"),
        ({"count": 1, "header": ""}, "header is ''"),
        ({"count": 1, "header": "X-Forwarded-For:"}, "header is"),
        ({"count": 1, "header": None}, "header is None"),
        ({"count": 2, "header": "cf-connecting-ip"}, "holds one address"),
    ],
    ids=repr,
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TrustedProxies(**settings)


def test_the_middleware_takes_nothing_else() -> None:
    with pytest.raises(ConfigurationError, match=r"proxies=TrustedProxies\(\.\.\.\)"):
        SessionMiddleware(Starlette(), SessionDB("memory://"), proxies=1)  # type: ignore[arg-type]


def test_the_repr_shows_no_addresses() -> None:
    assert repr(OURS) == "TrustedProxies(networks=<2>, header='x-forwarded-for')"
    assert repr(ONE_F) == "TrustedProxies(count=1, header='forwarded')"


# -- the warning ----------------------------------------------------------------------------------------------

Ask = Callable[..., None]


@pytest.fixture
def ask() -> Ask:
    """Sends a request with headers through a middleware without a rule."""
    middleware = SessionMiddleware(Starlette(), SessionDB("memory://"))

    def ask(peer: tuple[str, int] | None, *headers: tuple[bytes, bytes], times: int = 1) -> None:
        for _ in range(times):
            if middleware._client_of is not None:
                assert middleware._client_of(peer, headers) == peer

    return ask


FROM = (b"x-forwarded-for", b"203.0.113.9")


def test_headers_that_nobody_reads_are_told_of_once(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sessiondb"):
        ask(("10.0.0.1", 4711), (b"host", b"shop.test"))
        assert not caplog.records
        ask(("10.0.0.1", 4711), FROM, times=5)
    [record] = caplog.records
    assert "A request from 10.0.0.1 has the header x-forwarded-for" in record.message
    assert "TrustedProxies(count=1)" in record.message


def test_of_a_unix_socket_too(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    ask(None, (b"forwarded", b"for=203.0.113.9"))
    assert "A request from a Unix socket has the header forwarded" in caplog.text


@pytest.mark.parametrize("peer", [("203.0.113.9", 0), ("198.51.100.1", 0), ("203.0.113.9", 51234)])
def test_a_server_that_reads_them_itself_is_left_alone(
    ask: Ask, peer: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    ask(peer, FROM)
    assert not caplog.records


def test_later_requests_are_not_looked_at() -> None:
    middleware = SessionMiddleware(Starlette(), SessionDB("memory://"))
    for _ in range(1000):
        assert middleware._client_of is not None
        middleware._client_of(("192.0.2.7", 1), [(b"host", b"shop.test")])
    assert middleware._client_of is None


# -- requests -------------------------------------------------------------------------------------------------


async def test_sessions_events_and_limits_have_the_address_that_was_found() -> None:
    async with open_shop(limits=Limits(anonymous_per_minute=1)) as shop:
        shop.app.user_middleware[0].kwargs["proxies"] = ONE
        for number in (7, 8):
            visitor = shop.browser()
            headers = {"x-forwarded-for": f"6.6.6.6, 203.0.{number}.9"}
            assert (await visitor.do(put(a=1), **headers)).status == 200
            info = await shop.db.get(visitor.sid)
            assert info is not None
            assert (info.client.ip, info.first_client.ip) == (f"203.0.{number}.9",) * 2
            assert (await shop.browser().do(put(a=1), **headers)).status == 429
        assert {event.ip for event in await shop.events()} == {"203.0.7.9", "203.0.8.9"}
        assert [one.network for one in shop.db.suspicious_networks()] == ["203.0.8.0/24", "203.0.7.0/24"]


@pytest.mark.parametrize("by_server", [False, True], ids=["ours alone", "beside the server's"])
@pytest.mark.parametrize(
    "settings", [{"count": 1}, {"networks": ["127.0.0.0/8"]}, {"count": 1, "header": "forwarded"}], ids=repr
)
async def test_over_real_http(settings: dict[str, Any], by_server: bool, tmp_path: Path) -> None:
    name = settings.get("header", "x-forwarded-for")
    sent, added = ("for=6.6.6.6", f"for={CLIENT}") if name == "forwarded" else ("6.6.6.6", CLIENT)
    uvicorn = {"proxy_headers": by_server}
    with serving("shop", tmp_path, url=sqlite_url(tmp_path), proxies=settings, uvicorn=uvicorn) as [server]:
        async with browsing(10) as client:
            for lines in ([f"{sent}, {added}"], [sent, added], [f'{sent};"unclosed, {added}'], ["\xff\xfe,", added]):
                headers = [(name.encode(), line.encode("latin-1")) for line in lines]
                answer = await client.post(f"{server.url}/put", json={"a": 1}, headers=headers)
                assert answer.status_code == 200
                cookie = answer.headers["set-cookie"].partition(";")[0]
                assert (await client.get(f"{server.url}/client", headers={"cookie": cookie})).json()["ip"] == CLIENT
        assert "Traceback" not in server.logged()
