"""What in an SQLite file, and in where it lies, would lose sessions."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

from sessiondb.core.errors import StoreUnavailable
from sessiondb.ops.doctor.report import APP_ENDS, POWER_CUT, Report, check_schema
from sessiondb.ops.doctor.schema import check_columns, check_indexes, check_tables, tables_and_indexes
from sessiondb.stores._sqlite_errors import unavailable
from sessiondb.stores._sqlite_schema import SCHEMA_VERSION, columns_in, schema_sql
from sessiondb.stores.sqlite import SQLiteStore, sqlite_from_url

_MIB = 1 << 20
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.glusterfs"}
)
_CHECK_UP_TO = 1024 * _MIB  # a larger file takes too long to read


async def examine(url: str) -> Report:
    """See ``sessiondb.ops.doctor.examine``."""
    return await asyncio.to_thread(_examine, url)


def _examine(url: str) -> Report:
    store = sqlite_from_url(url)
    path = Path(store.path)
    report = Report(f"SQLite {sqlite3.sqlite_version}", store.path)
    _check_place(report, path.parent)
    if path.exists():
        _check_mode(report, path)
        try:
            _check_file(report, store)
        except sqlite3.Error as error:
            raise unavailable(error, store.path) from error
    else:
        check_schema(report, None, SCHEMA_VERSION)
    durable = store.synchronous != "NORMAL"
    if durable:
        report.ok("synchronous", store.synchronous.lower())
    else:
        report.add(
            "warning",
            "synchronous",
            "normal",
            "A power cut loses what was written since the last checkpoint.",
            "Leave ?synchronous=normal out of the URL.",
        )
    kind = file_system(path.parent)
    report.survives(APP_ENDS, True)
    report.survives(POWER_CUT, durable and kind not in ("tmpfs", "ramfs"), "" if durable else "?synchronous=normal")
    return report


def _check_place(report: Report, folder: Path) -> None:
    if not folder.is_dir():
        raise StoreUnavailable(f"SQLite: the folder {folder} does not exist; make it (mkdir -p {folder}).")
    kind = file_system(folder)
    if kind in _NETWORK:
        report.add(
            "problem",
            "file system",
            f"{kind}, over the network",
            "Write-ahead logging needs memory shared by all readers: two machines damage the file.",
            "Move the file to a local disk, or use PostgreSQL, MySQL, Redis or MongoDB.",
        )
    elif kind in ("tmpfs", "ramfs"):
        report.add(
            "problem",
            "file system",
            f"{kind}, in memory",
            "All sessions are gone when the machine is started anew.",
            "Move the file to a disk.",
        )
    elif kind == "overlay":
        report.add(
            "warning",
            "file system",
            "overlay, a container's own",
            "All sessions are gone with the container.",
            "Put the file on a volume.",
        )
    else:
        report.ok("file system", kind or "unknown")
    free = shutil.disk_usage(folder).free
    if free < 500 * _MIB:
        report.add(
            "problem" if free < 50 * _MIB else "warning",
            "free space",
            f"{free // _MIB} MiB",
            "When it is used up, nothing new is stored and nobody can log in.",
            "Free space on the disk, or move the file.",
        )
    else:
        report.ok("free space", f"{free / _MIB / 1024:.1f} GiB")


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The kind of file system that ``folder`` is on; ``None`` where the system does not say."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    place, kind = Path(), None
    for line in lines:
        # Blanks in names are written as octal numbers.
        point = Path(line.split()[1].replace("\\040", " "))
        # Of two mounts on one point, the later one is on top.
        if folder.resolve().is_relative_to(point) and len(point.parts) >= len(place.parts):
            place, kind = point, line.split()[2]
    return kind


def _check_mode(report: Report, path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o002:
        report.add(
            "problem",
            "file mode",
            f"{mode:04o}",
            "Every account of this machine can end and forge sessions.",
            f"chmod 600 {path}*",
        )
    elif mode & 0o077:
        report.add(
            "warning",
            "file mode",
            f"{mode:04o}",
            "Other accounts of this machine can read (or write) what sessions hold.",
            f"chmod 600 {path}*",
        )
    else:
        report.ok("file mode", f"{mode:04o}")
    if not os.access(path, os.W_OK):
        report.add("problem", "writable", "not by this user", "Nothing can be stored.", f"chown {os.getuid()} {path}*")


def _check_file(report: Report, store: SQLiteStore) -> None:
    connection = sqlite3.connect(f"{Path(store.path).as_uri()}?mode=ro", uri=True, timeout=5)
    try:

        def one(statement: str, *values: str) -> Any:
            row = connection.execute(statement, values).fetchone()
            return None if row is None else row[0]

        _check_journal(report, store.path, one("PRAGMA journal_mode"))
        size = one("PRAGMA page_count") * one("PRAGMA page_size")
        if size > _CHECK_UP_TO:
            report.add(
                "note",
                "integrity",
                f"not checked: the file has {size / _MIB:.0f} MiB",
                "Reading all of it takes minutes.",
                f"sqlite3 {store.path} 'PRAGMA quick_check'",
            )
        elif (said := one("PRAGMA quick_check(1)")) != "ok":
            report.add(
                "problem",
                "integrity",
                str(said).splitlines()[-1][:100],
                "The file is damaged: some sessions cannot be read.",
                f"Restore a backup, or: sqlite3 {store.path} .recover | sqlite3 new.db",
            )
        else:
            report.ok("integrity", "checked")
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        version = None
        if f"{store.prefix}meta" in names:
            version = one(f"SELECT value FROM {store.prefix}meta WHERE key = 'schema_version'")
        if check_schema(report, version, SCHEMA_VERSION):
            ddl = schema_sql(store.prefix)
            tables, indexes = tables_and_indexes(ddl)
            check_tables(report, tables, names)
            check_columns(report, ddl, columns_in(connection, tables))
            check_indexes(report, indexes, names)
    finally:
        connection.close()


def _check_journal(report: Report, path: str, mode: str) -> None:
    if mode == "wal":
        report.ok("journal mode", mode)
    else:
        report.add(
            "note",
            "journal mode",
            mode,
            "Readers wait for writers. The app switches it to wal when it starts.",
            f"sqlite3 {path} 'PRAGMA journal_mode = wal'",
        )
    log = Path(f"{path}-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > 64 * _MIB:
        report.add(
            "warning",
            "write-ahead log",
            f"{size // _MIB} MiB",
            "A reader that never ends keeps it from being emptied: it grows until the disk is full.",
            f"Find the reader (lsof {path}); then: sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'",
        )
    else:
        report.ok("write-ahead log", f"{size / _MIB:.1f} MiB")
