"""What MySQL's and MariaDB's errors mean for sessions, and how to mend each."""

from __future__ import annotations

import ssl

from asyncmy import errors

from sessiondb.core.errors import (
    ConfigurationError,
    SessionDataError,
    SessionDBError,
    StoreError,
    StoreUnavailable,
    WriteOutcome,
)

# By error number, https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_SETTINGS = {
    1045: (
        "refused user or password. Correct the URL, or ALTER USER ... IDENTIFIED BY ...; if it wants TLS, put "
        "?ssl=true (or ?ssl_ca=FILE) into the URL"
    ),
    1698: "does not let this user in with a password. Correct the URL, or ALTER USER ... IDENTIFIED VIA ...",
    1049: "has no database of that name. Make it (CREATE DATABASE ...), or correct the URL",
    2059: "wants a way to log in that this driver does not know. ALTER USER ... IDENTIFIED WITH another plugin",
    3159: "takes no connection without TLS. Put ?ssl=true (or ?ssl_ca=FILE) into the URL",
    1046: "was given no database. Name one in the URL (mysql://user@host/database)",
}
_CURES = {
    1040: "has no connection left. Raise max_connections, or lower ?pool_size=",
    1226: "has no connection left for this user. Raise max_user_connections, or lower ?pool_size=",
    1203: "has no connection left for this user. Raise max_user_connections, or lower ?pool_size=",
    1053: "is shutting down. Start it again",
    1290: "is read-only: a replica, or read_only is on. Name the primary in the URL",
    1792: "is read-only: a replica, or transaction_read_only is on. Name the primary in the URL",
    1836: "is read-only: a replica, or innodb_read_only is on. Name the primary in the URL",
    1146: (
        "has lost tables of sessiondb. The next connection makes them anew, empty; restore a backup to have the "
        "sessions back"
    ),
    1054: "has tables of another shape under these names. Name another ?prefix=, or move them away",
    1142: "does not let this user do that. GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX on the database",
    1044: "does not let this user into the database. GRANT it the rights",
    1021: "has a full disk. Free space on it",
    1114: "has a full table or disk. Free space on it",
    1041: "is out of memory. Look at its log",
    1205: "has the session's row locked by another transaction for longer than ?lock_timeout=. Shorten that one",
    1213: "found a deadlock with another program on these rows. Lock rows in the order of their sids there",
    1180: "could not commit. See its log",
    1317: "had the statement killed by an administrator",
    1969: "cancelled the statement (max_statement_time). Raise it",
    3024: "cancelled the statement (max_execution_time). Raise it",
    1153: (
        "does not take a statement of that size, which is over twice that of the session. Raise max_allowed_packet "
        "there, or lower SessionDB(max_session_bytes=)"
    ),
    1665: "cannot log these changes with binlog_format=STATEMENT. SET GLOBAL binlog_format = ROW",
}
_DATA = frozenset({1062, 1264, 1292, 1366, 1406, 1048, 3140, 3141, 3819, 4025, 4038})
_DEADLOCK = 1213
_LOST = frozenset({0, 1053, 1927, 2006, 2013, 2014, 2027, 2055})
_UNDECIDED = frozenset({1180})  # an error while it was committed
_NOT_REACHED = frozenset({2002, 2003, 2005})


def number_of(error: BaseException) -> int:
    """The server's or the client's error number; -1 if there is none."""
    if isinstance(error, errors.MySQLError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return -1


def is_deadlock(error: BaseException) -> bool:
    """Whether the transaction was rolled back only because of others, and may be sent again."""
    return number_of(error) == _DEADLOCK


def is_duplicate(error: BaseException) -> bool:
    """Whether the row is there already."""
    return number_of(error) == 1062


def is_missing_value(error: BaseException) -> bool:
    """Whether a column was given no value that must have one."""
    return number_of(error) == 1048


def is_about_data(error: BaseException) -> bool:
    """Whether what was to be written can never be, however often it is tried."""
    return number_of(error) in _DATA


def is_about_rows(error: BaseException) -> bool:
    """Whether one row of a batch may be the reason, so that the others deserve a try without it."""
    return number_of(error) in _DATA | {1153, 1205, _DEADLOCK, 1317, 1969, 3024}


def lost_tables(error: BaseException) -> bool:
    """Whether the tables have to be looked at again."""
    return number_of(error) in (1146, 1054)


def keeps_connection(error: BaseException) -> bool:
    """Whether the server has answered, so that its connection can go on after a ROLLBACK."""
    number = number_of(error)
    return 1000 <= number < 2000 or number >= 3000


def refusal(error: Exception, where: str) -> StoreError | SessionDataError:
    """What one change is answered, when the database does not take it: ``error`` is for that row alone."""
    if number_of(error) in _DATA:
        # The server's text quotes the row, so it is not even shown as the cause.
        return SessionDataError(
            f"MySQL at {where} does not take this session or event ({number_of(error)}): its data or client is no "
            "valid JSON, or a text in it is too long."
        )
    found = translated(error, where, "not_applied")
    return found if isinstance(found, StoreError) else StoreUnavailable(str(found))


def translated(error: Exception, where: str, outcome: WriteOutcome) -> Exception:
    """``error`` as one of ours, saying how to mend it."""
    if isinstance(error, SessionDBError):
        return error
    number = number_of(error)
    found: Exception
    if number in _SETTINGS:
        found = ConfigurationError(f"MySQL at {where} {_SETTINGS[number]}.")
    elif isinstance(error.__cause__, ssl.SSLError) or isinstance(error, ssl.SSLError):
        found = _no_tls(error, where)
    elif isinstance(error, RuntimeError) and "package is required" in str(error):
        # caching_sha2_password without TLS, client_ed25519.
        found = ConfigurationError(
            f"MySQL at {where}: to log in this user, {error}: install that (pip install 'sessiondb[crypto]' for "
            "cryptography), or use TLS (?ssl=true)."
        )
    elif number in _NOT_REACHED or isinstance(error, ConnectionRefusedError):
        found = StoreUnavailable(f"MySQL at {where} cannot be reached. Start it, or correct host and port in the URL.")
    elif number in _LOST or isinstance(error, (OSError, EOFError, errors.InterfaceError)):
        found = StoreUnavailable(
            f"The connection to MySQL at {where} was lost. If it goes on, look at the server's log and at what is "
            "between (a firewall, a proxy).",
            outcome=outcome,
        )
    elif isinstance(error, errors.MySQLError):
        cure = _CURES.get(number, f"failed with {type(error).__name__} ({number}). See the server's log")
        known = outcome if number in _UNDECIDED else "not_applied"
        found = StoreUnavailable(f"MySQL at {where} {cure}.", outcome=known)
    else:
        return error
    found.__cause__ = error
    return found


def _no_tls(error: Exception, where: str) -> StoreUnavailable:
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__
    return StoreUnavailable(
        f"MySQL at {where}: no TLS ({getattr(cause, 'reason', None) or cause}). Check that the server has TLS turned "
        "on, that its certificate names this host, and who has signed it (?ssl_ca=FILE)."
    )
