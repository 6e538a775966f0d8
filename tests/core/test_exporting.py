"""Events as others read them."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.exporting import COLUMNS, FORMATS, Format, as_csv, as_json, as_ocsf, as_otel, csv_header
from sessiondb.core.sealing import Lane

[EVENT] = Lane(EventClass.LOGIN).seal(
    [
        Event(
            type=EventType.LOGIN_FAILED,
            at=1_700_000_000_000_001,
            sid="sid",
            user_id="ann",
            actor="bob",
            reason="password",
            ip="192.0.2.1",
            details={"tries": 3},
            personal={"user_agent": "Firefox", "network": "192.0.2.0/24"},
        )
    ]
)


def test_json_has_every_field() -> None:
    found = json.loads(as_json(EVENT))
    assert tuple(found) == COLUMNS
    assert EVENT.seal is not None
    assert (found["at"], found["type"], found["class"]) == (EVENT.at, "authn_login_fail", "login")
    assert (found["stream"], found["seq"], found["previous"]) == (EVENT.seal.stream, 1, "0" * 64)
    assert (found["details"], found["personal"]["network"]) == ({"tries": 3}, "192.0.2.0/24")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30)


@given(texts, texts)
def test_csv_is_read_back_and_holds_no_formula(user: str, reason: str) -> None:
    event = Event(type=EventType.LOGIN, at=1, user_id=user, reason=reason)
    header, row = csv.reader(io.StringIO(csv_header() + as_csv(event), newline=""))
    found = dict(zip(header, row, strict=True))
    assert tuple(header) == COLUMNS
    assert found["user_id"].removeprefix("'") == user.removeprefix("'")
    for cell in row:
        assert not cell.startswith(("=", "+", "-", "@", "\t"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("type_", [*EventType, "a type of a later version"])
def test_every_type_has_one_line_in_every_format(format: Format, type_: str) -> None:
    line = FORMATS[format](Event(type=type_, at=1, details={"text": "a\nb"}))
    assert line.endswith("\n")
    assert line.count("\n") == 1
    if format != "csv":
        assert type_ in json.dumps(json.loads(line))


def test_open_telemetry() -> None:
    found = as_otel(EVENT)
    assert (found["timeUnixNano"], found["eventName"]) == ("1700000000000001000", "sessiondb.authn_login_fail")
    assert (found["severityNumber"], found["severityText"]) == (13, "WARN")
    attributes = {one["key"]: next(iter(one["value"].items())) for one in found["attributes"]}
    assert attributes["user.id"] == ("stringValue", "ann")
    assert attributes["session.id"] == ("stringValue", "sid")
    assert attributes["client.address"] == ("stringValue", "192.0.2.1")
    assert attributes["user_agent.original"] == ("stringValue", "Firefox")
    assert attributes["sessiondb.details.tries"] == ("intValue", "3")


@pytest.mark.parametrize(
    ("type_", "class_uid", "activity", "status"),
    [
        (EventType.LOGIN, 3002, 1, 1),
        (EventType.LOGIN_FAILED, 3002, 1, 2),
        (EventType.SESSION_ENDED, 3002, 2, 1),
        (EventType.USER_LOCKED, 3001, 9, 1),
        (EventType.RISK_FOUND, 2004, 1, 1),
        (EventType.SESSION_CREATED, 3002, 99, 1),
        (EventType.POLICY_CHANGED, 3001, 99, 1),
    ],
)
def test_ocsf(type_: EventType, class_uid: int, activity: int, status: int) -> None:
    found = as_ocsf(Event(type=type_, at=5_000, user_id="ann", ip="192.0.2.1"))
    assert (found["class_uid"], found["activity_id"], found["status_id"]) == (class_uid, activity, status)
    assert found["type_uid"] == class_uid * 100 + activity
    assert found["category_uid"] == class_uid // 1000
    assert (found["time"], found["user"], found["src_endpoint"]) == (5, {"uid": "ann"}, {"ip": "192.0.2.1"})
