"""Errors are what they say, over HTTP too."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from sessiondb import CrossOriginRefused, LoginRefused, SessionEnded, SessionUnavailable, StoreUnavailable


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SessionUnavailable("the disk is full", outcome="unknown"), 503),
        (SessionEnded("it was revoked", reason="revoked"), 401),
        (LoginRefused("too many", reason="limit"), 409),
        (CrossOriginRefused("from elsewhere"), 403),
    ],
)
def test_http_errors_keep_their_message_for_the_log_and_their_status_for_the_client(
    error: Exception, status: int
) -> None:
    assert isinstance(error, HTTPException)
    assert error.status_code == status
    assert str(error) not in error.detail
    assert str(error) == error.args[0]


def test_a_session_that_is_not_to_be_had_says_when_to_come_back() -> None:
    error = SessionUnavailable("away", outcome="unknown", retry_after=3)
    assert error.headers == {"Retry-After": "3", "Cache-Control": "no-store"}
    assert isinstance(error, StoreUnavailable)
    assert error.outcome == "unknown"
