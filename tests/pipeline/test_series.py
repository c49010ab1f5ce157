"""A series is the stack of its maps, whatever happens while it grows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from affine import Affine
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.record import Blocks
from pipeline.series import append, open_series, parse_time, read_dates
from pipeline.stores import LabelStore
from tests.pipeline.published import UTM, publish
from tests.pipeline.test_levels import slow_mode

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SHAPE = (40, 30)


def some_map(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).choice(np.array([0, 1, 5, 255], np.uint8), SHAPE)


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    return {name: publish(tmp_path / name, some_map(seed)) for seed, name in enumerate(["a", "b", "c", "d"])}


def stacked(folder: Path, group: str | None = None) -> tuple[list[str], NDArray[np.uint8]]:
    """What a plain reader sees: the dates as they lie in the store, and their labels."""
    with xr.open_zarr(folder / "series.zarr", group=group, mask_and_scale=False) as data:
        return [str(time)[:10] for time in data.time.values], data.labels.to_numpy()


def test_a_series_is_the_stack_of_its_maps(tmp_path: Path, runs: dict[str, Path]) -> None:
    folder = tmp_path / "series"
    for name, time in (("b", "2021-04"), ("a", "2021-03-01"), ("c", datetime(2021, 5, 1, tzinfo=UTC))):
        assert append(folder, runs[name], time) == folder / "series.zarr"
    times, labels = stacked(folder)
    assert times == ["2021-04-01", "2021-03-01", "2021-05-01"]
    np.testing.assert_array_equal(labels, np.stack([some_map(1), some_map(0), some_map(2)]))
    data = open_series(folder)
    assert [str(time)[:7] for time in data.time.values] == ["2021-03", "2021-04", "2021-05"]
    np.testing.assert_array_equal(data.labels, np.stack([some_map(0), some_map(1), some_map(2)]))
    assert data.labels.dims == data.confidence.dims == ("time", "y", "x")
    assert data.labels.dtype == data.labels.attrs["flag_values"].dtype == np.uint8
    assert data.labels.attrs["flag_values"].tolist() == [0, 1, 5]
    assert data.labels.attrs["flag_meanings"] == "class_0 class_1 class_5"
    assert (data.rio.crs.to_epsg(), data.odc.geobox.crs.epsg) == (32618, 32618)
    assert data.rio.transform() == data.odc.geobox.transform == UTM
    assert (data.attrs["license"], data.attrs["attribution"]) == ("CC-BY-4.0", "Somebody 2026")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "classes.json", "collection.json", "series.zarr"]


def test_its_legend_sums_the_dates_and_takes_the_newest_names(tmp_path: Path) -> None:
    one = publish(tmp_path / "one", np.array([[0, 0, 1, 255]], np.uint8), names={0: "old", 1: "kept"})
    two = publish(tmp_path / "two", np.array([[0, 5, 5, 5]], np.uint8), names={0: "new"})
    for run, time in ((one, "2021-03"), (two, "2021-04")):
        append(tmp_path / "series", run, time)
    classes = Legend.from_json(tmp_path / "series" / "classes.json").classes
    assert [(c.id, c.name, c.pixels) for c in classes] == [(0, "new", 3), (1, "kept", 1), (5, "class 5", 3)]


def test_the_same_again_changes_nothing(tmp_path: Path, runs: dict[str, Path]) -> None:
    folder = tmp_path / "series"
    append(folder, runs["a"], "2021-03")
    append(folder, runs["b"], "2021-04")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    append(folder, runs["b"], "2021-04-01T02:00+02:00")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_run_for_a_date_is_refused_or_takes_its_place(tmp_path: Path, runs: dict[str, Path]) -> None:
    folder = tmp_path / "series"
    for name, time in (("a", "2021-03"), ("b", "2021-04"), ("c", "2021-05")):
        append(folder, runs[name], time)
    with pytest.raises(InputError, match=r"holds another run for 2021-04-01T00:00:00 already \(\.\./b\)"):
        append(folder, runs["d"], "2021-04")
    append(folder, runs["d"], "2021-04", replace=True)
    np.testing.assert_array_equal(open_series(folder).labels, np.stack([some_map(0), some_map(3), some_map(2)]))
    assert [date.run for date in read_dates(folder)] == ["../a", "../d", "../c"]
    append(folder, runs["b"], "2021-06")
    np.testing.assert_array_equal(open_series(folder).labels[-1], some_map(1))


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have levels of the small maps, too; for each the halving of the one before it, by the rule that `levels` has."""
    monkeypatch.setattr("pipeline.levels.SMALLEST_PX", 10)
    return [slow_mode, lambda labels: slow_mode(slow_mode(labels))]


