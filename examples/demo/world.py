"""What every step of the story has at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from examples.demo.browser import LAPTOP, PHONE, Browser
from examples.demo.console import Console
from examples.demo.peek import COLUMNS, Peek
from examples.demo.servers import Servers


@dataclass
class World:
    """Two servers, two browsers, the database and the console."""

    console: Console
    servers: Servers
    peek: Peek
    db_url: str
    tokens: set[str] = field(default_factory=set)
    laptop: Browser = field(init=False)
    phone: Browser = field(init=False)

    def __post_init__(self) -> None:
        self.laptop = Browser(self.servers, LAPTOP, self.tokens)
        self.phone = Browser(self.servers, PHONE, self.tokens)

    def another_browser(self, user_agent: str = LAPTOP) -> Browser:
        """One more, with an empty cookie jar: ``async with``."""
        return Browser(self.servers, user_agent, self.tokens)

    async def show_database(self) -> None:
        """Print what has changed in the database since the last time."""
        changed, same, gone = await self.peek.changes()
        notes = []
        if same:
            notes.append(f"{same} other {'row' if same == 1 else 'rows'} as before")
        if gone:
            notes.append(f"{gone} deleted")
        if changed:
            self.console.table(COLUMNS, [row.cells() for row in changed], "; ".join(notes))
        else:
            self.console.line(f"      (the database: {'; '.join(notes) or 'empty'})")


Tell = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Step:
    """One step of the story."""

    title: str
    story: str
    tell: Tell
