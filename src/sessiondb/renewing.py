"""A new secret for a living session: asked for, due by the policy, or because its user proved again who they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from sessiondb.assessing import seen_with
from sessiondb.choosing import lifetime_for
from sessiondb.core import assurance, token
from sessiondb.core.change import Applied, Conflict, Outcome, Rotate, SignIn, Update, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventType
from sessiondb.core.record import NO_SALT, Record, decode_auth, encode_auth
from sessiondb.core.token import Token
from sessiondb.state import StagedReauthentication, StagedStepUp, State

PROOF_TRIES = 8

Proof = Callable[[Record], SignIn]


class Renewed(msgspec.Struct, frozen=True):
    """What was written to ``record``, what became of it, and the token that the client has to be told."""

    record: Record
    change: Update
    outcome: Outcome
    issued: Token | None = None


def stage_due_rotation(state: State, record: Record) -> None:
    """Stage a rotation if the policy wants one now.

    Counted from when the client has shown the secret, not from when that was made: a response that carries it may
    come late, and would put it over its own successor.
    """
    every = state.runtime.policies.rotate_every(record)
    if every is None or state.headers_sent or not state.may_rotate:
        return
    since = record.created_at if record.rotated_at is None else record.confirmed_at
    if since is not None and state.began_at - since >= every:
        state.staged = "rotate"


async def renew(state: State, record: Record, change: Update) -> Renewed:
    """Write ``change`` with the verb that is staged. Raises ``StoreError``."""
    staged = state.staged
    if isinstance(staged, StagedReauthentication):
        return await _sign_in(state, record, change, staged)
    if isinstance(staged, StagedStepUp):
        return await _step_up(state, record, change, staged)
    if staged == "renew":
        return await _replace(state, record, change)
    return await _rotate(state, record, change)


async def _rotate(state: State, record: Record, change: Update) -> Renewed:
    runtime, held = state.runtime, state.token
    if held is None or token.digest(held.secret) != record.secret_hash:
        # This request came with the previous secret: another one has rotated already and tells the client.
        return await _without_secret(state, record, change)
    salt = token.new_salt()
    issued = held.rotated(salt)
    rotate = Rotate(record.secret_hash, token.digest(issued.secret), salt, runtime.now())
    rotating = msgspec.structs.replace(change, rotate=rotate)
    outcome = await _apply_renewal(state, record, rotating)
    if isinstance(outcome, Conflict):
        # Another request rotated first: its token is the one to hold, and ours carries the rest alone.
        return await _without_secret(state, record, change)
    return Renewed(record, rotating, outcome, issued)


async def _replace(state: State, record: Record, change: Update) -> Renewed:
    """A secret that is not derived from the one before, whatever rotation came first: that may be a thief's."""
    held, found = state.token, record
    if held is None:
        return await _without_secret(state, record, change)
    issued = Token(held.sid, held.series, token.new_secret())
    for _ in range(1 + PROOF_TRIES):
        rotate = Rotate(found.secret_hash, token.digest(issued.secret), NO_SALT, state.runtime.now())
        replacing = msgspec.structs.replace(change, id=new_change_id(), rotate=rotate)
        outcome = await _apply_renewal(state, record, replacing)
        if not isinstance(outcome, Conflict):
            return Renewed(found, replacing, outcome, issued)
        found = outcome.record
    raise StoreError("The session kept being rotated while its secret was to be replaced.", outcome="conflict")


async def _apply_renewal(state: State, record: Record, change: Update) -> Outcome:
    """Apply a change with a new secret, and tell of it. Where that is required, one that loses its race is told too."""
    runtime = state.runtime
    if runtime.audit_required:
        event = runtime.event(EventType.SESSION_RENEWED, record=record, ip=state.visitor.ip)
        return await runtime.apply_one(change, event)
    outcome = await runtime.apply_one(change)
    if isinstance(outcome, Applied):
        runtime.background.event(runtime.event(EventType.SESSION_RENEWED, record=record, ip=state.visitor.ip))
    return outcome


async def _without_secret(state: State, record: Record, change: Update) -> Renewed:
    change = msgspec.structs.replace(change, rotate=None, sign_in=None, id=new_change_id())
    rest = change.put or change.remove
    return Renewed(record, change, await state.runtime.apply_one(change) if rest else Applied(record.rev))


