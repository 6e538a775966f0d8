"""A process that re-encrypts, as ``reencrypting.py URL NEW OLD``: it says how far it has come after each pass."""

from __future__ import annotations

import asyncio
import sys

from sessiondb import KeyRing, SessionDB


async def main(url: str, new: str, old: str) -> None:
    async with SessionDB(url, keys=KeyRing(new, old), sweep_every=None, timeout=20) as db:
        after = None
        while True:
            done = await db.reencrypt(after=after, limit=5)
            print(done.rewritten, done.next, flush=True)
            if done.next is None:
                return
            after = done.next


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
