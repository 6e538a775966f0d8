"""A thread with a connection of its own, that event loops hand their work to.

The writer takes all work that waits as one transaction (group commit): one ``fsync`` for many requests. The
reader takes it piece by piece. What the page cache holds is read faster than a thread can be woken, so short reads
are done on the spot (``Worker.now``) as long as they prove to be short. Neither ever blocks a loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from sessiondb.core.errors import ConfigurationError, StoreError, StoreUnavailable, WriteOutcome
from sessiondb.stores._sqlite_errors import breaks_connection, code_of, unavailable
from sessiondb.stores._sqlite_jobs import Job, Work, answer

Result = TypeVar("Result")

LOOK_AT_FILE_EVERY = 0.5
SLOW = 0.002  # seconds that a read on the spot may take: longer, and the disk was asked
PAUSE = 0.25  # seconds without reads on the spot after one that was slow
# Milliseconds that SQLite waits by itself for another process that writes: it looks again after 1, 2 and 5, and after
# that less and less often, up to 100 apart, while others come and go.
LOOK_AGAIN = 8
_STOP = None


class Worker:
    """The thread, started when the first work comes. ``connect`` makes its connection.

    The connection of one that only reads does not wait for locks; its thread waits ``busy_timeout`` seconds.
    """

    def __init__(
        self, name: str, path: str, connect: Callable[[], sqlite3.Connection], *, writes: bool, busy_timeout: float
    ) -> None:
        self._name = name
        self._path = path
        self._connect = connect
        self._writes = writes
        self._patience = int(busy_timeout * 1000)
        self._start_lock = threading.Lock()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._in_use = threading.Lock()
        self._threads_only_until = 0.0
        self.groups = 0

    async def run(
        self,
        work: Callable[[sqlite3.Connection], Result],
        *,
        alone: Callable[[sqlite3.Connection], Result | None] | None = None,
        outside: bool = False,
    ) -> Result:
        """What ``work`` returns. Work whose caller has gone before it began is not done.

        ``alone`` is tried first where no other work waits, outside any transaction; ``None`` asks for ``work``.
        ``outside``: for a writer's work that is not a transaction, which is done after those that wait.
        """
        job = Job(work, alone, outside, asyncio.get_running_loop())
        self._queue.put(job)
        if self._thread is None:
            self._start()
        result: Result = await job.future
        return result

    def now(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """What ``work`` returns, read on the caller's thread; ``None`` where that could hold it up: use ``run``.

        It may not when the thread is at work, when the file has to be looked at, after a slow read, and when SQLite
        has anything to say. For a connection without a busy timeout.
        """
        started = time.monotonic()
        if (
            self._connection is None
            or started < self._threads_only_until
            or started - self._looked_at >= LOOK_AT_FILE_EVERY
            or not self._in_use.acquire(blocking=False)
        ):
            return None
        try:
            # Somebody else may have closed it since.
            return None if self._connection is None else work(self._connection)
        except sqlite3.Error:
            return None
        finally:
            self._in_use.release()
            ended = time.monotonic()
            if ended - started > SLOW:
                self._threads_only_until = ended + PAUSE

    def stop(self) -> None:
        """Finish what waits, then end the thread and close its connection."""
        with self._start_lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(_STOP)
        if thread is not None:
            thread.join(5)

    def forget(self) -> None:
        """After a fork: the thread and its connection belong to the parent."""
        self._start_lock = threading.Lock()
        self._in_use = threading.Lock()
        self._queue = queue.SimpleQueue()
        self._thread = None
        # Closing it here would drop the locks that the parent's process holds on the file.
        _leaked.append(self._connection)
        self._connection = None

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        jobs: list[Job] = []
        going_on = True
        while going_on:
            first = self._queue.get()
            if first is _STOP:
                break
            jobs = [first]
            while self._writes:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is _STOP:
                    going_on = False
                    break
                jobs.append(job)
            wanted = [job for job in jobs if not job.future.cancelled()]
            if wanted:
                with self._in_use:
                    self._do(wanted)
            # Kept until the next round, they would keep their callers' frames alive.
            first = job = None
            jobs = wanted = []
        with self._in_use:
            self._close()

    def _do(self, jobs: list[Job]) -> None:
        self.groups += 1
        if not self._writes:
            answer(jobs, [self._read(job.work) for job in jobs])
            return
        for part in ([job for job in jobs if not job.outside], *([job] for job in jobs if job.outside)):
            if not part:
                continue
            try:
                connection = self._usable()
            except Exception as error:
                answer(part, [_as_unavailable(error, self._path)] * len(part))
            else:
                self._write(connection, part)

    def _read(self, work: Work) -> Any:
        """What ``work`` returns, or the error to raise."""
        try:
            connection = self._usable()
        except Exception as error:
            return _as_unavailable(error, self._path)
        try:
            try:
                return work(connection)
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_BUSY:
                    raise
            connection.execute(f"PRAGMA busy_timeout = {self._patience}")
            try:
                return work(connection)
            finally:
                connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as error:
            self._broken(error)
            return unavailable(error, self._path)
        except Exception as error:
            return error

    def _write(self, connection: sqlite3.Connection, jobs: list[Job]) -> None:
        """All of ``jobs`` in one transaction; if one of them cannot be, each in its own."""
        if len(jobs) == 1 and (self._write_alone(connection, jobs[0]) or self._do_outside(connection, jobs[0])):
            return
        outcome: WriteOutcome = "not_applied"
        try:
            self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            results = [job.work(connection) for job in jobs]
            outcome = "unknown"
            connection.execute("COMMIT")
        except BaseException as error:
            rolled_back = self._roll_back(connection)
            if isinstance(error, sqlite3.Error):
                found = unavailable(error, self._path, "not_applied" if rolled_back else outcome)
                self._broken(error)
                answer(jobs, [found] * len(jobs))
            elif not isinstance(error, Exception) or len(jobs) == 1:
                answer(jobs, [error] * len(jobs))
            else:
                for job in jobs:
                    self._write(connection, [job])
            return
        answer(jobs, results)

    def _write_alone(self, connection: sqlite3.Connection, job: Job) -> bool:
        """Whether ``job`` has been done, or has failed, as one statement."""
        if job.alone is None:
            return False
        try:
            result = self._patiently(partial(job.alone, connection))
        except sqlite3.Error as error:
            # SQLite has rolled it back, unless the disk failed at the very end.
            failed_at_end = code_of(error) == sqlite3.SQLITE_IOERR
            result = unavailable(error, self._path, "unknown" if failed_at_end else "not_applied")
            self._broken(error)
            answer([job], [result])
            return True
        except Exception:
            # Whether it landed or not: in a transaction the work finds that out, and fails its caller alone.
            return False
        if result is None:
            return False
        answer([job], [result])
        return True

    def _do_outside(self, connection: sqlite3.Connection, job: Job) -> bool:
        """Whether ``job`` is no transaction, and has been done or has failed."""
        if not job.outside:
            return False
        try:
            result = self._patiently(partial(job.work, connection))
        except sqlite3.Error as error:
            result = unavailable(error, self._path, "unknown")
            self._broken(error)
        except Exception as error:
            result = error
        answer([job], [result])
        return True

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """What ``call`` returns; while another process writes it is tried again, for as long as the busy timeout."""
        end = time.monotonic() + self._patience / 1000
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                    raise

    def _roll_back(self, connection: sqlite3.Connection) -> bool:
        """Whether nothing of the transaction stays."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._close()
            return False
        return True

    def _usable(self) -> sqlite3.Connection:
        """The connection, a new one if there is none or the file is another one by now."""
        now = time.monotonic()
        if self._connection is not None and now - self._looked_at >= LOOK_AT_FILE_EVERY:
            # What is written to a file that was deleted or replaced would be lost without an error.
            self._looked_at = now
            if identity(self._path) != self._file:
                self._close()
        if self._connection is None:
            self._connection = self._connect()
            wait = min(LOOK_AGAIN, self._patience) if self._writes else 0
            self._connection.execute(f"PRAGMA busy_timeout = {wait}")
            self._file = identity(self._path)
            self._looked_at = now
        return self._connection

    def _broken(self, error: sqlite3.Error) -> None:
        if breaks_connection(error):
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # what was acknowledged is in the file; there is nothing else to save


_leaked: list[sqlite3.Connection | None] = []


def identity(path: str) -> tuple[int, int] | None:
    """Which file ``path`` is now; ``None`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _as_unavailable(error: Exception, path: str) -> Exception:
    if isinstance(error, sqlite3.Error):
        return unavailable(error, path)
    if isinstance(error, (StoreError, ConfigurationError)):
        return error
    found = StoreUnavailable(f"The SQLite file {path} cannot be opened: {error}.")
    found.__cause__ = error
    return found
