"""Law 3 and fidelity: what goes in comes out equal, nested changes and types included."""

from __future__ import annotations

import random
from typing import Any

from sessiondb.core import codec
from sessiondb.core.change import Create
from sessiondb.core.record import EndReason
from sessiondb.stores.base import Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.behaviours.samples import ODD_KEYS, ODD_VALUES, random_data, random_key, random_value
from sessiondb.testing.checks import equal, is_applied, same_data
from sessiondb.testing.kit import Kit


async def odd_values_come_out_equal(kit: Kit) -> None:
    """Every number, text and container comes out equal and of its type, at the top and nested, by both verbs."""
    store = await kit.store()
    for value in ODD_VALUES:
        created = kit.record(None, {"v": value, "nested": [{"v": value}]})
        await kit.put_in(store, created)
        same_data(await kit.data_of(store, created.sid), {"v": value, "nested": [{"v": value}]}, "created data")
        is_applied(await kit.apply(store, kit.update(created, {"new": value, "v": [value]})), "an update")
        expected = {"v": [value], "nested": [{"v": value}], "new": value}
        same_data(await kit.data_of(store, created.sid), expected, "updated data")


async def odd_keys_are_just_keys(kit: Kit) -> None:
    """Quotes, dots, dollars, backslashes, case and emoji in keys: each is set, changed and removed by itself."""
    store = await kit.store()
    expected: dict[str, Any] = dict.fromkeys(ODD_KEYS, 0)
    record = kit.record(None, expected)
    await kit.put_in(store, record)
    same_data(await kit.data_of(store, record.sid), expected, "created with odd keys")
    for number, key in enumerate(ODD_KEYS):
        expected[key] = number
        is_applied(await kit.apply(store, kit.update(record, {key: number})), f"setting {key!r}")
    same_data(await kit.data_of(store, record.sid), expected, "each odd key set by itself")
    for key in ODD_KEYS[::2]:
        del expected[key]
        is_applied(await kit.apply(store, kit.update(record, remove=[key])), f"removing {key!r}")
        same_data(await kit.data_of(store, record.sid), expected, f"after removing {key!r}")


async def random_data_comes_out_equal(kit: Kit) -> None:
    """Seeded random JSON, written whole and key by key, removed and written again, is what a dict would hold."""
    store = await kit.store()
    source = random.Random(20)  # noqa: S311  repeatable
    for _ in range(60):
        expected = random_data(source)
        record = kit.record(None, expected)
        is_applied(await kit.apply(store, Create(record)), f"creating with {expected!r:.200}")
        same_data(await kit.data_of(store, record.sid), expected, "random data, created")
        for _ in range(3):
            put = {random_key(source): random_value(source) for _ in range(source.randrange(3))}
            remove = [key for key in [*expected, random_key(source)] if source.random() < 0.3]
            expected = {key: value for key, value in expected.items() if key not in remove} | put
            is_applied(await kit.apply(store, kit.update(record, put, remove)), f"setting {put!r:.200}")
        same_data(await kit.data_of(store, record.sid), expected, "random data, changed")


async def nested_changes_are_kept(kit: Kit) -> None:
    """A value of the same key that differs only deep inside, in order, in length or in type, replaces the old one."""
    store = await kit.store()
    record = kit.record(None, {"v": None})
    await kit.put_in(store, record)
    steps: list[Any] = [
        {"items": [{"sku": "a", "n": 1}]},
        {"items": [{"sku": "a", "n": 2}]},
        {"items": [{"sku": "a", "n": 2.0}]},
        {"items": [{"sku": "a", "n": True}]},
        {"items": [{"sku": "a", "n": "2"}]},
        {"items": [{"sku": "a", "n": [2]}]},
        {"items": [{"sku": "a"}]},
        {"items": [{"sku": "a"}, {"sku": "b"}]},
        {"items": [{"sku": "b"}, {"sku": "a"}]},
        {"items": []},
        {"items": {}},
        {},
        [],
        [[]],
        0,
        0.0,
        -0.0,
        False,
        "",
        None,
    ]
    for step in steps:
        is_applied(await kit.apply(store, kit.update(record, {"v": step})), f"setting {step!r}")
        same_data(await kit.data_of(store, record.sid), {"v": step}, "a nested change")


async def objects_are_replaced_and_not_merged(kit: Kit) -> None:
    """Setting a key to an object replaces what it held: keys that the new object lacks are gone."""
    store = await kit.store()
    record = kit.record(None, {"v": {"a": {"x": 1}, "b": 2, "n": None}})
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.update(record, {"v": {"a": {"y": 1}, "n": None}})), "setting an object")
    same_data(await kit.data_of(store, record.sid), {"v": {"a": {"y": 1}, "n": None}}, "an object set over another")


async def the_deepest_and_largest_data_fits(kit: Kit) -> None:
    """Data nested 24 deep, 64 KiB of text and a thousand keys are kept."""
    store = await kit.store()
    deep: Any = "end"
    for level in range(24):
        deep = {"k": deep} if level % 2 else [deep]
    await _keeps(kit, store, {"deep": deep})
    await _keeps(kit, store, {"large": "é" * (codec.MAX_BYTES // 2 - 20)})
    await _keeps(kit, store, {f"key {number}": number for number in range(1000)})


async def a_session_of_many_keys_can_be_ended(kit: Kit) -> None:
    """As many keys as fit into 64 KiB are created, changed and dropped at the end: no number of them prevents it."""
    store = await kit.store()
    data = {f"{number:x}": 0 for number in range(0x100, 0x100 + 8150)}
    created, updated = kit.record("alice", data), kit.record("alice")
    await kit.put_in(store, created, updated)
    for value in (1, 2):
        changed = dict.fromkeys(data, value)
        is_applied(await kit.apply(store, kit.update(updated, changed)), "an update of 8,150 keys")
        same_data(await kit.data_of(store, updated.sid), changed, "8,150 keys")
    same_data(await kit.data_of(store, created.sid), data, "8,150 keys")
    is_applied(await kit.apply(store, kit.end(created)), "the end of a session of 8,150 keys")
    ended = await store.end_where(kit.query("alice"), EndReason.REVOKED)
    equal([one.sid for one in ended], [updated.sid], "those that a revoke has ended")
    for record in (created, updated):
        equal(await kit.data_of(store, record.sid), {}, "the data after the end")


async def _keeps(kit: Kit, store: Store, data: dict[str, Any]) -> None:
    created, updated = kit.record(None, data), kit.record()
    await kit.put_in(store, created, updated)
    is_applied(await kit.apply(store, kit.update(updated, data)), "an update with much data")
    for record in (created, updated):
        same_data(await kit.data_of(store, record.sid), data, "deep or large data")


BEHAVIOURS = [
    Behaviour((3,), odd_values_come_out_equal),
    Behaviour((3,), odd_keys_are_just_keys),
    Behaviour((3,), random_data_comes_out_equal),
    Behaviour((3,), nested_changes_are_kept),
    Behaviour((3,), objects_are_replaced_and_not_merged),
    Behaviour((3,), the_deepest_and_largest_data_fits),
    Behaviour((3,), a_session_of_many_keys_can_be_ended),
]
