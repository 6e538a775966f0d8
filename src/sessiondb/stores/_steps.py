"""Calls of several commands: what is known of the whole when one of them fails."""

from __future__ import annotations

from sessiondb.core.errors import StoreError, StoreUnavailable


def undecided(error: Exception) -> Exception:
    """``error`` of a call that may have written something before: it must not say that nothing was."""
    if not isinstance(error, StoreError) or error.outcome != "not_applied":
        return error
    found: StoreError
    if isinstance(error, StoreUnavailable):
        found = StoreUnavailable(str(error), outcome="unknown", retry_after=error.retry_after, partial=error.partial)
    else:
        found = StoreError(str(error), outcome="unknown")
    found.__cause__ = error.__cause__
    return found
