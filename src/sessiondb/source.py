"""From what ``SessionDB`` is given to a store."""

from __future__ import annotations

from typing import Any

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores.base import Store, open_store


def store_from(source: object) -> Store:
    """The store that ``source`` names: a URL, a ``Store``, or an SQLAlchemy engine, whose URL is used.

    Raises ``ConfigurationError`` for anything else.
    """
    if isinstance(source, str):
        return open_store(source)
    if isinstance(source, Store) and not isinstance(source, type):
        return source
    engine: Any = getattr(source, "sync_engine", source)
    render = getattr(getattr(engine, "url", None), "render_as_string", None)
    if render is not None:
        return open_store(_without_driver(render(hide_password=False)))
    raise ConfigurationError(
        "SessionDB takes a URL such as 'sqlite:///sessions.db', a Store or an SQLAlchemy engine, not "
        f"{f'the class {source.__name__}' if isinstance(source, type) else type(source).__name__}."
    )


def _without_driver(url: str) -> str:
    # SQLAlchemy's "sqlite+aiosqlite:///file" names a driver of its own; the database is what counts here.
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"
