"""From what ``SessionDB`` is given to a store."""

from __future__ import annotations

import inspect
from typing import Any

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores.base import Store, open_store


def store_from(source: object) -> Store:
    """The store that ``source`` names: a URL, a ``Store``, or an SQLAlchemy engine, whose URL is used.

    Raises ``ConfigurationError`` for anything else.
    """
    if isinstance(source, str):
        return open_store(source)
    # By what its class or itself has written down: a MongoDB client has an answer to every name.
    members = [name for name in vars(Store) if not name.startswith("_")]
    lacks = [name for name in members if inspect.getattr_static(source, name, None) is None]
    if isinstance(source, Store) and not lacks and not isinstance(source, type):
        return source
    url: Any = getattr(getattr(source, "sync_engine", source), "url", None)
    if hasattr(type(url), "render_as_string"):
        return open_store(_without_driver(url.render_as_string(hide_password=False)))
    if not {"load", "apply"} & set(lacks) and not isinstance(source, type):
        raise ConfigurationError(
            f"SessionDB: {type(source).__name__} is no Store yet: it lacks {', '.join(lacks)} (see sessiondb.Store)."
        )
    raise ConfigurationError(
        "SessionDB takes a URL such as 'sqlite:///sessions.db', a Store or an SQLAlchemy engine, not "
        f"{f'the class {source.__name__}' if isinstance(source, type) else type(source).__name__}."
    )


def _without_driver(url: str) -> str:
    # SQLAlchemy's "sqlite+aiosqlite:///file" names a driver of its own; the database is what counts here.
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"
