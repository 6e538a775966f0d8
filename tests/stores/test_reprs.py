"""What is printed of a store, in a log or a debugger, shows no password."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from sessiondb import open_store

REPLICA = quote("postgresql://reader:s3cret@replica:5432/app", safe="")


@pytest.mark.security("S8")
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@host:5432/app",
        f"postgresql://ann:s3cret@host:5432/app?replica={REPLICA}",
        "mysql://ann:s3cret@host:3306/app",
        "redis://ann:s3cret@host:6379/0",
        "rediss://ann:s3cret@host:6379/0?ssl_cert_reqs=none",
        "redis+cluster://ann:s3cret@one,two",
        "redis+sentinel://ann:s3cret@one,two/primary?sentinel_username=sam&sentinel_password=s3cret",
        "mongodb://ann:s3cret@one,two/app?replicaSet=rs0",
        "mongodb+srv://ann:s3cret@host/app",
    ],
)
def test_a_store_its_settings_and_all_that_it_holds_show_no_password(url: str) -> None:
    store = open_store(url)
    held = vars(store)
    assert "where=" in repr(held["_settings"])
    for shown in (store, *held.values(), *(vars(value) for value in held.values() if hasattr(value, "__dict__"))):
        assert "s3cret" not in repr(shown)
