"""Which policy a login gets: the one that it asks for, else the one that ``policy_for`` names, else the default."""

from __future__ import annotations

import inspect

from sessiondb.runtime import Runtime


async def lifetime_for(runtime: Runtime, user_id: str, asked: str | None, remember: bool) -> str:
    """What the record of a login says in ``lifetime``. Raises ``ConfigurationError`` for a name that nobody knows."""
    policy_for = runtime.policy_for
    if asked is None and policy_for is not None:
        name = policy_for(user_id)
        asked = await name if inspect.isawaitable(name) else name
    return runtime.policies.lifetime(asked, remember)
