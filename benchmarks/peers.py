"""Other ways to keep a session, each set up as its documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi import FastAPI, Request

TWO_WEEKS = 14 * 86400
CONNECTIONS = 1000
"""To Redis, at most: the default of redis-py fails the hundred-and-first request at once."""
SECRET = "not-a-secret-but-long-enough-for-hmac"


class Verbs(NamedTuple):
    """How a user logs in and out there; what the session holds has been set before."""

    login: Callable[[Request, str], None]
    logout: Callable[[Request], None]


def _note_user(request: Request, user: str) -> None:
    request.session["user_id"] = user


def _clear(request: Request) -> None:
    request.session.clear()


def signed_cookie(app: FastAPI, url: str) -> Verbs:
    """Starlette's own: everything is in the cookie, and nothing can be ended."""
    from starlette.middleware.sessions import SessionMiddleware

    app.add_middleware(SessionMiddleware, secret_key=SECRET)
    return Verbs(_note_user, _clear)


def starsessions(app: FastAPI, url: str) -> Verbs:
    """In memory, or in Redis where ``url`` names one."""
    from starsessions import InMemoryStore, SessionAutoloadMiddleware, SessionMiddleware, regenerate_session_id

    if url.startswith("redis"):
        import redis.asyncio
        from starsessions.stores.redis import RedisStore

        store: Any = RedisStore(connection=redis.asyncio.Redis.from_url(url, max_connections=CONNECTIONS))
    else:
        store = InMemoryStore()
    # Added last, so outermost: the autoload middleware needs the session middleware around it.
    app.add_middleware(SessionAutoloadMiddleware)
    app.add_middleware(SessionMiddleware, store=store, lifetime=TWO_WEEKS, cookie_https_only=False)

    def login(request: Request, user: str) -> None:
        _note_user(request, user)
        regenerate_session_id(request)

    return Verbs(login, _clear)


def fastapi_redis_sdk(app: FastAPI, url: str) -> Verbs:
    """The official one of Redis. It rotates by itself when the user changes."""
    from redis_fastapi import FastAPIRedis, get_settings

    settings = get_settings()
    settings.url = url
    settings.max_connections = CONNECTIONS
    settings.session_cookie_https_only = False
    FastAPIRedis(app).lifespan().sessions()
    return Verbs(_note_user, _clear)


def fastapi_alcazaba(app: FastAPI, url: str) -> Verbs:
    """Sessions of a tool box, signed."""
    import redis.asyncio
    from fastapi_alcazaba.backends.redis import RedisBackend
    from fastapi_alcazaba.cache import Cache
    from fastapi_alcazaba.sessions import ServerSessionMiddleware, clear_session, rotate_session

    cache = Cache(RedisBackend(redis.asyncio.Redis.from_url(url, max_connections=CONNECTIONS)), signing_key=SECRET)
    app.add_middleware(ServerSessionMiddleware, cache=cache, secure=False, max_age=TWO_WEEKS)

    def login(request: Request, user: str) -> None:
        _note_user(request, user)
        rotate_session(request)

    return Verbs(login, clear_session)


def starlette_sessions(app: FastAPI, url: str) -> Verbs:
    """Pickles, and a client that blocks the event loop; it has no way to change the id at a login."""
    import redis
    from starlette_sessions.middleware import SessionMiddleware
    from starlette_sessions.redis.backend import RedisSessionBackend

    app.add_middleware(
        SessionMiddleware,
        backend=RedisSessionBackend(redis.Redis.from_url(url, max_connections=CONNECTIONS), TWO_WEEKS),
    )

    def logout(request: Request) -> None:
        request.session.get("user_id")  # clearing does nothing to what has not been loaded
        request.session.clear()

    return Verbs(_note_user, logout)
