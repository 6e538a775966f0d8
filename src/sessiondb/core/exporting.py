"""Events in the forms that others read: JSON, CSV, OpenTelemetry's log records, OCSF."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from sessiondb.core.events import Event, EventClass, EventType, class_of

Format = Literal["jsonl", "csv", "otel", "ocsf"]
OCSF_VERSION = "1.5.0"

_encode = msgspec.json.Encoder(order="sorted").encode

COLUMNS = (
    "at",
    "type",
    "class",
    "user_id",
    "sid",
    "actor",
    "reason",
    "ip",
    "details",
    "personal",
    "stream",
    "seq",
    "previous",
)
"""The columns of a CSV file, and the names in JSON. ``at`` is microseconds since the epoch, UTC."""


def as_mapping(event: Event) -> dict[str, Any]:
    """``event`` with the names of ``COLUMNS``; ``previous`` (of its seal) in hexadecimal."""
    seal = event.seal
    return {
        "at": event.at,
        "type": str(event.type),
        "class": str(class_of(event.type)),
        "user_id": event.user_id,
        "sid": event.sid,
        "actor": event.actor,
        "reason": event.reason,
        "ip": event.ip,
        "details": dict(event.details),
        "personal": dict(event.personal),
        "stream": None if seal is None else seal.stream,
        "seq": None if seal is None else seal.seq,
        "previous": None if seal is None else seal.previous.hex(),
    }


def csv_header() -> str:
    """The first line of a CSV file (RFC 4180)."""
    return _csv_line(COLUMNS)


def _csv_line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue()


def as_csv(event: Event) -> str:
    """One line of CSV; ``details`` and ``personal`` are JSON. No cell is a formula (OWASP: CSV injection)."""
    found = as_mapping(event)
    cells = [_encode(value).decode() if isinstance(value, dict) else value for value in found.values()]
    return _csv_line([_no_formula(cell) for cell in cells])


def _no_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def as_json(event: Event) -> str:
    """One line of JSON with the names of ``COLUMNS``."""
    return _line(as_mapping(event))


# -- OpenTelemetry -------------------------------------------------------------------------------------------

# Severity numbers of the log data model: 9 INFO, 13 WARN, 17 ERROR.
_SEVERITY: Mapping[str, int] = {
    EventType.LOGIN_FAILED: 13,
    EventType.LOGIN_REFUSED: 13,
    EventType.RISK_FOUND: 13,
    EventType.COOKIE_COLLISION: 13,
    EventType.WRITE_AFTER_END: 13,
    EventType.RATE_LIMITED: 13,
    EventType.TOKEN_GUESSING: 17,
    EventType.TOKEN_REUSE: 17,
    EventType.CROSS_ORIGIN: 17,
    EventType.CSRF: 17,
    EventType.SESSION_QUARANTINED: 17,
}
_SEVERITY_TEXT = {9: "INFO", 13: "WARN", 17: "ERROR"}


def as_otel(event: Event) -> dict[str, Any]:
    """A log record of OpenTelemetry's data model in OTLP/JSON names, an event by its ``eventName``.

    Attributes follow the semantic conventions where they have one: ``user.id``, ``session.id``, ``client.address``,
    ``user_agent.original``.
    """
    severity = _SEVERITY.get(event.type, 9)
    attributes: dict[str, str | int | None] = {
        "user.id": event.user_id,
        "session.id": event.sid,
        "client.address": event.ip,
        "user_agent.original": event.personal.get("user_agent"),
        "sessiondb.actor": event.actor,
        "sessiondb.reason": event.reason,
    }
    for prefix, extra in (("sessiondb.details", event.details), ("sessiondb.personal", event.personal)):
        attributes.update((f"{prefix}.{name}", value) for name, value in extra.items() if name != "user_agent")
    return {
        "timeUnixNano": str(event.at * 1000),
        "severityNumber": severity,
        "severityText": _SEVERITY_TEXT[severity],
        "eventName": f"sessiondb.{event.type}",
        "body": {"stringValue": str(event.type)},
        "attributes": [
            {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in attributes.items()
            if value is not None
        ],
    }


# -- OCSF ----------------------------------------------------------------------------------------------------

# class_uid, activity_id: Authentication (3002) Logon 1, Logoff 2, Other 99; Account Change (3001) Lock 9, Unlock 12,
# Other 99; Detection Finding (2004) Create 1; Application Lifecycle has none of ours, so the rest are of 3002 or 3001.
_AUTHENTICATION, _ACCOUNT_CHANGE, _FINDING = 3002, 3001, 2004
_OCSF: Mapping[str, tuple[int, int]] = {
    EventType.LOGIN: (_AUTHENTICATION, 1),
    EventType.LOGIN_FAILED: (_AUTHENTICATION, 1),
    EventType.LOGIN_REFUSED: (_AUTHENTICATION, 1),
    EventType.SESSION_ENDED: (_AUTHENTICATION, 2),
    EventType.IDP_LOGOUT: (_AUTHENTICATION, 2),
    EventType.USER_LOCKED: (_ACCOUNT_CHANGE, 9),
    EventType.USER_UNLOCKED: (_ACCOUNT_CHANGE, 12),
    EventType.TOKEN_REUSE: (_FINDING, 1),
    EventType.RISK_FOUND: (_FINDING, 1),
    EventType.TOKEN_GUESSING: (_FINDING, 1),
    EventType.RATE_LIMITED: (_FINDING, 1),
    EventType.CROSS_ORIGIN: (_FINDING, 1),
    EventType.CSRF: (_FINDING, 1),
    EventType.COOKIE_COLLISION: (_FINDING, 1),
}
_CATEGORY = {_AUTHENTICATION: 3, _ACCOUNT_CHANGE: 3, _FINDING: 2}
_FAILED = (EventType.LOGIN_FAILED, EventType.LOGIN_REFUSED)
_OCSF_SEVERITY = {9: 1, 13: 3, 17: 4}  # Informational, Medium, High


def as_ocsf(event: Event) -> dict[str, Any]:
    """An event of the Open Cybersecurity Schema Framework (https://schema.ocsf.io): Authentication, Account Change or
    Detection Finding.
    """
    default = _ACCOUNT_CHANGE if class_of(event.type) is EventClass.ADMIN else _AUTHENTICATION
    class_uid, activity = _OCSF.get(event.type, (default, 99))
    found: dict[str, Any] = {
        "class_uid": class_uid,
        "category_uid": _CATEGORY[class_uid],
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "activity_name": str(event.type),
        "time": event.at // 1000,
        "severity_id": _OCSF_SEVERITY[_SEVERITY.get(event.type, 9)],
        "status_id": 2 if event.type in _FAILED else 1,
        "message": str(event.type),
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "sessiondb", "vendor_name": "sessiondb"},
            "event_code": str(event.type),
        },
        "unmapped": {"details": dict(event.details), "personal": dict(event.personal)},
    }
    if event.seal is not None:
        found["metadata"]["uid"] = f"{event.seal.stream}:{event.seal.seq}"
    if event.user_id is not None:
        found["user"] = {"uid": event.user_id}
    if event.actor is not None:
        found["actor"] = {"user": {"uid": event.actor}}
    if event.sid is not None:
        found["session"] = {"uid": event.sid}
    if event.ip is not None:
        found["src_endpoint"] = {"ip": event.ip}
    if event.reason is not None:
        found["status_detail"] = event.reason
    if "user_agent" in event.personal:
        found["http_request"] = {"user_agent": event.personal["user_agent"]}
    if class_uid == _FINDING:
        uid = found["metadata"].get("uid", f"{event.type}:{event.at}")
        found["finding_info"] = {"uid": uid, "title": str(event.type)}
    return found


def _line(found: Mapping[str, Any]) -> str:
    return msgspec.json.encode(found).decode() + "\n"


FORMATS: Mapping[Format, Callable[[Event], str]] = {
    "jsonl": as_json,
    "csv": as_csv,
    "otel": lambda event: _line(as_otel(event)),
    "ocsf": lambda event: _line(as_ocsf(event)),
}
"""How one event is written in each format; a CSV file begins with ``csv_header``."""
