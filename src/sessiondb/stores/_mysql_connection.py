"""One connection to a MySQL or MariaDB server: several statements go out as one packet, if the server takes it.

Values are written into the SQL as hexadecimal literals: no quoting to get wrong, whatever the server's ``sql_mode``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncmy
import msgspec
from asyncmy import errors
from asyncmy.constants.CLIENT import FOUND_ROWS, MULTI_STATEMENTS

# What the statements are written for, whatever the server's defaults. One second is the shortest that InnoDB waits.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', "
    "innodb_lock_wait_timeout = {lock_timeout}",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SELECT @@max_allowed_packet",
)
TOO_LARGE = 1153
_COMMAND = 1  # the byte before the SQL
_LEAST = 1024  # of max_allowed_packet


class Result(msgspec.Struct, frozen=True):
    """What one statement answered: how many rows it matched, ``LAST_INSERT_ID``, and the rows it found."""

    affected: int
    inserted: int
    rows: Sequence[tuple[Any, ...]]


class Connection:
    """Usable by one caller at a time. Text and bytes come back as bytes."""

    __slots__ = ("_driver", "_most")

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._most = _LEAST - _COMMAND

    async def set_up(self, lock_timeout: int) -> None:
        """The session settings that the statements are written for."""
        *_, size = await self.run([statement.format(lock_timeout=lock_timeout) for statement in _SESSION])
        self._most = int(size.rows[0][0]) - _COMMAND

    async def run(self, statements: Sequence[str]) -> list[Result]:
        """Send all, in one packet if the server takes it; one result each.

        The first that fails raises, and those after it are not run. One that is too large for the server raises
        before anything is sent: the server would close the connection.
        """
        results: list[Result] = []
        driver = self._driver
        for packet in _packets(statements, self._most):
            await driver.query(packet)
            results.append(_result(driver))
            while driver._result.has_next:
                await driver.next_result()
                results.append(_result(driver))
        return results

    async def transaction(self, statements: Sequence[str]) -> list[Result]:
        """All of ``statements`` or none; one alone is its own transaction."""
        if len(statements) == 1:
            return await self.run(statements)
        return (await self.run(["START TRANSACTION", *statements, "COMMIT"]))[1:-1]

    async def roll_back(self) -> None:
        """After an error: a packet that failed midway leaves its transaction open."""
        try:
            await self.run(["ROLLBACK"])
        except Exception:
            self.terminate()
            raise

    @property
    def server(self) -> str:
        """The server's version, as it says it."""
        return str(self._driver.get_server_info())

    def is_closed(self) -> bool:
        """Whether it is of no use any more."""
        return bool(self._driver._stream_broken)

    def terminate(self) -> None:
        """Drop it at once."""
        transport = self._driver._transport
        if transport is not None:
            transport.abort()
        self._driver.close()

    async def close(self) -> None:
        """Close it."""
        await self._driver.ensure_closed()


async def connect(arguments: dict[str, Any], lock_timeout: int) -> Connection:
    """A connection with the session settings that the statements are written for."""
    connection = Connection(
        await asyncmy.connect(
            **arguments,
            autocommit=True,
            charset="utf8mb4",
            use_unicode=False,
            client_flag=MULTI_STATEMENTS | FOUND_ROWS,
        )
    )
    try:
        await connection.set_up(lock_timeout)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _packets(statements: Sequence[str], most: int) -> list[str]:
    """``statements`` in as few packets as possible. All of them are ASCII."""
    whole = ";".join(statements)
    if len(whole) <= most:
        return [whole]
    packets: list[str] = []
    for statement in statements:
        if len(statement) > most:
            raise errors.OperationalError(TOO_LARGE, f"a statement of {len(statement)} bytes")
        if packets and len(packets[-1]) + 1 + len(statement) <= most:
            packets[-1] += f";{statement}"
        else:
            packets.append(statement)
    return packets


def _result(driver: Any) -> Result:
    found = driver._result
    return Result(found.affected_rows, found.insert_id, found.rows or ())


def blob(value: bytes | None) -> str:
    """``value`` as SQL."""
    return "NULL" if value is None else f"x'{value.hex()}'"


def text(value: str | bytes | None) -> str:
    """``value``, or the UTF-8 in it, as SQL."""
    if value is None:
        return "NULL"
    return f"_utf8mb4 x'{(value.encode() if isinstance(value, str) else value).hex()}'"


def number(value: int | None) -> str:
    """``value`` as SQL."""
    return "NULL" if value is None else str(int(value))
