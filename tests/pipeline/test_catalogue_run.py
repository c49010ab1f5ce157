"""Runs that attach to a catalogue: the same texture has the same id, whatever a model called it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray

from ktex_model.texture import TextureConfig
from pipeline import InputError, RunFailedError, Settings, segment
from pipeline import run as run_module
from pipeline.align.review import tell_mixed
from pipeline.align.values import Mixed
from pipeline.catalogue import desk, stage
from pipeline.catalogue.rewrite import rename_alignment
from pipeline.catalogue.store import CatalogueLock, read_catalogue, write_catalogue
from pipeline.cleanup import CleanUp
from pipeline.coherence import map_score
from pipeline.derived import clean
from pipeline.legend import Legend
from pipeline.polygons import write_polygons
from pipeline.record import AlignmentMetrics
from pipeline.report import remake_report
from pipeline.series import append, open_series
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SMALL: dict[str, Any] = {
    "block_px": 64, "chunk_px": 32, "overlap_px": 8, "engine": "serial", "bands": "G=1", "scaling": "byte",
}  # fmt: skip
GLOBAL: dict[str, Any] = {**SMALL, "mode": "global", "block_px": 128}


@pytest.fixture(autouse=True)
def _grey(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    yield
    grey_model.SHUFFLE["salt"] = 0
    grey_model.load_model.cache_clear()


def make_scene(path: Path, levels: list[int], seed: int = 0, shape: tuple[int, int] = (128, 128)) -> NDArray[np.uint8]:
    """Write patches of grey, of the given eighths of the whole range; returns the level of each pixel."""
    rng = np.random.default_rng(seed)
    coarse = rng.permutation(np.resize(levels, (shape[0] // 16) * (shape[1] // 16))).reshape(shape[0] // 16, -1)
    truth = np.kron(coarse, np.ones((16, 16), int)).astype(np.uint8)
    write_raster(path, ((truth.astype(int) * 2 + 1) * 16 + rng.integers(-4, 5, shape)).astype(np.uint8), nodata=0)
    return truth


def ids_of(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> dict[int, int]:
    """Return the one id of each level; fails where a level has several."""
    found = {int(level): np.unique(labels[truth == level]).tolist() for level in np.unique(truth)}
    assert all(len(ids) == 1 for ids in found.values()), found
    return {level: ids[0] for level, ids in found.items()}


@pytest.mark.parametrize(
    "settings", [{**SMALL, "global_classes": 4, "k": 8}, {**GLOBAL, "k": 8}], ids=["local", "global"]
)
def test_a_later_run_goes_on_with_the_ids_and_appends_what_is_new(tmp_path: Path, settings: dict[str, Any]) -> None:
    first = make_scene(tmp_path / "a_20100601.tif", [1, 3, 5, 7])
    second = make_scene(tmp_path / "b_20120601.tif", [0, 3, 5, 7], seed=1)
    catalogue = tmp_path / "catalogue"
    one = segment(tmp_path / "a_20100601.tif", Settings(**settings, catalogue=catalogue), tmp_path / "one")
    before = Legend.from_json(catalogue / "classes.json")
    desk.rename_class(catalogue, 2, "Forest", "#123456")
    grey_model.SHUFFLE["salt"] = 5
    two = segment(tmp_path / "b_20120601.tif", Settings(**settings, seed=3, catalogue=catalogue), tmp_path / "two")
    a, b = ids_of(one.labels.to_numpy(), first), ids_of(two.labels.to_numpy(), second)
    assert {level: b[level] for level in (3, 5, 7)} == {level: a[level] for level in (3, 5, 7)}
    assert b[0] == before.next_id, "a level that was never seen gets the next id"
    after = Legend.from_json(catalogue / "classes.json")
    assert after.ids == [*before.ids, b[0]]
    assert (after[2].name, after[2].colour) == ("Forest", "#123456")
    assert (after[b[0]].first_seen, after[a[1]].last_seen) == ("2012-06-01", "2010-06-01")
    assert (after[a[3]].first_seen, after[a[3]].last_seen) == ("2010-06-01", "2012-06-01")
    assert after[a[3]].pixels == (first == 3).sum() + (second == 3).sum()
    assert two.legend.ids == sorted(b.values())
    assert [each.id for each in two.legend.known] == [a[1]]
    if 2 in two.legend.ids:
        assert two.legend[2].name == "Forest"
    alignment = two.record.metrics.alignment if two.record.metrics else None
    assert alignment is not None
    assert alignment.new_classes == [b[0]]
    assert alignment.catalogue is not None
    states = {each["id"]: each["state"] for each in alignment.catalogue["classes"]}  # type: ignore[union-attr,index,call-overload]
    assert states == {i: "new" if i == b[0] else "matched" for i in b.values()}


def test_a_run_is_a_catalogue_too_and_is_only_read(tmp_path: Path) -> None:
    first = make_scene(tmp_path / "a.tif", [1, 3, 5])
    second = make_scene(tmp_path / "b.tif", [0, 3, 5], seed=1)
    one = segment(tmp_path / "a.tif", Settings(**GLOBAL, k=8), tmp_path / "one")
    kept = {path: path.read_bytes() for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()}
    two = segment(tmp_path / "b.tif", Settings(**GLOBAL, k=8, seed=9, catalogue=tmp_path / "one"), tmp_path / "two")
    a, b = ids_of(one.labels.to_numpy(), first), ids_of(two.labels.to_numpy(), second)
    assert (a[3], a[5]) == (b[3], b[5])
    assert b[0] not in a.values()
    assert {path: path.read_bytes() for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()} == kept


def test_the_same_model_keeps_its_ids_without_any_matching(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    second = make_scene(tmp_path / "b.tif", [1, 5], seed=1)
    catalogue = tmp_path / "catalogue"
    one = segment(tmp_path / "a.tif", Settings(**GLOBAL, k=8, catalogue=catalogue), tmp_path / "one")
    applied = Settings(**SMALL, model=tmp_path / "one", catalogue=catalogue)
    two = segment(tmp_path / "b.tif", applied, tmp_path / "two")
    assert set(two.legend.ids) <= set(one.legend.ids)
    assert len(ids_of(two.labels.to_numpy(), second)) == 2
    alignment = two.record.metrics.alignment if two.record.metrics else None
    assert alignment is not None
    assert alignment.catalogue is not None
    assert alignment.catalogue["how"] == "same model"


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("moment", ["make_run_record", "publish_catalogue", "before the move"])
def test_a_killed_run_is_in_the_catalogue_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    make_scene(tmp_path / "b.tif", [0, 5], seed=1)
    catalogue = tmp_path / "catalogue"
    segment(tmp_path / "a.tif", Settings(**GLOBAL, k=8, catalogue=catalogue), tmp_path / "one")
    before = (catalogue / "classes.json").read_bytes()
    first = Legend.from_json(catalogue / "classes.json")
    settings = Settings(**GLOBAL, k=8, seed=4, catalogue=catalogue)

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before the move":
            patch.setattr("pipeline.workspace.Workspace.publish", die)
        else:
            patch.setattr(run_module, moment, die)
        with pytest.raises(Killed):
            segment(tmp_path / "b.tif", settings, tmp_path / "two")
    if moment == "publish_catalogue":
        assert (catalogue / "classes.json").read_bytes() == before, "only a run that publishes changes it"
    two = segment(tmp_path / "b.tif", settings, tmp_path / "two")
    found = read_catalogue(catalogue)
    assert len(found.card.runs) == 2
    assert sum(each.pixels for each in found.legend.classes) == 2 * 128 * 128
    assert set(two.legend.ids) <= set(found.legend.ids)
    assert found.legend.next_id == first.next_id + 1
    whole = segment(tmp_path / "b.tif", settings, tmp_path / "again")
    np.testing.assert_array_equal(whole.labels.to_numpy(), two.labels.to_numpy())
    assert read_catalogue(catalogue).legend.ids == found.legend.ids


def test_only_one_run_attaches_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    catalogue = tmp_path / "catalogue"
    monkeypatch.setattr(stage, "WAIT_S", 0.0)
    settings = Settings(**GLOBAL, k=8, catalogue=catalogue)
    with CatalogueLock(catalogue, "the run in /elsewhere"):
        with pytest.raises(RunFailedError, match=r"is in use by the run in /elsewhere \(process \d+\)"):
            segment(tmp_path / "a.tif", settings, tmp_path / "one")
        with pytest.raises(InputError, match="holds no catalogue"):
            desk.rename_class(catalogue, 0, "x", None)
    segment(tmp_path / "a.tif", settings, tmp_path / "one")
    with CatalogueLock(catalogue, "another"), pytest.raises(InputError, match="in use by another"):
        desk.rename_class(catalogue, 0, "x", None)


def test_what_does_not_fit_the_catalogue_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    catalogue = tmp_path / "catalogue"
    segment(tmp_path / "a.tif", Settings(**GLOBAL, k=8, catalogue=catalogue), tmp_path / "one")
    other = {**GLOBAL, "k": 8, "catalogue": catalogue}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"scaling": "percentile"}, "made with scaling byte, .* got percentile; leave --scaling out"),
        ({"bands": "N=1"}, "holds classes of bands G, the scene has N"),
        ({"catalogue": tmp_path}, "holds no catalogue"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            segment(tmp_path / "a.tif", Settings(**{**other, **changes}), tmp_path / "two")
        assert not (tmp_path / "two").exists()
    without = {name: value for name, value in other.items() if name != "scaling"}
    result = segment(tmp_path / "a.tif", Settings(**without), tmp_path / "three")
    assert result.record.settings["scaling"] == "byte", "the rule of the catalogue is taken"
    found = read_catalogue(catalogue)
    signatures = catalogue / found.legend.signatures
    signatures.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="is no file of signatures"):
        segment(tmp_path / "a.tif", Settings(**other), tmp_path / "four")


def fill(catalogue: Path, next_id: int) -> None:
    """Let a catalogue have given all ids up to one."""
    known = read_catalogue(catalogue)
    with CatalogueLock(catalogue, "test"):
        object.__setattr__(known.legend, "next_id", next_id)
        write_catalogue(catalogue, known)


@pytest.mark.parametrize("mode", ["local", "global"])
def test_a_full_catalogue_says_so_and_wider_labels_go_on(tmp_path: Path, mode: str) -> None:
    how = {**SMALL, "global_classes": 3, "k": 8} if mode == "local" else {**GLOBAL, "k": 8}
    truth = make_scene(tmp_path / "a.tif", [1, 3, 5])
    other = make_scene(tmp_path / "b.tif", [0, 3, 5], seed=1)
    catalogue = tmp_path / "catalogue"
    one = segment(tmp_path / "a.tif", Settings(**how, catalogue=catalogue), tmp_path / "one")
    fill(catalogue, 255)
    again = {**how, "seed": 2, "catalogue": catalogue}
    message = r"have ids up to 255, and uint8 labels can hold 255 ids; give --label-dtype uint16, or begin a new"
    with pytest.raises(RunFailedError, match=message):
        segment(tmp_path / "b.tif", Settings(**again), tmp_path / "two")
    wide = segment(tmp_path / "b.tif", Settings(**again, label_dtype="uint16"), tmp_path / "wide")
    known = ids_of(one.labels.to_numpy(), truth)
    expected = {0: 255, 3: known[3], 5: known[5]}
    assert ids_of(wide.labels.to_numpy(), other) == expected
    assert wide.labels.dtype == np.uint16
    metrics = wide.record.metrics
    assert metrics is not None
    assert metrics.classes == 3
    with pytest.raises(InputError, match=r"has ids up to 255, and uint8 labels can hold 255; give --label-dtype"):
        segment(tmp_path / "a.tif", Settings(**again), tmp_path / "three")
    assert not (tmp_path / "three").exists()
    fill(catalogue, 65535)
    make_scene(tmp_path / "c.tif", [1, 3, 7], seed=3)
    with pytest.raises(RunFailedError, match=r"up to 6553\d, and uint16 labels can hold 65535 ids; begin a new"):
        segment(tmp_path / "c.tif", Settings(**again, label_dtype="uint16"), tmp_path / "four")


@pytest.mark.parametrize("how", [{**SMALL, "global_classes": 3}, {**GLOBAL, "block_px": 64}], ids=["local", "global"])
def test_wide_labels_are_the_narrow_ones_widened(tmp_path: Path, how: dict[str, Any]) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        pixels = file.read(1)
        pixels[:64, :64] = 0  # a whole block
        pixels[100:110] = 0
        file.write(pixels, 1)
    narrow = segment(tmp_path / "a.tif", Settings(**how, k=8), tmp_path / "narrow")
    wide = segment(tmp_path / "a.tif", Settings(**how, k=8, label_dtype="uint16"), tmp_path / "wide")
    labels = narrow.labels.to_numpy()
    expected = np.where(labels == 255, 65535, labels.astype(np.uint16))
    assert (expected == 65535).sum() == 64 * 64 + 10 * 128
    np.testing.assert_array_equal(wide.labels.to_numpy(), expected)
    np.testing.assert_array_equal(wide.confidence.to_numpy(), narrow.confidence.to_numpy())
    figures = [result.record.metrics.model_dump(exclude={"pixels_per_second"}) for result in (wide, narrow)]  # type: ignore[union-attr]
    assert figures[0] == figures[1]


def test_wide_labels_are_published_like_narrow_ones(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    truth = make_scene(tmp_path / "b.tif", [0, 3, 5], seed=1)
    with rasterio.open(tmp_path / "b.tif", "r+") as file:
        pixels = file.read(1)
        pixels[:, :9] = 0
        file.write(pixels, 1)
    catalogue, out = tmp_path / "catalogue", tmp_path / "wide"
    segment(tmp_path / "a.tif", Settings(**GLOBAL, k=8, catalogue=catalogue), tmp_path / "one")
    fill(catalogue, 40_000)
    how = {**SMALL, "global_classes": 3, "k": 8, "seed": 2, "catalogue": catalogue, "label_dtype": "uint16"}
    segment(tmp_path / "b.tif", Settings(**how), out)
    desk.rename_class(catalogue, 40_000, "Forest", "#0A0B0C")
    assert desk.refresh(out, catalogue)
    result = desk.open_result(out)
    labels = result.labels.to_numpy()
    assert (labels[:, :9] == 65535).all()
    assert (labels[:, 9:][truth[:, 9:] == 0] == 40_000).all()
    assert result.labels.rio.nodata == 65535
    with xr.open_zarr(out / "labels.zarr") as plain:
        assert (plain.labels.dtype, plain.confidence.dtype) == (np.uint16, np.uint8)
        assert plain.labels.attrs["flag_values"] == result.legend.ids
    with rasterio.open(out / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), labels)
        assert (cog.nodata, cog.dtypes) == (65535, ("uint16",))
        assert cog.colormap(1)[40_000] == (10, 11, 12, 255)
    assert "<Category>Forest</Category>" in (out / "labels.tif.aux.xml").read_text()
    assert 'value="40000" color="#0a0b0c" alpha="255" label="Forest"' in (out / "labels.qml").read_text()
    item = json.loads((out / "item.json").read_text())["assets"]["labels"]
    assert [(each["value"], each.get("nodata")) for each in item["classification:classes"]][-1] == (65535, True)
    assert item["bands"] == [{"name": "labels", "data_type": "uint16", "nodata": 65535}]
    assert result.record.metrics is not None
    assert set(result.record.metrics.areas_m2 or {}) == {str(i) for i in result.legend.ids}
    remake_report(out)
    assert "Forest" in (out / "report.html").read_text("utf-8")
    known = next(i for i in result.legend.ids if i < 255)
    cleaned = clean(result, tmp_path / "clean", CleanUp(mmu_px=20))
    assert cleaned.labels.dtype == np.uint16
    assert set(np.unique(cleaned.labels.to_numpy()).tolist()) <= {*result.legend.ids, 65535}
    write_polygons(result, tmp_path / "polygons.parquet")
    assert set(gpd.read_parquet(tmp_path / "polygons.parquet")["class"]) == set(result.legend.ids)
    append(tmp_path / "series", out, "2021-03")
    assert open_series(tmp_path / "series").labels.dtype == np.uint16
    desk.merge(catalogue, [40_000], known)
    assert desk.refresh(out, catalogue)
    np.testing.assert_array_equal(desk.open_result(out).labels, np.where(labels == 40_000, known, labels))


def test_a_merge_rewrites_all_that_a_run_published(tmp_path: Path) -> None:
    truth = make_scene(tmp_path / "a.tif", [1, 3, 5, 7])
    catalogue, out = tmp_path / "catalogue", tmp_path / "one"
    one = segment(tmp_path / "a.tif", Settings(**{**GLOBAL, "block_px": 64}, k=8, catalogue=catalogue), out)
    ids = ids_of(one.labels.to_numpy(), truth)
    gone, into = sorted((ids[3], ids[7]), reverse=True)
    desk.merge(catalogue, [gone], into)
    desk.rename_class(catalogue, into, "Forest", "#0A0B0C")
    assert desk.published_runs(catalogue) == [out]
    assert desk.refresh(out, catalogue)
    assert not desk.refresh(out, catalogue), "a second time there is nothing to change"
    labels = desk.open_result(out).labels.to_numpy()
    expected = {**ids, 3: into, 7: into}
    assert ids_of(labels, truth) == expected
    with rasterio.open(out / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), labels)
        assert cog.colormap(1)[into] == (10, 11, 12, 255)
    assert "<Category>Forest</Category>" in (out / "labels.tif.aux.xml").read_text()
    assert 'label="Forest"' in (out / "labels.qml").read_text()
    legend = desk.read_legend(out)
    assert legend.ids == sorted(set(expected.values()))
    assert legend[into].pixels == np.isin(truth, (3, 7)).sum()
    assert legend[into].parents == (gone,)
    record = json.loads((out / "run.json").read_text())
    assert record["metrics"]["classes"] == 3
    changes = (labels[:, 63] != labels[:, 64]).sum() + (labels[63] != labels[64]).sum()
    assert record["metrics"]["seam_change_rate"] == pytest.approx(changes / 256)
    assert record["metrics"]["score"] == pytest.approx(
        map_score(lambda window: labels[window.slices], labels.shape, nodata=255)
    )
    assert (out / "model").exists()
    assert not (out / ".ktex").exists()
    again = segment(tmp_path / "a.tif", Settings(**{**GLOBAL, "block_px": 64}, k=8, catalogue=catalogue), out)
    np.testing.assert_array_equal(
        again.labels.to_numpy(), labels, "the run counts as done, and stays as it was rewritten"
    )
    make_scene(tmp_path / "b.tif", [3, 7], seed=2)
    later = segment(tmp_path / "b.tif", Settings(**GLOBAL, k=8, seed=6, catalogue=catalogue), tmp_path / "later")
    assert later.legend.ids == [into], "both textures are the merged class from now on"


def test_what_the_alignment_said_is_said_in_the_ids_that_are_left() -> None:
    said = AlignmentMetrics(
        ambiguous=[
            {"block": [0, 1], "local_id": 2, "id": 7, "second_id": 3, "posterior": 0.8},
            {"block": [0, 1], "local_id": 3, "id": 5, "second_id": 7, "posterior": 0.7},
            {"class": 1, "id": 7},
        ],
        new_classes=[3, 5, 7],
        repairs=[{"block": [0, 0], "local_id": 7, "id": 5, "new_id": None}],
        confusions=[
            {"ids": [3, 7], "pixels": 9, "share": 0.3},
            {"ids": [5, 7], "pixels": 8, "share": 0.2},
            {"ids": [3, 5], "pixels": 4, "share": 0.1},
        ],
        mixed=[
            {"block": [0, 1], "local_id": 2, "ids": [5, 7], "share": 0.4},
            {"block": [1, 1], "local_id": 0, "ids": [7, 3], "share": 0.6},
        ],
        flags=["look here", *tell_mixed([Mixed((0, 1), 2, (5, 7), 0.4), Mixed((1, 1), 0, (7, 3), 0.6)])],
    )
    table = np.arange(256, dtype=np.uint8)
    table[7] = 3
    found = AlignmentMetrics.model_validate(rename_alignment(said, table))
    assert found.ambiguous == [
        {"block": [0, 1], "local_id": 3, "id": 5, "second_id": 3, "posterior": 0.7},
        {"class": 1, "id": 3},
    ]
    assert found.new_classes == [3, 5]
    assert found.repairs == [{"block": [0, 0], "local_id": 7, "id": 5, "new_id": None}]
    assert found.confusions == [{"ids": [3, 5], "pixels": 12, "share": 0.2}]
    assert found.mixed == [{"block": [0, 1], "local_id": 2, "ids": [5, 3], "share": 0.4}]
    assert found.flags[0] == "look here"
    (sentence,) = found.flags[1:]
    assert sentence.startswith("1 class(es)")
    assert "5 and 3 in (0, 1)" in sentence


def test_an_interrupted_rewriting_is_ended_by_the_runs_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(tmp_path / "a.tif", [1, 3, 5])
    settings, out = Settings(**GLOBAL, k=8), tmp_path / "one"
    first, into, other = segment(tmp_path / "a.tif", settings, out).legend.ids
    rename = Path.rename

    def die_late(self: Path, target: Path) -> Path:
        if self.name == "run.json":
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die_late)
    with pytest.raises(Killed):
        desk.merge(out, [first], into)
    monkeypatch.undo()
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    assert not (out / "run.json").exists()
    result = segment(tmp_path / "a.tif", settings, out)
    assert result.legend.ids == [into, other]
    assert set(np.unique(result.labels)) == {into, other}
    assert (out / "confidence.tif").exists()
