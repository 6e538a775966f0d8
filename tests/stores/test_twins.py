"""``core.change.apply`` is the reference: every database says the same, in its own language, to random changes."""

from __future__ import annotations

import asyncio
import secrets as chance

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from databases import KINDS, new_url
from sessiondb import open_store
from sessiondb.core.change import (
    Applied,
    Change,
    Confirm,
    Conflict,
    Create,
    End,
    Gone,
    Rotate,
    SignIn,
    Touch,
    Update,
    apply,
    new_change_id,
)
from sessiondb.core.record import LINK_BYTES, NO_SALT, EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import ChangeResult, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.checks import equal, same_record
from sessiondb.testing.kit import Kit

# Names of fields and separators of the databases, as keys of somebody's data.
KEYS = [
    "",
    "a",
    ":",
    "d:",
    "d:a",
    "rev",
    "secret_hash",
    "ended_at",
    "$a",
    "a.b",
    "$$REMOVE",
    "a'b\"c\\",
    "é😀",
    "k" * 200,
]
VALUES = [b"null", b"0", b'""', b"[]", b"{}", b'{"a":{"b":1}}', b"-1.5", b"9223372036854775807"]
CLIENT = b'{"ip":"192.0.2.1"}'
SECRETS = [bytes([number]) * 32 for number in range(3)]
SESSIONS = 3
LINKS = [bytes([number]) * LINK_BYTES for number in range(3)]

