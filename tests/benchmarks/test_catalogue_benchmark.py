"""What is measured of the catalogue: each class judged, nothing renumbered, and the sea is no run."""

from benchmarks.align.simulator import SCENARIOS, simulate
from benchmarks.catalogue.rates import HIDDEN, QUANTILES, SIDE, blocks_of, measure_rates, summarise
from benchmarks.catalogue.speed import measure_speed


def test_a_block_attaches_to_a_catalogue_and_renumbers_nothing() -> None:
    found = measure_speed(4, 11)
    assert found["ids_kept"]
    assert found["right"] == found["classes"] > 0


def test_every_class_of_a_run_is_judged_for_each_threshold_and_hidden_class() -> None:
    runs = list(measure_rates("clean", 21, 2))
    judged = {quantile: sum(run["quantile"] == quantile for run in runs) for quantile in QUANTILES}
    assert len({*judged.values()}) == 1
    assert judged[0.95] % len(HIDDEN) == 0, "each hidden class in turn, the same run"
    assert not any(run["wrong"] for run in runs)
    assert {row[2] for row in summarise(runs)} == {*QUANTILES}


def test_blocks_in_the_sea_are_no_run() -> None:
    found = [(seed, list(measure_rates("islands", seed, 1))) for seed in range(21, 25)]
    for seed, runs in found:
        mosaic = simulate((SIDE, SIDE), SCENARIOS["islands"], seed)
        assert bool(runs) == bool(blocks_of(mosaic, range(SIDE - 1, SIDE), range(SIDE // 2, SIDE // 2 + 1)))
    assert {bool(runs) for _, runs in found} == {True, False}
