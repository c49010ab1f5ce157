"""The record of a run, `run.json`: what was done with what, how long it took, and how good it is."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from ktex_model.signature import SIGNATURE_VERSION
from pipeline.errors import InputError
from pipeline.formats import require_version
from pipeline.workspace import read_json, write_json

FORMAT_VERSION: Literal[1] = 1
HIDDEN = "***"

_PACKAGES = (
    "numpy", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "dask", "distributed", "xarray", "zarr",
    "rasterio", "rioxarray", "odc-geo", "pyproj", "rio-cogeo", "scikit-learn", "scipy", "prefect",
)  # fmt: skip
_SECRET_WORDS = frozenset(
    {"key", "apikey", "token", "secret", "password", "passwd", "passphrase", "credential", "credentials", "auth",
     "authorization", "sas"}
)  # fmt: skip
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(?:(?<=://)|(?<=/vsi))([^?\s]*)\?\S*")
_PLANET_KEY = re.compile(r"\bPLAK[0-9A-Za-z]{8,}")


def is_secret(name: str) -> bool:
    """Whether a setting of this name is a credential.

    Examples
    --------
    >>> [is_secret(name) for name in ("planet_api_key", "accessToken", "block_px", "keep_work")]
    [True, True, False, False]
    """
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", words))


def redact(value: Any) -> Any:
    """Hide what may be a secret: values of names like `api_key`, user names and queries of addresses, Planet keys.

    Examples
    --------
    >>> redact({"api_key": "a", "files": ["https://me:pw@host/a.tif?sig=b", "scene?.tif"]})
    {'api_key': '***', 'files': ['https://***@host/a.tif?***', 'scene?.tif']}
    """
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if is_secret(str(name)) and each is not None else redact(each) for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(each) for each in value]
    if isinstance(value, Path):
        return redact(str(value))
    if isinstance(value, str):
        hidden = _USER_INFO.sub(f"{HIDDEN}@", value)
        return _PLANET_KEY.sub(HIDDEN, _QUERY.sub(rf"\1?{HIDDEN}", hidden))
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Redacted = BeforeValidator(redact)


class Input(_Part):
    """One file or store that was read: its size in bytes and what identifies its content."""

    path: Annotated[str, Redacted]
    size: Count | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    etag: str | None = None

    @model_validator(mode="after")
    def _identified(self) -> Self:
        if self.sha256 is None and self.etag is None:
            raise ValueError(f"input {self.path} must have a sha256 or an etag")
        return self


class Cost(_Part):
    """Wall and CPU seconds of one kind of work, over all workers."""

    wall: Annotated[float, Field(ge=0)]
    cpu: Annotated[float, Field(ge=0)]


class Stage(_Part):
    """One stage: wall time, pixels worked on, and the highest resident memory of one process, in bytes.

    `work` says what its blocks took, over all workers, by kind: ``read``, ``train``, ``predict``, ``write`` ...
    """

    name: str
    seconds: Annotated[float, Field(ge=0)]
    pixels: Count
    peak_rss_bytes: Count
    work: dict[str, Cost] = Field(default_factory=dict)


class Blocks(_Part):
    """How many blocks were computed, taken from an earlier run, and failed; the last by name, such as ``0003_0012``."""

    done: Count
    reused: Count = 0
    failed: Count = 0
    failed_names: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _named(self) -> Self:
        if len(set(self.failed_names)) != self.failed:
            raise ValueError(f"`failed_names` must name each failed block; got {self.failed} and {self.failed_names}")
        return self


class AlignmentMetrics(_Part):
    """How the classes of the blocks became one vocabulary, and that of a catalogue; null where none was asked for."""

    margins: dict[str, float] = Field(default_factory=dict)
    ambiguous: list[JsonValue] = Field(default_factory=list)
    new_classes: list[JsonValue] = Field(default_factory=list)
    merge_log: list[JsonValue] = Field(default_factory=list)
    flags: list[str] = Field(default_factory=list)
    mixed: list[JsonValue] = Field(default_factory=list)
    repairs: list[JsonValue] = Field(default_factory=list)
    confusions: list[JsonValue] = Field(default_factory=list)
    contested: list[JsonValue] = Field(default_factory=list)
    blocks: list[JsonValue] = Field(default_factory=list)
    catalogue: dict[str, JsonValue] | None = None


class Truth(_Part):
    """Scores against a known truth, after the best assignment of ids."""

    ari: float
    ami: float
    hungarian_accuracy: Share
    miou: Share


class Metrics(_Part):
    """The figures of a run. Rates are shares of pixel pairs, 0..1.

    Attributes
    ----------
    pixels_valid, classes, classes_effective
        Valid pixels labelled, ids in use, and exp of the entropy of their shares.
    pixels_per_second
        Pixels computed in this run per second of wall time after start-up; null where all were reused.
    seam_change_rate, seam_excess
        Label changes across block borders, and how much that is more than inside; null where there is no border.
    interior_change_rate
        Label changes across equally oriented lines inside blocks; null where there is no such line.
    seam_excess_before_cut, overlap_disagreement
        Before the cut between blocks was drawn; null where blocks do not overlap.
    alignment
        Null where one model served all blocks and there was no catalogue to match.
    areas_m2
        Area of each class on the ground, by id; null where the scene has no CRS.
    score
        How much a class tells about those around it, in nats: ranks maps of one scene without a truth; null where only
        one class is in use.
    radiometry
        Gain and offset of each file, and by how much files differ where they overlap, before and after; null where
        `radiometry_match` is off.
    truth
        Null where there is none.
    """

    pixels_valid: Count
    pixels_per_second: Annotated[float, Field(ge=0)] | None
    classes: Count
    classes_effective: Annotated[float, Field(ge=0)]
    seam_change_rate: Share | None
    interior_change_rate: Share | None
    seam_excess: Annotated[float, Field(ge=-1, le=1)] | None
    seam_excess_before_cut: Annotated[float, Field(ge=-1, le=1)] | None
    overlap_disagreement: Share | None
    alignment: AlignmentMetrics | None
    areas_m2: dict[str, Annotated[float, Field(ge=0)]] | None = None
    score: Annotated[float, Field(ge=0)] | None = None
    radiometry: Annotated[dict[str, JsonValue] | None, Redacted] = None
    truth: Truth | None = None


State = Literal["running", "failed", "incomplete", "done"]
_EXIT_CODES: dict[State, int | None] = {"running": None, "failed": 1, "incomplete": 3, "done": 0}


class RunRecord(_Part):
    """All of `run.json`. Secrets in settings and paths are hidden on the way in, so that none can be written.

    Attributes
    ----------
    format
        Version of this format.
    ktextures, code, key
        Release of the program, digest of its sources, and what names this very work: inputs, settings and code.
    created, seconds
        When the run began, and its wall time.
    state, exit_code
        ``done`` (0), ``incomplete`` (3: published, blocks missing), ``failed`` (1) or ``running`` (null).
    error
        What stopped a failed run, in one line.
    settings, settings_digest
        As given and completed by defaults; sha256 over those that the result depends on.
    vocabulary
        What gave the ids their meaning: runs that name the same one speak of the same classes. Null where the ids
        are this run's own.
    """

    format: Literal[1] = FORMAT_VERSION
    ktextures: str
    code: str | None = None
    key: str | None = None
    created: AwareDatetime
    seconds: Annotated[float, Field(ge=0)] | None = None
    state: State
    exit_code: int | None = None
    error: Annotated[str | None, Redacted] = None
    settings: Annotated[dict[str, JsonValue], Redacted]
    settings_digest: str | None = None
    vocabulary: str | None = None
    inputs: list[Input]
    versions: dict[str, str]
    stages: list[Stage] = Field(default_factory=list)
    blocks: Blocks
    metrics: Metrics | None = None

    @property
    def meaning(self) -> str | None:
        """What gave the ids their meaning: the vocabulary, or this very run where they are its own."""
        return self.vocabulary or (self.key and f"run {self.key}")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.exit_code != _EXIT_CODES[self.state]:
            raise ValueError(
                f"exit_code of state {self.state!r} must be {_EXIT_CODES[self.state]}; got {self.exit_code}"
            )
        if (self.state == "incomplete") != (self.blocks.failed > 0) and self.is_published:
            raise ValueError(f"state {self.state!r} does not fit {self.blocks.failed} failed blocks")
        if self.is_published and self.metrics is None:
            raise ValueError(f"a run that is {self.state!r} must have metrics")
        return self

    @property
    def is_published(self) -> bool:
        """Whether the outputs are in place."""
        return self.state in {"done", "incomplete"}

    def write(self, path: str | Path) -> None:
        """Write `run.json` in one step: readers see the old record or the new one."""
        write_json(Path(path), self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read `run.json`; raises InputError where it is absent, of another format, or wrong."""
        found = read_json(Path(path))
        if found is None:
            raise InputError(f"{path}: there is no run record; expected the run.json of a published run")
        require_version(path, found.get("format"), FORMAT_VERSION)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "record"
            raise InputError(
                f"{path}: {where}: {first['msg']} ({error.error_count()} faults in all); run again to write it anew"
            ) from error


def make_record(
    state: State,
    *,
    created: datetime,
    settings: Mapping[str, Any],
    inputs: Sequence[Input],
    blocks: Blocks,
    **others: Any,
) -> RunRecord:
    """Make a record of now, with the versions installed here and the exit code of its state."""
    return RunRecord(
        state=state,
        exit_code=_EXIT_CODES[state],
        created=created,
        settings=dict(settings),
        inputs=list(inputs),
        blocks=blocks,
        **{"ktextures": _version("ktextures") or "unknown", "versions": versions(), **others},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python, of GDAL, of signatures and of the packages that results depend on."""
    import rasterio

    found = {package: number for package in _PACKAGES if (number := _version(package))}
    return {
        "python": platform.python_version(),
        "gdal": rasterio.__gdal_version__,
        "signatures": str(SIGNATURE_VERSION),
        **found,
    }
