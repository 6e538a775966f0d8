"""What Redis's and Valkey's errors mean for sessions, and how to mend each."""

from __future__ import annotations

import re
import ssl

import hiredis

from sessiondb.core.errors import ConfigurationError, SessionDBError, StoreUnavailable, WriteOutcome
from sessiondb.stores._redis_connection import ConnectionLost, NotConnected
from sessiondb.stores._redis_nodes import NoPrimary, TooFewReplicas

_SETTINGS = {
    "WRONGPASS": "refused user or password. Correct the URL (redis://user:password@host), or ACL SETUSER on the server",
    "NOAUTH": "wants a password. Put it into the URL (redis://:password@host)",
    "NOUSER": "has no password for this user, and was sent one. Leave it out of the URL, or name the user",
    "NODB": "has no database of that number. Correct the URL (redis://host:6379/0)",
    "NOCLUSTER": "is no cluster. Write redis:// for a single server",
    "NOSENTINEL": "is no Sentinel. Write redis:// for a server, or name the Sentinels (port 26379 by default)",
}
_CURES = {
    "NOPERM": "does not let this user do that. ACL SETUSER: it needs +@all on the keys that begin with the prefix",
    "OOM": (
        "is full (maxmemory with noeviction): nothing was lost, and nothing new is stored. Raise maxmemory, or shorten "
        "the lifetimes of sessions"
    ),
    "READONLY": "is a read-only replica. Name the primary, or use redis+sentinel:// to follow it",
    "LOADING": "is loading its data from the disk. Wait for it",
    "MISCONF": "cannot save to its disk, and so refuses writes. Free space there; its log says more",
    "MASTERDOWN": "is a replica that has lost its primary. Check the primary",
    "CLUSTERDOWN": "is a cluster that is down: slots are not served. Check its nodes (CLUSTER NODES)",
    "BUSY": "is busy with somebody's script. End it (SCRIPT KILL), or wait",
    "NOREPLICAS": "has too few replicas (min-replicas-to-write). Start them",
    "UNKILLABLE": "is busy with somebody's script that has written. Wait",
    "max": "has no connection left. Raise maxclients, or lower ?pool_size=",
    "TRYAGAIN": "is moving slots. It goes on shortly",
    "ASK": "is moving slots. It goes on shortly",
    "CROSSSLOT": "is a node of a cluster. Write redis+cluster://",
    "MOVED": "is a node of a cluster. Write redis+cluster:// (in a cluster: its slots keep moving; wait)",
}
_WORDS = (
    ("non local key", "TRYAGAIN"),
    ("max number of clients", "max"),
    ("ERR AUTH", "NOUSER"),
    ("sent AUTH, but no password", "NOUSER"),
    ("DB index is out of range", "NODB"),
    ("invalid DB index", "NODB"),
    ("cluster support disabled", "NOCLUSTER"),
    ("unknown command 'SENTINEL'", "NOSENTINEL"),
    ("unknown command `SENTINEL`", "NOSENTINEL"),
)
# Before Redis 7, what stopped a script came wrapped: "ERR Error running script (...): ... -OOM command not allowed".
_in_script = re.compile(r"Error running script.*-([A-Z]+) ").search


def word_of(error: object) -> str:
    """The word that names an error reply, such as ``"OOM"``."""
    text = str(error)
    for part, word in _WORDS:
        if part in text:
            return word
    wrapped = _in_script(text)
    return wrapped[1] if wrapped else text.partition(" ")[0]


def translated(error: Exception, where: str, outcome: WriteOutcome) -> Exception:
    """``error`` as one of ours, saying how to mend it. ``outcome`` is that of a connection lost after sending."""
    if isinstance(error, SessionDBError):
        return error
    found: Exception
    if isinstance(error, TooFewReplicas):
        found = StoreUnavailable(
            f"Redis at {where} has written this, but only {error.had} of {error.wanted} replicas have confirmed it in "
            "time: a failover now could undo it. Repeat the call; start the replicas, or lower ?wait_replicas=.",
            outcome="unconfirmed",
        )
    elif isinstance(error, NotConnected):
        found = _not_connected(error, where)
    elif isinstance(error, hiredis.ReplyError):
        found = _refused(error, where)
    elif isinstance(error, (ConnectionLost, OSError)):
        found = StoreUnavailable(
            f"The connection to Redis at {where} was lost ({error}). If it goes on, look at the server's log and at "
            "what is between (a firewall, a proxy).",
            outcome=outcome,
        )
    else:
        return error
    found.__cause__ = error
    return found


def _refused(error: hiredis.ReplyError, where: str) -> Exception:
    """The server has answered that it does not do it."""
    word = word_of(error)
    if word in _SETTINGS:
        return ConfigurationError(f"Redis at {where} {_SETTINGS[word]}.")
    cure = _CURES.get(word, f"failed with {word or 'an error'}. See the server's log")
    return StoreUnavailable(f"Redis at {where} {cure}.")


def _not_connected(error: NotConnected, where: str) -> Exception:
    cause = error.__cause__
    if isinstance(cause, hiredis.ReplyError):
        return _refused(cause, where)
    if isinstance(cause, NoPrimary):
        kind = ConfigurationError if isinstance(cause.__cause__, hiredis.ReplyError) else StoreUnavailable
        return kind(f"Redis at {where}: {cause}.")
    if isinstance(cause, ssl.SSLError):
        return StoreUnavailable(
            f"Redis at {where}: no TLS ({cause.reason}). Check that its port speaks TLS, and its certificate "
            "(?ssl_ca_certs=FILE)."
        )
    if isinstance(cause, (ConnectionLost, ConnectionResetError, BrokenPipeError)):
        return StoreUnavailable(
            f"Redis at {where} closed the connection at once. Perhaps it speaks TLS only (rediss://) or has no "
            "connection left (maxclients)."
        )
    return StoreUnavailable(
        f"Redis at {where} cannot be reached ({_reason(cause)}). Start it, or correct host and port in the URL."
    )


def _reason(cause: BaseException | None) -> str:
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return (isinstance(cause, OSError) and cause.strerror) or "no such host, or no connection"
