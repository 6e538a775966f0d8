"""SQL views over sessions and events: who logged in, when and from where, how sessions ended, who is signed in.

They read what is there: events as long as the audit trail keeps them, sessions that have ended until they are purged.
``db.usage`` has its own numbers, which stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sessiondb.core.errors import ConfigurationError

_WEEK, _MONDAY = 604_800_000_000, 345_600_000_000  # 1970-01-05

VIEWS = ("usage_logins", "usage_ends", "usage_living", "usage_users")


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a database says it: ``when`` makes a time of microseconds, ``say`` a text of that, for an hour, a day, ..."""

    create: str
    when: Callable[[str], str]
    say: Callable[[str, str], str]
    json: Callable[[str, str], str]
    sid: str  # that of a session, as text
    event_sid: str
    least: str = "least"


_SQLITE_FORMATS = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}
_POSTGRESQL_FORMATS = {"hour": "YYYY-MM-DD HH24:00", "day": "YYYY-MM-DD", "month": "YYYY-MM"}

_DIALECTS = {
    "sqlite": _Dialect(
        create="CREATE VIEW IF NOT EXISTS {name} AS\n",
        when=lambda micros: f"({micros}) / 1000000, 'unixepoch'",
        say=lambda when, kind: f"strftime('{_SQLITE_FORMATS[kind]}', {when})",
        json=lambda column, key: f"json_extract({column}, '$.{key}')",
        sid="sid",
        event_sid="sid",
        least="min",
    ),
    "postgresql": _Dialect(
        create="CREATE OR REPLACE VIEW {name} AS\n",
        when=lambda micros: f"to_timestamp(({micros}) / 1000000) AT TIME ZONE 'UTC'",
        say=lambda when, kind: f"to_char({when}, '{_POSTGRESQL_FORMATS[kind]}')",
        json=lambda column, key: f"{column} ->> '{key}'",
        sid="sid::text",
        event_sid="sid",
    ),
    "mysql": _Dialect(
        create="CREATE OR REPLACE VIEW {name} AS\n",
        # Not FROM_UNIXTIME, which goes by the time zone of whoever asks.
        when=lambda micros: f"DATE_ADD('1970-01-01 00:00:00', INTERVAL ({micros}) DIV 1000000 SECOND)",
        say=lambda when, kind: f"DATE_FORMAT({when}, '{_SQLITE_FORMATS[kind]}')",
        json=lambda column, key: f"JSON_UNQUOTE(JSON_EXTRACT({column}, '$.{key}'))",
        # The user's id stays bytes: no collation compares it as exactly.
        event_sid="CONVERT(sid USING utf8mb4)",
        sid="LOWER(INSERT(INSERT(INSERT(INSERT(HEX(sid), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-'))",
    ),
}


def views_sql(dialect: str, prefix: str = "sessiondb_") -> str:
    """The statements that make the views; repeating them changes nothing.

    ``dialect``: ``"sqlite"``, ``"postgresql"`` or ``"mysql"`` (MariaDB too). Raises ``ConfigurationError`` for another.
    """
    say = _DIALECTS.get(dialect)
    if say is None:
        raise ConfigurationError(
            f"{dialect} has no SQL views; SQLite, PostgreSQL, MySQL and MariaDB have. db.usage() and sessiondb stats "
            "answer the same questions on every database."
        )
    bodies = (_logins(say, prefix), _ends(say, prefix), _living(say, prefix), _users(say, prefix))
    return "".join(
        f"{say.create.format(name=prefix + name)}{body};\n" for name, body in zip(VIEWS, bodies, strict=True)
    )


def drop_sql(prefix: str = "sessiondb_") -> str:
    """The statements that remove them."""
    return "".join(f"DROP VIEW IF EXISTS {prefix}{name};\n" for name in VIEWS)


def _logins(say: _Dialect, p: str) -> str:
    """A row for each login, refused login and failed one."""
    return f"""\
  SELECT
    at,
    {_periods(say, "at")},
    CASE type WHEN 'authn_login_success' THEN 'success' WHEN 'login_refused' THEN 'refused' ELSE 'failed' END
      AS outcome,
    reason,
    user_id,
    {say.event_sid} AS sid,
    ip,
    coalesce({say.json("personal", "country")}, 'unknown') AS country,
    {say.json("personal", "user_agent")} AS user_agent
  FROM {p}events WHERE type IN ('authn_login_success', 'login_refused', 'authn_login_fail')"""


def _ends(say: _Dialect, p: str) -> str:
    """A row for each session that has ended and was not purged yet."""
    return f"""\
  SELECT
    ended_at,
    {_periods(say, "ended_at")},
    end_reason AS reason,
    {say.sid} AS sid,
    user_id,
    (ended_at - created_at) / 1e6 AS length
  FROM {p}sessions WHERE ended_at IS NOT NULL"""


def _living(say: _Dialect, p: str) -> str:
    """A row for each session that has not ended; where ``expires_at`` is past, nobody has written that yet."""
    return f"""\
  SELECT
    {say.sid} AS sid,
    user_id,
    {say.json("auth", "impersonator")} AS impersonator,
    created_at,
    last_seen_at,
    {say.least}(created_at + absolute, last_seen_at + idle) AS expires_at,
    {say.json("client_last", "ip")} AS ip,
    coalesce({say.json("client_last", "country")}, 'unknown') AS country,
    {say.json("client_last", "user_agent")} AS user_agent
  FROM {p}sessions WHERE ended_at IS NULL"""


def _users(say: _Dialect, p: str) -> str:
    """A row for each user with a session of their own, living or ended: how many live, and when one was last used."""
    return f"""\
  SELECT
    user_id,
    count(CASE WHEN ended_at IS NULL THEN 1 END) AS sessions,
    max(last_seen_at) AS last_seen_at,
    {_periods(say, "max(last_seen_at)")}
  FROM {p}sessions WHERE user_id IS NOT NULL AND {say.json("auth", "impersonator")} IS NULL GROUP BY user_id"""


def _periods(say: _Dialect, micros: str) -> str:
    """The period of a time, as text: weeks by their Monday."""
    when, monday = say.when(micros), say.when(f"{micros} - ({micros} - {_MONDAY}) % {_WEEK}")
    return ",\n    ".join(
        f"{say.say(at, kind)} AS {name}"
        for name, at, kind in (
            ("hour", when, "hour"),
            ("day", when, "day"),
            ("week", monday, "day"),
            ("month", when, "month"),
        )
    )
