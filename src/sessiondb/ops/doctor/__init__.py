"""``sessiondb doctor``: looks at a live database for settings that would lose sessions, and says how to mend each.

One module per kind of database, named as its store. All only read; none makes a schema.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable

from sessiondb.core.errors import StoreUnavailable
from sessiondb.ops.doctor.report import Report
from sessiondb.stores.base import open_store

TIMEOUT = 30.0


async def examine(url: str, *, timeout: float = TIMEOUT) -> Report:
    """What the database of ``url`` is like.

    One that cannot be reached, or does not answer within ``timeout`` seconds, is a problem in the report. Raises
    ``ConfigurationError`` for a URL that cannot work, a missing extra, or a wrong password.
    """
    name = open_store(url).name  # connects to nothing, and says what is wrong with the URL
    module = importlib.import_module(f"sessiondb.ops.doctor.{name}")
    doctor: Callable[[str], Awaitable[Report]] = module.examine
    try:
        async with asyncio.timeout(timeout):
            return await doctor(url)
    except StoreUnavailable as error:
        return _unreachable(name, str(error))
    except TimeoutError:
        return _unreachable(name, f"It did not answer within {timeout:g} s: is it overloaded, paused or locked?")


def _unreachable(name: str, why: str) -> Report:
    report = Report(name, "")
    report.add("problem", "usable", "no", why)
    return report
