"""Law 9: every store lists and ends by user, matched byte by byte."""

from __future__ import annotations

from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.stores.base import Ended
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import HOUR, PURGE_AFTER
from sessiondb.testing.checks import equal, is_applied, same_record
from sessiondb.testing.kit import Kit, together

LOOK_ALIKES = (
    "alice",
    "Alice",
    "ALICE",
    "alice ",
    " alice",
    "alice\t",
    "alice\n",
    "Álice",
    "A\u0301lice",
    "alicé",
    "aliçe",
    "al%ce",
    "al_ce",
    "alice%",
    "%",
    "_",
    "*",
    "al*ce",
    "alice'",
    "alice''",
    'alice"',
    "alice\\",
    "alice|x",
    "alice:x",
    "alice/x",
    "{alice}",
    "' OR '1'='1",
    "$ne",
    "ß",
    "ss",
    "ı",
    "i",
    "I",
    "İ",
    "0",
    "00",
    "1e0",
    "1",
    "null",
    "None",
    "A" * 255,
    "A" * 254,
    "A" * 254 + "B",
    "é" * 127,
    "😀" * 63,
    "😁" * 63,
    "\x01",
    "\x7f",
    "\u200balice",
)


async def users_are_matched_byte_by_byte(kit: Kit) -> None:
    """Case, accents, spaces, wildcards and quotes: each of 49 look-alikes finds its own session and no other's."""
    store = await kit.store()
    records = [kit.record(user_id) for user_id in LOOK_ALIKES]
    await kit.put_in(store, *records)
    for record in records:
        equal(await kit.living(store, record.user_id or ""), [record.sid], f"sessions of {record.user_id!r}")
        same_record((await store.load([record.sid]))[0], record, "the session")
    equal(await kit.living(store, "aLICE"), [], "sessions of a user who has none")


async def ending_one_user_spares_all_others(kit: Kit) -> None:
    """Revoking one user's sessions ends none of a user whose id looks alike."""
    store = await kit.store()
    records = [kit.record(user_id) for user_id in LOOK_ALIKES]
    await kit.put_in(store, *records)
    for at, record in enumerate(records):
        query = kit.query(record.user_id, not_before=kit.now)
        ended = await store.end_where(query, EndReason.REVOKED)
        expected = [Ended(record.sid, record.user_id, "revoked", kit.now)]
        equal(list(ended), expected, f"ended by revoking {record.user_id!r}")
        left = {one.sid for one in (await store.find(kit.query())).records}
        equal(left, {one.sid for one in records[at + 1 :]}, f"who lives after revoking {record.user_id!r}")


async def lists_are_paged_newest_first(kit: Kit) -> None:
    """Newest first, page by page by ``before``: each session once, and ``next`` is None at the end."""
    store = await kit.store()
    records = [kit.record("alice", age=number * HOUR, unseen=0) for number in range(7)]
    others = [kit.record("bob", age=number * HOUR, unseen=0) for number in range(7)]
    await kit.put_in(store, *records[::2], *others, *records[1::2])
    newest_first = sorted((record.sid for record in records), reverse=True)
    for limit in (1, 2, 3, 6, 7, 8):
        found: list[Sid] = []
        before: Sid | None = None
        for _ in range(8):
            page = await store.find(kit.query("alice", before=before, limit=limit))
            found += [record.sid for record in page.records]
            before = page.next
            if before is None:
                break
            equal(len(page.records), limit, "the length of a page before the last")
        equal(found, newest_first, f"all pages of {limit}")


async def lists_tell_living_from_ended(kit: Kit) -> None:
    """Living, ended and all; a session past its deadline is not living, even before the sweeper has ended it."""
    store = await kit.store()
    living, idle, ended = kit.record("alice"), kit.record("alice", age=2 * HOUR, idle=HOUR), kit.record("alice")
    await kit.put_in(store, living, idle, ended)
    is_applied(await kit.apply(store, kit.end(ended)), "an end")
    for state, expected in (("live", [living]), ("ended", [idle, ended]), ("all", [living, idle, ended])):
        query = kit.query("alice", state="live" if state == "live" else "ended" if state == "ended" else "all")
        found = {record.sid for record in (await store.find(query)).records}
        equal(found, {record.sid for record in expected}, f"state {state!r}")
    pages = await store.find(kit.query("alice", state="ended", limit=1))
    equal((len(pages.records), pages.next is not None), (1, True), "a page of the ended")


async def lists_narrow_by_sid(kit: Kit) -> None:
    """By sids, by sids of one user, and by neither."""
    store = await kit.store()
    alice, bob, anonymous = kit.record("alice"), kit.record("bob"), kit.record()
    await kit.put_in(store, alice, bob, anonymous)
    missing = kit.record()
    sids = [alice.sid, anonymous.sid, missing.sid]

    for query, expected in (
        (kit.query(sids=sids), {alice.sid, anonymous.sid}),
        (kit.query("alice", sids=sids), {alice.sid}),
        (kit.query("bob", sids=sids), set()),
        (kit.query(), {alice.sid, bob.sid, anonymous.sid}),
        (kit.query("nobody"), set()),
    ):
        found = {record.sid for record in (await store.find(query)).records}
        equal(found, expected, "the sids found")


