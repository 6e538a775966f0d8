"""Which tables and indexes a DDL makes, and what it means that some are missing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from sessiondb.ops.doctor.report import Report
from sessiondb.stores._columns import repairs

_MADE = re.compile(r"CREATE (TABLE|(?:UNIQUE )?INDEX) IF NOT EXISTS (\w+)(.*?);\n", re.DOTALL)
_KEY = re.compile(r"^ *((?:UNIQUE )?KEY) (\w+) (\(.+?\))", re.MULTILINE)


def tables_and_indexes(ddl: str) -> tuple[list[str], dict[str, str]]:
    """The names of the tables, and by the name of each index the statement that makes it."""
    tables: list[str] = []
    indexes: dict[str, str] = {}
    for kind, name, rest in _MADE.findall(ddl):
        if kind == "TABLE":
            tables.append(name)
            # MySQL has no CREATE INDEX IF NOT EXISTS, so its indexes are in the tables.
            indexes |= {
                key: f"ALTER TABLE {name} ADD {how} {key} {columns}" for how, key, columns in _KEY.findall(rest)
            }
        else:
            indexes[name] = f"CREATE {kind} {name}{rest}"
    return tables, indexes


def check_tables(report: Report, tables: Collection[str], present: Collection[str]) -> None:
    """Add the tables that are missing."""
    missing = [name for name in tables if name not in present]
    if missing:
        report.add(
            "problem",
            "tables",
            f"missing: {', '.join(missing)}",
            "What was in them is gone; the app makes them anew, empty.",
            "Restore a backup, or run: sessiondb init",
        )
    else:
        report.ok("tables", f"all {len(tables)} there")


def check_columns(report: Report, ddl: str, present: Mapping[str, Collection[str]]) -> None:
    """Add the columns that are missing in tables that are there (``present``: by table, its columns)."""
    missing = repairs(ddl, present)
    for name, statement in missing.items():
        report.add("problem", "column", f"{name} is missing", "The app does not start on these tables.", statement)
    if not missing:
        report.ok("columns", "all there")


def check_indexes(report: Report, indexes: dict[str, str], present: Collection[str]) -> None:
    """Add the indexes that are missing."""
    missing = [name for name in indexes if name not in present]
    for name in missing:
        report.add(
            "problem",
            "index",
            f"{name} is missing",
            "Listing, revoking or sweeping reads the whole table, and fails at the timeout once that is large.",
            f"{indexes[name]};",
        )
    if not missing:
        report.ok("indexes", f"all {len(indexes)} there")
