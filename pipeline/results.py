"""The results of a run, opened: what `ktex info` shows and what `pipeline.segment` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rioxarray  # noqa: F401  (gives arrays their `rio` accessor)
import xarray as xr

from pipeline.errors import InputError
from pipeline.grids import name_crs
from pipeline.legend import Legend
from pipeline.record import RunRecord
from pipeline.stores import LEVELS, LabelStore
from pipeline.views import find_classes, plot_labels

if TYPE_CHECKING:
    from matplotlib.image import AxesImage

LABELS = "labels.zarr"
LEGEND = "classes.json"
RECORD = "run.json"
SHOWN = 30
"""So many classes are listed where a result is printed."""


def open_labels(path: str | Path) -> xr.Dataset:
    """Open a store of labels: integers, lazily and in chunks, with their CRS as `rio.crs` and `odc.crs`.

    Unlike xarray's defaults, which mask and make float32 of them. ``flag_values`` have the dtype of the labels.
    """
    LabelStore.open(path)  # for its errors
    return open_store(path)


def open_store(path: str | Path, group: str | None = None) -> xr.Dataset:
    """Open what lies in a store or a group of it, unmasked, with flags of the labels' dtype."""
    data: xr.Dataset = xr.open_zarr(path, group=group, mask_and_scale=False, decode_coords="all")
    labels = data["labels"]
    if "flag_values" in labels.attrs:
        labels.attrs["flag_values"] = np.asarray(labels.attrs["flag_values"], labels.dtype)
    return data


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A published run."""

    path: Path
    record: RunRecord
    legend: Legend

    def __repr__(self) -> str:
        """Say in a few lines what there is; the record and the legend in full would fill the screen."""
        grid, classes = _grid(self.path / LABELS), [_class_line(each) for each in _classes(self.legend)]
        lines = [
            f"<Result {self.path}>",
            f"  {self.record.state}, {grid['shape'][0]} x {grid['shape'][1]} px (y, x), {grid['crs'] or 'no CRS'}, "
            f"{len(classes)} classes",
        ]
        more = [f"    ... and {len(classes) - SHOWN} more"] if len(classes) > SHOWN else []
        return "\n".join(lines + classes[:SHOWN] + more)

    @property
    def dataset(self) -> xr.Dataset:
        """``labels`` and ``confidence`` ``(y, x)``, lazily."""
        return open_labels(self.path / LABELS)

    @property
    def labels(self) -> xr.DataArray:
        """Class ids ``(y, x)`` uint8 (nodata 255) or uint16 (nodata 65535), lazily, with CRS."""
        return self.dataset["labels"]

    @property
    def confidence(self) -> xr.DataArray:
        """Confidence ``(y, x)`` uint8, 0..200 (nodata 255), lazily, with CRS."""
        return self.dataset["confidence"]

    def level(self, max_px: int) -> xr.DataArray:
        """Return the finest level of the labels that is at most `max_px` wide and high, or the coarsest, lazily."""
        shapes = [self.labels.shape, *(array.shape for array in LabelStore.open(self.path / LABELS).levels())]
        fits = next((i for i, shape in enumerate(shapes) if max(shape) <= max_px), len(shapes) - 1)
        return self.labels if fits == 0 else open_store(self.path / LABELS, f"{LEVELS}/{fits}")["labels"]

    def pick(self, *classes: str | int) -> xr.DataArray:
        """Return where the map shows any of these classes, given by name or id: ``(y, x)`` bool, lazily."""
        return self.labels.isin(find_classes(self.legend, *classes))

    def plot(self, max_px: int = 2048, **options: Any) -> AxesImage:
        """Plot the map with its legend, from a level of at most `max_px`; `options` are for xarray's `imshow`."""
        return plot_labels(self.level(max_px), self.legend, **options)


