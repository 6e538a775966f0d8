"""The dictionary part of a ``Session``: it notices that it was handed out, and that it was written to."""

from __future__ import annotations

import copy
from typing import Any, Self, SupportsIndex

from sessiondb.core import codec
from sessiondb.core.errors import HeadersSent, TokenUntold
from sessiondb.state import State


class SessionDict(dict[str, Any]):
    """A ``dict`` whose writes are noticed, checked, and refused where they could not be kept. Copies are plain."""

    __slots__ = ("_state",)

    _state: State

    def mark_accessed(self) -> None:
        """Called when a handler is handed the session: now it counts as used by this request."""
        state = self._state
        if not state.handed_out:
            if state.block is not None:
                state.block()
                state.block = None
            state.handed_out = True

    @property
    def accessed(self) -> bool:
        """Whether a handler was handed the session."""
        return self._state.handed_out

    @property
    def modified(self) -> bool:
        """Never: Starlette's ``SessionMiddleware`` around ours would put what is in here into its own cookie."""
        return False

    def mark_modified(self) -> None:
        """Have the session compared with what is stored before the response starts (done for you)."""
        self._writable()

    def _use(self) -> State:
        self.mark_accessed()
        return self._state

    def _writable(self) -> None:
        state = self._state
        if not state.handed_out:
            self.mark_accessed()
        state.written = True

    def _refuse_after_headers(self, verb: str) -> None:
        if self._state.untold:
            raise TokenUntold(
                f"Cannot {verb} in this request: it came with the header {self._state.via!r}, whose clients are never "
                "told a token (respond=None). Let them log in without that header, or give it a respond=."
            )
        if self._state.headers_sent:
            raise HeadersSent(
                f"Cannot {verb} now: the response headers have left, so the client could not be given the token. "
                "Do it before the response starts (for a stream: in the endpoint, not in the generator)."
            )

    def __setitem__(self, key: str, value: Any) -> None:
        codec.check_key(key)
        if not isinstance(value, (dict, list, tuple)) and not codec.is_plain(value):
            codec.encode_value(key, value)
        self._writable()
        if self._state.record is None:
            self._refuse_after_headers("create a session")
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._writable()
        dict.__delitem__(self, key)

    def pop(self, key: str, *default: Any) -> Any:
        """As ``dict.pop``."""
        self._writable()
        return dict.pop(self, key, *default)

    def popitem(self) -> tuple[str, Any]:
        """As ``dict.popitem``."""
        self._writable()
        return dict.popitem(self)

    def clear(self) -> None:
        """Remove all keys. Whoever is logged in stays so: ``logout()`` ends the session."""
        self._writable()
        dict.clear(self)

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """As ``dict.setdefault``."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As ``dict.update``."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (dict(self),)
