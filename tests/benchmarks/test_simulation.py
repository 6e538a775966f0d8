"""The queueing simulation, against what is known exactly, and against what was measured."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import simulation, simulation_plan
from benchmarks.simulation_plan import DEFAULTS, Hardware, Load, plan
from benchmarks.simulation_queues import (
    Clients,
    Kind,
    Outcome,
    Server,
    Simulation,
    erlang_c,
    md1_time,
    mm1_quantile,
    mmc_time,
)

ROOT = Path(__file__).parents[2]
ALONE = Clients(in_flight=1 << 60, most=1)  # nothing is gathered, and nobody waits for a turn to send


def run(cores: int, rate: float, *, spread: float, calls: int = 25_000, seed: int = 1) -> Outcome:
    """Calls of one millisecond."""
    return Simulation(Server(cores, spread), [Kind(0, 0.001)], ALONE, seed).open([rate], calls)


@pytest.mark.parametrize(("cores", "rate"), [(1, 600), (4, 2800), (16, 14_000)])
def test_many_cores_with_exponential_times_are_an_mmc_queue(cores: int, rate: float) -> None:
    found = run(cores, rate, spread=1)
    assert found.mean() == pytest.approx(mmc_time(rate, 0.001, cores), rel=0.06)
    assert found.utilisation == pytest.approx(rate * 0.001 / cores, rel=0.03)


def test_the_slowest_of_an_mm1_queue_are_as_slow_as_they_must_be() -> None:
    found = run(1, 600, spread=1, calls=50_000)
    for share in (0.5, 0.9, 0.99):
        assert found.quantile(share) == pytest.approx(mm1_quantile(600, 0.001, share), rel=0.08)


@pytest.mark.parametrize("rate", [300, 600, 800])
def test_one_core_with_equal_times_is_an_md1_queue(rate: float) -> None:
    assert run(1, rate, spread=0).mean() == pytest.approx(md1_time(rate, 0.001), rel=0.05)


def test_the_closed_forms_are_those_of_the_books() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)  # with one server, who waits is who comes while it is busy
    # By the sum that defines it.
    load, servers = 3.2, 4
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    assert erlang_c(servers, load) == pytest.approx(last / (sum(load**n / math.factorial(n) for n in range(4)) + last))
    assert md1_time(500, 0.001) - 0.001 == pytest.approx((mmc_time(500, 0.001, 1) - 0.001) / 2)


def test_littles_law_holds_whatever_is_gathered() -> None:
    """Calls on their way, on average: their rate times the time that each takes. Here the callers are counted."""
    clients = Clients(workers=2, app=0.0001, round_trip=0.0005, window=0.0003)
    found = Simulation(Server(2), [Kind(0.0002, 0.00003)], clients, 1).closed(16, 20_000)
    assert found.throughput * found.mean() == pytest.approx(2 * 16, rel=0.02)
    assert len(found.latencies[0]) == 20_000


def test_a_server_that_is_late_is_sent_larger_batches() -> None:
    """So it never falls behind where each call by itself would be too much for it."""
    kind = Kind(0.001, 0.00001)
    found = Simulation(Server(1), [kind], Clients(), 1).open([5000], 20_000)
    assert found.batch() > 5
    assert found.utilisation < 1
    alone = Simulation(Server(1), [kind], ALONE, 1).open([5000], 20_000)
    assert alone.quantile(0.5) > 100 * found.quantile(0.5)


def test_a_wait_for_the_disk_takes_no_core() -> None:
    """Reads do not wait for the commits beside them."""
    kinds = [Kind(0, 0.0001), Kind(0, 0.0001, wait=0.01)]
    found = Simulation(Server(1), kinds, ALONE, 1).open([1000, 1000], 20_000)
    assert found.mean(1) - found.mean(0) == pytest.approx(0.01, rel=0.01)
    assert found.mean(0) == pytest.approx(md1_time(2000, 0.0001), rel=0.05)


def test_one_seed_gives_one_result() -> None:
    first, second = (run(2, 1500, spread=1, calls=2000) for _ in range(2))
    assert first == second
    assert run(2, 1500, spread=1, calls=2000, seed=2) != first


def test_two_measurements_tell_what_a_batch_costs_and_what_a_call_adds() -> None:
    kind = simulation_plan.split(alone=80, each=12, batch=32)
    assert kind.cost(1) == pytest.approx(80e-6)
    assert kind.cost(32) / 32 == pytest.approx(12e-6)


# Of five runs of benchmarks.scale: microseconds of CPU a read, in the application and in the server when 32 callers
# share batches, in the server for one caller alone, and the median time of the 32, milliseconds.
MEASURED = [
    ("PostgreSQL, ten thousand", 12, 9, 64, 0.61),
    ("PostgreSQL, a hundred thousand", 13, 11, 69, 0.77),
    ("PostgreSQL, a million", 16, 15, 90, 0.92),
    ("Valkey, a hundred thousand", 26, 10, 20, 1.22),
    ("Valkey, a million", 22, 9, 17, 0.98),
]


@pytest.mark.parametrize(
    ("app", "server", "alone", "median"), [one[1:] for one in MEASURED], ids=[one[0] for one in MEASURED]
)
def test_the_simulation_meets_what_was_measured(app: float, server: float, alone: float, median: float) -> None:
    """Only CPU went in, and out comes how long calls took: within a quarter, on a machine with two cores for all."""
    found = simulation_plan.together(simulation_plan.split(alone, server, 32), app * 1e-6, 32, 5000, 1)
    assert found.batch() > 30  # as in the benchmark
    assert found.quantile(0.5) * 1000 == pytest.approx(median, rel=0.25)


# -- the plan ------------------------------------------------------------------------------------------------

LOAD, HARDWARE = Load(), Hardware()


def test_logins_keep_up_with_ends_and_touches_with_use() -> None:
    load = replace(LOAD, sessions=1e6, lifetime=1e4, active=6e4, touch_every=60, requests=500)
    assert load.logins == 100
    assert load.touches == 500  # no more than there are requests
    assert replace(load, requests=5000).touches == 1000


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_server_at_its_ceiling_is_as_busy_as_it_may_be(name: str) -> None:
    costs = DEFAULTS[name]
    top = simulation_plan.ceiling(costs, LOAD, HARDWARE)
    scaled = replace(
        LOAD, **{part: getattr(LOAD, part) * top / LOAD.requests for part in ("requests", "active", "sessions")}
    )
    assert simulation_plan.core_seconds(costs, scaled) == pytest.approx(costs.cores * HARDWARE.use)
    assert plan(costs, scaled, HARDWARE).by["CPU"] == pytest.approx(1)


def test_memory_runs_out_first_where_sessions_are_many_and_requests_few() -> None:
    few = plan(DEFAULTS["redis"], replace(LOAD, requests=1000, active=1000), HARDWARE)
    assert few.first == "memory"
    assert few.servers == math.ceil(1e8 * DEFAULTS["redis"].memory / (HARDWARE.memory * HARDWARE.memory_use))
    assert plan(DEFAULTS["redis"], replace(LOAD, sessions=1e6), HARDWARE).first == "CPU"


def test_the_near_cache_spares_reads_and_nothing_else() -> None:
    costs = DEFAULTS["postgresql"]
    without, half = (plan(costs, replace(LOAD, hits=hits), HARDWARE) for hits in (0, 0.5))
    spared = simulation_plan.core_seconds(costs, without.load) - simulation_plan.core_seconds(costs, half.load)
    assert spared == pytest.approx(LOAD.requests / 2 * costs.read_alone * 1e-6)


def test_hits_of_a_near_cache_are_those_of_a_cache_that_is_played_through() -> None:
    load = replace(LOAD, requests=1000, active=2000)
    for holders, age in ((1, 1.0), (1, 60.0), (4, 3.0)):
        choose = random.Random(5)
        now, loaded_at, hits = 0.0, -math.inf, 0
        for _ in range(20_000):
            now += choose.expovariate(load.requests / load.active / holders)
            if now - loaded_at < age:
                hits += 1
            else:
                loaded_at = now
        assert simulation_plan.near_hits(load, holders, age) == pytest.approx(hits / 20_000, abs=0.01)


def test_the_simulated_server_is_as_busy_as_the_plan_says() -> None:
    """Below the load at which batches grow, which only makes it cheaper."""
    costs = DEFAULTS["redis"]
    servers = plan(costs, LOAD, HARDWARE).servers
    found = simulation_plan.simulate(costs, LOAD, HARDWARE, servers, 0.5, 20_000, 1)
    assert found.utilisation == pytest.approx(0.5, rel=0.06)
    assert found.quantile(0.99) > found.quantile(0.5) > HARDWARE.round_trip


def test_costs_are_read_from_the_json_of_the_benchmark() -> None:
    def verb(app: float, server: float) -> dict[str, float]:
        return {"app": app, "server": server, "p50": 1, "p99": 2, "batch": 30, "ratio": 1}

    verbs = {
        "read alone": verb(50, 70),
        "read of 32": verb(15, 11),
        "write alone": verb(90, 200),
        "write of 32": verb(21, 31),
        "sweep": verb(2, 17),
    }
    size = {"sessions": 10, "disk_bytes_a_session": 1300, "memory_bytes_a_session": None, "verbs": verbs}
    [(name, costs)] = simulation_plan.from_json({"databases": {"postgresql": [{}, size], "sqlite": []}}).items()
    assert name == "postgresql"
    assert (costs.read_alone, costs.read_each, costs.app_read, costs.batch) == (70, 11, 15, 30)
    assert (costs.write_alone, costs.write_each, costs.app_write) == (200, 31, 21)
    assert (costs.sweep_each, costs.disk, costs.memory) == (17, 1300, 0)


def test_everything_that_is_assumed_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["simulation", "--calls", "500", "--sessions", "123456", "--round-trip", "0.00077"])
    simulation.main()
    printed = capsys.readouterr().out
    for name in (*Load.__dataclass_fields__, *Hardware.__dataclass_fields__):
        assert f"| {name.replace('_', ' ')} |" in printed
    assert "123,456" in printed
    assert "0.00077" in printed


def test_the_defaults_are_those_of_the_file_in_docs() -> None:
    measured = simulation_plan.from_json(json.loads((ROOT / "docs" / "scaling.json").read_text()))
    assert {"postgresql", "redis"} <= measured.keys()
    for name, costs in measured.items():
        for one in fields(costs):
            found, expected = (getattr(which, one.name) for which in (DEFAULTS[name], costs))
            assert found == (expected if isinstance(expected, str) else pytest.approx(expected, abs=0.6, rel=0.01)), (
                one.name
            )
