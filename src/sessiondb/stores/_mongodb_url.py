"""``mongodb://`` URLs: what is ours in them, and what the driver is given."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import split_options

from sessiondb.core.errors import ConfigurationError

DATABASE = "sessiondb"
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII).fullmatch
_URL = re.compile(r"([^:]*)://([^/?]*)(?:/([^?]*))?(?:\?(.*))?", re.DOTALL).fullmatch
_DEFAULTS: dict[str, Any] = {
    # Below the deadline of a request, so that the error says what is wrong and not only that nothing came.
    "serverSelectionTimeoutMS": 1500,
    "connectTimeoutMS": 1500,
    "wTimeoutMS": 1500,
    # Longer than any call may take; without it, what waits at a connection that has died unheard waits for ever.
    "socketTimeoutMS": 20_000,
    "w": "majority",
    "retryWrites": True,
    "maxPoolSize": 32,
    "appName": "sessiondb",
}
# Dates as numbers: people may have stored one that Python cannot hold.
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)

Collection = AsyncCollection[dict[str, Any]]


class Collections:
    """The client of one event loop, and what it is asked for. Everything is read from the primary."""

    def __init__(self, client: AsyncMongoClient[dict[str, Any]], database: str, prefix: str) -> None:
        self._client = client
        self.database: AsyncDatabase[dict[str, Any]] = client.get_database(
            database,
            codec_options=_CODEC,
            read_preference=ReadPreference.PRIMARY,
            # What is read has been acknowledged, or can be: a failover takes none of it back.
            read_concern=ReadConcern("majority"),
        )
        self.sessions: Collection = self.database[f"{prefix}sessions"]
        self.users: Collection = self.database[f"{prefix}users"]
        self.events: Collection = self.database[f"{prefix}events"]
        self.meta: Collection = self.database[f"{prefix}meta"]
        self.histories: Collection = self.database[f"{prefix}histories"]
        self.counters: Collection = self.database[f"{prefix}counters"]
        self.sheets: Collection = self.database[f"{prefix}sheets"]

    @property
    def every(self) -> tuple[Collection, ...]:
        """All collections of the store."""
        return self.sessions, self.users, self.events, self.meta, self.histories, self.counters, self.sheets

    def session(self) -> AsyncClientSession:
        """What a transaction is bound to; not a session of ours."""
        return self._client.start_session()

    async def hello(self) -> dict[str, Any]:
        """What the server says of itself."""
        return await self.database.command("hello", codec_options=_CODEC)

    async def close(self) -> None:
        """Close all connections, also if it is cancelled."""
        try:
            await self._client.close()
        except asyncio.CancelledError:
            # It waited for a server to be told; that is not tried a second time.
            await self._client.close()
            raise


@dataclass(frozen=True, slots=True)
class Settings:
    """A URL, read: ``mongodb://user:password@host1,host2/database`` or ``mongodb+srv://host/database``.

    Without a database it is ``sessiondb``. ``?prefix=sessiondb_`` begins the name of every collection. All other
    options go to the driver (``replicaSet=rs0``, ``tls=true``, ``authSource=admin``, ...). These have other defaults:
    ``w=majority``, ``wTimeoutMS=1500``, ``serverSelectionTimeoutMS=1500``, ``connectTimeoutMS=1500``,
    ``socketTimeoutMS=20000``, ``maxPoolSize=32`` connections of one event loop to one server.
    """

    where: str
    prefix: str
    database: str
    uri: str = field(repr=False)
    options: dict[str, Any]

    def connect(self, **others: Any) -> Collections:
        """A client for this event loop; it connects when it is first asked. Raises ``ConfigurationError``.

        ``others`` are options that go before those of the URL.
        """
        try:
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.uri, **self.options | others)
        except (PyMongoError, ValueError, TypeError, OSError) as error:
            raise ConfigurationError(f"mongodb://: the driver does not take this URL: {error}.") from None
        return Collections(client, self.database, self.prefix)


def parse(url: str) -> Settings:
    """Read ``url``. Raises ``ConfigurationError``."""
    match = _URL(url)
    scheme, network, path, query = match.groups() if match else ("", "", "", "")
    if scheme not in ("mongodb", "mongodb+srv"):
        raise ConfigurationError(f"{scheme}:// is unknown; use mongodb://host/database or mongodb+srv://host/database.")
    hosts = network.rpartition("@")[2]
    if not hosts:
        raise ConfigurationError(f"{scheme}:// names no host: {scheme}://host/database.")
    database = unquote(path or "") or DATABASE
    if re.search(r"[/\\. \"$*<>:|?\0]", database):
        raise ConfigurationError(f"{scheme}://: {database!r} is no name of a database; use letters, digits and '_-'.")
    parts = [part for part in (query or "").split("&") if part]
    ours = dict(parse_qsl("&".join(part for part in parts if part.startswith("prefix=")), keep_blank_values=True))
    prefix = ours.get("prefix", "sessiondb_")
    if not _PREFIX(prefix):
        raise ConfigurationError(f"{scheme}://: prefix is {prefix!r}; use at most 64 letters, digits and '_.-'.")
    theirs = "&".join(part for part in parts if not part.startswith("prefix="))
    given = _checked(scheme, theirs)
    if given.get("readpreference", "primary") != "primary":
        raise ConfigurationError(
            f"{scheme}://: readPreference is {given['readpreference']!r}; leave it out. A secondary may not have heard "
            "of a logout yet, so sessions are read from the primary."
        )
    return Settings(
        where=f"{hosts}/{database}",
        prefix=prefix,
        database=database,
        # The path stays: without authSource, the driver looks users up in that database.
        uri=f"{scheme}://{network}/{path or ''}{'?' if theirs else ''}{theirs}",
        options={name: value for name, value in _DEFAULTS.items() if name.lower() not in given},
    )


def _checked(scheme: str, options: str) -> dict[str, Any]:
    """The driver's options, with their names in lower case. It would only warn of those that it does not know."""
    if not options:
        return {}
    try:
        found = split_options(options, validate=True, warn=False)
    except (PyMongoError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{scheme}://: an option after '?' cannot work: {error}.") from None
    return {name.lower(): value for name, value in found.items()}
