"""Law 9: sessions are found and ended by their links, as by their users."""

from __future__ import annotations

import hashlib

from sessiondb.core.change import SignIn
from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR, PURGE_AFTER
from sessiondb.testing.checks import equal, is_applied
from sessiondb.testing.kit import Kit


def _link(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:LINK_BYTES]


async def sessions_are_found_by_their_links(kit: Kit) -> None:
    """By each of its links, whoever's it is; not by another link; and a session without links by none."""
    store = await kit.store()
    one, two, none = kit.record("alice"), kit.record("bob"), kit.record("alice")
    a, b, c = _link("a"), _link("b"), _link("c")
    for change in (kit.create(one, [a, b]), kit.create(two, [b]), kit.create(none)):
        is_applied(await kit.apply(store, change), "storing a session")
    for link, expected in ((a, [one]), (b, [one, two]), (c, [])):
        page = await store.find(kit.query(link=link))
        equal(sorted(r.sid for r in page.records), sorted(r.sid for r in expected), "sessions of a link")
    page = await store.find(kit.query("bob", link=b))
    equal([record.sid for record in page.records], [two.sid], "sessions of a user and a link")
    page = await store.find(kit.query(sids=[one.sid, none.sid], link=b))
    equal([record.sid for record in page.records], [one.sid], "sessions of sids and a link")
    page = await store.find(kit.query(link=b, limit=1))
    rest = await store.find(kit.query(link=b, limit=1, before=page.next))
    equal([r.sid for r in (*page.records, *rest.records)], sorted([one.sid, two.sid], reverse=True), "two pages")


async def sessions_are_ended_by_their_links(kit: Kit) -> None:
    """Those that live, once, but the one that is kept; all others live on."""
    store = await kit.store()
    a = _link("a")
    linked = [kit.record(user) for user in ("alice", "bob", None)]
    kept, ended, other = kit.record("alice"), kit.record("bob"), kit.record("alice")
    for record in (*linked, kept, ended):
        is_applied(await kit.apply(store, kit.create(record, [a])), "storing a session")
    await kit.put_in(store, other)
    is_applied(await kit.apply(store, kit.end(ended)), "an end")
    done = await store.end_where(kit.query(link=a, keep=kept.sid), EndReason.REVOKED)
    equal(sorted(one.sid for one in done), sorted(record.sid for record in linked), "ended by link")
    left = {one.sid for one in (await store.find(kit.query())).records}
    equal(left, {kept.sid, other.sid}, "who lives")
    equal(list(await store.end_where(kit.query(link=a, keep=kept.sid), EndReason.REVOKED)), [], "ended again")


async def a_sign_in_adds_links(kit: Kit) -> None:
    """Signing in again adds its links to those the session has."""
    store = await kit.store()
    record = kit.record("alice")
    a, b = _link("a"), _link("b")
    is_applied(await kit.apply(store, kit.create(record, [a])), "storing a session")
    sign_in = SignIn(kit.now, b"{}", DAY, 2 * DAY, "normal", (b,))
    is_applied(await kit.apply(store, kit.update(record, sign_in=sign_in)), "a sign-in")
    for link in (a, b):
        page = await store.find(kit.query(link=link))
        equal([one.sid for one in page.records], [record.sid], "sessions of a link")


async def a_link_goes_with_its_tombstone(kit: Kit) -> None:
    """Ended sessions are still found by their links, purged ones are not."""
    store = await kit.store()
    record, a = kit.record("alice", age=HOUR), _link("a")
    is_applied(await kit.apply(store, kit.create(record, [a])), "storing a session")
    is_applied(await kit.apply(store, kit.end(record)), "an end")
    page = await store.find(kit.query(link=a, state="ended"))
    equal([one.sid for one in page.records], [record.sid], "an ended session by its link")
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER), 100)
    equal(swept.purged, 1, "purged")
    page = await store.find(kit.query(link=a, state="all"))
    equal(list(page.records), [], "a purged session by its link")


async def a_repeated_create_keeps_its_links(kit: Kit) -> None:
    """A create whose reply was lost is sent again, links included."""
    store = await kit.store()
    record, a = kit.record("alice"), _link("a")
    for _ in range(2):
        is_applied(await kit.apply(store, kit.create(record, [a])), "storing a session")
    page = await store.find(kit.query(link=a))
    equal([one.sid for one in page.records], [record.sid], "sessions of the link")


BEHAVIOURS = [
    Behaviour((9,), sessions_are_found_by_their_links),
    Behaviour((9,), sessions_are_ended_by_their_links),
    Behaviour((9,), a_sign_in_adds_links),
    Behaviour((9,), a_link_goes_with_its_tombstone),
    Behaviour((9,), a_repeated_create_keeps_its_links),
]
