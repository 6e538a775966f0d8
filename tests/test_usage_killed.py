"""A worker is killed: what it has published is there, and of the rest at most a minute is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from databases import new_url
from sessiondb import SessionDB

WORKER = """
import asyncio, sys
from unittest import mock
from sessiondb import SessionDB

async def main():
    with mock.patch("sessiondb.usage.EVERY", 0.05):
        async with SessionDB(sys.argv[1], sweep_every=None) as db:
            gatherer, publish = db.runtime.usage, db.runtime.usage.publish

            async def publish_and_tell(store):
                before = made
                await publish(store)
                print("published", before, flush=True)

            gatherer.publish = publish_and_tell
            made = 0
            while True:
                await db.create(f"user{made % 50}")
                made += 1
                await asyncio.sleep(0.001)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis"])
async def test_what_was_published_stays(kind: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    try:
        published = 0
        while published < 100:
            line = await asyncio.to_thread(worker.stdout.readline)
            assert line, "the worker has ended"
            published = int(line.split()[1])
    finally:
        worker.kill()
        rest, _ = worker.communicate()
    published = max([published, *(int(line.split()[1]) for line in rest.splitlines() if line.count(" ") == 1)])
    async with SessionDB(url, sweep_every=None) as db:
        total = (await db.usage()).total
        stats = await db.stats()
        assert published <= total.logins <= stats.live
        assert total.active_users == 50
        # The next worker counts on.
        await db.create("somebody else")
        assert (await db.usage()).total.logins == total.logins + 1
