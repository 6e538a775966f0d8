"""What a driver has said is the cause of our error, for whoever has to find out why; no password is in it."""

from __future__ import annotations

import socket
import traceback

import pytest

from databases import NETWORK
from sessiondb import StoreUnavailable, open_store


@pytest.mark.parametrize("kind", NETWORK)
async def test_the_drivers_error_is_the_cause_of_ours(kind: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and not listening
        option = "?serverSelectionTimeoutMS=200" if kind == "mongodb" else ""
        database = "" if kind == "redis" else "/app"
        store = open_store(f"{kind}://user:s3cret@127.0.0.1:{held.getsockname()[1]}{database}{option}")
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
    assert caught.value.__cause__ is not None
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
