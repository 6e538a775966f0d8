"""The statements that PostgreSQL runs."""

from __future__ import annotations

from sessiondb.core.policy import Caps
from sessiondb.core.record import CHANGE_ID_BYTES, REMEMBERED_CHANGES, EndReason, Record

NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
COLUMNS = Record.__struct_fields__
JSON_COLUMNS = frozenset({"data", "client_first", "client_last", "auth", "risk"})
_EVENT_TYPES = {
    "at": "bigint",
    "type": "text",
    "sid": "text",
    "user_id": "text",
    "actor": "text",
    "reason": "text",
    "ip": "text",
    "details": "json",
    "personal": "json",
    "stream": "text",
    "seq": "bigint",
    "previous": "bytea",
    "who_commitment": "bytea",
    "actor_commitment": "bytea",
    "where_commitment": "bytea",
    "who_salt": "bytea",
    "actor_salt": "bytea",
    "where_salt": "bytea",
}
EVENT_COLUMNS = ", ".join(_EVENT_TYPES)
_EVENT_GIVEN = ", ".join(f"{name} {'text' if kind == 'json' else kind}" for name, kind in _EVENT_TYPES.items())
_EVENT_VALUES = ", ".join(f"{name}::json" if kind == "json" else name for name, kind in _EVENT_TYPES.items())
_REMEMBERED = CHANGE_ID_BYTES * REMEMBERED_CHANGES
# PostgreSQL has no function that gives random bytes in version 13, but it has this one.
_RANDOM_ID = f"substring(uuid_send(gen_random_uuid()) FROM 1 FOR {CHANGE_ID_BYTES})"


def _read(name: str, table: str) -> str:
    # Bytes need no decoding here, and no codec has to be set on the connection.
    if name == "sid":
        return f"{table}sid::text"
    return f"convert_to({table}{name}::text, 'UTF8')" if name in JSON_COLUMNS else f"{table}{name}"


def columns(table: str = "", *, data: bool = True) -> str:
    """The columns of a record, in its order. Without ``data`` that is an empty object."""
    return ", ".join(
        "'{}'::bytea AS data" if name == "data" and not data else f"{_read(name, table)} AS {name}" for name in COLUMNS
    )


def deadline(table: str = "") -> str:
    """The deadline as SQL, with places for ``with_caps``: the twin of ``Caps.deadline``."""
    return f"least({_hard_end(table)}, {table}last_seen_at + least({table}idle, {_cap('idle', table)}))"


def expiry_reason(table: str = "") -> str:
    """Which limit ends a session first, as SQL: the twin of ``Caps.expiry_reason``."""
    return (
        f"CASE WHEN {deadline(table)} = {_hard_end(table)} THEN '{EndReason.EXPIRED_ABSOLUTE}' "
        f"ELSE '{EndReason.EXPIRED_IDLE}' END"
    )


def _hard_end(table: str) -> str:
    return f"{table}created_at + least({table}absolute, {_cap('absolute', table)})"


def _cap(name: str, table: str) -> str:
    return f"(CASE {table}lifetime {{{name}_by_name}} END)"


def with_caps(sql: str, caps: Caps, values: list[object]) -> str:
    """``sql`` with the places for caps filled by parameters, which are added to ``values``."""
    at = len(values)
    values += (caps.normal.idle, caps.normal.absolute)
    idle = absolute = ""
    for name, cap in caps.named.items():
        when = f"WHEN ${len(values) + 1}::text THEN"
        idle += f"{when} ${len(values) + 2}::bigint "
        absolute += f"{when} ${len(values) + 3}::bigint "
        values += (name, cap.idle, cap.absolute)
    return sql.format(
        idle_by_name=f"{idle}ELSE ${at + 1}::bigint", absolute_by_name=f"{absolute}ELSE ${at + 2}::bigint"
    )


