"""Counts."""

from __future__ import annotations

import asyncio

from sessiondb.stores._mongodb_rows import Document
from sessiondb.stores._mongodb_url import Collections
from sessiondb.stores.base import Stats

COUNT_EXACTLY = 1_000_000
_SAMPLE = 10_000


async def stats(collections: Collections) -> Stats:
    """See ``Store.stats``; above a million sessions from a sample of ten thousand."""
    total, events, size = await asyncio.gather(
        collections.sessions.estimated_document_count(),
        collections.events.estimated_document_count(),
        collections.database.command("dbStats"),
    )
    sampled = total > COUNT_EXACTLY
    is_living = {"$eq": [{"$ifNull": ["$ended_at", None]}, None]}
    stages: list[Document] = [{"$sample": {"size": _SAMPLE}}] if sampled else []
    stages.append(
        {
            "$group": {
                "_id": "$user_id",
                "all": {"$sum": 1},
                "live": {"$sum": {"$cond": [is_living, 1, 0]}},
            }
        }
    )
    sums = {
        "$group": {
            "_id": None,
            "all": {"$sum": "$all"},
            "live": {"$sum": "$live"},
            "users": {
                "$sum": {
                    "$cond": [{"$and": [{"$gt": ["$live", 0]}, {"$ne": [{"$ifNull": ["$_id", None]}, None]}]}, 1, 0]
                }
            },
        }
    }
    found = await (await collections.sessions.aggregate([*stages, sums], allowDiskUse=True)).to_list()
    counts = found[0] if found else {"all": 0, "live": 0, "users": 0}
    scale = total / counts["all"] if sampled and counts["all"] else 1.0
    return Stats(
        live=round(counts["live"] * scale),
        ended=round((counts["all"] - counts["live"]) * scale),
        users=round(counts["users"] * scale),
        events=events,
        size_bytes=int(size["storageSize"] + size["indexSize"]),
    )
