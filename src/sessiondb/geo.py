"""Where an address is: the country from data that a package brings, or what a MaxMind file says. Both are optional."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.networks import Address, address_of

if TYPE_CHECKING:
    from maxminddb import Reader

log = logging.getLogger("sessiondb")

KEPT = 8192  # addresses whose place is kept in memory


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is likely to be; ``None`` for what is not known.

    ``country`` is ISO 3166-1 alpha-2 (``"DE"``). ``latitude`` and ``longitude`` in degrees (WGS 84), off by up to
    ``accuracy_km``. ``asn`` is the number of the autonomous system, ``64496`` for AS64496.
    """

    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    accuracy_km: int | None = None
    asn: int | None = None


NOWHERE = Place()


class Geo:
    """Places of addresses: ``SessionDB(geo=Geo())``. Needs ``pip install 'sessiondb[geo]'``.

    * ``Geo()``: countries alone, from the allocations of the regional registries that the package ``iptocc`` brings:
      where an address was allocated to, which is where it is used for 19 of 20. As old as the installed package.
    * ``Geo("GeoLite2-City.mmdb", asn="GeoLite2-ASN.mmdb")``: what files in MaxMind's format say, by path. A file for
      cities has countries too, one for countries has no coordinates; either may be left out. Files are read when the
      app starts: a newer one counts after a restart.

    Nothing is asked over the network. Raises ``ConfigurationError`` for a file or a package that is not there.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, asn: str | os.PathLike[str] | None = None
    ) -> None:
        self._asn = None if asn is None else _reader(asn)
        if path is not None:
            self._where: Reader | None = _reader(path)
            self._country: Callable[[str], str | None] | None = None
        else:
            self._where = None
            self._country = _embedded()
        self._told = False
        self._kept = lru_cache(maxsize=KEPT)(self._find)

    def __repr__(self) -> str:
        return f"Geo({'registries' if self._where is None else 'file'}{', asn' if self._asn is not None else ''})"

    def place(self, ip: str | None) -> Place:
        """Where ``ip`` is. Never raises: a place without anything for what is no address, or in no file."""
        address = address_of(ip)
        return NOWHERE if address is None else self._kept(address)

    def _find(self, address: Address) -> Place:
        if self._where is None:
            assert self._country is not None
            country = self._country(str(address))
            place = NOWHERE if country is None else Place(country=_code(country))
        else:
            place = _place(self._look(self._where, address))
        if self._asn is None:
            return place
        asn = _asn(self._look(self._asn, address))
        return place if asn is None else Place(place.country, place.latitude, place.longitude, place.accuracy_km, asn)

    def _look(self, reader: Reader, address: Address) -> Mapping[str, Any]:
        try:
            if address.version == 6 and reader.metadata().ip_version == 4:
                return {}
            found = reader.get(address)
        except Exception as error:  # a file that was cut or overwritten in place
            if not self._told:
                self._told = True
                log.warning("The place of an address cannot be read from the MaxMind file, which is damaged: %s", error)
            return {}
        return found if isinstance(found, dict) else {}


def _embedded() -> Callable[[str], str | None]:
    try:
        from iptocc import country_code
    except ImportError as error:
        raise ConfigurationError(
            "Geo() needs iptocc, which is not installed: pip install 'sessiondb[geo]'; or name a file: "
            "Geo('/path/GeoLite2-City.mmdb')."
        ) from error
    return country_code


def _reader(path: object) -> Reader:
    try:
        import maxminddb
    except ImportError as error:
        raise ConfigurationError("Geo(path) needs maxminddb: pip install 'sessiondb[geo]'.") from error
    if not isinstance(path, (str, os.PathLike)) or not path:
        raise ConfigurationError(f"Geo: {path!r:.100} is no path; use Geo('/path/GeoLite2-City.mmdb').")
    try:
        return maxminddb.open_database(path)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise ConfigurationError(
            f"Geo: {os.fspath(path)!r:.200} cannot be read as a file in MaxMind's format ({error}); download it, or "
            "use Geo() for countries alone."
        ) from error


def _place(found: Mapping[str, Any]) -> Place:
    """What an entry says, in MaxMind's layout or in the flat one that others use."""
    country = found.get("country")
    code = country.get("iso_code") if isinstance(country, dict) else found.get("country_code", country)
    if code is None and isinstance(registered := found.get("registered_country"), dict):
        code = registered.get("iso_code")
    location = found.get("location")
    if not isinstance(location, dict):
        location = {}
    latitude, longitude = _degrees(location.get("latitude"), 90), _degrees(location.get("longitude"), 180)
    if latitude is None or longitude is None:
        return Place(country=_code(code), asn=_asn(found))
    radius = location.get("accuracy_radius")
    return Place(_code(code), latitude, longitude, radius if isinstance(radius, int) else None, _asn(found))


def _code(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) == 2 and value.isascii() and value.isupper() else None


def _degrees(value: object, most: int) -> float | None:
    return float(value) if isinstance(value, (int, float)) and -most <= value <= most else None


def _asn(found: Mapping[str, Any]) -> int | None:
    number = found.get("autonomous_system_number")
    if number is None and isinstance(text := found.get("asn"), str):
        number = int(text[2:]) if text[:2] == "AS" and text[2:].isascii() and text[2:].isdigit() else None
    return number if isinstance(number, int) and 0 < number < 1 << 32 else None
