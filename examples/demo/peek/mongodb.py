"""MongoDB: ``find``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from examples.demo.peek.base import Peek, Row, flat, split_prefix, without_password


class MongoDBPeek(Peek):
    """One client."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__()
        self._url = url
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, serverSelectionTimeoutMS=5000)
        self._database = self._client.get_database(urlsplit(url).path.strip("/") or "sessiondb")
        self._sessions = self._database[f"{prefix}sessions"]
        self.where = f"the collection {prefix}sessions of {without_password(url)}"
        self.means = f"db.{prefix}sessions.find({{}}, {{user_id: 1, rev: 1, end_reason: 1, data: 1}})"

    @classmethod
    async def open(cls, url: str) -> MongoDBPeek:
        """It connects when it is asked."""
        return cls(*split_prefix(url))

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    @property
    def by_hand(self) -> str:
        """See ``Peek.by_hand``."""
        return f"mongosh '{without_password(self._url)}' --eval '{self.means}'"

    async def read(self) -> Iterable[Row]:
        """See ``Peek.read``."""
        wanted = {"user_id": 1, "rev": 1, "end_reason": 1, "data": 1}
        return [
            Row(str(one["_id"].as_uuid()), one.get("user_id"), one["rev"], one.get("end_reason"), one.get("data", {}))
            async for one in self._sessions.find({}, wanted)
        ]

    async def everything(self) -> bytes:
        """See ``Peek.everything``."""
        raw: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
        found: list[bytes] = []
        for name in await self._database.list_collection_names():
            collection: AsyncCollection[Any] = self._database.get_collection(name, codec_options=raw)
            found += [document.raw async for document in collection.find()]
        return flat(found)
