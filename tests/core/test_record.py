"""What is kept with a session, and the user ids that are taken."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.client import Sighting, agent_text, encode
from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import (
    Auth,
    Client,
    Risk,
    check_user_id,
    decode_auth,
    decode_client,
    decode_risk,
    encode_auth,
)


class Role(enum.StrEnum):
    ADMIN = "admin"


class MyStr(str):
    pass


@pytest.mark.parametrize(
    ("user_id", "stored"),
    [
        ("alice", "alice"),
        ("Alice ", "Alice "),
        ("Álice", "Álice"),
        ("x" * 255, "x" * 255),
        ("é" * 127, "é" * 127),
        (42, "42"),
        (0, "0"),
        (-(10**253), "-1" + "0" * 253),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (MyStr("bob"), "bob"),
    ],
)
def test_user_ids_are_kept_as_they_are(user_id: Any, stored: str) -> None:
    found = check_user_id(user_id)
    assert found == stored
    assert type(found) is str


@pytest.mark.parametrize(
    "user_id",
    [
        "",
        "x" * 256,
        "é" * 128,
        "a\0b",
        "\x1fidp:00000",
        "\ud800",
        None,
        True,
        1.5,
        b"alice",
        Role.ADMIN,
        object(),
        ["alice"],
        10**255,
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_a_user_id_is_refused(user_id: Any) -> None:
    with pytest.raises(SessionDataError, match="user_id") as caught:
        check_user_id(user_id)
    str(caught.value).encode()


@given(st.none() | st.text(max_size=40).filter(str.isprintable), st.none() | st.binary(max_size=1000))
def test_clients_survive_any_user_agent(ip: str | None, agent: bytes | None) -> None:
    found = decode_client(encode(Sighting(ip, agent_text(agent))))
    assert found.ip == ip
    assert (found.user_agent is None) == (agent is None)
    if agent is not None and found.user_agent is not None:
        assert len(found.user_agent.encode()) <= 512
        assert "\0" not in found.user_agent


def test_auth_round_trips() -> None:
    auth = Auth(("pwd", "otp"), 2, "root")
    assert decode_auth(encode_auth(auth)) == auth


@given(st.binary(max_size=40))
def test_what_cannot_be_read_is_less_proof_and_never_an_error(raw: bytes) -> None:
    assert isinstance(decode_client(raw), Client)
    assert isinstance(decode_auth(raw), Auth)
    assert isinstance(decode_risk(raw), Risk)
    assert decode_auth(b'{"level":"high"}') == Auth()
