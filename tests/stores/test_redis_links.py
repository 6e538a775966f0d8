"""Links and announced ends in Redis and Valkey: lists that name too much and never too little, and heal."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from databases import new_prefix, url_of, with_option
from sessiondb.core.change import Applied, Conflict, SignIn
from sessiondb.core.errors import StoreError, StoreUnavailable
from sessiondb.core.record import LINK_BYTES, EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_change_scripts as change_scripts
from sessiondb.stores import _redis_script as scripts
from sessiondb.stores._redis_connection import NotConnected
from sessiondb.stores._redis_nodes import Keyed, Wait
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR, MINUTE
from sessiondb.testing.kit import Kit

GARBAGE = scripts.GARBAGE_AFTER_MS * 1000


@pytest.fixture(params=["redis", "redis_cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    store = RedisStore(with_option(url_of(request.param), f"prefix={new_prefix()}"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


def new_link() -> bytes:
    return secrets.token_bytes(LINK_BYTES)


async def raw(store: RedisStore, name: str, key: bytes, *arguments: Any) -> Any:
    [reply] = await store.run([(key, (name, key, *arguments))])
    return reply


async def create(kit: Kit, store: RedisStore, *links: bytes, **fields: Any) -> Record:
    record = kit.record("ann", **fields)
    assert await kit.apply(store, kit.create(record, links)) == Applied(1)
    return record


async def found_by(kit: Kit, store: RedisStore, link: bytes) -> list[Sid]:
    return [one.sid for one in (await store.find(kit.query(link=link, state="all"))).records]


async def test_a_link_is_listed_until_the_hard_end_and_collected_after_it(store: RedisStore, kit: Kit) -> None:
    link = new_link()
    key = store.keys.link(link.hex())
    longer = await create(kit, store, link, absolute=90 * DAY)
    shorter = await create(kit, store, link, absolute=DAY)
    for record in (longer, shorter):
        assert int(await raw(store, "ZSCORE", key, record.sid)) == record.created_at + record.absolute
    # By the one that stays longest, though the other came later.
    left = await raw(store, "PTTL", key)
    assert abs(left * 1000 - (90 * DAY + GARBAGE)) < MINUTE
    without = await create(kit, store)
    assert await raw(store, "HEXISTS", store.keys.session(without.sid), "links") == 0


async def test_old_entries_leave_with_the_next_that_comes(store: RedisStore, kit: Kit) -> None:
    link = new_link()
    key = store.keys.link(link.hex())
    await raw(store, "ZADD", key, kit.now - GARBAGE - MINUTE, "forgotten", kit.now - GARBAGE + MINUTE, "kept")
    record = await create(kit, store, link)
    assert await raw(store, "ZRANGE", key, 0, -1) == [b"kept", record.sid.encode()]


async def test_a_longer_life_is_longer_in_every_list(store: RedisStore, kit: Kit) -> None:
    """Signing in again gives another hard end, which the links that the session had before must know too."""
    old, new = new_link(), new_link()
    record = await create(kit, store, old, absolute=DAY)
    sign_in = SignIn(kit.now, b"{}", DAY, 90 * DAY, "normal", (new, old))
    assert await kit.apply(store, kit.update(record, sign_in=sign_in)) == Applied(2)
    for link in (old, new):
        assert int(await raw(store, "ZSCORE", store.keys.link(link.hex()), record.sid)) == kit.now + 90 * DAY
    field = await raw(store, "HGET", store.keys.session(record.sid), "links")
    assert field.decode().split() == [old.hex(), new.hex()]


@pytest.mark.parametrize("by_query", [True, False])
async def test_a_tombstone_that_is_kept_for_long_is_found_as_long(store: RedisStore, kit: Kit, by_query: bool) -> None:
    """Longer than the list would keep a session that is over."""
    link = new_link()
    soon, late = [await create(kit, store, link, absolute=HOUR, idle=HOUR) for _ in range(2)]
    for record, purge_after in ((soon, 7 * DAY), (late, 60 * DAY)):
        if by_query:
            query = replace(kit.query(sids=[record.sid]), purge_at=kit.now + purge_after)
            assert len(await store.end_where(query, EndReason.REVOKED)) == 1
        else:
            await kit.apply(store, kit.end(record, purge_after=purge_after))
    key = store.keys.link(link.hex())
    assert int(await raw(store, "ZSCORE", key, soon.sid)) == soon.created_at + soon.absolute
    assert int(await raw(store, "ZSCORE", key, late.sid)) == kit.now + 60 * DAY
    assert abs(await raw(store, "PTTL", key) * 1000 - (60 * DAY + GARBAGE)) < MINUTE


async def test_a_purge_leaves_nothing_in_any_list(store: RedisStore, kit: Kit) -> None:
    links = [new_link(), new_link()]
    record = await create(kit, store, *links)
    await kit.apply(store, kit.end(record))
    assert (await store.sweep(kit.cutoffs(kit.now + 30 * DAY), 10)).purged == 1
    for key in (*(store.keys.link(link.hex()) for link in links), store.keys.due(record.sid), store.keys.user("ann")):
        assert await raw(store, "EXISTS", key) == 0


@pytest.mark.parametrize("heal", ["sweep", "repair"])
async def test_lists_of_links_heal(store: RedisStore, kit: Kit, heal: str) -> None:
    """From what each session says of itself: every living one comes before the sweeper in its life."""
    link = new_link()
    record = await create(kit, store, link, check_at=kit.now - 1)
    ended = await create(kit, store, link)
    await kit.apply(store, kit.end(ended))
    key = store.keys.link(link.hex())
    await raw(store, "UNLINK", key)
    assert await found_by(kit, store, link) == []
    if heal == "sweep":
        await store.sweep(kit.cutoffs(), 100)
        assert await found_by(kit, store, link) == [record.sid]
    else:
        await store.repair()
        assert set(await found_by(kit, store, link)) == {record.sid, ended.sid}
    assert int(await raw(store, "ZSCORE", key, record.sid)) == record.created_at + record.absolute
    assert await raw(store, "PTTL", key) > 0


async def test_what_a_list_names_too_much_is_neither_found_nor_ended(store: RedisStore, kit: Kit) -> None:
    """A create that met another session of its sid has been listed before it was refused."""
    link, other = new_link(), new_link()
    record = await create(kit, store, other)
    refused = kit.create(kit.record("mallory", sid=record.sid), [link])
    assert isinstance(await kit.apply(store, refused), Conflict)
    assert await raw(store, "ZSCORE", store.keys.link(link.hex()), record.sid) is not None
    assert await found_by(kit, store, link) == []
    assert await store.end_where(kit.query(link=link), EndReason.REVOKED) == []
    assert await found_by(kit, store, other) == [record.sid]


async def test_a_session_that_no_link_can_list_is_not_there(store: RedisStore, kit: Kit) -> None:
    """An identity provider's logout would not find it. Signing in to one that is there is not called undone."""
    link = new_link()
    await raw(store, "SET", store.keys.link(link.hex()), "somebody else's")
    refused, known = kit.record("ann"), await create(kit, store)
    sign_in = SignIn(kit.now, b"{}", DAY, DAY, "normal", (link,))
    first, second = await store.apply([kit.create(refused, [link]), kit.update(known, {"a": 1}, sign_in=sign_in)])
    assert isinstance(first, StoreError) and first.outcome == "not_applied"
    assert await kit.find_record(store, refused.sid) is None
    # In a cluster the lists are written before all else, so it has not landed either.
    has_landed = not store.is_cluster
    assert isinstance(second, StoreError) and second.outcome == ("unknown" if has_landed else "not_applied")
    assert await kit.data_of(store, known.sid) == ({"a": 1} if has_landed else {})


