"""Who a client is, as the server saw it: what is stored of that, and what people are shown. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sessiondb.core.agents import Device, parse_agent
from sessiondb.core.networks import address_of
from sessiondb.core.privacy import HASH_PREFIX, Privacy

USER_AGENT_BYTES = 512

_CONTROLS = dict.fromkeys([*range(0x20), 0x7F])


# Dataclasses, not structs: an endpoint of FastAPI may return what people are shown.
@dataclass(frozen=True, slots=True)
class UsedFrom:
    """One place that a session was used from, by the precision of ``last_seen_at``. Times in microseconds UTC.

    ``ip`` is the newest address there. ``requests`` is how many came from it, at least.
    """

    network: str | None
    ip: str | None
    country: str | None
    first_seen_at: int
    last_seen_at: int
    requests: int


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from, as the server saw it and ``Privacy`` lets it be kept.

    ``user_agent`` is cut at 512 bytes; what it says is in ``browser`` (``"Firefox"``), ``system`` (``"Linux"``),
    ``device`` (``"desktop"``, ``"mobile"``, ``"tablet"``, ``"bot"``, ``"other"``) and ``label`` (``"Firefox on
    Linux"``). ``country`` is ISO 3166-1 alpha-2, known with ``SessionDB(geo=...)``. Of the client that a session was
    last seen from: ``requests``, how many it has made at least, and ``places``, the newest eight networks that they
    came from, newest first.
    """

    ip: str | None = None
    user_agent: str | None = None
    country: str | None = None
    network: str | None = None
    browser: str | None = None
    system: str | None = None
    device: Device | None = None
    label: str | None = None
    requests: int | None = None
    places: tuple[UsedFrom, ...] = ()


class Sighting(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is stored of the client of one request."""

    ip: str | None = None
    user_agent: str | None = None
    country: str | None = None
    network: str | None = None

    @property
    def place(self) -> str | None:
        """What tells one place from another."""
        return self.network or self.ip or self.country


class _Shown(Sighting, frozen=True, gc=False):
    requests: int | None = None


encode = msgspec.json.Encoder().encode
_sighting = msgspec.json.Decoder(Sighting).decode
_shown = msgspec.json.Decoder(_Shown).decode


def last_sighting(client: bytes) -> Sighting:
    """The client in a record; an empty one where it cannot be read."""
    try:
        return _sighting(client)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Sighting()


def decode_client(client: bytes) -> Client:
    """The client in a record as people are shown it, without its places; an empty one where it cannot be read."""
    try:
        shown = _shown(client)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Client()
    return client_of(shown, shown.requests)


def client_of(seen: Sighting, requests: int | None = None, places: tuple[UsedFrom, ...] = ()) -> Client:
    """``seen``, and what its user agent says."""
    if seen.user_agent is None:
        return Client(seen.ip, None, seen.country, seen.network, requests=requests, places=places)
    agent = parse_agent(seen.user_agent)
    return Client(
        seen.ip,
        seen.user_agent,
        seen.country,
        seen.network,
        agent.browser,
        agent.system,
        agent.device,
        agent.label,
        requests,
        places,
    )


def agent_text(user_agent: bytes | None) -> str | None:
    """A header's value as it is stored: cut at 512 bytes, without what is no UTF-8 and no text."""
    if user_agent is None:
        return None
    text = user_agent[:USER_AGENT_BYTES].decode("utf-8", "ignore")
    return text if text.isprintable() else text.translate(_CONTROLS)


def without_address(client: bytes) -> bytes:
    """``client`` without what tells where it was."""
    seen = last_sighting(client)
    return encode(Sighting(None, seen.user_agent, seen.country))


def restated(seen: Sighting, privacy: Privacy) -> Sighting:
    """``seen`` as it would be stored by ``privacy``, so that a change of settings is no change of the client."""
    agent = seen.user_agent if privacy.user_agent else None
    if address_of(seen.ip) is None:
        # A hash says nothing where hashes are not stored.
        comparable = privacy.ip == "hashed" or seen.ip is None or not seen.ip.startswith(HASH_PREFIX)
        if privacy.ip == "none" or not comparable:
            return Sighting(None, agent, seen.country)
        return Sighting(seen.ip, agent, seen.country, seen.network)
    ip, network = privacy.stored(seen.ip)
    return Sighting(ip, agent, seen.country, network)
