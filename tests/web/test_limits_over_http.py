"""Limits by network on a real server: whose address counts, behind which proxy, and what the answer is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Answer, Browser, serving

from sessiondb.core import token

LIMITS = {"anonymous_per_minute": 2}


async def begins(client: httpx.AsyncClient, url: str, **headers: str) -> Answer:
    return await Browser(client, url).post("/put", {"a": 1}, headers=headers)


@pytest.mark.security("D2")
async def test_a_header_that_anybody_can_send_makes_nobody_another(client: httpx.AsyncClient, tmp_path: Path) -> None:
    trusts_nobody: dict[str, Any] = {"access_log": False, "forwarded_allow_ips": "192.0.2.1"}
    with serving("shop", tmp_path, limits=LIMITS, uvicorn=trusts_nobody) as [server]:
        answers = [
            await begins(client, server.url, **{"x-forwarded-for": f"198.51.{n}.1", "forwarded": f"for=198.51.{n}.1"})
            for n in range(6)
        ]
        assert [answer.status for answer in answers] == [200, 200, 429, 429, 429, 429]
        refused = answers[-1]
        assert refused.value is None
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["cache-control"] == "no-store"
        assert (await client.get(f"{server.url}/suspicious")).json() == ["127.0.0.0/24"]
        # Whoever signs in, or writes nothing, is served.
        assert (await Browser(client, server.url).post("/login/ann")).value
        assert (await Browser(client, server.url).get("/session")).status == 200
        assert "Traceback" not in server.logged()


async def test_behind_a_proxy_that_the_server_trusts_its_visitors_count_by_their_own_network(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    trusts_us: dict[str, Any] = {"access_log": False, "proxy_headers": True, "forwarded_allow_ips": "127.0.0.1"}
    with serving("shop", tmp_path, limits=LIMITS, uvicorn=trusts_us) as [server]:
        for network in ("198.51.100", "203.0.113"):
            statuses = [
                (await begins(client, server.url, **{"x-forwarded-for": f"{network}.{host}"})).status
                for host in range(1, 5)
            ]
            assert statuses == [200, 200, 429, 429]
        stranger = Browser(client, server.url, token.mint(1_800_000_000_000_000).encode())
        for _ in range(3):
            await stranger.get("/session", headers={"x-forwarded-for": "2001:db8:0:7::9"})
        networks = (await client.get(f"{server.url}/suspicious")).json()
        assert networks == ["2001:db8::/56", "203.0.113.0/24", "198.51.100.0/24"]


async def test_a_real_server_says_whether_it_is_ready(client: httpx.AsyncClient, tmp_path: Path) -> None:
    with serving("shop", tmp_path, uvicorn={"access_log": False}) as [server]:
        answer = await client.get(f"{server.url}/readyz")
        assert (answer.status_code, answer.json()["ok"]) == (200, True)
        assert "set-cookie" not in answer.headers