async def ending_all_reports_each_living_session(kit: Kit) -> None:
    """Revoking a user ends every living session but the one to keep, and reports each; lists agree at once."""
    store = await kit.store()
    records = [kit.record("alice", {"a": 1}) for _ in range(120)]
    other = kit.record("bob", {"a": 1})
    await kit.put_in(store, *records, other)
    keep = records[7]
    # limit and before belong to lists; a revoke that stopped at them would leave sessions alive.
    query = kit.query("alice", keep=keep.sid, limit=1, before=records[3].sid)
    ended = await store.end_where(query, EndReason.REVOKED)
    expected = sorted(record.sid for record in records if record is not keep)
    equal(sorted(one.sid for one in ended), expected, "the sessions reported")
    equal({(one.user_id, one.reason, one.at) for one in ended}, {("alice", "revoked", kit.now)}, "the reports")
    equal(await kit.living(store, "alice"), [keep.sid], "what lives")
    for spared in (keep, other):
        same_record(await kit.find_record(store, spared.sid), spared, "a session that was spared")
    tombstone = await kit.record_of(store, records[0].sid)
    equal(
        (tombstone.ended_at, tombstone.end_reason, tombstone.check_at, await kit.data_of(store, tombstone.sid)),
        (kit.now, "revoked", kit.now + PURGE_AFTER, {}),
        "end, reason, purge time and data of a revoked session",
    )


async def ending_twice_reports_once(kit: Kit) -> None:
    """What was ended before is neither reported nor given another reason; concurrent revokes share the report."""
    stores = await kit.stores(2)
    records = [kit.record("alice") for _ in range(30)]
    await kit.put_in(stores[0], *records)
    is_applied(await kit.apply(stores[0], kit.end(records[0], EndReason.LOGOUT)), "an end")
    done = await together(stores[number % 2].end_where(kit.query("alice"), EndReason.REVOKED) for number in range(6))
    reported = sorted(one.sid for ended in done for one in ended)
    equal(reported, sorted(record.sid for record in records[1:]), "reports of six revokes at once")
    equal(list(await stores[1].end_where(kit.query("alice"), EndReason.LIMIT)), [], "a later revoke")
    equal((await kit.record_of(stores[0], records[0].sid)).end_reason, "logout", "the reason of the earlier end")


async def ending_the_expired_calls_them_expired(kit: Kit) -> None:
    """A session past its deadline was over already: revoking ends it as expired, and does not report it."""
    store = await kit.store()
    living, idle = kit.record("alice"), kit.record("alice", age=3 * HOUR, idle=HOUR)
    absolute = kit.record("alice", age=3 * HOUR, unseen=0, idle=HOUR, absolute=HOUR)
    await kit.put_in(store, living, idle, absolute)
    ended = await store.end_where(kit.query("alice"), EndReason.REVOKED)
    equal([one.sid for one in ended], [living.sid], "the sessions reported")
    reasons = [(await kit.record_of(store, record.sid)).end_reason for record in (living, idle, absolute)]
    equal(reasons, ["revoked", "expired_idle", "expired_absolute"], "the reasons")


async def ending_by_sid_spares_all_others(kit: Kit) -> None:
    """By sids, by sids of one user (another user's sid is spared), and everybody."""
    store = await kit.store()
    alice, bob, anonymous = kit.record("alice"), kit.record("bob"), kit.record()
    await kit.put_in(store, alice, bob, anonymous)
    missing = kit.record().sid
    ended = await store.end_where(kit.query("alice", sids=[bob.sid, missing]), EndReason.REVOKED)
    equal(list(ended), [], "alice ending bob's session")
    ended = await store.end_where(kit.query(sids=[anonymous.sid, missing]), EndReason.REVOKED)
    equal(list(ended), [Ended(anonymous.sid, None, "revoked", kit.now)], "ending one by its sid")
    equal({one.sid for one in (await store.find(kit.query())).records}, {alice.sid, bob.sid}, "living sessions")
    ended = await store.end_where(kit.query(keep=bob.sid), EndReason.REVOKED)
    equal([one.sid for one in ended], [alice.sid], "ending everybody but one")


BEHAVIOURS = [
    Behaviour((9,), users_are_matched_byte_by_byte),
    Behaviour((9,), ending_one_user_spares_all_others),
    Behaviour((9,), lists_are_paged_newest_first),
    Behaviour((9,), lists_tell_living_from_ended),
    Behaviour((9,), lists_narrow_by_sid),
    Behaviour((9,), ending_all_reports_each_living_session),
    Behaviour((9, 2), ending_twice_reports_once),
    Behaviour((9, 7), ending_the_expired_calls_them_expired),
    Behaviour((9,), ending_by_sid_spares_all_others),
]
