"""Throw-away stores with one planted bug each, at least one for every law. The kit must find them all.

Each is a wrapper that misuses an honest store, so that it can be planted on every database.
"""

from __future__ import annotations

from dataclasses import dataclass

from planted_ends import (
    AnnouncesForEver,
    AnnouncesNothing,
    AnnouncesOnlyItsOwn,
    AnnouncesTwice,
    EndsEverybody,
    ForgetsLinks,
    OneCapForAll,
)
from planted_times import (
    AdoptsUnknown,
    AnswersFirst,
    CountsMilliseconds,
    EventsLater,
    EventsOfSuccess,
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
    CountsImpersonators,
    CountsTheDead,
    CrossesReplies,
    DropsEndBesideCreate,
    EndsNothing,
    EndsTheUnlocked,
    FailsWhenBusy,
    FindsAllEvents,
    FindsEverybody,
    FoldsCase,
    ForgetsOtherNames,
    HidesLocks,
    IgnoresNotBefore,
    LiftsNoLock,
    LosesEvents,
    LosesPages,
    NotBeforeMovesBack,
    OneFailsAll,
    RefusesByRank,
    RevokeStopsAtLimit,
    SwallowsOutage,
)
from planted_walks import RemembersTheFirst, WalksForTwo, WalksOneStep
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

from sessiondb.testing import StoreWrapper


@dataclass(frozen=True)
class Planted:
    """A store with a bug, the law that it breaks, and the behaviour that finds it wherever it is planted."""

    law: int
    store: type[StoreWrapper]
    found_by: str

    def __str__(self) -> str:
        return f"law {self.law}: {self.store.__name__}"


PLANTED = [
    Planted(1, UpsertingUpdate, "a_write_to_a_missing_session_makes_nothing"),
    Planted(1, RevivingTouch, "an_ended_session_stays_ended"),
    Planted(1, OverwritingCreate, "a_create_never_overwrites"),
    Planted(2, WholeDictionary, "writers_of_different_keys_all_land"),
    Planted(2, TrustsTheHint, "what_a_change_was_made_of_is_only_a_hint"),
    Planted(2, LostGuard, "a_failed_guard_changes_nothing"),
    Planted(2, AppliedTwice, "a_repeated_change_is_applied_once"),
    Planted(2, ForgottenOnClose, "what_was_answered_outlives_the_connection"),
    Planted(3, ShallowComparison, "nested_changes_are_kept"),
    Planted(3, RereadNumbers, "odd_values_come_out_equal"),
    Planted(3, MergedObjects, "objects_are_replaced_and_not_merged"),
    Planted(3, DottedKeys, "odd_keys_are_just_keys"),
    Planted(4, AdoptsUnknown, "an_unknown_sid_is_never_adopted"),
    Planted(5, KeptSalt, "a_confirmation_erases_the_salt"),
    Planted(5, KeptData, "a_tombstone_holds_neither_data_nor_salt"),
    Planted(5, UnguardedRotation, "one_of_many_rotations_wins"),
    Planted(6, AnswersFirst, "an_answered_write_is_seen_at_once"),
    Planted(6, StaleCache, "an_answered_write_is_seen_at_once"),
    Planted(6, EventsLater, "events_come_with_their_changes"),
    Planted(6, EventsOfSuccess, "events_come_with_refused_changes_too"),
    Planted(7, WalksOneStep, "a_walk_lowers_every_check_that_is_late"),
    Planted(7, WalksForTwo, "a_walk_goes_by_the_caps_of_each"),
    Planted(7, TouchFromTheFuture, "a_touch_is_never_in_the_future"),
    Planted(7, TouchMovesBack, "a_touch_moves_forward_only"),
    Planted(7, CountsMilliseconds, "the_clock_counts_microseconds"),
    Planted(7, SweepIgnoresCaps, "a_lowered_policy_ends_and_a_raised_one_does_not_extend"),
    Planted(7, SweepIgnoresTouches, "a_touched_session_is_looked_at_later"),
    Planted(7, SweepWithoutGrace, "the_sweeper_waits_thirty_seconds"),
    Planted(7, SweepReportsTwice, "an_end_is_reported_once"),
    Planted(7, SweepWithoutTurn, "sweepers_take_turns"),
    Planted(7, OneCapForAll, "a_named_policy_has_caps_of_its_own"),
    Planted(7, AnnouncesNothing, "an_end_comes_up_until_it_is_announced"),
    Planted(7, AnnouncesOnlyItsOwn, "every_verb_that_ends_announces"),
    Planted(7, AnnouncesForEver, "an_end_comes_up_until_it_is_announced"),
    Planted(7, AnnouncesTwice, "an_unannounced_end_is_taken_by_one"),
    Planted(7, ListsTheDead, "lists_use_the_one_deadline"),
    Planted(8, TouchBumpsRev, "a_touch_costs_no_guarded_writer_a_retry"),
    Planted(8, OldRevision, "an_answer_is_the_next_guard"),
    Planted(8, FalseConflicts, "an_answer_is_the_next_guard"),
    Planted(8, BusyRows, "unguarded_writers_never_conflict"),
    Planted(9, RemembersTheFirst, "what_is_remembered_is_recalled"),
    Planted(9, EndsNothing, "ending_one_user_spares_all_others"),
    Planted(9, FindsEverybody, "users_are_matched_byte_by_byte"),
    Planted(9, FoldsCase, "ending_one_user_spares_all_others"),
    Planted(9, RevokeStopsAtLimit, "ending_all_reports_each_living_session"),
    Planted(9, ForgetsLinks, "sessions_are_found_by_their_links"),
    Planted(9, EndsEverybody, "sessions_are_ended_by_their_links"),
    Planted(9, LosesPages, "lists_are_paged_newest_first"),
    Planted(9, LosesEvents, "events_come_back_as_they_were"),
    Planted(9, FindsAllEvents, "events_are_found_by_what_they_are_about"),
    Planted(9, CountsEverything, "counts_follow_what_happens"),
    Planted(10, ClosedIsEmpty, "a_closed_store_raises"),
    Planted(10, OneFailsAll, "one_unreadable_session_fails_alone"),
    Planted(10, CrossesReplies, "a_cancelled_caller_harms_nobody"),
    Planted(10, FailsWhenBusy, "every_call_answers_under_load"),
    Planted(10, SwallowsOutage, "a_closed_store_raises"),
    Planted(11, DropsEndBesideCreate, "a_login_ends_the_old_session_in_the_same_batch"),
    Planted(11, IgnoresNotBefore, "a_login_that_began_before_a_revoke_is_refused"),
    Planted(11, NotBeforeMovesBack, "not_before_never_moves_back"),
    Planted(11, LiftsNoLock, "a_lock_is_lifted"),
    Planted(11, EndsTheUnlocked, "lifting_ends_nobody"),
    Planted(11, HidesLocks, "a_lock_refuses_logins_until_its_time"),
    Planted(11, HidesLocks, "a_login_that_a_lock_has_ended_is_told_so"),
    Planted(11, ForgetsOtherNames, "other_names_forbid_a_login_too"),
    Planted(11, CountsImpersonators, "an_impersonated_session_takes_no_place"),
    Planted(11, CountsTheDead, "the_dead_push_nobody_out"),
    Planted(11, CountsBeforeItLocks, "the_oldest_make_room"),
    Planted(11, RefusesByRank, "a_full_house_refuses_the_last_to_come"),
]
