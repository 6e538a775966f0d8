"""What PostgreSQL's errors mean for sessions, and how to mend each."""

from __future__ import annotations

import asyncpg

from sessiondb.core.errors import (
    ConfigurationError,
    SessionDataError,
    SessionDBError,
    StoreError,
    StoreUnavailable,
    WriteOutcome,
)

# By SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_SETTINGS = {
    "28P01": "refused the password of the URL's user. Correct it (ALTER ROLE ... PASSWORD ...)",
    "28000": "does not let this user in. Check user, database and address against pg_hba.conf",
    "3D000": "has no database of that name. Make it (createdb NAME), or correct the URL",
    "3F000": "has no schema to make tables in. CREATE SCHEMA, or correct search_path (?search_path= in the URL)",
    "42704": "does not know an option in the URL after '?'. What is not sessiondb's goes to the server; correct it",
}
_CURES = {
    "53300": (
        "has no connection left. Raise max_connections, lower ?pool_size=, or put PgBouncer between "
        "(?pooler=transaction)"
    ),
    "57P03": "is starting up or shutting down. Wait for it",
    "57P01": "was shut down by its administrator. Start it again",
    "25006": (
        "is read-only: a replica, or default_transaction_read_only is on. Name the primary in the URL; a replica "
        "belongs in ?replica="
    ),
    "42P01": (
        "has lost tables of sessiondb. The next connection makes them anew, empty; restore a backup to have the "
        "sessions back"
    ),
    "42703": "has tables of another shape under these names. Name another ?prefix=, or move them away",
    "42501": "does not let this user do that. GRANT SELECT, INSERT, UPDATE, DELETE on the tables, or let it own them",
    "53100": "has a full disk. Free space on it",
    "53200": "is out of memory. Look at its log, work_mem and max_connections",
    "55P03": "has the session's row locked by another transaction for longer than ?lock_timeout=. Shorten that one",
    "57014": "cancelled the statement (statement_timeout, or an administrator). Raise it, or find what is slow",
    "40P01": "found a deadlock with another program on these rows. Lock rows in the order of their sids there",
}
_RETRY = frozenset({"40P01", "40001"})
# It may have been committed before the server went down; 40003 is how distributed engines say that they do not know.
_UNDECIDED = frozenset({"57P01", "57P02", "40003"})
_BY_ROW = frozenset({"55P03", "57014"})


def is_deadlock(error: BaseException) -> bool:
    """Whether the statement was rolled back only because of others, and may be sent again."""
    return state_of(error) in _RETRY


def is_about_rows(error: BaseException) -> bool:
    """Whether one row of a batch may be the reason, so that the others deserve a try without it."""
    state = state_of(error)
    return state[:2] in ("22", "23") or state in _BY_ROW | _RETRY


def is_taken(error: BaseException, index: str) -> bool:
    """Whether the unique ``index`` has another row in the place of one."""
    return state_of(error) == "23505" and getattr(error, "constraint_name", None) == index


def lost_tables(error: BaseException) -> bool:
    """Whether the tables have to be looked at again."""
    return state_of(error) in ("42P01", "42703")


def not_copied(where: str) -> StoreUnavailable:
    """The error for a replica that has no tables, or not those of the primary."""
    return StoreUnavailable(
        f"The PostgreSQL replica at {where} does not have the tables of sessiondb. If it follows the primary, it is "
        "behind (look at pg_stat_replication there); else correct ?replica= in the URL."
    )


def state_of(error: BaseException) -> str:
    """The SQLSTATE, empty if there is none."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else ""


def refusal(
    error: Exception, where: str, *, changes: bool = True, events: bool = False
) -> StoreError | SessionDataError:
    """What the changes or events of a statement are answered, when the database does not take one of them."""
    if state_of(error)[:2] in ("22", "23"):
        # The server's text quotes the row, so it is not even shown as the cause.
        kind = f"({type(error).__name__}, {state_of(error)})"
        unheld = "a text of an event has a character that no column can hold (U+0000)"
        if not changes:
            return StoreError(f"PostgreSQL at {where} does not take these events {kind}; {unheld}.")
        return SessionDataError(
            f"PostgreSQL at {where} does not take this session {kind}; its data or client is no valid JSON"
            f"{f', or {unheld}' if events else ''}."
        )
    found = translated(error, where, "not_applied")
    return found if isinstance(found, StoreError) else StoreUnavailable(str(found))


def translated(error: Exception, where: str, outcome: WriteOutcome) -> Exception:
    """``error`` as one of ours, saying how to mend it.

    PostgreSQL's own text stays out of the message: it may quote what was stored.
    """
    if isinstance(error, SessionDBError):
        return error
    state = state_of(error)
    found: Exception
    if state in _SETTINGS:
        found = ConfigurationError(f"PostgreSQL at {where} {_SETTINGS[state]}.")
    elif state[:2] == "08" or _lost(error):
        found = StoreUnavailable(
            f"The connection to PostgreSQL at {where} was lost. If it goes on, look at the server's log and at what is "
            "between (a firewall, a pooler).",
            outcome=outcome,
        )
    elif state:
        cure = _CURES.get(state, f"failed with {type(error).__name__} ({state}). See the server's log")
        known = outcome if state in _UNDECIDED else "not_applied"
        found = StoreUnavailable(f"PostgreSQL at {where} {cure}.", outcome=known)
    elif isinstance(error, OSError):
        found = StoreUnavailable(
            f"PostgreSQL at {where} cannot be reached ({error.strerror or type(error).__name__}). Start it, or correct "
            "host and port in the URL.",
            outcome=outcome,
        )
    else:
        return error
    found.__cause__ = error
    return found


def _lost(error: Exception) -> bool:
    if isinstance(error, ConnectionRefusedError):
        return False
    # The driver's "internal" errors: the server had said why it goes, and has not closed its side yet.
    return isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError, EOFError))
