"""What Redis's and Valkey's errors mean for sessions, and how to mend each."""

from __future__ import annotations

import ssl

import hiredis

from sessiondb.core.errors import ConfigurationError, SessionDBError, StoreUnavailable, WriteOutcome
from sessiondb.stores._redis_connection import ConnectionLost

_SETTINGS = {
    "WRONGPASS": "refused user or password. Correct the URL (redis://user:password@host), or ACL SETUSER on the server",
    "NOAUTH": "wants a password. Put it into the URL (redis://:password@host)",
    "NOUSER": "has no password for this user, and was sent one. Leave it out of the URL, or name the user",
    "NODB": "has no database of that number. Correct the URL (redis://host:6379/0)",
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
}


def word_of(error: object) -> str:
    """The word that names an error reply, such as ``"OOM"``."""
    text = str(error)
    for part, word in (
        ("max number of clients", "max"),
        ("ERR AUTH", "NOUSER"),
        ("sent AUTH, but no password", "NOUSER"),
        ("DB index is out of range", "NODB"),
        ("invalid DB index", "NODB"),
    ):
        if part in text:
            return word
    return text.partition(" ")[0]


def translated(error: Exception, where: str, outcome: WriteOutcome) -> Exception:
    """``error`` as one of ours, saying how to mend it."""
    if isinstance(error, SessionDBError):
        return error
    found: Exception
    word = word_of(error)
    if word in _SETTINGS:
        found = ConfigurationError(f"Redis at {where} {_SETTINGS[word]}.")
    elif word in _CURES:
        found = StoreUnavailable(f"Redis at {where} {_CURES[word]}.")
    elif isinstance(error, hiredis.ReplyError):
        found = StoreUnavailable(f"Redis at {where} failed with {word or 'an error'}. See the server's log.")
    elif isinstance(error, ConnectionRefusedError) or (isinstance(error, OSError) and error.errno is None):
        found = StoreUnavailable(
            f"Redis at {where} cannot be reached ({error.strerror or 'no such host, or no connection'}). Start it, or "
            "correct host and port in the URL."
        )
    elif isinstance(error, ssl.SSLError):
        found = StoreUnavailable(
            f"Redis at {where}: no TLS ({error.reason}). Check that its port speaks TLS, and its certificate "
            "(?ssl_ca_certs=FILE)."
        )
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
