"""Sessions as documents, and changes as the commands that make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from bson import Binary, encode
from bson.binary import UUID_SUBTYPE
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from sessiondb.core.change import Create, End, Update
from sessiondb.core.errors import SessionDataError
from sessiondb.core.policy import Caps
from sessiondb.core.record import CHANGE_ID_BYTES, NO_SALT, REMEMBERED_CHANGES, EndReason, Record
from sessiondb.core.token import Sid, format_sid

Document = dict[str, Any]

NO_DATA = {"data": False}
LIVING = {"ended_at": None}  # not there, or null where people have written it
# The server's clock has milliseconds. A time within the current one is not in the future.
MICROS_OF_NOW = 999
_NOW = {"$add": [{"$multiply": [{"$toLong": "$$NOW"}, 1000]}, MICROS_OF_NOW]}
_JSON = frozenset({"client_first", "client_last", "auth", "risk", "data"})
_FIELDS = frozenset(Record.__struct_fields__) - {"sid"}
# BSON's 64-bit integers come as a type of their own, which must not get out of here.
_encode_json = msgspec.json.Encoder(enc_hook=int).encode
_decode_json = msgspec.json.decode
_UNREADABLE = b"?"

# What a change may be refused for before it is sent.
NOT_STORABLE = (msgspec.MsgspecError, BSONError, OverflowError, UnicodeError, RecursionError)


def sid_value(sid: str) -> Binary:
    """A sid as a UUID, as it is stored."""
    return Binary(bytes.fromhex(sid.replace("-", "")), UUID_SUBTYPE)


# All sids and nothing else: binary data is ordered by length, subtype, bytes. What has another _id is no session.
ANY_SID = {"$gte": Binary(bytes(16), UUID_SUBTYPE), "$lte": Binary(b"\xff" * 16, UUID_SUBTYPE)}


def sid_of(document: Mapping[str, Any]) -> Sid:
    """Whose document that is. Raises ``ValueError`` or ``AttributeError`` for one whose _id is not of ``ANY_SID``."""
    value = document["_id"]
    if value.subtype != UUID_SUBTYPE or len(value) != 16:
        raise ValueError("no sid")
    return format_sid(value)


def to_record(document: Mapping[str, Any]) -> Record:
    """The record in a document; fields of other people beside it are left alone.

    Data that is no JSON makes a record with unreadable data, which is then quarantined alone. Raises
    ``SessionDataError`` for a document that is no session.
    """
    values: Document = {}
    try:
        for name, value in document.items():
            if name in _JSON:
                values[name] = _json_of(value)
            elif name == "_id":
                values["sid"] = sid_of(document)
            elif name == "last_changes":
                values[name] = b"".join(value)
            elif name in _FIELDS and value is not None:
                # Shells write whole numbers as doubles.
                is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
                values[name] = int(value) if is_whole else value
        return msgspec.convert(values, Record)
    except (AttributeError, TypeError, ValueError):
        raise SessionDataError(
            "A document in the collection of sessions is no session of sessiondb: fields are missing, or of another "
            "type. Remove it."
        ) from None


def readable(document: Mapping[str, Any]) -> Record | None:
    """As ``to_record``, and ``None`` for one that somebody has spoilt: who looks at many is not stopped by one."""
    try:
        return to_record(document)
    except SessionDataError:
        return None


def _json_of(value: Any) -> bytes:
    try:
        return _encode_json(value)
    except (TypeError, ValueError):
        return _UNREADABLE


def create_document(change: Create) -> RawBSONDocument:
    """The document of a new session. Raises one of ``NOT_STORABLE``."""
    document: Document = {"_id": sid_value(change.sid)}
    for name in Record.__struct_fields__[1:]:
        value = getattr(change.record, name)
        if name in _JSON:
            document[name] = _object(value)
        elif name == "last_changes":
            document[name] = [value[start : start + CHANGE_ID_BYTES] for start in range(0, len(value), CHANGE_ID_BYTES)]
        elif value is not None:
            document[name] = value
    if change.links:
        document["links"] = list(change.links)
    return RawBSONDocument(encode(document))


def _object(encoded: bytes) -> Document:
    return _decode_json(encoded, type=dict[str, Any])


def update_filter(change: Update) -> Document:
    """Which session ``change`` may change: the living one on which its guards hold and which does not know it yet."""
    found: Document = {"_id": sid_value(change.sid), **LIVING}
    if not change.only_touches:
        found["last_changes"] = {"$ne": change.id}
    if change.if_rev is not None:
        found["rev"] = change.if_rev
    guards = {part.if_secret for part in (change.rotate, change.confirm) if part is not None}
    if guards:
        # Two guards on one digest: if they differ, nothing can satisfy both.
        found["secret_hash"] = {"$in": list(guards) if len(guards) == 1 else []}
    return found


def update_pipeline(change: Update) -> list[Document]:
    """What ``change`` makes of the session. Every expression sees the document as it was before."""
    fields: Document = {}
    last_seen_at: object = "$last_seen_at"
    if change.only_touches:
        fields["last_seen_at"] = last_seen_at  # MongoDB refuses a command that sets nothing
    touch, confirm, rotate, sign_in = change.touch, change.confirm, change.rotate, change.sign_in
    if touch is not None:
        last_seen_at = {"$max": ["$last_seen_at", {"$min": [touch.at, _NOW]}]}
        fields["last_seen_at"] = last_seen_at
        if touch.client is not None:
            fields["client_last"] = {"$literal": _object(touch.client)}
    if not change.only_touches:
        fields["rev"] = {"$add": ["$rev", 1]}
        fields["last_changes"] = {"$slice": [{"$concatArrays": [[change.id], "$last_changes"]}, REMEMBERED_CHANGES]}
    if change.put or change.remove:
        fields["data"] = _merged(change)
    if confirm is not None:
        is_first = {"$eq": [{"$ifNull": ["$confirmed_at", None]}, None]}
        erases = {"$and": [is_first, {"$ne": ["$salt", NO_SALT]}]}
        fields["confirmed_at"] = {"$ifNull": ["$confirmed_at", confirm.at]}
        fields["salt"] = {"$cond": [erases, "$$REMOVE", "$salt"]}
    if rotate is not None:
        fields["previous_hash"] = "$secret_hash"
        fields["secret_hash"] = rotate.secret_hash
        fields["salt"] = rotate.salt
        fields["rotated_at"] = rotate.at
        fields["confirmed_at"] = "$$REMOVE"
    if sign_in is not None:
        fields["authenticated_at"] = sign_in.at
        fields["auth"] = {"$literal": _object(sign_in.auth)}
        fields["idle"] = sign_in.idle
        fields["absolute"] = sign_in.absolute
        fields["lifetime"] = {"$literal": sign_in.lifetime}
        # A lower bound of the deadline: a shorter life must be looked at sooner.
        over_at = [{"$add": ["$created_at", sign_in.absolute]}, {"$add": [last_seen_at, sign_in.idle]}]
        fields["check_at"] = {"$min": ["$check_at", *over_at]}
        if sign_in.links:
            held = {"$cond": [{"$isArray": ["$links"]}, "$links", []]}
            fields["links"] = {"$setUnion": [held, list(sign_in.links)]}
    return [{"$set": fields}]


def _merged(change: Update) -> Document:
    """The data with the delta. Names are never paths here, so dots and dollars in them mean nothing.

    One expression for any number of keys: ``$setField`` nests once for each, and a thousand are too deep. The values
    of keys to remove are overwritten with a mark that is no JSON, and what bears it is left out: looking each key up in
    a list of names would take the product of both.
    """
    kept: object = "$data"
    if change.remove:
        marked = {"$mergeObjects": ["$data", {"$literal": dict.fromkeys(change.remove, change.id)}]}
        stays = {"$ne": ["$$this.v", change.id]}
        kept = {"$arrayToObject": {"$filter": {"input": {"$objectToArray": marked}, "cond": stays}}}
    put = {key: _decode_json(value) for key, value in change.put.items()}
    return {"$mergeObjects": [kept, {"$literal": put}]}


def end_filter(change: End) -> Document:
    """Which session ``change`` may end."""
    guard = {} if change.if_rev is None else {"rev": change.if_rev}
    return {"_id": sid_value(change.sid), **LIVING, **guard}


def end_update(change_id: bytes, reason: EndReason, at: int, purge_at: int, announce_at: int | None) -> list[Document]:
    """What an end makes of the session, even of one that somebody has spoilt."""
    held = {"$cond": [{"$isArray": ["$last_changes"]}, "$last_changes", []]}
    return [
        {
            "$set": {
                "ended_at": at,
                "end_reason": str(reason),
                "check_at": purge_at if announce_at is None else min(announce_at, purge_at),
                "purge_at": purge_at,
                "purge_after": DatetimeMS(purge_at // 1000),
                "data": {"$literal": {}},
                "salt": "$$REMOVE",
                "rev": {"$add": [_number("rev"), 1]},
                "last_changes": {"$slice": [{"$concatArrays": [[change_id], held]}, REMEMBERED_CHANGES]},
            }
        }
    ]


def _number(field: str) -> Document:
    """A number in the document, as an expression; 0 where somebody has spoilt it, else the whole command would fail."""
    return {"$cond": [{"$isNumber": f"${field}"}, f"${field}", 0]}


def deadline(caps: Caps) -> Document:
    """When a session is over, as an expression; see ``sessiondb.core.policy.deadline``."""

    def least(field: str) -> Document:
        branches = [
            {"case": {"$eq": ["$lifetime", {"$literal": name}]}, "then": getattr(cap, field)}
            for name, cap in caps.named.items()
        ]
        return {"$min": [_number(field), {"$switch": {"branches": branches, "default": getattr(caps.normal, field)}}]}

    absolute, idle = least("absolute"), least("idle")
    return {"$min": [{"$add": [_number("created_at"), absolute]}, {"$add": [_number("last_seen_at"), idle]}]}
