"""Throw-away stores with one planted bug each, at least one for every law. The kit must find them all."""

from __future__ import annotations

from dataclasses import dataclass

from planted_times import (
    AdoptsUnknown,
    AnswersFirst,
    CountsMilliseconds,
    EventsLater,
    ListsTheDead,
    StaleCache,
    SweepIgnoresCaps,
    SweepIgnoresTouches,
    SweepReportsTwice,
    SweepWithoutGrace,
    SweepWithoutTurn,
    TouchFromTheFuture,
    TouchMovesBack,
)
from planted_users import (
    ClosedIsEmpty,
    CountsBeforeItLocks,
    CountsEverything,
    CountsTheDead,
    CrossesReplies,
    DropsEndBesideCreate,
    EndsNothing,
    FailsWhenBusy,
    FindsAllEvents,
    FindsEverybody,
    FoldsCase,
    IgnoresNotBefore,
    LosesEvents,
    LosesPages,
    NotBeforeMovesBack,
    OneFailsAll,
    RefusesByRank,
    RevokeStopsAtLimit,
    SwallowsOutage,
)
from planted_writes import (
    AppliedTwice,
    BusyRows,
    DottedKeys,
    FalseConflicts,
    ForgottenOnClose,
    KeptData,
    KeptSalt,
    LostGuard,
    MergedObjects,
    OldRevision,
    OverwritingCreate,
    RereadNumbers,
    RevivingTouch,
    ShallowComparison,
    TouchBumpsRev,
    TrustsTheHint,
    UnguardedRotation,
    UpsertingUpdate,
    WholeDictionary,
)

from sessiondb.stores.memory import MemoryStore


@dataclass(frozen=True)
class Planted:
    """A store with a bug, and the law that it breaks."""

    law: int
    store: type[MemoryStore]


PLANTED = [
    Planted(1, UpsertingUpdate),
    Planted(1, RevivingTouch),
    Planted(1, OverwritingCreate),
    Planted(2, WholeDictionary),
    Planted(2, TrustsTheHint),
    Planted(2, LostGuard),
    Planted(2, AppliedTwice),
    Planted(2, ForgottenOnClose),
    Planted(3, ShallowComparison),
    Planted(3, RereadNumbers),
    Planted(3, MergedObjects),
    Planted(3, DottedKeys),
    Planted(4, AdoptsUnknown),
    Planted(5, KeptSalt),
    Planted(5, KeptData),
    Planted(5, UnguardedRotation),
    Planted(6, AnswersFirst),
    Planted(6, StaleCache),
    Planted(6, EventsLater),
    Planted(7, TouchFromTheFuture),
    Planted(7, TouchMovesBack),
    Planted(7, CountsMilliseconds),
    Planted(7, SweepIgnoresCaps),
    Planted(7, SweepIgnoresTouches),
    Planted(7, SweepWithoutGrace),
    Planted(7, SweepReportsTwice),
    Planted(7, SweepWithoutTurn),
    Planted(7, ListsTheDead),
    Planted(8, TouchBumpsRev),
    Planted(8, OldRevision),
    Planted(8, FalseConflicts),
    Planted(8, BusyRows),
    Planted(9, EndsNothing),
    Planted(9, FindsEverybody),
    Planted(9, FoldsCase),
    Planted(9, RevokeStopsAtLimit),
    Planted(9, LosesPages),
    Planted(9, LosesEvents),
    Planted(9, FindsAllEvents),
    Planted(9, CountsEverything),
    Planted(10, ClosedIsEmpty),
    Planted(10, OneFailsAll),
    Planted(10, CrossesReplies),
    Planted(10, FailsWhenBusy),
    Planted(10, SwallowsOutage),
    Planted(11, DropsEndBesideCreate),
    Planted(11, IgnoresNotBefore),
    Planted(11, NotBeforeMovesBack),
    Planted(11, CountsTheDead),
    Planted(11, CountsBeforeItLocks),
    Planted(11, RefusesByRank),
]