keys = st.sampled_from(KEYS)
guards = st.one_of(st.none(), st.integers(0, 6))
# Before and after everything, equal times, and zero.
moments = st.sampled_from([-(10**9), -1, 0, 1, 10**15])
secrets = st.sampled_from(SECRETS)
lives = st.sampled_from([1, 10**6, 10**12, 3 * 10**14])
links = st.lists(st.sampled_from(LINKS), max_size=3).map(tuple)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    def maybe(strategy: st.SearchStrategy[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct | None]:
        return st.one_of(st.none(), strategy)

    salts = st.sampled_from([NO_SALT, b"s" * 16])
    return Update(
        sid=Sid(""),
        id=new_change_id(),
        put=draw(st.dictionaries(keys, st.sampled_from(VALUES), max_size=4)),
        remove=draw(st.frozensets(keys, max_size=4)),
        touch=draw(maybe(st.builds(Touch, moments, st.sampled_from([None, CLIENT])))),
        rotate=draw(maybe(st.builds(Rotate, secrets, secrets, salts, moments))),
        confirm=draw(maybe(st.builds(Confirm, secrets, moments))),
        sign_in=draw(
            maybe(
                st.builds(
                    SignIn,
                    moments,
                    st.sampled_from([b"{}", b'{"methods":["pwd"]}']),
                    lives,
                    lives,
                    st.sampled_from(["normal", "remembered", "staff+remembered", "it's"]),
                    links,
                )
            )
        ),
        if_rev=draw(guards),
    )


ends = st.builds(
    End,
    st.just(Sid("")),
    st.builds(new_change_id),
    st.sampled_from(EndReason),
    moments,
    moments,
    guards,
    st.one_of(st.none(), moments),
)
# What to do to one session: a change, once more an earlier change, or to make the session again.
steps = st.one_of(updates(), updates(), updates(), ends, st.integers(0, 5), st.just("create"))


@pytest.fixture(params=KINDS, scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_url(request.param, tmp_path_factory.mktemp("twins"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(steps, min_size=SESSIONS, max_size=SESSIONS), min_size=1, max_size=12),
    st.lists(links, min_size=SESSIONS, max_size=SESSIONS),
    st.data(),
)
def test_every_store_is_a_twin_of_the_reference(
    url: str, batches: list[list[Update | End | int | str]], linked: list[tuple[bytes, ...]], data: st.DataObject
) -> None:
    """Each batch has one change of each session; answers, records and who is linked are compared after each."""
    made_of = data.draw(st.lists(st.booleans(), min_size=len(batches), max_size=len(batches)))
    asyncio.run(_compare(url, batches, linked, made_of))


async def _compare(
    url: str, batches: list[list[Update | End | int | str]], linked: list[tuple[bytes, ...]], made_of: list[bool]
) -> None:
    store = open_store(url)
    await store.open()
    try:
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock() - 10**6
        first = [kit.record("ann", secret_hash=SECRETS[0], age=10**7) for _ in range(SESSIONS)]
        model: dict[Sid, Record | None] = dict.fromkeys(record.sid for record in first)
        # Each example has links of its own, as it has sessions.
        names = {link: chance.token_bytes(LINK_BYTES) for link in LINKS}
        creates = {
            record.sid: Create(record, tuple(names[link] for link in own))
            for record, own in zip(first, linked, strict=True)
        }
        history: dict[Sid, list[Change]] = {sid: [create] for sid, create in creates.items()}
        found_by: dict[bytes, set[Sid]] = {name: set() for name in names.values()}
        for steps, seen in zip([["create"] * SESSIONS, *batches], [False, *made_of], strict=True):
            changes = [
                _change(
                    step, creates[record.sid], history[record.sid], model[record.sid] if seen else None, kit.now, names
                )
                for step, record in zip(steps, first, strict=True)
            ]
            await _step(store, changes, model, found_by)
            for link, sids in found_by.items():
                page = await store.find(kit.query(link=link, state="all"))
                assert [record.sid for record in page.records] == sorted(sids, reverse=True)
            for change in changes:
                history[change.sid].append(change)
    finally:
        await store.close()


def _change(
    step: Update | End | int | str,
    create: Create,
    history: list[Change],
    seen: Record | None,
    now: int,
    names: dict[bytes, bytes],
) -> Change:
    record = create.record
    if isinstance(step, str):
        return create
    if isinstance(step, int):
        return history[-1 - step % len(history)]
    if isinstance(step, End):
        announce_at = None if step.announce_at is None else now + step.announce_at
        return msgspec.structs.replace(
            step, sid=record.sid, at=now + step.at, purge_at=now + step.purge_at, announce_at=announce_at
        )
    moved = {
        name: msgspec.structs.replace(part, at=now + part.at)
        for name in ("touch", "rotate", "confirm", "sign_in")
        if (part := getattr(step, name)) is not None
    }
    if step.sign_in is not None:
        own = tuple(names[link] for link in step.sign_in.links)
        moved["sign_in"] = msgspec.structs.replace(moved["sign_in"], links=own)
    change = msgspec.structs.replace(step, sid=record.sid, **moved)
    if seen is None or seen.ended_at is not None:
        return change
    whole, _ = apply(seen, msgspec.structs.replace(change, rotate=None, confirm=None, if_rev=None), now)
    return msgspec.structs.replace(change, seen=seen, whole=b"{}" if whole is None else whole.data)


async def _step(
    store: Store, changes: list[Change], model: dict[Sid, Record | None], found_by: dict[bytes, set[Sid]]
) -> None:
    before = await store.clock()
    results = await store.apply(changes)
    after = await store.clock()
    sids = [change.sid for change in changes]
    for change, result, found in zip(changes, results, await store.load(sids), strict=True):
        written, outcome = apply(model[change.sid], change, before)
        _same_outcome(result, outcome, change)
        expected = model[change.sid] if written is None else written
        if found is not None and written is not None and isinstance(change, Update) and change.touch is not None:
            expected = _seen_by_its_own_clock(found, written, change.touch.at, before, after)
        if expected is None:
            assert found is None
        else:
            same_record(found, expected, f"after {change!r}")
        model[change.sid] = expected
        if written is not None:
            for link in _links_of(change):
                found_by[link].add(change.sid)


def _links_of(change: Change) -> tuple[bytes, ...]:
    if isinstance(change, Create):
        return change.links
    return change.sign_in.links if isinstance(change, Update) and change.sign_in is not None else ()


def _seen_by_its_own_clock(found: Record, expected: Record, at: int, before: int, after: int) -> Record:
    """``expected`` with the time at which the store has cut a touch of the future."""
    if at <= before or expected.last_seen_at < before:
        return expected
    assert before <= found.last_seen_at <= after
    assert abs(found.check_at - expected.check_at) <= after - before
    return msgspec.structs.replace(expected, last_seen_at=found.last_seen_at, check_at=found.check_at)


def _same_outcome(result: ChangeResult, expected: object, change: Change) -> None:
    if isinstance(expected, Conflict):
        assert isinstance(result, Conflict), (result, change)
        same_record(result.record, expected.record, f"in the conflict of {change!r}")
    elif isinstance(expected, Applied) and isinstance(change, Update) and change.only_touches:
        assert isinstance(result, Applied), (result, change)
    else:
        assert isinstance(expected, Applied | Gone)
        equal(result, expected, f"the outcome of {change!r}")
