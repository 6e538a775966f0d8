"""The scale benchmark measures what it says: the sessions it makes, the samples it draws, the ratios it prints."""

from __future__ import annotations

import asyncio
import io
import os
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks import scale, scale_measuring, scale_servers, scale_sweeping
from benchmarks.scale_measuring import VERBS, Counts, Figures, Measured, ratio
from benchmarks.scale_population import Population, Progress, Reservoir, has_ended, leaves, user_of
from benchmarks.scale_servers import TARGETS, missing_room
from sessiondb.stores.base import Store, open_store
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import Builders

FEW = Counts(alone=8, together=64, writes_alone=4, writes_together=64, lists=4, revokes=2, sweeps=1)


async def filled(folder: Path, *sizes: int) -> tuple[Store, Population]:
    store = open_store(f"sqlite:///{folder}/sessions.db")
    await store.open()
    population = Population(await store.clock(), sizes[-1])
    for size in sizes:
        await population.grow(store, size, Progress("", population.size, size, io.StringIO()))
    return store, population


def test_users_have_one_two_or_three_sessions() -> None:
    held = Counter(user_of(number) for number in range(6000))
    assert Counter(held.values()) == {1: 1000, 2: 1000, 3: 1000}


def test_all_sessions_of_a_user_are_revoked_or_none() -> None:
    of_user: dict[str, set[bool]] = {}
    for number in range(6000):
        of_user.setdefault(user_of(number), set()).add(leaves(number))
    assert {len(kinds) for kinds in of_user.values()} == {1}


async def test_what_grows_is_what_is_made_at_once(tmp_path: Path) -> None:
    """The same users and ends, sids in the order of their numbers, and nobody twice."""
    store, population = await filled(tmp_path, 700, 2000)
    stats = await store.stats()
    ended = sum(map(has_ended, range(2000)))
    assert (stats.live, stats.ended) == (2000 - ended, ended)
    build = Builders(population.now)
    for user in ("user00000000", "user00000001", "user00000002", user_of(1500)):
        found = await store.find(build.query(user, state="all"))
        assert len(found.records) == sum(user_of(number) == user for number in range(2000))
    creates, _ = population.changes(0, 2000)
    sids = [create.sid for create in creates]
    # Within a millisecond they are in no order, and there are many to each here.
    assert [sid[:13] for sid in sids] == sorted(sid[:13] for sid in sids)
    await store.close()


async def test_nothing_is_due_that_was_not_made_so(tmp_path: Path) -> None:
    store, _ = await filled(tmp_path, 1000)
    swept = await store.sweep(Builders(await store.clock()).cutoffs(), 5000)
    assert (swept.ended, swept.purged) == ([], 0)
    await store.close()


async def test_samples_hold_living_sessions_of_their_kind(tmp_path: Path) -> None:
    store, population = await filled(tmp_path, 1200)
    for sample, leaving in ((population.staying, False), (population.leaving, True)):
        records = await store.load([sid for sid, _ in sample.kept])
        assert all(record is not None and record.ended_at is None for record in records)
        assert [record.user_id for record in records if record] == [user for _, user in sample.kept]
        numbers = {user_of(number): leaves(number) for number in range(1200)}
        assert {numbers[user] for _, user in sample.kept} == {leaving}
    await store.close()


def test_a_sample_is_drawn_evenly() -> None:
    reservoir = Reservoir(1000, seed=3)
    for number in range(20_000):
        reservoir.show(f"{number:05}", "ann")  # type: ignore[arg-type]
    tenths = Counter(int(sid) // 2000 for sid, _ in reservoir.kept)
    assert len({sid for sid, _ in reservoir.kept}) == 1000
    assert all(60 < tenths[tenth] < 140 for tenth in range(10))


def test_progress_tells_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("benchmarks.scale_population.time.monotonic", lambda: now[0])
    out = io.StringIO()
    progress = Progress("SQLite:", 1000, 5000, out)
    now[0] += 10
    progress.advance(1000)
    assert out.getvalue() == ""  # no terminal: a line now and then
    assert "2,000 of 5,000  100/s  30 s left" in progress.text()
    now[0] += 30
    progress.advance(1000)
    assert out.getvalue().count("\n") == 1


def test_what_does_not_fit_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_servers, "available_memory", lambda: 20_000_000_000)
    said = missing_room(TARGETS["redis"], 10_000_000, 1, 2300)
    assert said is not None
    assert "Valkey: 10,000,000 sessions would take about 23.0 GB of memory, and 20.0 GB are free" in said
    assert missing_room(TARGETS["redis"], 7_000_000, 1, 2300) is None
    assert "disk space" in str(missing_room(TARGETS["sqlite"], 1_000_000, 1e12, 0))


