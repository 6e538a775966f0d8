"""What people are shown of sessions, and finding them by what is known of them."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TypedDict
from uuid import UUID

import msgspec

from sessiondb import proofs
from sessiondb.core import codec
from sessiondb.core.activity import sightings_of
from sessiondb.core.errors import SessionDataError
from sessiondb.core.networks import NETWORK_PREFIXES, Network, address_of, network_of, plain_network
from sessiondb.core.policies import is_remembered, policy_name
from sessiondb.core.policy import DAY, Caps
from sessiondb.core.privacy import Privacy
from sessiondb.core.record import (
    Record,
    SessionInfo,
    check_user_id,
    decode_risk,
)
from sessiondb.core.token import Sid, format_sid
from sessiondb.runtime import Runtime
from sessiondb.stores.base import Query

PAGE = 500
_SLACK = DAY  # a sid is minted before its session is written, and clocks are corrected

Moment = datetime | int
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALL = Privacy()


def session_info(runtime: Runtime, record: Record, *, with_data: bool = True) -> SessionInfo:
    """What people are shown of ``record``; without its data where they only choose among sessions."""
    deadline = runtime.caps.deadline(record)
    ended_at, end_reason = record.ended_at, record.end_reason
    if ended_at is None and deadline <= runtime.now():
        ended_at, end_reason = deadline, runtime.caps.expiry_reason(record).value
    try:
        data = codec.decode_data(record.data) if with_data else {}
    except SessionDataError:
        data = {}
    first_client, client = runtime.clients.shown(record, runtime.now())
    return SessionInfo(
        sid=record.sid,
        user_id=record.user_id,
        created_at=record.created_at,
        last_seen_at=max(record.last_seen_at, runtime.background.seen(record.sid)),
        expires_at=deadline,
        authenticated_at=record.authenticated_at,
        ended_at=ended_at,
        end_reason=end_reason,
        policy=policy_name(record.lifetime),
        remembered=is_remembered(record.lifetime),
        first_client=first_client,
        client=client,
        auth=proofs.shown(runtime, record),
        risk=decode_risk(record.risk),
        data=data,
    )


class Criteria(TypedDict, total=False):
    """What sessions have in common; those that are given must all be met. Times: ``datetime`` with a zone, or
    microseconds since the epoch, UTC.

    * ``user_id``: whose they are.
    * ``ip``, ``network`` (``"203.0.113.0/24"``): where they were first or last seen, or in one of the places between
      that are remembered; as far as ``Privacy`` lets that be told.
    * ``user_agent``: text that the browser's name contains, as first or as last seen; case counts.
    * ``created_before``, ``created_after``: when they began; ``created_after`` includes its moment.
    * ``active_at``: they had begun at that moment, and were not over yet.
    * ``last_seen_before``: not used since (known to the minute).
    * ``policy``: the name of their policy (``"normal"`` for the default one); ``remembered``: their kind of login.
    """

    user_id: str | int | UUID
    ip: str
    network: str
    user_agent: str
    created_before: Moment
    created_after: Moment
    active_at: Moment
    last_seen_before: Moment
    policy: str
    remembered: bool


class Where(msgspec.Struct, frozen=True):
    """A network, and what is stored instead of it, if anything is."""

    network: Network
    stored: str | None


class Selection(msgspec.Struct, frozen=True):
    """``Criteria``, checked; what it does not name is ``None``."""

    user_id: str | None = None
    places: tuple[Where, ...] = ()
    user_agent: str | None = None
    created_before: int | None = None
    created_after: int | None = None
    active_at: int | None = None
    last_seen_before: int | None = None
    policy: str | None = None
    remembered: bool | None = None

    def matches(self, record: Record, caps: Caps) -> bool:
        """Whether ``record`` is one of them."""
        return (
            (self.user_id is None or record.user_id == self.user_id)
            and (self.created_before is None or record.created_at < self.created_before)
            and (self.created_after is None or record.created_at >= self.created_after)
            and (self.last_seen_before is None or record.last_seen_at < self.last_seen_before)
            and (self.policy is None or policy_name(record.lifetime) == self.policy)
            and (self.remembered is None or is_remembered(record.lifetime) == self.remembered)
            and (self.active_at is None or _was_active(record, caps, self.active_at))
            and self._matches_client(record)
        )

    def _matches_client(self, record: Record) -> bool:
        if not self.places and self.user_agent is None:
            return True
        seen = sightings_of(record)
        agent = self.user_agent
        if agent is not None and not any(agent in (one.user_agent or "") for one in seen):
            return False
        if not self.places:
            return True
        texts = {text for one in seen for text in (one.ip, one.network) if text is not None}
        addresses = [found for one in seen if (found := address_of(one.ip)) is not None]
        return all(where.stored in texts or any(one in where.network for one in addresses) for where in self.places)

    @property
    def newest(self) -> int | None:
        """No session that is meant was created after it."""
        bounds = [one for one in (self.created_before, self.active_at) if one is not None]
        return min(bounds, default=None)


def select(criteria: Criteria, privacy: Privacy = _ALL) -> Selection:
    """``criteria``, checked. Raises ``ValueError`` for none at all, or for one that cannot be meant, or whose answer
    is not stored.
    """
    given = dict(criteria)
    unknown = given.keys() - Criteria.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"Sessions cannot be found by {', '.join(sorted(unknown))}; use {', '.join(Criteria.__annotations__)}."
        )
    if not given:
        raise ValueError("No criterion is given, which would mean every session; name one, or use revoke_everyone().")
    for name, value in given.items():
        # Left over from a bug, it would mean everybody.
        if value is None:
            raise ValueError(f"{name} is None; leave out what does not count.")
    for name, kind in (("policy", str), ("remembered", bool)):
        if not isinstance(given.get(name, kind()), kind):
            raise ValueError(f"{name} is {given[name]!r:.100}; use a {kind.__name__}.")
    places = [_where(name, criteria[name], privacy) for name in ("ip", "network") if name in criteria]
    agent = criteria.get("user_agent")
    if agent is not None and (not isinstance(agent, str) or not agent):
        raise ValueError(f"user_agent is {agent!r:.100}; use a text that the browser's name contains.")
    if agent is not None and not privacy.user_agent:
        raise ValueError("user_agent is not stored: Privacy(user_agent=False).")
    times = {name: moment(name, given[name]) for name in _TIMES if name in given}
    user_id = criteria.get("user_id")
    return Selection(
        user_id=None if user_id is None else check_user_id(user_id),
        places=tuple(places),
        user_agent=agent,
        policy=criteria.get("policy"),
        remembered=criteria.get("remembered"),
        **times,
    )


_TIMES = ("created_before", "created_after", "active_at", "last_seen_before")


def moment(name: str, value: object) -> int:
    """A point in time in microseconds since the epoch. Raises ``ValueError`` where it is not clear which is meant."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name} is {value!r}, without a time zone; use .replace(tzinfo=UTC) if it is UTC.")
        return (value - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{name} is {value!r:.100}; use a datetime with a time zone, or microseconds since the epoch.")


def _where(name: str, value: object, privacy: Privacy) -> Where:
    network = _network(name, value)
    if privacy.ip == "none":
        raise ValueError(f"{name}: no addresses are stored: Privacy(ip='none').")
    if privacy.ip == "hashed":
        stored = privacy.stored(str(value)).ip if name == "ip" else privacy.stored_network(network)
        if stored is None:
            raise ValueError(
                f"network is {value!r:.100}, and hashes are stored: Privacy(ip='hashed'). Their networks are found by "
                "a /24 of IPv4 or a /48 of IPv6 alone."
            )
        return Where(network, stored)
    if privacy.ip == "truncated" and network.prefixlen > NETWORK_PREFIXES[network.version == 6]:
        wide = network_of(str(network.network_address))
        raise ValueError(
            f"{name} is {value!r:.100}, and less than that is stored: Privacy(ip='truncated'). Use network={wide!r}, "
            "which has others too."
        )
    return Where(network, None)


def _network(name: str, value: object) -> Network:
    try:
        if not isinstance(value, str):
            raise ValueError("it must be text")
        if name == "ip":
            address = address_of(value)
            if address is None:
                raise ValueError("it is no IP address")
            return ipaddress.ip_network(address)
        return plain_network(value)
    except ValueError as error:
        example = "'203.0.113.7'" if name == "ip" else "'203.0.113.0/24' or '2001:db8::/48'"
        raise ValueError(f"{name} is {value!r:.100} ({error}); write it as {example}.") from None


def _was_active(record: Record, caps: Caps, at: int) -> bool:
    over_at = record.ended_at if record.ended_at is not None else caps.deadline(record)
    return record.created_at <= at < over_at


async def walk(runtime: Runtime, selection: Selection, *, include_ended: bool = False) -> AsyncIterator[list[Record]]:
    """The sessions that are meant, newest first, page by page; a page may be empty."""
    newest = selection.newest
    before = None if newest is None else _sid_at(newest + _SLACK)
    oldest = None if selection.created_after is None else _sid_at(max(0, selection.created_after - _SLACK))
    while True:
        query = Query(
            now=runtime.now(),
            caps=runtime.caps,
            user_id=selection.user_id,
            state="all" if include_ended else "live",
            before=before,
            limit=PAGE,
        )
        async with runtime.using_store() as store:
            page = await store.find(query)
        yield [record for record in page.records if selection.matches(record, runtime.caps)]
        before = page.next
        if before is None or (oldest is not None and before < oldest):
            return


async def find_sessions(
    runtime: Runtime, selection: Selection, *, include_ended: bool = False
) -> AsyncIterator[SessionInfo]:
    """The sessions that are meant, newest first, as people are shown them."""
    async for records in walk(runtime, selection, include_ended=include_ended):
        for record in records:
            yield session_info(runtime, record)


def _sid_at(micros: int) -> Sid:
    """A sid that sorts after all that were minted before ``micros``: they begin with their time (RFC 9562)."""
    return format_sid(min(micros // 1000, (1 << 48) - 1).to_bytes(6) + bytes(10))