class Before:
    """Has something done before one of the calls that a store makes to its servers."""

    def __init__(self, patch: pytest.MonkeyPatch, nth: int, act: Callable[[], Awaitable[object]]) -> None:
        self.calls = 0
        real = RedisStore.try_all

        async def try_all(store: RedisStore, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                patch.setattr(RedisStore, "try_all", real)
                await act()
            return await real(store, *arguments, **options)

        patch.setattr(RedisStore, "try_all", try_all)


@pytest.mark.parametrize("nth", range(1, 7))
async def test_an_end_between_any_two_steps_of_a_sweep_is_announced_in_time(
    store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The sweeper has read it as living and moves its look to the far end of its life; the end wants one soon."""
    record = kit.record("ann", check_at=kit.now - 1)
    await kit.put_in(store, record)
    soon = kit.now + MINUTE

    async def end() -> None:
        assert await kit.apply(store, kit.end(record, announce_at=soon)) == Applied(2)

    before = Before(monkeypatch, nth, end)
    swept = await store.sweep(kit.cutoffs(announce_at=soon), 100)
    assert not swept.ended
    if before.calls < nth:
        await end()
    swept = await store.sweep(kit.cutoffs(soon, announce_at=soon + MINUTE), 100)
    assert [one.sid for one in swept.unannounced] == [record.sid]


class Away:
    """From the ``nth`` call of ``script`` on, no server can be reached."""

    def __init__(self, patch: pytest.MonkeyPatch, store: RedisStore, script: scripts.Script, nth: int = 1) -> None:
        self.met = 0
        nodes = store._nodes.current()
        real = nodes.run

        async def run(commands: Sequence[Keyed], wait: Wait | None = None) -> list[Any]:
            self.met += any(command[1] == script.sha for _, command in commands)
            if self.met >= nth:
                raise NotConnected("nobody answers")
            return await real(commands, wait)

        patch.setattr(nodes, "run", run)


async def test_a_revoke_that_has_written_something_is_not_called_undone(
    store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [kit.record("ann") for _ in range(300)]
    await kit.put_in(store, *records)

    async def revoke(not_before: int | None) -> str:
        with pytest.raises(StoreUnavailable) as caught:
            await store.end_where(kit.query("ann", not_before=not_before), EndReason.REVOKED)
        monkeypatch.undo()
        return caught.value.outcome

    Away(monkeypatch, store, change_scripts.END)
    assert await revoke(None) == "not_applied"
    Away(monkeypatch, store, change_scripts.END)
    assert await revoke(kit.now) == "unknown"
    Away(monkeypatch, store, change_scripts.END, nth=2)
    assert await revoke(None) == "unknown"
    assert 0 < len(await kit.living(store, "ann")) < 300


async def test_changes_that_have_landed_are_answered_though_the_lists_cannot_be_mended(
    store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another life is listed after it was written. Who has not asked for one is not drawn in."""
    one, other = kit.record("ann"), kit.record("ann")
    await kit.put_in(store, one, other)
    real = store._nodes.current().run
    calls = 0

    async def run(commands: Sequence[Keyed], wait: Wait | None = None) -> list[Any]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise NotConnected("nobody answers")
        return await real(commands, wait)

    monkeypatch.setattr(store._nodes.current(), "run", run)
    sign_in = SignIn(kit.now, b"{}", DAY, DAY, "normal")
    first, second = await store.apply([kit.update(one, sign_in=sign_in), kit.update(other, {"a": 1})])
    monkeypatch.undo()
    assert isinstance(first, StoreError) and first.outcome == "unknown"
    assert second == Applied(2)
    assert (await kit.record_of(store, one.sid)).absolute == DAY


async def test_a_login_that_has_pushed_somebody_out_is_not_called_undone(
    store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = kit.record("ann", age=HOUR), kit.record("ann")
    await kit.put_in(store, old, new)
    Away(monkeypatch, store, change_scripts.END)
    with pytest.raises(StoreUnavailable) as caught:
        await store.admit(kit.login(new, per_user=1))
    assert caught.value.outcome == "unknown"


async def test_a_sweep_that_is_cut_off_tells_whom_it_has_ended(
    store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server goes away before the lists are in order: they mend, but nobody else would report these ends."""
    records = [kit.record("ann", age=2 * HOUR, idle=HOUR) for _ in range(300)]
    await kit.put_in(store, *records)
    Away(monkeypatch, store, change_scripts.END, nth=2)
    swept = await store.sweep(kit.cutoffs(), 300)
    monkeypatch.undo()
    assert 0 < len(swept.ended) < 300
    assert "cut off" in caplog.text
    rest = await store.sweep(kit.cutoffs(), 300)
    assert sorted(one.sid for one in (*swept.ended, *rest.ended)) == sorted(record.sid for record in records)
