"""The settings of a run: one frozen object, read once from YAML, the command line or Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import InputError
from pipeline.legend import MAX_IDS

_HOW = frozenset({"fit_block", "engine", "workers", "scheduler", "resources", "retries", "block_hours", "keep_work"})
"""Fields that say how a run is carried out. They cannot change its result, so its digest leaves them out."""

Option = bool | int | float | str | None | list[int]


class Settings(BaseModel):
    """What a run shall do.

    Attributes
    ----------
    k
        Number of texture classes of each model, 2..128.
    preset
        ``texture``, our own model, or ``paper``, the published one.
    mode
        ``local``: a model for each block, classes aligned afterwards. ``global``: one model, trained on a sample of
        the whole scene.
    bands
        Band map, by name or explicit (``R=3,G=2,B=1,N=4,alpha=5``); None takes what the files say unambiguously.
    label_dtype
        Type of the published labels: ``uint8`` (nodata 255) for up to 255 ids in a catalogue's life, ``uint16`` (nodata
        65535) for up to 65,535.
    block_px, chunk_px
        Side of a block's core, and of the chunks of the stores; the first is a multiple of the second. ``auto`` takes
        the largest side with which the workers fit into this machine's memory.
    overlap_px
        How far the labels of neighbouring blocks overlap on each side of their border, in ``local`` mode.
    scaling
        Radiometric rule for the whole run: ``percentile``, ``reflectance``, ``byte`` or ``paper``.
    mask, aoi, date
        Mask raster (non-zero is valid), polygon file, and acquisition date, which narrow what is read.
    overlap_rule, align, tolerance_px, resampling
        Which file wins where several overlap; whether files off the common grid are refused or resampled, and how;
        how far, in pixels, a grid may be off and still be the common one.
    radiometry_match
        Whether each file gets a gain and an offset for each band, by the pixels that it shares with others.
    model
        Run or model directory to apply instead of training.
    catalogue
        Catalogue of classes, or earlier run, whose ids the classes of this run shall have.
    global_classes
        Fixed number of classes of the aligned map; None finds it.
    known_ground
        Whether a model that is trained with a catalogue begins with the classes that were seen on its ground before,
        so that they are parted as they were; what is new gets those of the k classes that are left.
    anchor
        Whether a model of the whole scene is trained beside those of the blocks, by which their classes are compared.
    repair
        Whether classes of single blocks that hold two of the map are split by the models of others, where that helps.
    sample_windows, sample_px
        Size of a training sample: so many windows of so many pixels a side.
    options
        Parameters of the preset, by the names of its configuration.
    show_pixels
        Whether the report and the quicklook may show pixels of the imagery; its licence may forbid that.
    simulated
        Whether the simulated image is published, too: the generated texture of each pixel's class at its place.
    seed
        Seed of the run; the seeds of its blocks follow from it.
    engine, workers, scheduler, keep_work
        How the run is carried out: ``processes``, ``serial`` or ``cuda`` (one process a GPU, by dask-cuda), number of
        worker processes (None: one a core, if memory allows), address of an existing Dask scheduler, whether
        intermediates stay.
    license, attribution
        Licence of the outputs, as an SPDX identifier or ``proprietary``, and whom the sources want named; both are
        written into what is published.
    resources
        What each block asks of a worker of an existing scheduler, such as ``{"GPU": 1}``.
    fit_block
        Whether `block_px` is chosen to fit; set by ``block_px: auto``.
    retries, block_hours
        How often a block that fails is tried again, and the longest that one may take, before it is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    k: int = Field(6, ge=2, le=128)
    preset: Literal["texture", "paper"] = "texture"
    mode: Literal["local", "global"] = "local"
    bands: str | None = None
    label_dtype: Literal["uint8", "uint16"] = "uint8"
    block_px: int = Field(2048, ge=64)
    chunk_px: int = Field(512, ge=16)
    overlap_px: int = Field(32, ge=4)
    scaling: Literal["percentile", "reflectance", "byte", "paper"] = "percentile"
    mask: Path | None = None
    aoi: Path | None = None
    date: str | None = None
    overlap_rule: Literal["first", "last", "most-valid"] = "first"
    align: Literal["refuse", "resample"] = "refuse"
    tolerance_px: float = Field(0.01, gt=0, lt=0.5)
    resampling: Literal["nearest", "bilinear"] = "nearest"
    radiometry_match: bool = False
    known_ground: bool = True
    model: Path | None = None
    catalogue: Path | None = None
    global_classes: int | None = Field(None, ge=2, le=65535)
    anchor: bool = True
    repair: bool = True
    sample_windows: int = Field(16, ge=1)
    sample_px: int = Field(256, ge=64)
    options: dict[str, Option] = Field(default_factory=dict)
    show_pixels: bool = True
    simulated: bool = False
    seed: int = Field(0, ge=0)
    fit_block: bool = False
    engine: Literal["processes", "serial", "cuda"] = "processes"
    workers: int | None = Field(None, ge=1)
    scheduler: str | None = None
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    retries: int = Field(1, ge=0, le=20)
    block_hours: float = Field(12.0, gt=0)
    keep_work: bool = False
    license: str | None = None
    attribution: str | None = None

    @field_validator("mask", "aoi", "model", "catalogue")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("scheduler")
    @classmethod
    def _guarded(cls, address: str | None) -> str | None:
        # A scheduler runs whatever it is sent: without TLS it may only be one of this machine.
        if address is None or address.startswith(("tls://", "inproc://")):
            return address
        host = address.removeprefix("tcp://").rsplit(":", 1)[0]
        if address.startswith("tcp://") and host in {"127.0.0.1", "localhost", "[::1]"}:
            return address
        raise ValueError(f"must be tls://HOST:PORT, or tcp:// on this machine's loopback; got {address}")

    @model_validator(mode="before")
    @classmethod
    def _fitted(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("block_px") == "auto":
            return {**{name: value for name, value in values.items() if name != "block_px"}, "fit_block": True}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.block_px % self.fitted_chunk_px:
            raise ValueError(f"block_px must be a multiple of chunk_px={self.chunk_px}; got {self.block_px}")
        if 2 * self.overlap_px > self.block_px:
            raise ValueError(f"overlap_px must be at most half of block_px={self.block_px}; got {self.overlap_px}")
        if self.mode == "global" and self.global_classes is not None:
            raise ValueError("global_classes belongs to mode 'local'; in mode 'global' the classes are the model's k")
        if (self.global_classes or 0) > MAX_IDS[self.label_dtype]:
            raise ValueError(
                f"global_classes must be at most {MAX_IDS[self.label_dtype]}, as {self.label_dtype} labels hold; "
                f"got {self.global_classes}; give --label-dtype uint16"
            )
        return self

    @property
    def fitted_chunk_px(self) -> int:
        """Side of the stores' chunks: `chunk_px`, or the whole block where that is smaller."""
        return min(self.chunk_px, self.block_px)

    def result_fields(self) -> dict[str, Any]:
        """Return, ready for JSON, the fields that the result depends on."""
        return self.model_dump(mode="json", exclude=set(_HOW))

    def digest(self) -> str:
        """Return a sha256 over `result_fields`."""
        canonical = json.dumps(self.result_fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check `values`, raising InputError with one line that names each setting that is wrong."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError("; ".join(_explain(fault) for fault in error.errors())) from error

    @classmethod
    def read(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file of settings; `overrides` win over what it says."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: cannot be read as YAML settings ({reason}); give a file of 'name: value'"
            ) from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: settings must be a mapping of 'name: value'; got {type(values).__name__}")
        return cls.parse({**values, **(overrides or {})})


def _explain(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {name!r}; known are {', '.join(sorted(Settings.model_fields))}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"setting {name!r}: {message}; got {fault['input']!r}" if name else message
