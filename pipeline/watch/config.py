"""What is watched and what becomes of it: one YAML file, read once, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.acquisitions import Source
from pipeline.acquisitions.bucket import BucketSource
from pipeline.acquisitions.folder import FolderSource
from pipeline.bands import parse_bands
from pipeline.errors import InputError
from pipeline.ledger.overview import default_address
from pipeline.ledger.tables import parse_address
from pipeline.record import is_secret
from pipeline.settings import Settings


def _check_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    west, south, east, north = box
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
        raise ValueError("must be [west, south, east, north] in degrees")
    return box


BBox = Annotated[tuple[float, float, float, float], AfterValidator(_check_box)]
"""West, south, east, north, in degrees; where west is the larger of the two, it lies across the date line."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _SourceConfig(_Part):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


class FolderConfig(_SourceConfig):
    """Files that are dropped into a folder."""

    kind: Literal["folder"]
    path: Path
    pattern: str = "*"

    def open(self, quiet: timedelta) -> Source:
        """Return the source."""
        return FolderSource(self.name, self.path, self.pattern, quiet)


class BucketConfig(_SourceConfig):
    """Files that are delivered to a bucket."""

    kind: Literal["bucket"]
    url: str = Field(pattern=r"^(s3|gs|az|abfs)://")
    pattern: str = "*"
    options: dict[str, str] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, options: dict[str, str]) -> dict[str, str]:
        if found := [name for name in options if is_secret(name)]:
            raise ValueError(f"{', '.join(found)}: credentials come from the environment, not from a file")
        return options

    def open(self, quiet: timedelta) -> Source:
        """Return the source."""
        return BucketSource(self.name, self.url, self.pattern, quiet, self.options)


class StacConfig(_SourceConfig):
    """Items of a STAC API or a static catalogue."""

    kind: Literal["stac"]
    url: str
    collections: tuple[str, ...] = ()
    bbox: BBox | None = None
    assets: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def open(self, quiet: timedelta) -> Source:
        """Return the source; an item is complete when it is listed."""
        from pipeline.acquisitions.stac import StacSource

        return StacSource(self.name, self.url, self.collections, self.bbox, self.assets, self.hosts)


class PlanetConfig(_SourceConfig):
    """Quads of the mosaics of a Planet series; the key comes from the environment."""

    kind: Literal["planet"]
    series: str
    bbox: BBox
    url: str | None = None

    def open(self, quiet: timedelta) -> Source:
        """Return the source; a mosaic is complete when it is listed."""
        from pipeline.acquisitions.planet import PlanetSource

        return PlanetSource(self.name, self.series, self.bbox, self.url)


SourceConfig = Annotated[FolderConfig | BucketConfig | StacConfig | PlanetConfig, Field(discriminator="kind")]


class Retention(_Part):
    """How long what is not published is kept, in days; None keeps it for ever."""

    work_days: float | None = Field(default=30.0, ge=0)
    copies_days: float | None = Field(default=30.0, ge=0)


