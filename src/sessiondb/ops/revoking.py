"""What ``sessiondb revoke`` and ``sessiondb lock`` are asked to do, checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.record import EndReason
from sessiondb.db import SessionDB
from sessiondb.ending import given_reason
from sessiondb.listing import Criteria, select

Answer = TypeVar("Answer")


class Revocation:
    """Which sessions to end, and why. Raises ``ConfigurationError`` for what is asked wrongly.

    ``criteria`` are by the names of ``Criteria``, ``None`` where an option was not given.
    """

    def __init__(self, sid: str | None, everyone: bool, reason: str, **criteria: Any) -> None:
        given = {name: value for name, value in criteria.items() if value is not None}
        if (sid is not None) + everyone + bool(given) != 1:
            raise ConfigurationError(
                "say which sessions: one (sessiondb revoke SID), a user's (--user ID), those with something in common "
                "(--ip, --network, --user-agent, --before, --after, --active-at, --unused-since), or --everyone."
            )
        self.sid = sid
        self.everyone = everyone
        self.reason: EndReason = _asked_rightly(lambda: given_reason(reason))
        for name in ("created_before", "created_after", "active_at", "last_seen_before"):
            if name in given:
                given[name] = moment(given[name])
        self.criteria: Criteria = given  # type: ignore[assignment]
        if given:
            _asked_rightly(lambda: select(self.criteria))

    @property
    def user(self) -> str | None:
        """Whose sessions all are meant, and nothing else is asked."""
        return str(self.criteria["user_id"]) if self.criteria.keys() == {"user_id"} else None

    @property
    def is_broad(self) -> bool:
        """Whether somebody should look at the number first."""
        return self.sid is None and self.user is None

    async def count(self, db: SessionDB) -> int:
        """How many living sessions are meant."""
        if self.sid is not None:
            found = await db.get(self.sid)
            return int(found is not None and found.ended_at is None)
        if self.everyone:
            return await db.revoke_everyone(dry_run=True)
        return await db.revoke_where(dry_run=True, **self.criteria)

    async def carry_out(self, db: SessionDB, by: str) -> int:
        """End them, as ``by`` wants it; how many were living."""
        if self.sid is not None:
            return int(await db.revoke(self.sid, reason=self.reason, actor=by))
        if self.everyone:
            return await db.revoke_everyone(reason=self.reason, actor=by)
        if self.user is not None:
            # Logins under way too.
            return await db.revoke_all(self.user, reason=self.reason, actor=by)
        return await db.revoke_where(reason=self.reason, actor=by, **self.criteria)


def moment(text: str) -> datetime:
    """An ISO 8601 time; without a zone it is UTC. Raises ``ConfigurationError``."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r:.100} is no time; write it as 2026-03-01T14:30 (UTC) or 2026-03-01T14:30+01:00."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def confirmed(count: int) -> bool:
    """Whether somebody at a terminal agrees to end ``count`` sessions. Raises ``ConfigurationError`` without one."""
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{count:,} living sessions are meant, and nobody can be asked here; use --yes.")
    return typer.confirm(f"{count:,} living sessions are meant. End them?", err=True)


def _asked_rightly(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