class Statements:
    """The SQL for tables with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.sessions = f"{prefix}sessions"
        self.links = f"{prefix}links"
        self.users = f"{prefix}users"
        self.events = f"{prefix}events"
        self.histories = f"{prefix}histories"
        self.buckets = f"{prefix}buckets"
        self.counters = f"{prefix}counters"
        self.sheets = f"{prefix}sheets"
        self.meta = f"{prefix}meta"
        read = f"SELECT {columns()} FROM {self.sessions} WHERE sid ="
        self.load = f"{read} ANY($1::uuid[])"
        # The plan for any list of sids is taken for one of ten, so a list of one is planned anew each time.
        self.load_one = f"{read} $1::uuid"
        self.touch = _TOUCHES.format(sessions=self.sessions, clients="", names="", client="")
        self.touch_with_clients = _TOUCHES.format(
            sessions=self.sessions,
            clients=", $3::text[]",
            names=", client",
            client=", client_last = coalesce(g.client::json, s.client_last)",
        )
        self.put = _UPDATE.format(sessions=self.sessions, kept="s.data", touched="")
        self.update = _UPDATE.format(
            sessions=self.sessions,
            kept="(s.data - $5::text[])",
            touched=(
                f",\n  last_seen_at = greatest(s.last_seen_at, least($6::bigint, {NOW})),\n"
                "  client_last = coalesce($7::json, s.client_last)"
            ),
        )
        self.append = self.insert_events(again=True)
        self._apply: dict[tuple[bool, ...], str] = {}

    def apply(self, *, updates: bool, creates: bool, links: bool, events: bool) -> str:
        """One statement for a batch; its parameters are the JSON of those four that there are, in that order."""
        kind = (updates, creates, links, events)
        if kind not in self._apply:
            self._apply[kind] = self._make_apply(*kind)
        return self._apply[kind]

    def _make_apply(self, updates: bool, creates: bool, links: bool, events: bool) -> str:
        parts: list[str] = []
        answers: list[str] = []
        changed: list[str] = []
        number = 0
        if updates:
            number += 1
            parts.append(_UPDATES.format(sessions=self.sessions, number=number))
            answers.append("SELECT sid::text, rev FROM updated")
            changed.append("SELECT sid FROM updated")
        if creates:
            number += 1
            names = ", ".join(COLUMNS)
            parts.append(
                f"created AS (INSERT INTO {self.sessions} ({names}) "
                f"SELECT {names} FROM json_populate_recordset(NULL::{self.sessions}, ${number}::json) ORDER BY sid "
                "ON CONFLICT (sid) DO NOTHING RETURNING sid, rev)"
            )
            answers.append("SELECT sid::text, rev FROM created")
            changed.append("SELECT sid FROM created")
        if links:
            number += 1
            # In the order of the key, as everywhere: two batches may bring the same link.
            parts.append(
                f"linked AS (INSERT INTO {self.links} (link, sid) SELECT link, sid "
                f"FROM json_to_recordset(${number}::json) AS given_links(link bytea, sid uuid) "
                f"JOIN ({' UNION ALL '.join(changed)}) AS changed USING (sid) ORDER BY link, sid "
                "ON CONFLICT DO NOTHING)"
            )
        if events:
            number += 1
            parts.append(f"events AS ({self.insert_events(number)})")
            if not answers:
                answers.append("SELECT NULL::text AS sid, 0::bigint AS rev WHERE false")
        return f"WITH {', '.join(parts)} {' UNION ALL '.join(answers)}"

    def insert_events(self, number: int = 1, *, again: bool = False) -> str:
        """Write the events in the JSON of parameter ``number``; those of taken places are left out with ``again``."""
        # The server numbers them in the order in which they are given.
        return (
            f"INSERT INTO {self.events} ({EVENT_COLUMNS}) SELECT {_EVENT_VALUES} "
            f"FROM json_to_recordset(${number}::json) AS given_events({_EVENT_GIVEN})"
            f"{' ON CONFLICT (stream, seq) DO NOTHING' if again else ''}"
        )

    def end(self, *, ended_at: str, reason: str, purge_at: str, announce_at: str) -> str:
        """The assignments that end a session ``s``: the twin of ``core.change`` for ``End``."""
        return (
            f"ended_at = {ended_at}, end_reason = {reason}, check_at = least({announce_at}, {purge_at}), "
            f"purge_at = {purge_at}, rev = s.rev + 1, salt = NULL, "
            f"data = '{{{{}}}}', last_changes = substring({_RANDOM_ID} || s.last_changes FROM 1 FOR {_REMEMBERED})"
        )


# Rows are locked in the order of their sids before any is written, here and everywhere: no two batches can deadlock.
# The twin of core.change.apply: what it refuses is left alone here, and Python asks it for the reason.
_UPDATES = f"""
given AS MATERIALIZED (
  SELECT * FROM json_to_recordset(${{number}}::json) AS given(
    sid uuid, id bytea, touches boolean, put jsonb, remove text[], seen_at bigint, client json, if_rev bigint,
    if_secret bytea, secret_hash bytea, salt bytea, rotated_at bigint, confirmed_at bigint, authenticated_at bigint,
    auth json, idle bigint, absolute bigint, lifetime text, ended_at bigint, end_reason text, purge_at bigint,
    announce_at bigint)
), locked AS MATERIALIZED (
  SELECT sid FROM {{sessions}} WHERE sid = ANY (ARRAY(SELECT sid FROM given)) ORDER BY sid FOR NO KEY UPDATE
), updated AS (
  UPDATE {{sessions}} AS s SET
    rev = CASE WHEN g.touches THEN s.rev ELSE s.rev + 1 END,
    last_changes = CASE WHEN g.touches THEN s.last_changes
      ELSE substring(g.id || s.last_changes FROM 1 FOR {_REMEMBERED}) END,
    data = CASE
      WHEN g.ended_at IS NOT NULL THEN '{{{{}}}}'
      WHEN g.put IS NULL AND g.remove IS NULL THEN s.data
      ELSE (CASE WHEN g.remove IS NULL THEN s.data ELSE s.data - g.remove END) || coalesce(g.put, '{{{{}}}}') END,
    last_seen_at = greatest(s.last_seen_at, least(coalesce(g.seen_at, 0), {NOW})),
    client_last = coalesce(g.client, s.client_last),
    confirmed_at = CASE WHEN g.secret_hash IS NULL THEN coalesce(s.confirmed_at, g.confirmed_at) END,
    salt = CASE
      WHEN g.ended_at IS NOT NULL THEN NULL
      WHEN g.secret_hash IS NOT NULL THEN g.salt
      WHEN g.confirmed_at IS NOT NULL AND s.confirmed_at IS NULL AND s.salt <> '' THEN NULL
      ELSE s.salt END,
    previous_hash = CASE WHEN g.secret_hash IS NULL THEN s.previous_hash ELSE s.secret_hash END,
    secret_hash = coalesce(g.secret_hash, s.secret_hash),
    rotated_at = coalesce(g.rotated_at, s.rotated_at),
    authenticated_at = coalesce(g.authenticated_at, s.authenticated_at),
    auth = coalesce(g.auth, s.auth),
    idle = coalesce(g.idle, s.idle),
    absolute = coalesce(g.absolute, s.absolute),
    lifetime = coalesce(g.lifetime, s.lifetime),
    check_at = CASE
      WHEN g.ended_at IS NOT NULL THEN least(g.announce_at, g.purge_at)
      WHEN g.idle IS NULL THEN s.check_at
      ELSE least(s.check_at, s.created_at + g.absolute,
                 greatest(s.last_seen_at, least(coalesce(g.seen_at, 0), {NOW})) + g.idle) END,
    ended_at = g.ended_at,
    end_reason = g.end_reason,
    purge_at = g.purge_at
  FROM given AS g JOIN locked USING (sid)
  WHERE s.sid = g.sid AND s.ended_at IS NULL
    AND (g.if_rev IS NULL OR s.rev = g.if_rev)
    AND (g.if_secret IS NULL OR s.secret_hash = g.if_secret)
    AND position(g.id IN s.last_changes) = 0
  RETURNING s.sid, s.rev
)"""


# One ordinary write alone, as most are where few people are about: the same for one row takes a third of the time.
_UPDATE = f"""
UPDATE {{sessions}} AS s SET
  rev = s.rev + 1,
  last_changes = substring($2::bytea || s.last_changes FROM 1 FOR {_REMEMBERED}),
  data = {{kept}} || $3::jsonb{{touched}}
