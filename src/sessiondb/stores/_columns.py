"""Which columns a DDL gives its tables, and what to run where a table that was made before lacks one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from sessiondb.core.errors import ConfigurationError

_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+) \(\n(.*?)\n\)", re.DOTALL)
_COLUMN = re.compile(r"^  ([a-z_]+) +(.+?),?$", re.MULTILINE)


def columns_of(ddl: str) -> dict[str, dict[str, str]]:
    """By table, the names of its columns and what defines each."""
    return {table: dict(_COLUMN.findall(inside)) for table, inside in _TABLE.findall(ddl)}


def repairs(ddl: str, present: Mapping[str, Collection[str]]) -> dict[str, str]:
    """By ``table.column``, the statement that adds what is missing in tables that are there."""
    return {
        f"{table}.{name}": f"ALTER TABLE {table} ADD COLUMN {name} {definition};"
        for table, columns in columns_of(ddl).items()
        if table in present
        for name, definition in columns.items()
        if name not in present[table]
    }


def check_columns(ddl: str, present: Mapping[str, Collection[str]]) -> None:
    """Raise ``ConfigurationError`` if a table lacks a column; tables that are missing are somebody else's business."""
    missing = repairs(ddl, present)
    if missing:
        raise ConfigurationError(
            f"The tables of the sessions were made by an older sessiondb: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Run: {' '.join(missing.values())}"
        )
