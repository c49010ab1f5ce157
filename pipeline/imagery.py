"""The imagery of a run: opened as its settings say, and again from where it was found when the run is done."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError
from pipeline.pixels import Scene, fingerprint_files
from pipeline.record import RunRecord
from pipeline.scene import Source, open_scene
from pipeline.settings import Settings
from pipeline.sources import is_udm2


def open_source(source: Source, settings: Settings) -> Scene:
    """Open a source as the settings say; raises InputError where it does not make one scene."""
    return open_scene(
        source,
        bands=settings.bands,
        mask=settings.mask,
        aoi=settings.aoi,
        date=settings.date,
        overlap=settings.overlap_rule,
        align=settings.align,
        tolerance_px=settings.tolerance_px,
        resampling=settings.resampling,
        radiometry_match=settings.radiometry_match,
    )


def reopen_scene(record: RunRecord) -> Scene:
    """Open the scene of a run.

    Raises
    ------
    InputError
        Its files are gone or have changed, or it came as an array.
    """
    known = {name: value for name, value in record.settings.items() if name in Settings.model_fields}
    settings, paths = Settings.parse(known), {each.path: Path(each.path) for each in record.inputs}
    for path, recorded in zip(paths.values(), record.inputs, strict=True):
        if recorded.sha256 is None:
            continue  # not a file here; opening it tells
        if not path.is_file():
            raise InputError(f"{path}: the imagery of the run is no longer there; bring it back")
        if path.stat().st_size != recorded.size or fingerprint_files([path])[0].sha256 != recorded.sha256:
            raise InputError(f"{path}: has changed since the run; bring back what the run read")
    others = {settings.mask, settings.aoi}
    sources = [name for name, path in paths.items() if path not in others and not is_udm2(path)]
    return open_source(sources, settings)