def open_result(path: str | Path) -> Result:
    """Open a run directory.

    Raises
    ------
    InputError
        There is no such directory, or the run in it has not been published, or parts of it are missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: is no directory; give the --out directory of a run")
    if not (path / RECORD).exists():
        raise InputError(
            f"{path}: holds no published run ({RECORD} is missing); end the run by giving its command again"
        )
    record = RunRecord.read(path / RECORD)
    if not record.is_published:
        raise InputError(
            f"{path}: the run in it is {record.state!r}, not published; give its command again to resume it"
        )
    if missing := [name for name in (LABELS, LEGEND) if not (path / name).exists()]:
        raise InputError(f"{path}: {', '.join(missing)} of this run is missing; run again with --fresh")
    return Result(path, record, Legend.from_json(path / LEGEND))


def summarise(path: str | Path) -> dict[str, Any]:
    """Return what a run directory or a store of labels holds, ready for JSON: for `ktex info --json`."""
    path = Path(path)
    if (path / "zarr.json").exists():
        return {"path": str(path), "grid": _grid(path), "classes": _flags(path)}
    result = open_result(path)
    outputs = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
    grid, record = _grid(path / LABELS), result.record.model_dump(mode="json")
    return {"path": str(path), "grid": grid, "classes": _classes(result.legend), "outputs": outputs, "record": record}


def _classes(legend: Legend) -> list[dict[str, Any]]:
    return [
        {"id": each.id, "name": each.name, "colour": each.colour, "pixels": each.pixels, "share": each.share}
        for each in legend.classes
    ]


def _grid(path: Path) -> dict[str, Any]:
    store = LabelStore.open(path)
    geobox = store.geobox
    return {
        "shape": list(store.shape),
        "crs": name_crs(geobox),
        "transform": list(geobox.transform)[:6],
        "dtype": store.dtype.name,
        "chunk_px": store.chunk_px,
    }


def _flags(path: Path) -> list[dict[str, Any]]:
    attrs = LabelStore.open(path).array().attrs
    ids, names = attrs.get("flag_values", []), str(attrs.get("flag_meanings", "")).split()
    return [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]  # type: ignore[arg-type]


def describe(path: str | Path) -> str:
    """Return the text of `ktex info`: what a run directory or a store of labels holds."""
    found = summarise(path)
    grid = found["grid"]
    pixel = " x ".join(f"{np.hypot(*column):.6g}" for column in _columns(grid["transform"]))
    lines = [
        str(found["path"]),
        f"  grid      {grid['shape'][0]} x {grid['shape'][1]} px (y, x), {grid['crs'] or 'no CRS'}",
        f"  pixel     {pixel} (x, y)",
        f"  labels    {grid['dtype']} in chunks of {grid['chunk_px']} px",
    ]
    if "record" in found:
        lines += _record_lines(found["record"], found["outputs"])
    lines.append(f"  classes   {len(found['classes'])}")
    lines += [_class_line(each) for each in found["classes"]]
    return "\n".join(lines)


def _columns(transform: list[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    a, b, _, d, e, _ = transform
    return (a, d), (b, e)


def _class_line(each: dict[str, Any]) -> str:
    share = f"  {each['share']:7.2%}  {each['pixels']:>14,} px  {each['colour']}" if "share" in each else ""
    return f"    {each['id']:>3}  {each['name']:<24}{share}".rstrip()


def _record_lines(record: dict[str, Any], outputs: list[str]) -> list[str]:
    blocks, metrics = record["blocks"], record["metrics"]
    lines = [
        f"  state     {record['state']}, ktextures {record['ktextures']}, {record['created']}",
        f"  inputs    {len(record['inputs'])}",
        f"  blocks    {blocks['done']} done, {blocks['reused']} reused, {blocks['failed']} failed",
    ]
    if blocks["failed"]:
        lines.append(f"            failed: {' '.join(blocks['failed_names'])}")
    lines += [f"  stage     {each['name']:<10} {each['seconds']:9.1f} s" for each in record["stages"]]
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    lines += [
        f"  {name:<24}{value:,.4g}" if isinstance(value, float) else f"  {name:<24}{value:,}"
        for name, value in numbers.items()
    ]
    truth = metrics["truth"] or {}
    lines += [f"  {name:<24}{value:.4g}" for name, value in truth.items()]
    return [*lines, f"  outputs   {', '.join(outputs)}"]
