"""What MongoDB's errors mean for sessions, and how to mend each."""

from __future__ import annotations

from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from pymongo.errors import ConfigurationError as DriverConfigurationError

from sessiondb.core.errors import (
    ConfigurationError,
    SessionDataError,
    SessionDBError,
    StoreError,
    StoreUnavailable,
    WriteOutcome,
)
from sessiondb.stores._mongodb_rows import NOT_STORABLE

DUPLICATE = 11000
# By code, https://www.mongodb.com/docs/manual/reference/error-codes/
_NOT_PRIMARY = (
    "is no primary: a secondary, or one that has just stepped down. Name all members and ?replicaSet= in the URL, "
    "without directConnection"
)
_NO_MAJORITY = (
    "could not give the write to a majority of its members in time: one is down, or far behind. Start it, or look at "
    "rs.status()"
)
_SHUTTING_DOWN = "is shutting down. Wait for it, or start it again"
_BAD_LOGIN = "refused user or password. Correct the URL (mongodb://user:password@host/database?authSource=admin)"
_SETTINGS = {
    18: _BAD_LOGIN,
    11: _BAD_LOGIN,
    8000: _BAD_LOGIN,  # Atlas
    73: "does not take this name of a database or collection. Correct the URL's database or ?prefix=",
    85: "has an index of this name with other keys. Drop it, or name another ?prefix=",
    86: "has an index of this name with other keys. Drop it, or name another ?prefix=",
    40573: "runs alone, and so has no change streams. Start it with --replSet, then rs.initiate() in mongosh",
}
_CURES = {
    13: "does not let this user do that. Give it the role readWrite on the URL's database",
    20: (
        "runs alone, and so cannot tell a repeated write from a new one. Start it with --replSet, then rs.initiate() "
        "in mongosh"
    ),
    43: "has ended the change stream. If it goes on, look at the server's log",
    50: "took too long (maxTimeMS). Look for what is slow (db.currentOp())",
    64: _NO_MAJORITY,
    100: _NO_MAJORITY,
    91: _SHUTTING_DOWN,
    11600: _SHUTTING_DOWN,
    189: _NOT_PRIMARY,
    10107: _NOT_PRIMARY,
    10058: _NOT_PRIMARY,
    11602: _NOT_PRIMARY,
    13435: _NOT_PRIMARY,
    13436: _NOT_PRIMARY,
    121: "has a validator on the collection that refuses the document. Remove it (collMod)",
    14031: "has a full disk. Free space on it",
    39: "cannot write to its disk. Its log says more",
}
# What a single session is refused for: too deep, too large, a name that BSON cannot hold.
_ABOUT_DATA = frozenset({2, 15, 52, 54, 56, 57, 10334, 17280, 17419, 17420})
# Answers to a write that may have landed. First of a command that was cut off, perhaps while it waited for its write
# concern: out of time (maxTimeMS), or killed. Then those that drivers repeat a write after, from a mongos that has lost
# its shard or a primary that steps down, "Determining Retryable Errors" of
# https://github.com/mongodb/specifications/blob/master/source/retryable-writes/retryable-writes.md
_CUT_OFF = frozenset({50, 64, 11601})
_UNDECIDED = _CUT_OFF | {6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602}
_MAY_BE_REPEATED = "RetryableWriteError"  # the label that servers since 4.4, and the driver, give to the same


def code_of(error: BaseException) -> int:
    """The server's code; 0 if there is none."""
    if isinstance(error, BulkWriteError):
        details = error.details
        first = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        return int(first[0].get("code", 0)) if first else 0
    if isinstance(error, NotPrimaryError):
        return int(error.details.get("code", 10107)) if isinstance(error.details, dict) else 10107
    return (error.code or 0) if isinstance(error, OperationFailure) else 0