def test_levels_grow_with_the_dates(tmp_path: Path, runs: dict[str, Path], levels: list[Any]) -> None:
    folder = tmp_path / "series"
    for name, time in (("b", "2021-04"), ("a", "2021-03"), ("c", "2021-05")):
        append(folder, runs[name], time)
    append(folder, runs["d"], "2021-04", replace=True)
    store = zarr.open_group(folder / "series.zarr", mode="r")
    layout = store.attrs["multiscales"]["layout"]  # type: ignore[call-overload, index]
    assert [each["asset"] for each in layout] == ["labels", "levels/1/labels", "levels/2/labels"]  # type: ignore[call-overload, index, union-attr]
    maps = [some_map(0), some_map(3), some_map(2)]
    for index, (max_px, coarsen) in enumerate(zip((20, 10), levels, strict=True), 1):
        data = open_series(folder, max_px)
        assert [str(time)[:7] for time in data.time.values] == ["2021-03", "2021-04", "2021-05"]
        np.testing.assert_array_equal(data.labels, np.stack([coarsen(labels) for labels in maps]))
        assert data.labels.dtype == np.uint8
        assert data.labels.attrs["flag_meanings"] == "class_0 class_1 class_5"
        assert data.rio.crs.to_epsg() == data.odc.geobox.crs.epsg == 32618
        assert data.rio.transform() == data.odc.geobox.transform == UTM @ Affine.scale(2**index)
        plain = xr.open_zarr(folder / "series.zarr", group=f"levels/{index}")
        np.testing.assert_array_equal(plain.labels.sortby("time"), data.labels)
    assert open_series(folder, 40).labels.shape == open_series(folder).labels.shape == (3, *SHAPE)
    assert open_series(folder, 1).labels.shape == (3, 10, 8), "the coarsest"


