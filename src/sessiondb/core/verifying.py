"""Whether one stream of the audit trail is what was written, and where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from sessiondb.core.checkpoints import Head
from sessiondb.core.events import Event, Seal
from sessiondb.core.sealing import GENESIS, Group, commitment, digest, erased_groups, wrong_groups
from sessiondb.core.statements import Vouched

Kind = Literal["altered", "missing", "truncated", "erased", "checkpoint", "statement"]
MOST_PROBLEMS = 100


class Problem(msgspec.Struct, frozen=True):
    """Something in the trail that is not as it was written, and where: a stream, and the number of an event in it."""

    kind: Kind
    stream: str
    seq: int
    text: str

    def __str__(self) -> str:
        return f"{self.stream}:{self.seq}: {self.text}"


class StreamVerifier:
    """One stream, given page by page from its start; ``close`` says what was found, at most ``MOST_PROBLEMS``.

    ``head`` is its end as a checkpoint has it, ``None`` if none does. ``begins_after`` is the number of the last event
    that was purged for good reason.
    """

    def __init__(self, stream: str, vouched: Vouched, head: Head | None, begins_after: int = 0) -> None:
        self.stream = stream
        self.events = 0
        self.last = begins_after
        self.erased = 0
        self._vouched = vouched
        self._head = head
        self._begins_after = begins_after
        self._digest = GENESIS
        self._broken: list[int] = []  # numbers of events whose digest is not what comes after holds
        self._problems: list[Problem] = []

    def feed(self, events: Sequence[Event]) -> None:
        """The next events, by number."""
        stream, previous, last = self.stream, self._digest, self.last
        head = self._head
        head_seq = head.seq if head is not None else -1
        for event in events:
            seal = event.seal
            if seal is None or seal.stream != stream:
                self._report("altered", last + 1, "an event without its place in this stream")
                continue
            seq = seal.seq
            if seq != last + 1 or not self.events:
                self._begin(seq, last)
            elif seal.previous != previous:
                self._broken.append(last)
            self.events += 1
            if not _is_whole(event, seal):
                self._judge(event, seal)
            previous, last = digest(event, seal), seq
            if seq == 1 and seal.previous != GENESIS:
                self._report("altered", 1, "the first event of the stream claims that there was one before it")
            if seq == head_seq and head is not None and previous.hex() != head.digest:
                self._broken.append(seq)
        self._digest, self.last = previous, last

    def close(self) -> list[Problem]:
        """There are no more. What was found, by number."""
        head = self._head
        if head is not None and self.last < head.seq:
            self._report(
                "truncated",
                self.last + 1,
                f"events {self.last + 1} to {head.seq} are missing at the end, and were there at the checkpoint",
            )
        for seq in _blamed(self._broken):
            self._report("altered", seq, "it is not the event that was written: what follows has another digest of it")
        return sorted(self._problems, key=lambda problem: problem.seq)[:MOST_PROBLEMS]

    def _begin(self, seq: int, last: int) -> None:
        """An event that does not follow the one before it."""
        if seq > last + 1 and seq - 1 > self._begins_after:
            what = f"event {seq - 1} is" if seq == last + 2 else f"events {last + 1} to {seq - 1} are"
            self._report("missing", last + 1, f"{what} missing, and no statement says that they were purged")
        elif seq <= last and self.events:
            self._report("altered", seq, "the number of the event comes twice or out of turn")

    def _judge(self, event: Event, seal: Seal) -> None:
        for group in wrong_groups(event, seal):
            self._report("altered", seal.seq, f"personal fields ({_FIELDS[group]}) are not those that were written")
        for group in erased_groups(seal):
            self.erased += 1
            if not self._vouched.is_erased(group, self.stream, seal.seq, event.at):
                self._report(
                    "erased",
                    seal.seq,
                    f"the personal fields ({_FIELDS[group]}) were erased, and no statement says that they were to be",
                )

    def _report(self, kind: Kind, seq: int, text: str) -> None:
        if len(self._problems) <= MOST_PROBLEMS:
            self._problems.append(Problem(kind, self.stream, seq, text))


_FIELDS: dict[Group, str] = {
    "who": "user and session",
    "actor": "who has acted",
    "where": "address and personal details",
}


def _is_whole(event: Event, seal: Seal) -> bool:
    """Whether ``wrong_groups`` and ``erased_groups`` are both empty, as they are of by far the most events.

    Saying it without making the lists has a trail verified faster by an eighth.
    """
    if seal.who_salt is not None:
        if commitment(seal.who_salt, (event.user_id, event.sid)) != seal.who:
            return False
    elif seal.who or event.user_id is not None or event.sid is not None:
        return False
    if seal.where_salt is not None:
        if commitment(seal.where_salt, (event.ip, event.personal)) != seal.where:
            return False
    elif seal.where or event.ip is not None or event.personal:
        return False
    if seal.actor_salt is not None:
        return commitment(seal.actor_salt, event.actor) == seal.actor
    return not seal.actor and event.actor is None


def _blamed(broken: Iterable[int]) -> list[int]:
    """Who was altered, where the links after the events ``broken`` do not hold.

    A single one: that event. Of several in a row the first is innocent: the one after it has another ``previous`` than
    it was written with, so both its links are broken.
    """
    blamed: list[int] = []
    run: list[int] = []
    for seq in [*sorted(set(broken)), -1]:
        if run and seq != run[-1] + 1:
            blamed += run if len(run) == 1 else run[1:]
            run = []
        run.append(seq)
    return blamed