class WatchConfig(_Part):
    """A series: where its acquisitions come from, how they are segmented, where the maps go.

    Attributes
    ----------
    name
        Name of the series.
    out
        Folder of all that is made.
    sources
        Where acquisitions come from.
    settings
        As for `ktex run`.
    ledger
        Address of the database; SQLite in `out` by default. Passwords come from the environment (``PGPASSWORD``).
    ids
        Where the ids of all dates come from. ``catalogue``: each date is trained anew and attaches to a catalogue of
        classes. ``model``: the model of the first date, or the one in the settings, is applied to all (mode
        ``global``).
    catalogue
        The catalogue; in `out` by default.
    look_back_days
        Acquisitions older than that are left alone; None: none is too old. It must cover the longest delay between an
        acquisition and its delivery.
    quiet_s
        How long a file without a manifest must not have changed to count as complete.
    lease_s, attempts
        After how long a silent process counts as dead where it cannot be looked at, and how often a failed acquisition
        is tried.
    like
        GeoTIFF whose grid, CRS, bands and type all deliveries must have; the first published one by default.
    retention
        How long work and copies are kept by `maintain`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    out: Path
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    ledger: str = ""
    ids: Literal["catalogue", "model"] = "catalogue"
    catalogue: Path | None = None
    look_back_days: float | None = Field(None, gt=0)
    quiet_s: float = Field(600.0, ge=0)
    lease_s: float = Field(900.0, gt=0)
    attempts: int = Field(5, ge=1)
    like: Path | None = None
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [source.name for source in self.sources]
        if len({*names}) != len(names):
            raise ValueError(f"sources must have different names; got {', '.join(names)}")
        for name in ("date", "catalogue"):
            if name in self.settings:
                raise ValueError(f"settings: {name} is set for each acquisition; leave it out")
        chosen = self.run_settings()
        if self.ids == "model" and chosen.mode != "global":
            raise ValueError("ids: model needs settings of mode global; a local run has a model for each block")
        if chosen.bands is not None:
            parse_bands(chosen.bands)
        parse_address(self.ledger_address)
        return self

    def check_paths(self) -> None:
        """Raise InputError where a file or folder that the configuration names cannot be what it is named as."""
        chosen = self.run_settings()
        named = {"like": self.like, "settings: mask": chosen.mask, "settings: aoi": chosen.aoi}
        for name, path in named.items():
            if path is not None and not Path(path).is_file():
                raise InputError(f"{name}: must be a file; found none at {path}")
        if chosen.model is not None and not Path(chosen.model).is_dir():
            raise InputError(f"settings: model: must be a run directory, or a folder with a model; got {chosen.model}")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"out: must be a folder; {self.out} is a file")

    @property
    def ledger_address(self) -> str:
        """Address of the ledger's database."""
        return self.ledger or default_address(self.out)

    @property
    def quiet(self) -> timedelta:
        """`quiet_s`, as a time."""
        return timedelta(seconds=self.quiet_s)

    def open_sources(self) -> list[Source]:
        """Return the sources, ready to be asked."""
        return [source.open(self.quiet) for source in self.sources]

    def run_settings(self) -> Settings:
        """Return the settings of a run; raises InputError where they are wrong."""
        return Settings.parse(self.settings)

    def settings_digest(self) -> str:
        """Return a sha256 over the settings that are given.

        Over those that are given, not their defaults: a release with another setting does not make a whole archive due
        again.
        """
        chosen = self.run_settings()
        given = chosen.model_dump(mode="json", include=chosen.model_fields_set & set(chosen.result_fields()))
        canonical = json.dumps(given, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a YAML file; paths in it count from its folder.

        Raises
        ------
        InputError
            It cannot be read, or something in it is wrong; the line names each part.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: cannot be read as YAML ({reason}); give a watch configuration") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: must be a mapping of 'name: value'; got {type(values).__name__}")
        try:
            found = cls.model_validate(_settle(values, path.absolute().parent))
            found.check_paths()
            return found
        except ValidationError as error:
            faults = _explain_all(error.errors(include_url=False, include_input=False))
            raise InputError(f"{path}: {faults}; see docs/scheduling.md") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _settle(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make paths absolute, from the folder of the file."""

    def absolute(value: object) -> object:
        return str(folder / Path(value).expanduser()) if isinstance(value, str) else value

    settled = {name: value for name, value in values.items() if value is not None}  # a key with nothing after it
    for name in ("out", "like", "catalogue"):
        if name in settled:
            settled[name] = absolute(settled[name])
    if isinstance(settled.get("ledger"), str) and (
        found := re.fullmatch(r"sqlite:///(?!:memory:)(.+)", settled["ledger"])
    ):
        settled["ledger"] = f"sqlite:///{absolute(found[1])}"
    if isinstance(settled.get("settings"), dict):
        paths = {
            name: absolute(settled["settings"][name])
            for name in ("mask", "aoi", "model")
            if name in settled["settings"]
        }
        settled["settings"] = settled["settings"] | paths
    if isinstance(settled.get("sources"), list):
        settled["sources"] = [
            each | {"path": absolute(each["path"])} if isinstance(each, dict) and "path" in each else each
            for each in settled["sources"]
        ]
        settled["sources"] = [_settle_url(each, absolute) for each in settled["sources"]]
    return settled


def _settle_url(source: Any, absolute: Any) -> Any:
    if isinstance(source, dict) and source.get("kind") == "stac" and "://" not in str(source.get("url", "")):
        return source | {"url": absolute(source.get("url"))}
    return source


_WORDS = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of 'name: value'",
    "model_type": "must be a mapping of 'name: value'",
    "model_attributes_type": "must be a mapping of 'name: value'",
    "string_type": "must be text; a number or a date needs quotes",
    "union_tag_not_found": "needs a kind: folder, bucket, stac or planet",
}
"""What pydantic says in its own terms, by its names of faults."""


def _explain_all(faults: Sequence[Any]) -> str:
    # Where something is wrong with the items of a list, that there are too few of them is no news.
    deep = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
    told = [each for each in faults if not (each["type"] == "too_short" and each["loc"][0] in deep)]
    return "; ".join(map(_explain, told))


def _explain(fault: Any) -> str:
    name = ".".join(re.sub(r"^function-.*", "", str(part)) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {name!r}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = _WORDS.get(fault["type"], message.replace("String should match", "must match"))
    return f"{name}: {in_file(message)}" if name else in_file(message)


def in_file(message: str) -> str:
    """Return a message that speaks of options of the command line in the words of the file, where they are settings.

    Examples
    --------
    >>> in_file("a.tif: has 4 bands; correct --bands")
    'a.tif: has 4 bands; correct the setting bands'
    """
    names = "|".join(name.replace("_", "-") for name in Settings.model_fields)
    return re.sub(rf"--({names})\b(?!-)", lambda match: f"the setting {match[1].replace('-', '_')}", message)
