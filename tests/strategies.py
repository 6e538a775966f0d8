"""Random session data, records and changes for property tests."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from sessiondb.core import codec, token
from sessiondb.core.change import SignIn, Touch, Update, new_change_id
from sessiondb.core.policy import SECOND
from sessiondb.core.record import Record

NOW = 1_800_000_000 * SECOND
DAY = 86_400 * SECOND

ODD_KEYS = [
    "",
    " ",
    "a b",
    'a"b',
    "a'b",
    "a\\b",
    "a\\",
    "\\u0000",
    "a.b",
    "$a",
    "$",
    "$.a",
    "a`b",
    "a/b",
    "{}",
    "[0]",
    "null",
    "é",
    "e\u0301",
    "😀",
    "\u2028",
    "\x01",
    "\x7f",
    "\ufeff",
    "\U0010ffff",
    "k" * 200,
    "é" * 200,
]
ODD_VALUES = [
    0,
    1,
    1.0,
    True,
    False,
    None,
    -0.0,
    0.0,
    1e23,
    1e-7,
    5e-324,
    1.7976931348623157e308,
    0.1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    9007199254740993.0,
    "",
    "null",
    "\\u0000",
    "1e23",
    [],
    {},
    [[]],
    [{}],
    {"": {}},
    {"a": {"a.b": ['"']}},
]

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
keys = st.sampled_from(ODD_KEYS) | texts
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    st.sampled_from(ODD_VALUES) | scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
data = st.dictionaries(keys, values, max_size=6)

# Few keys, so that changes meet.
_common = st.sampled_from(["a", "b", "c", 'd"', "e.f"])
clients = st.none() | st.sampled_from([b'{"ip":"192.0.2.1"}', b'{"ip":"192.0.2.2"}'])
touches = st.builds(Touch, st.integers(NOW - 1000, NOW), clients)
sign_ins = st.builds(
    SignIn,
    st.integers(NOW - 1000, NOW),
    st.sampled_from([b"{}", b'{"methods":["pwd"]}']),
    st.integers(1, DAY),
    st.integers(1, DAY),
    st.sampled_from(["normal", "remembered"]),
)


def updates(sid: token.Sid) -> st.SearchStrategy[Update]:
    """Unguarded updates of one session."""
    return st.builds(
        lambda put, remove, touch, sign_in: Update(
            sid=sid, id=new_change_id(), put=encoded(put), remove=remove, touch=touch, sign_in=sign_in
        ),
        st.dictionaries(_common, scalars, max_size=3),
        st.frozensets(_common, max_size=3),
        st.none() | touches,
        st.none() | sign_ins,
    )


def encoded(values: dict[str, object]) -> dict[str, bytes]:
    """Each value as JSON by itself."""
    return {key: codec.encode_value(key, value) for key, value in values.items()}


def record(*, now: int = NOW, **fields: object) -> Record:
    """A living session of ``now``, with its token's digests."""
    issued = token.mint(now)
    settings: dict[str, object] = {
        "sid": issued.sid,
        "series_hash": token.digest(issued.series),
        "secret_hash": token.digest(issued.secret),
        "created_at": now,
        "last_seen_at": now,
        "idle": 14 * DAY,
        "absolute": 30 * DAY,
        "check_at": now + 14 * DAY,
        "last_changes": new_change_id(),
    }
    return Record(**{**settings, **fields})  # type: ignore[arg-type]


def spelled(value: object) -> str:
    """A spelling that tells 1 from 1.0 from True, and 0.0 from -0.0."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{spelled(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(spelled, value)) + "]"
    return f"{type(value).__name__}({value!r})"