# -- proofs of identity -------------------------------------------------------------------------------------


async def _sign_in(state: State, record: Record, change: Update, staged: StagedReauthentication) -> Renewed:
    runtime = state.runtime
    lifetime = await lifetime_for(runtime, record.user_id or "", staged.policy, staged.remember)
    lifetimes = runtime.policies.caps.of(lifetime)
    sign_in = SignIn(
        at=state.signs_in_at or runtime.now(),
        auth=encode_auth(staged.auth),
        idle=lifetimes.idle,
        absolute=lifetimes.absolute,
        lifetime=lifetime,
        links=staged.links,
    )

    def is_twin(found: Record) -> bool:
        # Shutting others out replaces the secret too, but whoever does that may be a thief, and has proved nothing.
        signed_in = found.authenticated_at != record.authenticated_at
        return signed_in and found.auth == sign_in.auth and found.lifetime == lifetime

    return await _prove(state, record, change, lambda _: sign_in, is_twin, EventType.LOGIN)


async def _step_up(state: State, record: Record, change: Update, staged: StagedStepUp) -> Renewed:
    runtime = state.runtime
    now, lasts = runtime.now(), runtime.policies.of(record).step_up_micros
    known = decode_auth(record.auth).step_ups

    def prove(found: Record) -> SignIn:
        # No login: its time and lifetimes stay as they are.
        auth = assurance.stepped_up(decode_auth(found.auth), staged.methods, staged.level, now, lasts)
        return SignIn(
            at=found.authenticated_at if found.authenticated_at is not None else now,
            auth=encode_auth(auth),
            idle=found.idle,
            absolute=found.absolute,
            lifetime=found.lifetime,
        )

    def is_twin(found: Record) -> bool:
        return any(
            (one.methods, one.level) == (staged.methods, staged.level) and one not in known
            for one in decode_auth(found.auth).step_ups
        )

    details: dict[str, str | int] = {"methods": " ".join(staged.methods)}
    if staged.level is not None:
        details["level"] = staged.level
    return await _prove(state, record, change, prove, is_twin, EventType.STEP_UP, details)


async def _prove(
    state: State,
    record: Record,
    change: Update,
    prove: Proof,
    is_twin: Callable[[Record], bool],
    type_: EventType,
    details: Mapping[str, str | int] | None = None,
) -> Renewed:
    """Write a proof of identity with a secret that is not derived from the one before.

    Whoever else holds the old token must not share what the proof opens. So it replaces whatever secret there is by
    now: the rotation that came first may be a thief's. Only the same proof from a twin of this request (a double click)
    stands, and its token is the one to hold. So does an earlier try of this request that has landed though it was
    interrupted, or its reply lost: nobody was told the token yet, so it is told now.
    """
    runtime, held = state.runtime, state.token
    issued = state.proving
    if issued is None and held is not None:
        issued = state.proving = Token(held.sid, held.series, token.new_secret())
    personal = seen_with(state.client())
    event: Event | None = runtime.event(type_, record=record, ip=state.visitor.ip, details=details, personal=personal)
    found = record
    for _ in range(1 + PROOF_TRIES):
        rotate = None
        if issued is not None:
            rotate = Rotate(found.secret_hash, token.digest(issued.secret), NO_SALT, runtime.now())
        proving = msgspec.structs.replace(change, id=new_change_id(), rotate=rotate, sign_in=prove(found))
        outcome = await runtime.apply_one(proving, event)
        if not isinstance(outcome, Conflict):
            state.proving = None
            return Renewed(found, proving, outcome, issued)
        found, event = outcome.record, None
        is_ours = issued is not None and found.secret_hash == token.digest(issued.secret)
        if found.salt == NO_SALT and is_twin(found):
            state.proving = None
            rest = await _without_secret(state, found, change)
            return msgspec.structs.replace(rest, issued=issued) if is_ours else rest
        if is_ours and held is not None:
            # That was another proof.
            issued = state.proving = Token(held.sid, held.series, token.new_secret())
    raise StoreError("The session kept being rotated while its user proved who they are.", outcome="conflict")
