"""What happens when the client of a session changes while it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiondb.core.client import Client
from sessiondb.core.record import Record

if TYPE_CHECKING:
    from sessiondb.state import State


def client_changed(state: State, record: Record, before: Client, now: Client) -> None:
    """A request of ``record`` comes from ``now``, and the one before came from ``before``.

    Called while a request is served, for each one whose address or user agent differs from that of the one before in
    this process, and when a touch is due (then both may be equal). Both are what ``Privacy`` lets be kept; the
    request's own address is ``state.visitor.ip``. Must not wait, and must not raise. ``counters`` has
    ``client_changes``.
    """
    if (now.ip, now.user_agent) != (before.ip, before.user_agent) and (before.ip or before.user_agent) is not None:
        state.runtime.counters["client_changes"] += 1