def test_a_series_that_was_begun_without_levels_gets_them(
    tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "series"
    append(folder, runs["a"], "2021-03")
    monkeypatch.setattr("pipeline.levels.SMALLEST_PX", 20)
    append(folder, runs["b"], "2021-04")
    np.testing.assert_array_equal(open_series(folder).labels, np.stack([some_map(0), some_map(1)]))
    expected = np.stack([slow_mode(some_map(0)), slow_mode(some_map(1))])
    np.testing.assert_array_equal(open_series(folder, 20).labels, expected)


STEPS: list[tuple[Any, str]] = [(os, "replace"), (Path, "rename"), (shutil, "rmtree"), (LabelStore, "read")]


class Watched:
    """Calls `before` ahead of each step by which files get to where readers look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> None:
        self.count, self.before, self.busy = 0, before, False
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._watch(getattr(owner, name)))

    def _watch(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            # What is written beside the store is one step, however many files it has.
            if not self.busy and ".partial/" not in str(args[-1]):
                self.busy = True
                try:
                    self.before(self.count)
                finally:
                    self.busy = False
                self.count += 1
            return step(*args, **kwargs)

        return watched


@pytest.fixture(params=["append", "replace"])
def change(request: pytest.FixtureRequest, tmp_path: Path, runs: dict[str, Path]) -> Iterator[tuple[Any, ...]]:
    """A series of two dates, what it holds, a change to it, and what it holds after that."""
    folder = tmp_path / "series"
    append(folder, runs["a"], "2021-03")
    append(folder, runs["b"], "2021-04")
    before = ["2021-03-01", "2021-04-01"], np.stack([some_map(0), some_map(1)])
    if request.param == "append":
        after = [*before[0], "2021-05-01"], np.stack([*before[1], some_map(2)])
        yield folder, before, lambda: append(folder, runs["c"], "2021-05"), after
    else:
        after = before[0], np.stack([some_map(2), some_map(1)])
        yield folder, before, lambda: append(folder, runs["c"], "2021-03", replace=True), after


def same(one: Any, other: Any) -> bool:
    return bool(one[0] == other[0] and np.array_equal(one[1], other[1]))


@pytest.mark.parametrize("group", [None, "levels/1"])
def test_readers_see_the_old_or_the_new(
    levels: list[Any], change: Any, group: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before, alter, after = change
    if group is not None:
        before, after = ((times, np.stack([levels[0](each) for each in labels])) for times, labels in (before, after))
    seen: list[str] = []

    def look(_: int) -> None:
        if not (folder / "series.zarr").exists():
            seen.append("absent")
            return
        found = stacked(folder, group)
        seen.append("old" if same(found, before) else "new" if same(found, after) else "half")

    with monkeypatch.context() as patched:
        Watched(patched, look)
        alter()
    assert same(stacked(folder, group), after)
    assert "half" not in seen
    assert seen == sorted(seen, key=["old", "absent", "new"].index)
    # A store takes the place of another in two renames; an append has no such moment.
    assert seen.count("absent") <= (1 if len(before[0]) == len(after[0]) else 0)


def test_killed_anywhere_it_stays_whole_and_can_be_tried_again(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before, alter, after = change
    keep = folder.with_name("keep")
    shutil.copytree(folder, keep)
    killed = 0
    for fatal in range(1000):

        def die(step: int, fatal: int = fatal) -> None:
            if step == fatal:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            Watched(patched, die)
            try:
                alter()
            except KeyboardInterrupt:
                killed += 1
            else:
                break
        if (folder / "series.zarr").exists():
            found = stacked(folder)
            assert same(found, before) or same(found, after), f"half a date after step {fatal}"
        alter()
        assert same(stacked(folder), after)
        assert sorted(path.name for path in folder.iterdir()) == [
            ".lock",
            "classes.json",
            "collection.json",
            "series.zarr",
        ]
        shutil.rmtree(folder)
        shutil.copytree(keep, folder)
    assert killed >= 5


def test_what_a_killed_append_left_is_not_taken_for_another_date(
    tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "series"
    append(folder, runs["a"], "2021-03")
    replace = os.replace

    def die(source: Any, target: Any) -> None:
        if Path(target) == folder / "series.zarr" / "zarr.json":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            append(folder, runs["b"], "2021-04")
    assert (folder / "series.zarr" / "labels" / "c" / "1").exists()
    empty = publish(tmp_path / "empty", np.where(np.arange(40)[:, None] < 3, 1, np.full(SHAPE, 255)).astype(np.uint8))
    append(folder, empty, "2021-05")
    assert stacked(folder)[0] == ["2021-03-01", "2021-05-01"]
    assert (stacked(folder)[1][1, 3:] == 255).all(), "chunks of the date that was never appended are gone"


def test_what_does_not_fit_is_refused(tmp_path: Path, runs: dict[str, Path]) -> None:
    folder = tmp_path / "series"
    append(folder, runs["a"], "2021-03")
    cases = {
        r"is on another grid .*40 x 30 px at \(500005": {"transform": UTM @ Affine.translation(1, 0)},
        r"is on another grid .*EPSG:32619.*expected .*EPSG:32618": {"crs": "EPSG:32619"},
        r"ids mean other classes .*\(model b; expected model a\)": {"vocabulary": "model b"},
        r"ids mean other classes .*\(its own; expected model a\)": {"vocabulary": None},
        r"lacks 1 blocks": {"state": "incomplete", "blocks": Blocks(done=1, failed=1, failed_names=["0000_0000"])},
    }
    for index, (message, options) in enumerate(cases.items()):
        other = publish(tmp_path / f"other{index}", some_map(7), **options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            append(folder, other, "2021-04")
    with pytest.raises(InputError, match="'soon': is no date"):
        append(folder, runs["b"], "soon")
    assert stacked(folder)[0] == ["2021-03-01"]
    # Quads lie off their ideal grid by a fraction of a pixel, and not always by the same.
    append(folder, publish(tmp_path / "near", some_map(7), transform=UTM @ Affine.translation(1e-4, 0)), "2021-04")
    assert len(read_dates(folder)) == 2


def test_the_only_date_may_be_replaced_by_another_vocabulary(tmp_path: Path) -> None:
    append(tmp_path / "series", publish(tmp_path / "one", some_map(1), vocabulary=None), "2021-03")
    append(tmp_path / "series", publish(tmp_path / "two", some_map(2)), "2021-03", replace=True)
    append(tmp_path / "series", publish(tmp_path / "three", some_map(3)), "2021-04")
    np.testing.assert_array_equal(open_series(tmp_path / "series").labels, np.stack([some_map(2), some_map(3)]))


def test_what_is_no_series(tmp_path: Path, runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="holds no series"):
        open_series(tmp_path)
    shutil.copytree(runs["a"] / "labels.zarr", tmp_path / "series.zarr")
    with pytest.raises(InputError, match="is no series made by ktextures; it lacks dates"):
        open_series(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        append(tmp_path / "file" / "series", runs["a"], "2021-03")


def test_times() -> None:
    assert parse_time(datetime(2021, 3, 5, 1, 2, 3)) == "2021-03-05T01:02:03"
