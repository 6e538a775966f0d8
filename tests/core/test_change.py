"""What a change does to a record, and that merging changes nothing about it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core import codec, token
from sessiondb.core.change import (
    Applied,
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
    merge,
    merge_touches,
    new_change_id,
    remember,
)
from sessiondb.core.errors import SessionDataError
from sessiondb.core.policy import Policy
from sessiondb.core.record import NO_SALT, EndReason, Record
from strategies import DAY, NOW, clients, data, encoded, keys, record, spelled, updates, values

SID = record().sid


def update(of: Record, **fields: object) -> Update:
    return Update(sid=of.sid, id=new_change_id(), **fields)  # type: ignore[arg-type]


def end(of: Record, **fields: object) -> End:
    settings: dict[str, object] = {"reason": EndReason.LOGOUT, "at": NOW, "purge_at": NOW + DAY}
    return End(sid=of.sid, id=new_change_id(), **{**settings, **fields})  # type: ignore[arg-type]


def after(of: Record, change: Update | End | Create, now: int = NOW) -> Record:
    stored, outcome = apply(of, change, now)
    assert stored is not None
    assert outcome == Applied(stored.rev)
    return stored


def in_order(changes: list[Update]) -> list[Update]:
    """The same changes with their touches in the order of time: nobody promises whose client stays otherwise."""
    times = iter(sorted(change.touch.at for change in changes if change.touch is not None))
    return [
        change
        if change.touch is None
        else msgspec.structs.replace(change, touch=msgspec.structs.replace(change.touch, at=next(times)))
        for change in changes
    ]


@given(data, st.lists(updates(SID), min_size=2, max_size=6))
def test_merged_changes_do_what_they_do_one_by_one(stored: dict[str, object], changes: list[Update]) -> None:
    changes = in_order(changes)
    start = record(data=codec.encode_data(stored), last_seen_at=NOW - 500, check_at=NOW + DAY)
    one_by_one = start
    for change in changes:
        one_by_one = apply(one_by_one, change, NOW)[0] or one_by_one
    merged = changes[0]
    for change in changes[1:]:
        merged = merge(merged, change)
    at_once = apply(start, merged, NOW)[0] or start
    assert spelled(codec.decode_data(at_once.data)) == spelled(codec.decode_data(one_by_one.data))
    for name in ("last_seen_at", "client_last", "authenticated_at", "auth", "idle", "absolute", "lifetime"):
        assert getattr(at_once, name) == getattr(one_by_one, name), name
    assert at_once.rev - start.rev == (one_by_one.rev > start.rev)
    assert at_once.check_at <= Policy().caps.deadline(at_once)


@given(st.lists(updates(SID), min_size=3, max_size=3))
def test_merging_is_associative(changes: list[Update]) -> None:
    first, second, third = in_order(changes)
    left, right = merge(merge(first, second), third), merge(first, merge(second, third))
    assert left == right


@given(st.lists(st.builds(Touch, st.integers(0, 9), clients), min_size=2, max_size=5, unique_by=lambda t: t.at))
def test_touches_merge_to_the_latest_with_the_newest_known_client(touches: list[Touch]) -> None:
    merged: Touch | None = None
    for touch in touches:
        merged = merge_touches(merged, touch)
    assert merged is not None
    assert merged.at == max(touch.at for touch in touches)
    assert merged == merge_touches(merged, None) == merge_touches(None, merged)
    ordered = sorted(touches, key=lambda touch: touch.at)
    in_time_order: Touch | None = None
    for touch in ordered:
        in_time_order = merge_touches(in_time_order, touch)
    assert in_time_order is not None
    known = [touch.client for touch in ordered if touch.client is not None]
    assert in_time_order.client == (known[-1] if known else None)


def test_merged_sign_ins_keep_the_links_of_both() -> None:
    one = record()
    a, b, c = (bytes([number]) * 16 for number in range(3))
    first = SignIn(NOW, b"{}", DAY, DAY, "normal", (a, b))
    second = SignIn(NOW + 1, b"{}", 2 * DAY, 2 * DAY, "remembered", (b, c))
    merged = merge(update(one, sign_in=first), update(one, sign_in=second)).sign_in
    assert merged == msgspec.structs.replace(second, links=(a, b, c))
    for changes in ((update(one, sign_in=first), update(one)), (update(one), update(one, sign_in=first))):
        assert merge(*changes).sign_in == first


def test_guarded_changes_and_other_sessions_are_never_merged() -> None:
    one, other = record(), record()
    plain = update(one, put={"a": b"1"})
    rotate = Rotate(one.secret_hash, b"n" * 32, b"s" * 32, NOW)
    for guarded in (
        update(one, if_rev=1),
        update(one, rotate=rotate),
        update(one, confirm=Confirm(one.secret_hash, NOW)),
    ):
        with pytest.raises(ValueError, match="unguarded"):
            merge(plain, guarded)
        with pytest.raises(ValueError, match="unguarded"):
            merge(guarded, plain)
    with pytest.raises(ValueError, match="one session"):
        merge(plain, update(other, put={"a": b"1"}))


@given(data, st.dictionaries(keys, values, max_size=4), st.frozensets(keys, max_size=4))
def test_a_delta_is_a_dict_update(stored: dict[str, object], put: dict[str, object], remove: frozenset[str]) -> None:
    start = record(data=codec.encode_data(stored))
    expected = {key: value for key, value in stored.items() if key not in remove} | put
    found = after(start, update(start, put=encoded(put), remove=remove, touch=Touch(NOW)))
    assert spelled(codec.decode_data(found.data)) == spelled(expected)


def test_create_never_overwrites_and_knows_itself() -> None:
    first = record(data=b'{"a":1}')
    assert apply(None, Create(first), NOW) == (first, Applied(1))
    assert apply(first, Create(first), NOW) == (None, Applied(1))
    stranger = record(sid=first.sid)
    assert apply(first, Create(stranger), NOW) == (None, Conflict(first))
    later = after(first, update(first, put={"b": b"2"}))
    assert apply(later, Create(first), NOW) == (None, Applied(2))


def test_nothing_but_create_makes_a_session() -> None:
    missing = record()
    for change in (update(missing, put={"a": b"1"}), update(missing, touch=Touch(NOW)), end(missing)):
        assert apply(None, change, NOW) == (None, Gone(None))


def test_an_ended_session_takes_nothing_more() -> None:
    living = record(data=b'{"a":1}', salt=b"s" * 32, user_id="alice")
    ended = after(living, end(living, reason=EndReason.REVOKED))
    assert (ended.data, ended.salt, ended.end_reason, ended.check_at) == (b"{}", None, "revoked", NOW + DAY)
    assert ended.user_id == "alice"
    for change in (update(ended, put={"a": b"1"}), update(ended, touch=Touch(NOW)), end(ended)):
        assert apply(ended, change, NOW) == (None, Gone("revoked"))


def test_a_repeated_change_is_applied_once() -> None:
    start = record()
    change = update(start, put={"a": b"1"})
    once = after(start, change)
    assert apply(once, change, NOW) == (None, Applied(2))
    others = once
    for number in range(7):
        others = after(others, update(others, put={"a": str(number).encode()}))
    assert apply(others, change, NOW) == (None, Applied(9))
    finish = end(start)
    ended = after(start, finish)
    assert apply(ended, finish, NOW) == (None, Applied(ended.rev))
    guarded = update(start, put={"a": b"2"}, if_rev=1)
    assert apply(after(start, guarded), guarded, NOW) == (None, Applied(2))
    assert apply(ended, change, NOW) == (None, Gone("logout"))


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=12))
def test_the_newest_eight_changes_are_remembered(ids: list[bytes]) -> None:
    found = b""
    for change_id in ids:
        found = remember(change_id, found)
    assert found == b"".join(reversed(ids))[:64]
    assert all(record(last_changes=found).knows(change_id) for change_id in ids[-8:])
    # Ids are recognised at their own places only, never across the border of two.
    assert not record(last_changes=b"aaaabbbbccccdddd").knows(b"bbbbcccc")


def test_guards() -> None:
    start = record(rev=3)
    for refused in (
        update(start, put={"a": b"1"}, if_rev=2),
        end(start, if_rev=2),
        update(start, rotate=Rotate(b"x" * 32, b"n" * 32, b"s" * 32, NOW)),
        update(start, confirm=Confirm(b"x" * 32, NOW)),
    ):
        assert apply(start, refused, NOW) == (None, Conflict(start))
    assert after(start, update(start, put={"a": b"1"}, if_rev=3)).rev == 4
    assert after(start, end(start, if_rev=3)).end_reason == "logout"


def test_a_touch_moves_forward_only_never_past_the_clock_and_has_no_rev() -> None:
    start = record(last_seen_at=NOW - 100)
    for at, expected in ((NOW - 200, NOW - 100), (NOW - 50, NOW - 50), (NOW + 500, NOW)):
        touched = after(start, update(start, touch=Touch(at)))
        assert touched.last_seen_at == expected
        assert (touched.rev, touched.last_changes, touched.check_at) == (1, start.last_changes, start.check_at)


def test_rotation_keeps_what_the_next_requests_need_and_the_confirmation_erases_the_salt() -> None:
    old = token.mint(NOW)
    start = record(sid=old.sid, secret_hash=token.digest(old.secret))
    salt = token.new_salt()
    new = old.rotated(salt)
    rotate = Rotate(start.secret_hash, token.digest(new.secret), salt, NOW)
    rotated = after(start, update(start, rotate=rotate, put={"a": b"1"}))
    assert (rotated.previous_hash, rotated.secret_hash) == (start.secret_hash, token.digest(new.secret))
    assert (rotated.salt, rotated.rotated_at, rotated.confirmed_at) == (salt, NOW, None)
    assert apply(rotated, update(start, rotate=rotate), NOW) == (None, Conflict(rotated))
    confirmed = after(rotated, update(start, confirm=Confirm(rotated.secret_hash, NOW + 1)))
    assert (confirmed.salt, confirmed.confirmed_at) == (None, NOW + 1)
    again = after(confirmed, update(start, confirm=Confirm(rotated.secret_hash, NOW + 9)))
    assert again.confirmed_at == NOW + 1


def test_a_step_up_stays_marked_after_its_confirmation() -> None:
    start = record()
    rotated = after(start, update(start, rotate=Rotate(start.secret_hash, b"n" * 32, NO_SALT, NOW)))
    confirmed = after(rotated, update(start, confirm=Confirm(b"n" * 32, NOW)))
    assert confirmed.salt == NO_SALT


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_check_at_stays_a_lower_bound_of_the_deadline(seen: int, idle: int, absolute: int, touched: bool) -> None:
    start = record(created_at=NOW - 50, last_seen_at=NOW - seen, check_at=NOW + 30, idle=40, absolute=90)
    sign_in = SignIn(NOW, b"{}", idle, absolute, "normal")
    signed_in = after(start, update(start, sign_in=sign_in, touch=Touch(NOW) if touched else None))
    deadline = min(signed_in.created_at + absolute, signed_in.last_seen_at + idle)
    assert signed_in.check_at <= max(deadline, start.check_at)
    assert signed_in.check_at <= deadline


def test_a_record_that_cannot_be_read_raises_only_where_it_must_be_read() -> None:
    broken = record(data=b"not json")
    with pytest.raises(SessionDataError, match="not a JSON object"):
        apply(broken, update(broken, put={"a": b"1"}), NOW)
    assert after(broken, update(broken, touch=Touch(NOW))).data == b"not json"
    assert after(broken, end(broken)).data == b"{}"


def test_change_ids_are_eight_random_bytes() -> None:
    ids = [new_change_id() for _ in range(1000)]
    assert {len(one) for one in ids} == {8}
    assert len(set(ids)) == len(ids)
    assert all(one != other for one, other in pairwise(ids))
