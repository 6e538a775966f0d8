"""An endpoint for load balancers: 200 while this process can serve sessions, else 503."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse

from sessiondb.db import SessionDB


def readiness(db: SessionDB) -> Callable[[Request], Awaitable[JSONResponse]]:
    """``app.add_api_route("/readyz", readiness(db))``, or ``Route("/readyz", readiness(db))`` with Starlette.

    Answers 200 or 503 with ``db.ready()`` as JSON: ``{"ok": true, "writable": true, "why": null, "latency_ms": 0.4}``.
    It names no host, and asks the database at most once a second, however often it is asked. For readiness only: a
    liveness check must not depend on a database, or an outage of it restarts every process (Kubernetes, "Configure
    Liveness, Readiness and Startup Probes").
    """

    async def ready(request: Request) -> JSONResponse:
        answer = await db.ready()
        headers = {"Cache-Control": "no-store"}
        if not answer.ok:
            headers["Retry-After"] = "1"
        latency = None if answer.latency is None else round(answer.latency * 1000, 3)
        body = {"ok": answer.ok, "writable": answer.writable, "why": answer.why, "latency_ms": latency}
        return JSONResponse(body, status_code=200 if answer.ok else 503, headers=headers)

    return ready
