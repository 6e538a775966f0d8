"""Places of addresses: the registries' countries, real files in MaxMind's format, and what is no file."""

from __future__ import annotations

import builtins
import importlib.util
import ipaddress
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from sessiondb import ConfigurationError, Geo, Place

CITY = {
    "192.0.2.0/24": {
        "country": {"iso_code": "DE"},
        "location": {"latitude": 52.52, "longitude": 13.4, "accuracy_radius": 20},
    },
    "198.51.100.0/24": {"registered_country": {"iso_code": "US"}},
    "203.0.113.0/25": {"country": {"iso_code": "FR"}, "location": {"latitude": 48.85}},
    "203.0.113.128/25": {"country": {"iso_code": "too long"}, "location": {"latitude": 100.0, "longitude": 1.0}},
    "2001:db8::/48": {"country": {"iso_code": "JP"}, "location": {"latitude": 35.68, "longitude": 139.69}},
}
ASN = {
    "192.0.2.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "Example"},
    "2001:db8::/32": {"autonomous_system_number": 64497},
}


def write(path: Path, entries: Mapping[str, Any], ip_version: int = 6) -> Path:
    """A file in MaxMind's format."""
    writer = MMDBWriter(ip_version, ipv4_compatible=ip_version == 6, int_type="u32", float_type="f64")
    for network, values in entries.items():
        writer.insert_network(IPSet([network]), values)
    writer.to_db_file(str(path))
    return path


@pytest.fixture
def city(tmp_path: Path) -> Path:
    return write(tmp_path / "city.mmdb", CITY)


@pytest.mark.parametrize(
    ("ip", "place"),
    [
        ("192.0.2.7", Place("DE", 52.52, 13.4, 20)),
        ("::ffff:192.0.2.7", Place("DE", 52.52, 13.4, 20)),
        ("198.51.100.7", Place("US")),
        ("203.0.113.7", Place("FR")),
        ("203.0.113.200", Place()),
        ("2001:db8::7", Place("JP", 35.68, 139.69)),
        ("10.0.0.1", Place()),
        ("testclient", Place()),
        ("", Place()),
        (None, Place()),
    ],
)
def test_a_file_of_cities(city: Path, ip: str | None, place: Place) -> None:
    geo = Geo(city)
    assert geo.place(ip) == place
    assert geo.place(ip) == place


def test_a_file_of_systems_beside_it(city: Path, tmp_path: Path) -> None:
    asn = write(tmp_path / "asn.mmdb", ASN)
    geo = Geo(str(city), asn=str(asn))
    assert geo.place("192.0.2.7") == Place("DE", 52.52, 13.4, 20, 64496)
    assert geo.place("198.51.100.7") == Place("US")
    assert geo.place("2001:db8:9::1") == Place(asn=64497)
    assert repr(geo) == "Geo(file, asn)"
    countries = Geo(asn=asn)
    assert countries.place("192.0.2.7") == Place(asn=64496)
    assert countries.place("8.8.8.8") == Place("US")


def test_the_flat_layout_of_others(tmp_path: Path) -> None:
    entries = {
        "192.0.2.0/24": {"country": "Germany", "country_code": "DE", "asn": "AS64496"},
        "198.51.100.0/24": {"country": "US", "asn": "none"},
    }
    geo = Geo(write(tmp_path / "lite.mmdb", entries))
    assert geo.place("192.0.2.1") == Place("DE", asn=64496)
    assert geo.place("198.51.100.1") == Place("US")


def test_a_file_for_ipv4_alone_knows_no_other_addresses(tmp_path: Path) -> None:
    geo = Geo(write(tmp_path / "four.mmdb", {"192.0.2.0/24": CITY["192.0.2.0/24"]}, ip_version=4))
    assert geo.place("192.0.2.7").country == "DE"
    assert geo.place("2001:db8::7") == Place()


def test_the_registries_countries() -> None:
    geo = Geo()
    # Blocks that the registries have given to well-known networks long ago.
    assert {ip: geo.place(ip).country for ip in ("8.8.8.8", "193.0.6.139", "2001:67c:2e8:22::c100:68b")} == {
        "8.8.8.8": "US",
        "193.0.6.139": "NL",
        "2001:67c:2e8:22::c100:68b": "NL",
    }
    assert geo.place("10.0.0.1") == Place() == geo.place("fe80::1%eth0")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no such file", bytes(5000), b"\xab\xcd\xefMaxMind.com"],
    ids=range(5),
)
@pytest.mark.parametrize("name", ["path", "asn"])
def test_what_is_no_file_stops_the_start(content: bytes | None, name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.mmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"file\.mmdb' cannot be read as a file in MaxMind's format"):
        Geo(**{name: path})


@pytest.mark.parametrize("path", ["", 5, b"x", True])
def test_what_is_no_path_stops_the_start(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no path"):
        Geo(path)


def test_a_file_that_is_damaged_later_is_told_of_once(city: Path, caplog: pytest.LogCaptureFixture) -> None:
    geo = Geo(city)
    geo._where.close()  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING, "sessiondb"):
        assert {geo.place(f"192.0.2.{last}") for last in range(5)} == {Place()}
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("package", "make"), [("iptocc", Geo), ("maxminddb", lambda: Geo("file.mmdb"))])
def test_a_package_that_is_missing_is_named(package: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return importing(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=rf"{package}.*pip install 'sessiondb\[geo\]'"):
        make()


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    assert importlib.util.find_spec("iptocc") is not None
    code = "import sys, sessiondb; sessiondb.SessionDB('memory://'); print({'iptocc', 'maxminddb'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_as_many_places_are_kept_as_may_be() -> None:
    geo = Geo()
    first = int(ipaddress.ip_address("8.8.0.0"))
    for number in range(10_000):
        geo.place(str(ipaddress.ip_address(first + number)))
    assert geo._kept.cache_info().currsize == 8192
