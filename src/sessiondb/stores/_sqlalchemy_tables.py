"""The tables once more, for SQLAlchemy. What a store runs is its own DDL; a test keeps the two the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects import mysql, postgresql

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.sealing import GROUPS

_Sized = Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class _Types:
    """The types and defaults of one dialect; those that take a size ignore it where the database has none."""

    number: Any
    sid: Any
    data: Any
    json: Any
    text: _Sized
    exact: _Sized  # compared byte by byte
    blob: _Sized
    digest: Any
    link: Any
    large: Any  # bytes without a bound to speak of
    empty_data: str | None = None
    empty_json: str | None = None
    normal: str | None = None
    check: str | None = None
    key: str = "key"
    is_json: str | None = None  # a condition for text


_BINARY = mysql.VARBINARY
_TYPES = {
    "postgresql": _Types(
        number=BigInteger(),
        sid=Uuid(as_uuid=False),
        data=postgresql.JSONB(),
        json=postgresql.JSON(),
        text=lambda _: Text(),
        exact=lambda _: Text(collation="C"),
        blob=lambda _: LargeBinary(),
        digest=LargeBinary(),
        link=LargeBinary(),
        large=LargeBinary(),
        empty_data="'{}'::jsonb",
        empty_json="'{}'::json",
        normal="'normal'::text",
    ),
    "mysql": _Types(
        number=BigInteger(),
        sid=mysql.BINARY(16),
        data=mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"),
        json=Text(),
        text=String,
        exact=_BINARY,
        blob=_BINARY,
        digest=mysql.BINARY(32),
        link=mysql.BINARY(16),
        large=mysql.MEDIUMBLOB(),
        check="json_valid(data)",
        key="name",
        is_json="json_valid(data)",
    ),
    "sqlite": _Types(
        number=Integer(),
        sid=Text(),
        data=Text(),
        json=Text(),
        text=lambda _: Text(),
        exact=lambda _: Text(),
        blob=lambda _: LargeBinary(),
        digest=LargeBinary(),
        link=LargeBinary(),
        large=LargeBinary(),
        empty_data="'{}'",
        empty_json="'{}'",
        normal="'normal'",
    ),
}
_TYPES["mariadb"] = _TYPES["mysql"]
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{name}": value
    for dialect in ("mysql", "mariadb")
    for name, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def make(dialect: str, prefix: str) -> MetaData:
    """See ``schema.metadata``."""
    types = _TYPES.get(dialect)
    if types is None:
        known = ", ".join(repr(name) for name in _TYPES)
        raise ConfigurationError(f"There are no tables for the dialect {dialect!r}; use one of {known}.")
    metadata = MetaData()
    _sessions(metadata, prefix, types)
    Table(
        f"{prefix}links",
        metadata,
        Column("link", types.link, primary_key=True),
        Column("sid", types.sid, primary_key=True),
        Index(f"{prefix}links_sid", "sid"),
        sqlite_with_rowid=False,
        **_OPTIONS,
    )
    Table(
        f"{prefix}users",
        metadata,
        Column("user_id", types.exact(255), primary_key=True),
        _needed("not_before", types.number),
        Index(f"{prefix}users_not_before", "not_before"),
        **_OPTIONS,
    )
    _events(metadata, prefix, types)
    _watching(metadata, prefix, types)
    Table(
        f"{prefix}meta",
        metadata,
        Column(types.key, types.text(64), primary_key=True),
        _needed("value", Text()),
        **_OPTIONS,
    )
    return metadata


def _sessions(metadata: MetaData, prefix: str, types: _Types) -> None:
    name = f"{prefix}sessions"
    Table(
        name,
        metadata,
        Column("sid", types.sid, primary_key=True),
        Column("user_id", types.exact(255)),
        _needed("data", types.data, types.empty_data),
        _needed("created_at", types.number),
        _needed("last_seen_at", types.number),
        Column("authenticated_at", types.number),
        Column("ended_at", types.number),
        Column("end_reason", types.text(32)),
        Column("purge_at", types.number),
        _needed("idle", types.number),
        _needed("absolute", types.number),
        _needed("lifetime", types.text(64), types.normal),
        _needed("check_at", types.number),
        _needed("client_first", types.json, types.empty_json),
        _needed("client_last", types.json, types.empty_json),
        _needed("auth", types.json, types.empty_json),
        _needed("risk", types.json, types.empty_json),
        _needed("rev", types.number),
        _needed("last_changes", types.blob(64)),
        _needed("series_hash", types.digest),
        _needed("secret_hash", types.digest),
        Column("previous_hash", types.digest),
        Column("salt", types.blob(64)),
        Column("rotated_at", types.number),
        Column("confirmed_at", types.number),
        *([] if types.check is None else [CheckConstraint(types.check)]),
        _index(f"{name}_user", "user_id", "sid"),
        Index(f"{name}_check", "check_at"),
        *([] if types.is_json is None else [CheckConstraint(types.is_json)]),
        postgresql_with={"fillfactor": 80},
        **_OPTIONS,
    )


def _events(metadata: MetaData, prefix: str, types: _Types) -> None:
    name = f"{prefix}events"
    # Only PostgreSQL has an IDENTITY; the others number by themselves.
    numbering = (Identity(always=True),) if types is _TYPES["postgresql"] else ()
    Table(
        name,
        metadata,
        # SQLite's INTEGER PRIMARY KEY is never null, and says that it may be.
        Column("id", types.number, *numbering, primary_key=True, nullable=types is _TYPES["sqlite"]),
        _needed("at", types.number),
        _needed("type", types.text(64)),
        Column("sid", types.exact(64)),
        Column("user_id", types.exact(255)),
        Column("actor", types.exact(255)),
        Column("reason", types.text(255)),
        Column("ip", types.text(64)),
        _needed("details", types.json, types.empty_json),
        _needed("personal", types.json, types.empty_json),
        _needed("stream", types.exact(16)),
        _needed("seq", types.number),
        _needed("previous", types.digest),
        *(_needed(f"{group}_commitment", types.blob(32)) for group in GROUPS),
        *(Column(f"{group}_salt", types.blob(16)) for group in GROUPS),
        _index(f"{name}_user", "user_id", "id"),
        _index(f"{name}_sid", "sid", "id"),
        _index(f"{name}_actor", "actor", "id"),
        Index(f"{name}_at", "at"),
        Index(f"{name}_place", "stream", "seq", unique=True),
        **_OPTIONS,
    )


def _watching(metadata: MetaData, prefix: str, types: _Types) -> None:
    for name, columns in (
        ("histories", [Column("user_id", types.exact(255), primary_key=True), _needed("logins", types.blob(480))]),
        ("buckets", [Column("bucket", types.exact(48), primary_key=True), _needed("items", types.number)]),
        (
            "sheets",
            [
                Column("kind", types.exact(16), primary_key=True),
                Column("bucket", types.number, primary_key=True, autoincrement=False),
                Column("writer", types.exact(32), primary_key=True),
                _needed("data", types.large),
            ],
        ),
    ):
        Table(
            f"{prefix}{name}",
            metadata,
            *columns,
            _needed("expires_at", types.number),
            Index(f"{prefix}{name}_expires", "expires_at"),
            **_OPTIONS,
        )
    Table(
        f"{prefix}counters",
        metadata,
        Column("bucket", types.exact(48), primary_key=True),
        Column("item", types.blob(32), primary_key=True),
        _needed("total", types.number),
        sqlite_with_rowid=False,
        **_OPTIONS,
    )


def _needed(name: str, type_: Any, default: str | None = None) -> Column[Any]:
    return Column(name, type_, nullable=False, server_default=None if default is None else text(default))


def _index(name: str, column: str, then: str) -> Index:
    """Without the rows that have no value, where the database can leave them out."""
    where = text(f"{column} IS NOT NULL")
    return Index(name, column, then, postgresql_where=where, sqlite_where=where)