async def test_a_size_without_room_is_left_out_and_those_before_it_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "missing_room", lambda target, more, *each: "no room" if more > 500 else None)
    target = TARGETS["sqlite"]
    found = await scale.grow(target, target.start(tmp_path), [300, 700, 5000], 2, FEW, FEW)
    assert [size.sessions for size in found] == [300, 700]
    assert "no room" in capsys.readouterr().err
    for size in found:
        assert {len(figures.cpu()) for figures in size.figures.values()} == {2}
        assert all(figures.medians()["app"] > 0 for figures in size.figures.values())
        told = size.as_json()
        assert 300 < told["disk_bytes_a_session"] < 5000
        assert list(told["verbs"]) == list(VERBS)
        # The callers' calls went together: there is nothing to measure otherwise.
        assert told["verbs"]["read of 32"]["batch"] > 8 > 2 > told["verbs"]["read alone"]["batch"]
    text = scale.table(target, found)
    assert text.count("| read alone |") == 2
    assert "| 700 |" in text


async def test_a_session_that_is_missing_stops_the_benchmark(tmp_path: Path) -> None:
    store, population = await filled(tmp_path, 600)
    assert isinstance(store, SQLiteStore)
    measured = Measured(store, population, None)
    await store.writer.run(lambda connection: connection.execute("DELETE FROM sessiondb_sessions").close())
    with pytest.raises(RuntimeError, match="not there any more"):
        await scale.measure((measured, measured), FEW, 0)
    await store.close()


def test_ratios_compare_what_was_measured_in_the_same_round() -> None:
    """The machine was three times as slow in the second round, for both."""
    small = Figures(app=[10, 30, 12], server=[10, 30, 12])
    grown = Figures(app=[11, 33, 13.2], server=[11, 33, 13.2])
    assert ratio(grown, small) == pytest.approx(1.1)
    medians = Figures(app=[100, 33, 11], server=[0, 0, 0])
    assert ratio(medians, Figures(app=[100, 30, 10], server=[0, 0, 0])) == pytest.approx(1.1)


def test_above_the_goal_is_marked() -> None:
    def of(app: float) -> dict[str, Figures]:
        return {verb: Figures([app], [0.0], [1.0], [2.0], [1.0]) for verb in VERBS}

    sizes = [scale.Size(10, 1000, None, 5, of(10), of(10)), scale.Size(100, 1000, None, 5, of(13), of(10))]
    lines = scale.table(TARGETS["sqlite"], sizes).splitlines()
    assert "| read alone | 100 | 13 | 0 | 1.00 | 2.00 | 1.30 **over** |" in lines
    assert not any("**over**" in line for line in lines if "| 10 |" in line)


def test_options_of_the_store_go_into_every_url(tmp_path: Path) -> None:
    server = TARGETS["sqlite"].start(tmp_path)
    server.add("busy_timeout=3&prefix=a_")
    for url in (server.url, server.filling, server.small):
        assert urlsplit(url).query.endswith("busy_timeout=3&prefix=a_")
        assert url.count("?") == 1
    assert asyncio.run(TARGETS["sqlite"].used(server)).disk == 0
    assert scale_measuring.machine()["cores"] == os.cpu_count()


def test_requests_that_took_too_long_are_counted() -> None:
    beside = {"times": {"read": [0.001] * 990 + [0.060], "write": [0.002] * 8 + [0.051]}, "failed": 3}
    told = scale_sweeping._times(beside)
    assert (told["requests"], told["failed"], told["too_long"], told["longest"]) == (1000, 3, 2, 60.0)
    assert (told["p50"], told["p999"]) == (1.0, 60.0)
    line = scale_sweeping._line({**told, "ended": 7, "took": 2.0, "failed_passes": 1, "log_bytes": 4_100_000})
    assert "2 above 50 ms; 7 rows in 2 s, 1 passes failed; log at most 4 MB" in line


async def test_the_log_of_sqlite_is_watched(tmp_path: Path) -> None:
    server = TARGETS["sqlite"].start(tmp_path)
    size = scale_sweeping._log_of(server)
    assert size is not None
    assert size() == (0, 0)
    store = open_store(server.url)
    await store.open()
    build = Builders(await store.clock())
    await store.apply([build.create(build.record("ann"))])
    assert size()[0] > 4096
    await store.close()
