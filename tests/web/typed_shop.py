"""A browser whose requests run on typed sessions, and what they write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends
from pages import app_on, browser

from sessiondb import SessionDB, session_of
from sessiondb.core import codec
from sessiondb.core.change import Create, Update
from sessiondb.stores.memory import MemoryStore

Action = Callable[[Any], Any]


class WatchedStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Any] = []

    async def apply(self, changes: Any, events: Any = ()) -> Any:
        self.changes.extend(changes)
        return await super().apply(changes, events)

    def written(self) -> list[Any]:
        """Each change as what it set, and what it removed if anything; forgotten once read."""
        changes, self.changes = self.changes, []
        return [_written(change) for change in changes if isinstance(change, (Create, Update))]


def _written(change: Create | Update) -> Any:
    if isinstance(change, Create):
        return codec.decode_data(change.record.data)
    put = {key: codec.decode_value(value) for key, value in change.put.items()}
    return (put, sorted(change.remove)) if change.remove else put


class Shop:
    """A browser whose next request runs ``action`` on the typed session of ``model``."""

    def __init__(self, db: SessionDB, store: WatchedStore) -> None:
        self.db = db
        self.store = store
        self.app = app_on(db)
        self.http = browser(self.app)
        self.models: dict[Any, str] = {}
        self.action: Action | None = None

    async def do(self, model: type, action: Action, **settings: Any) -> Any:
        """What ``action`` returns; ``settings`` are those of ``session_of``."""
        self.action = action
        answer = await self.http.post(self._path(model, settings))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def raw(self) -> dict[str, Any]:
        data: dict[str, Any] = (await self.http.get("/raw")).json()
        return data

    def _path(self, model: type, settings: dict[str, Any]) -> str:
        key = model, *settings.items()
        if key not in self.models:
            path = self.models[key] = f"/{len(self.models)}"
            self.app.post(path)(self._endpoint(model, settings))
        return self.models[key]

    def _endpoint(self, model: type, settings: dict[str, Any]) -> Callable[..., Awaitable[Any]]:
        dependency = Depends(session_of(model, **settings))

        async def endpoint(typed: Any = dependency) -> Any:
            assert self.action is not None
            result = self.action(typed)
            return await result if hasattr(result, "__await__") else result

        return endpoint


def setting(**fields: Any) -> Action:
    """An action that sets fields."""

    def action(typed: Any) -> None:
        for name, value in fields.items():
            setattr(typed.data, name, value)

    return action
