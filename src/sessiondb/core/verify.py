"""What a presented token is worth: the table of rotation, as one pure function."""

from __future__ import annotations

import enum
from hmac import compare_digest

from sessiondb.core.policy import SECOND
from sessiondb.core.presented import Presented
from sessiondb.core.record import NO_SALT, Record
from sessiondb.core.token import digest

GRACE = 30 * SECOND


class Verdict(enum.Enum):
    """How to answer a token for a living session."""

    SERVE = "serve"
    SERVE_AND_CONFIRM = "serve_and_confirm"  # first sight of the rotated secret: write the confirmation
    SERVE_AND_RESEND = "serve_and_resend"  # the answer with the new secret was lost: send it again
    STALE = "stale"  # an old secret that is neither served nor proof of theft: anonymous
    FORGED = "forged"  # the series is wrong: a stranger who only knows the sid: anonymous
    REUSE = "reuse"  # a retired secret after its time: end the session


_SERVE = Verdict.SERVE  # a member of an enumeration is looked up slowly


def verify(record: Record, presented: Presented, now: int) -> Verdict:
    """The verdict on ``presented`` at ``now`` (microseconds). Digests are compared in constant time.

    A previous secret stays good until the client has shown the new one, and 30 s longer, so that neither a lost
    response nor parallel requests log anybody out; after that its use means that two parties hold the session.
    """
    if not compare_digest(presented.series_hash, record.series_hash):
        return Verdict.FORGED
    unconfirmed = record.confirmed_at is None and record.rotated_at is not None
    if compare_digest(presented.secret_hash, record.secret_hash):
        return Verdict.SERVE_AND_CONFIRM if unconfirmed else _SERVE
    if record.previous_hash is not None and compare_digest(presented.secret_hash, record.previous_hash):
        return _previous(record, presented, now, unconfirmed)
    changed_at = record.rotated_at if record.rotated_at is not None else record.created_at
    return Verdict.STALE if now <= changed_at + GRACE else Verdict.REUSE


def _previous(record: Record, presented: Presented, now: int, unconfirmed: bool) -> Verdict:
    if unconfirmed:
        if not record.salt:
            return Verdict.STALE
        resent = digest(presented.token().rotated(record.salt).secret)
        return Verdict.SERVE_AND_RESEND if resent == record.secret_hash else Verdict.STALE
    confirmed_at = record.confirmed_at
    if confirmed_at is None or now > confirmed_at + GRACE:
        return Verdict.REUSE
    return Verdict.STALE if record.salt == NO_SALT else Verdict.SERVE