def refusal(error: Exception, where: str, outcome: WriteOutcome) -> StoreError | SessionDataError:
    """What one change is answered whose command failed with ``error``."""
    if isinstance(error, (*NOT_STORABLE, DocumentTooLarge)) or code_of(error) in _ABOUT_DATA:
        # The texts may quote the session, so they are not even shown as the cause.
        return SessionDataError(
            f"MongoDB at {where} does not take this session ({type(error).__name__}): its data or client is no valid "
            "JSON, nested too deep or larger than a document may be (16 MB)."
        )
    found = translated(error, where, outcome)
    return found if isinstance(found, (StoreError, SessionDataError)) else StoreUnavailable(str(found))


def translated(error: Exception, where: str, outcome: WriteOutcome) -> Exception:
    """``error`` as one of ours, saying how to mend it.

    MongoDB's own text stays out of the message where it may quote what was stored.
    """
    if isinstance(error, SessionDBError):
        return error
    found = _translated(error, where, outcome)
    if found is None:
        return error
    found.__cause__ = error
    return found


def _translated(error: Exception, where: str, outcome: WriteOutcome) -> SessionDBError | None:
    code = code_of(error)
    if code in _SETTINGS:
        return ConfigurationError(f"MongoDB at {where} {_SETTINGS[code]}.")
    if code or isinstance(error, OperationFailure):
        cure = _CURES.get(code, f"failed with {type(error).__name__} ({code}). See the server's log")
        known = outcome if _is_undecided(error, code) else "not_applied"
        return StoreUnavailable(f"MongoDB at {where} {cure}.", outcome=known)
    if isinstance(error, ServerSelectionTimeoutError):
        return StoreUnavailable(f"MongoDB at {where} {_why_nobody_was_found(error)}.")
    if isinstance(error, WaitQueueTimeoutError):
        return StoreUnavailable(
            f"MongoDB at {where}: all connections are busy. Raise ?maxPoolSize=, or look at its load."
        )
    if isinstance(error, ConnectionFailure):
        return StoreUnavailable(
            f"The connection to MongoDB at {where} was lost. If it goes on, look at the server's log and at what is "
            "between (a firewall, a proxy).",
            outcome=outcome,
        )
    if isinstance(error, DriverConfigurationError):
        return ConfigurationError(f"MongoDB at {where} cannot be used as the URL says: {error}.")
    if isinstance(error, NOT_STORABLE):
        return StoreUnavailable(
            f"MongoDB at {where} cannot hold what was to be written ({type(error).__name__}): an integer beyond 64 "
            "bits, or text that is not valid Unicode. Store it as other text."
        )
    if isinstance(error, PyMongoError):
        return StoreUnavailable(
            f"MongoDB at {where} failed with {type(error).__name__}. See the server's log.", outcome=outcome
        )
    return None


def _is_undecided(error: Exception, code: int) -> bool:
    if isinstance(error, BulkWriteError):
        return not _has_written_nothing(error)  # of many, some may have landed
    if isinstance(error, WriteConcernError):
        return True  # what waits for its write concern has landed
    return code in _UNDECIDED or (isinstance(error, PyMongoError) and error.has_error_label(_MAY_BE_REPEATED))


def _has_written_nothing(error: BulkWriteError) -> bool:
    """Whether the server has refused each write by itself, for certain."""
    details = error.details
    written = sum(details.get(name, 0) for name in ("nInserted", "nUpserted", "nMatched", "nRemoved"))
    refused = {one.get("code", 0) for one in details.get("writeErrors", ())}
    return not (written or details.get("writeConcernErrors") or refused & _UNDECIDED or not refused)


def _why_nobody_was_found(error: ServerSelectionTimeoutError) -> str:
    text = str(error)
    if "SSL" in text or "certificate" in text or "TLS" in text:
        return "speaks no TLS that can be trusted. Check ?tls=true, its certificate and ?tlsCAFile="
    if "No replica set members" in text or "No primary available" in text:
        return (
            "has no primary: too few members are up, or they elect one just now. Look at rs.status(); ?replicaSet= "
            "must be the set's name"
        )
    return (
        "cannot be reached (no server answers, or the host is unknown). Start it, or correct hosts, port and "
        "?replicaSet= in the URL"
    )
