"""Law 9: what is kept to judge logins and to see how the app is used."""

from __future__ import annotations

from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.checks import equal
from sessiondb.testing.kit import Kit, together


def _entry(number: int) -> bytes:
    # Every byte value comes, among them what texts and quotes would be broken by.
    return bytes((number * 7 + at * 37) % 256 for at in range(HISTORY_ENTRY_BYTES))


def _entries(history: bytes) -> list[bytes]:
    return [history[at : at + HISTORY_ENTRY_BYTES] for at in range(0, len(history), HISTORY_ENTRY_BYTES)]


async def the_newest_logins_are_kept(kit: Kit) -> None:
    """Newest first, ten at most, each user's own, byte by byte."""
    store = await kit.store()
    later = kit.now + DAY
    equal(await store.profile("ann", []), Profile(b"", []), "the profile of somebody unknown")
    await store.record_logins([("ann", _entry(1)), ("Ann", _entry(9)), ("ann", _entry(2))], later)
    await store.record_logins([("ann", _entry(3))], later)
    equal(_entries((await store.profile("ann", [])).history), [_entry(3), _entry(2), _entry(1)], "three logins")
    equal(_entries((await store.profile("Ann", [])).history), [_entry(9)], "the logins of another")
    await store.record_logins([("ann", _entry(number)) for number in range(4, 16)], later)
    newest = [_entry(number) for number in range(15, 15 - HISTORY_ENTRIES, -1)]
    equal(_entries((await store.profile("ann", [])).history), newest, "the newest of fifteen")
    equal((await store.profile(None, [])).history, b"", "nobody's")


async def concurrent_logins_are_all_kept(kit: Kit) -> None:
    """Ten at once on two handles, of one user: all there, each once."""
    stores = await kit.stores(2)
    await together(stores[n % 2].record_logins([("ann", _entry(n))], kit.now + DAY) for n in range(HISTORY_ENTRIES))
    found = _entries((await stores[0].profile("ann", [])).history)
    equal(sorted(found), sorted(_entry(n) for n in range(HISTORY_ENTRIES)), "the logins")


async def a_login_is_taken_back(kit: Kit) -> None:
    """That one alone, in its place; and nothing where it is not there."""
    store = await kit.store()
    await store.record_logins([("ann", _entry(number)) for number in (1, 2, 3)], kit.now + DAY)
    equal(await store.drop_login("ann", _entry(2)), True, "dropping a login")
    equal(_entries((await store.profile("ann", [])).history), [_entry(3), _entry(1)], "the others")
    equal(await store.drop_login("ann", _entry(2)), False, "dropping it again")
    equal(await store.drop_login("bob", _entry(1)), False, "dropping it from somebody else")
    await store.record_logins([("ann", _entry(4))], kit.now + DAY)
    equal(_entries((await store.profile("ann", [])).history), [_entry(4), _entry(3), _entry(1)], "one more")


async def counters_lose_nothing(kit: Kit) -> None:
    """Forty adds at once on two handles; buckets and keys are told apart byte by byte."""
    stores = await kit.stores(2)
    keys = [b"", b"\x00", b"\xff'\"\\%", b"key", b"KEY", b"k" * 32]
    await together(
        stores[n % 2].count("failures:1", dict.fromkeys(keys, n + 1), most=100, expires_at=kit.now + HOUR)
        for n in range(40)
    )
    await stores[0].count("failures:2", {b"key": 5}, most=100, expires_at=kit.now + HOUR)
    wanted = [*(Counter("failures:1", key) for key in keys), Counter("failures:2", b"key"), Counter("none", b"key")]
    equal(list((await stores[1].profile(None, wanted)).counts), [820] * len(keys) + [5, 0], "the counters")
    both = await stores[0].profile("ann", [Counter("failures:2", b"key"), Counter("failures:2", b"other")])
    equal((both.history, list(both.counts)), (b"", [5, 0]), "the profile of a user with counters")


async def a_bucket_has_so_many_keys_and_no_more(kit: Kit) -> None:
    """New keys are left out where it is full; those that are there count on."""
    store = await kit.store()
    later = kit.now + HOUR
    for n in range(6):
        await store.count("full", {bytes([n]): 1}, most=4, expires_at=later)
    await store.count("full", {b"\x01": 10, b"\x05": 10}, most=4, expires_at=later)
    counts = (await store.profile(None, [Counter("full", bytes([n])) for n in range(6)])).counts
    equal(list(counts), [1, 11, 1, 1, 0, 0], "the counters of a full bucket")


async def sheets_are_kept_by_place(kit: Kit) -> None:
    """The latest of each kind, bucket and writer; found by a range of buckets; and withdrawn."""
    store = await kit.store()
    later = kit.now + DAY
    big = bytes(range(256)) * 256
    sheets = [Sheet("usage", bucket, writer, big, later) for bucket in (1, 2, 3) for writer in ("a", "b")]
    other = Sheet("risk", 2, "a", b"r", later)
    await store.publish([*sheets, other])
    equal(await store.sheets("usage", 1, 3), sheets[:4], "sheets of a range")
    newer = Sheet("usage", 2, "a", b"\x00'", later)
    await store.publish([newer])
    equal(await store.sheets("usage", 2, 3), [newer, sheets[3]], "sheets of a bucket")
    await store.withdraw([newer, sheets[5], Sheet("usage", 9, "z", b"", later)])
    equal(await store.sheets("usage", 0, 100), [sheets[0], sheets[1], sheets[3], sheets[4]], "what is left")
    equal(await store.sheets("risk", 0, 100), [other], "sheets of another kind")


async def what_is_watched_expires(kit: Kit) -> None:
    """Histories, counters and sheets go after their time, and not before."""
    store = await kit.store()
    # A database that expires by itself has its own clock, so what is over must be over by that too.
    past, later = kit.now - HOUR, kit.now + DAY
    await store.record_logins([("bob", _entry(2))], later)
    await store.record_logins([("ann", _entry(1)), ("amy", _entry(1))], past)
    await store.count("new", {b"a": 1}, most=10, expires_at=later)
    await store.count("old", {b"a": 1, b"b": 1}, most=10, expires_at=past)
    old, new = Sheet("usage", 1, "a", b"1", past), Sheet("usage", 2, "a", b"2", later)
    await store.publish([new, old, Sheet("usage", 3, "a", b"3", past)])
    for _ in range(4):
        await store.expire(kit.now, 1)
    for user in ("ann", "amy"):
        equal((await store.profile(user, [])).history, b"", "a history after its time")
    equal(_entries((await store.profile("bob", [])).history), [_entry(2)], "one that goes later")
    wanted = [Counter("old", b"a"), Counter("old", b"b"), Counter("new", b"a")]
    equal(list((await store.profile(None, wanted)).counts), [0, 0, 1], "counters after their time")
    equal(await store.sheets("usage", 0, 9), [new], "the sheets")


BEHAVIOURS = [
    Behaviour((9,), the_newest_logins_are_kept),
    Behaviour((2, 9), concurrent_logins_are_all_kept),
    Behaviour((9,), a_login_is_taken_back),
    Behaviour((2, 9), counters_lose_nothing),
    Behaviour((9,), a_bucket_has_so_many_keys_and_no_more),
    Behaviour((9,), sheets_are_kept_by_place),
    Behaviour((9,), what_is_watched_expires),
]
