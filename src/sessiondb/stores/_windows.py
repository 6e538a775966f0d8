"""Where events of a time are looked for: among the newest ones, or in the index by time.

Pages are in the order in which events came, which is almost that of their times, and an index has but one order. To
walk back from the newest costs as much as there is after the time in question, to read all of that time from the
index as much as there is of it. Which is less is not known before, and planners guess wrongly where times are not
spread evenly. So both ways are tried for a bounded length, then for a longer one: whatever was asked costs a small
multiple of the shorter way.
"""

from __future__ import annotations

from collections.abc import Iterator

FIRST = 1000
WIDER = 8


def attempts(below: int) -> Iterator[tuple[int, int]]:
    """Down to which id to walk from ``below``, then how many entries of the index by time to read at most.

    The last walk goes down to 0, so it finds whatever there is.
    """
    most = FIRST
    while below > most:
        yield below - most, most
        most *= WIDER
    yield 0, most