WHERE s.sid = $1::uuid AND s.ended_at IS NULL AND ($4::bigint IS NULL OR s.rev = $4)
  AND position($2::bytea IN s.last_changes) = 0
RETURNING s.sid::text, s.rev"""


# Lone touches. A row that somebody else holds is passed over, so this waits for nobody, and nobody waits for it longer
# than it works. Told are those that were not touched, of thousands none or a few, and whether and why each has ended.
_TOUCHES = f"""
WITH given AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::bigint[]{{clients}}) AS given(sid, seen_at{{names}})
), locked AS MATERIALIZED (
  SELECT sid FROM {{sessions}} WHERE sid = ANY ($1::uuid[]) AND ended_at IS NULL ORDER BY sid
  FOR NO KEY UPDATE SKIP LOCKED
), touched AS (
  UPDATE {{sessions}} AS s SET last_seen_at = greatest(s.last_seen_at, least(g.seen_at, (SELECT {NOW}))){{client}}
  FROM given AS g JOIN locked USING (sid) WHERE s.sid = g.sid AND s.ended_at IS NULL
  RETURNING s.sid
)
SELECT sid::text,
  (SELECT ARRAY[(s.ended_at IS NULL)::text, s.end_reason] FROM {{sessions}} AS s WHERE s.sid = given.sid)
FROM given WHERE NOT EXISTS (SELECT FROM touched WHERE touched.sid = given.sid)"""
