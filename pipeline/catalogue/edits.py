"""Changes that people make to classes: names, colours and merges. Pure functions from one legend to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pipeline.errors import InputError
from pipeline.legend import MAX_IDS, Legend, LegendClass, LegendMerge, LegendRemap

EDITS_FORMAT = "ktextures-class-edits"
EDITS_VERSION = 1
_MAX_BYTES = 1 << 20

Id = Annotated[int, Field(ge=0, lt=MAX_IDS["uint16"], strict=True)]


class Edit(BaseModel):
    """What to do with one class: another name or colour, or make it part of class `merge_into`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Id
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] | None = None
    color: Annotated[str, Field(pattern="^#[0-9A-Fa-f]{6}$")] | None = None
    merge_into: Id | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Edit:
        if self.merge_into is not None and (self.name is not None or self.color is not None):
            raise ValueError(f"class {self.id} is merged away, so it takes no name and no color")
        if self.name is None and self.color is None and self.merge_into is None:
            raise ValueError(f"class {self.id} is to get a name, a color or a merge_into; got none of them")
        return self


class _Edits(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["ktextures-class-edits"]
    version: Literal[1]
    edits: list[Edit]


def read_edits(path: Path) -> list[Edit]:
    """Read a file of edits, as the report of a run exports it; raises InputError where it is not just that."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: is larger than {_MAX_BYTES:,} bytes; expected the edits that a report exported")
        found = _Edits.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the edits that a report exported") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ") if where else "must be one object"
        raise InputError(
            f'{path}: {where + ": " if where else ""}{message}; expected {{"format": "{EDITS_FORMAT}", '
            f'"version": {EDITS_VERSION}, "edits": [...]}}'
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); give the edits that a report exported") from error
    return found.edits


def apply_edits(legend: Legend, edits: Sequence[Edit], at: str) -> Legend:
    """Return the legend after all edits: names and colours first, then merges, each in the order given.

    Raises
    ------
    InputError
        A class is not there, is named or merged twice, or merges go round in a circle; nothing is changed then.
    """
    for kind in ("merge_into", "name", "color"):
        ids = [each.id for each in edits if getattr(each, kind) is not None]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise InputError(f"edits: class {twice[0]} has two entries with {kind}; leave one")
    _refuse_circles({each.id: each.merge_into for each in edits if each.merge_into is not None})
    for each in edits:
        if each.merge_into is None:
            legend = name_class(legend, each.id, each.name, each.color)
    for each in edits:
        if each.merge_into is not None:
            legend = merge_classes(legend, [each.id], legend.current(each.merge_into), at)
    return legend


def _refuse_circles(merges: Mapping[int, int]) -> None:
    for start in merges:
        seen, now = [start], merges[start]
        if now == start:
            continue  # is refused for itself
        while now in merges and now not in seen:
            seen.append(now)
            now = merges[now]
        if now in seen:
            round_ = " into ".join(str(each) for each in (*seen[seen.index(now) :], now))
            raise InputError(f"edits: merges go round in a circle ({round_}); leave one of them out")


def name_class(legend: Legend, class_id: int, name: str | None = None, colour: str | None = None) -> Legend:
    """Return the legend with another name or colour of one class.

    Examples
    --------
    >>> name_class(Legend.from_counts({3: 7}), 3, "Forest")[3].name
    'Forest'
    """
    found = _find(legend, class_id)
    if name is not None and not name.strip():
        raise InputError(f"name of class {class_id} must have a character that shows; got {name!r}")
    try:
        renamed = replace(found, name=name or found.name, colour=colour or found.colour)
    except ValueError as error:
        raise InputError(str(error)) from error
    same_name = [each.id for each in legend.everything if each.name == renamed.name and each.id != class_id]
    if name and same_name:
        raise InputError(f"class {same_name[0]} is called {renamed.name!r} already; merge them, or take another name")
    return _with(legend, renamed)


def merge_classes(legend: Legend, gone: Sequence[int], into: int, at: str) -> Legend:
    """Return the legend with some classes made part of another, which keeps its id, name and colour.

    Pixels are summed and spectra averaged by them. The ids that go are never given again.

    Examples
    --------
    >>> joined = merge_classes(Legend.from_counts({0: 10, 1: 20, 2: 70}), [0, 1], 2, "2021-03-01T00:00:00+00:00")
    >>> joined.ids, joined[2].pixels, joined[2].parents, joined.next_id
    ([2], 100, (0, 1), 3)
    """
    if twice := [class_id for class_id in gone if gone.count(class_id) > 1]:
        raise InputError(f"class {twice[0]} is named twice; name each class that goes once")
    for class_id in gone:
        source, target = _find(legend, class_id), _find(legend, into)
        if class_id == into:
            raise InputError(f"class {into} cannot be merged into itself; name two classes")
        here = any(each.id in {class_id, into} for each in legend.classes)
        joined = _join(target, source)
        classes = tuple(each for each in legend.classes if each.id not in {class_id, into})
        known = tuple(each for each in legend.known if each.id not in {class_id, into})
        parts = (_ordered(classes, joined), known) if here else (classes, _ordered(known, joined))
        merges = (*legend.merges, LegendMerge(class_id, into, at, source.name))
        legend = replace(legend, classes=parts[0], known=parts[1], merges=merges)
    return legend


def remap_classes(legend: Legend, remap: LegendRemap) -> Legend:
    """Return the legend of a map some of whose classes get other ids, all at once.

    Examples
    --------
    >>> moved = remap_classes(Legend.from_counts({0: 10, 1: 20, 2: 70}), LegendRemap("2021-03-01", ((0, 1), (1, 4))))
    >>> [(each.id, each.pixels) for each in moved.classes], [each.id for each in moved.known]
    ([(1, 10), (2, 70), (4, 20)], [0])
    """
    table = {before: legend.current(after) for before, after in remap.ids}
    known = {each.id: each for each in legend.everything}
    parts: dict[int, list[LegendClass]] = {}
    for each in legend.classes:
        parts.setdefault(table.get(each.id, each.id), []).append(each)
    classes = (
        _gathered(known.get(i) or replace(of[0], id=i, name="", colour="", parents=()), of) for i, of in parts.items()
    )
    left = (replace(each, pixels=0, share=0.0) for each in known.values() if each.id not in parts)
    return replace(
        legend,
        classes=tuple(sorted(classes, key=lambda each: each.id)),
        known=tuple(sorted(left, key=lambda each: each.id)),
        remaps=(*legend.remaps, replace(remap, merges=len(legend.merges))),
    )


def _gathered(target: LegendClass, of: Sequence[LegendClass]) -> LegendClass:
    """Return a class that covers what some classes of one map covered."""
    spectra = [each.spectrum for each in of if each.spectrum and each.pixels]
    weights = [each.pixels for each in of if each.spectrum and each.pixels]
    spectrum = tuple(float(value) for value in np.average(spectra, axis=0, weights=weights)) if spectra else ()
    pixels, share = sum(each.pixels for each in of), min(sum(each.share for each in of), 1.0)
    return replace(target, pixels=pixels, share=share, spectrum=spectrum or target.spectrum)


def follow(run: Legend, catalogue: Legend, remaps: Sequence[LegendRemap] = ()) -> Legend:
    """Return the legend of a run with what its catalogue has got since: merges, remaps of the run, names and colours.

    Parameters
    ----------
    run, catalogue
        The two legends.
    remaps
        Of this run, as the catalogue notes them: each came after so many merges of the catalogue.

    Raises
    ------
    InputError
        The run alone was merged the other way round, so that an id that is gone for good would have to come back.
    """
    carried_out = {each.name for each in run.remaps}
    for count in range(len(catalogue.merges) + 1):
        for each in remaps:
            if each.merges == count and each.name not in carried_out:
                run = remap_classes(run, each)
        if count < len(catalogue.merges):
            run = _follow_merge(run, catalogue.merges[count])
    for known in catalogue.everything:
        if known.id in {other.id for other in run.everything}:
            run = _with(run, replace(_find(run, known.id), name=known.name, colour=known.colour))
    return replace(run, next_id=max(run.next_id, catalogue.next_id))


def _follow_merge(run: Legend, merge: LegendMerge) -> Legend:
    there, kept = {each.id for each in run.everything}, run.current(merge.kept)
    if merge.gone not in there:
        return run
    if kept == merge.gone:
        raise InputError(
            f"class {merge.kept} was made part of {merge.gone} in this run alone, and {merge.gone} part of "
            f"{merge.kept} in its catalogue; an id that is gone does not come back: "
            "map the scene again (ktex run --fresh)"
        )
    if kept not in there:
        # The class that it became part of came later than the run: it takes the place of the one that goes.
        target = replace(_find(run, merge.gone), id=kept, pixels=0, share=0.0, parents=())
        run = replace(run, known=_ordered(run.known, target))
    return merge_classes(run, [merge.gone], kept, merge.at)


def _find(legend: Legend, class_id: int) -> LegendClass:
    for each in legend.everything:
        if each.id == class_id:
            return each
    if (now := legend.current(class_id)) != class_id:
        raise InputError(f"class {class_id} is part of class {now} since a merge; name that one")
    there = ", ".join(str(each.id) for each in legend.everything)
    raise InputError(f"there is no class {class_id}; there are {there or 'none'}")


def _with(legend: Legend, changed: LegendClass) -> Legend:
    classes, known = (
        tuple(changed if each.id == changed.id else each for each in part) for part in (legend.classes, legend.known)
    )
    return replace(legend, classes=classes, known=known)


def _ordered(classes: Sequence[LegendClass], added: LegendClass) -> tuple[LegendClass, ...]:
    return tuple(sorted((*classes, added), key=lambda each: each.id))


def _join(target: LegendClass, source: LegendClass) -> LegendClass:
    pixels = target.pixels + source.pixels
    spectrum = target.spectrum
    if len(target.spectrum) == len(source.spectrum) > 0 and pixels:
        both = np.average([target.spectrum, source.spectrum], axis=0, weights=[target.pixels, source.pixels])
        spectrum = tuple(float(value) for value in both)
    seen = [day for day in (target.first_seen, source.first_seen) if day]
    return replace(
        target,
        pixels=pixels,
        share=min(target.share + source.share, 1.0),
        spectrum=spectrum,
        parents=(*target.parents, source.id),
        first_seen=min(seen, default=""),
        last_seen=max(target.last_seen, source.last_seen),
    )
