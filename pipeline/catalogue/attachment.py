"""Attaching the classes of a run to a catalogue: which id each gets, and what the catalogue learns from them.

Ids that were given stay as they are; what is new gets the next one. All of this is pure: reading and writing is
`store`'s, and the order in which a run does it is `attach`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.radiometry import Scaling
from ktex_model.signature import SIGNATURE_VERSION
from pipeline.align.review import join_confusions
from pipeline.align.values import Alignment, ClassSummary
from pipeline.blocks import Index
from pipeline.catalogue.matching import Match, match, prototypes
from pipeline.catalogue.members import join, thin, whitening_of
from pipeline.catalogue.sites import MAX_KEPT, fewest
from pipeline.catalogue.values import Card, Catalogue, Members, RunEntry
from pipeline.errors import RunFailedError
from pipeline.legend import MAX_IDS, Legend, LegendClass


@dataclass(frozen=True)
class Attachment:
    """How the classes of a run are called in a catalogue.

    Attributes
    ----------
    mapping
        The catalogue's id of each class of the run.
    how
        ``begun``: there was no catalogue; ``matched``, by texture; ``same model``, which is in the catalogue already;
        ``same run``, which had published before.
    matches
        For each class that was matched by texture, what spoke for it.
    new
        Ids that no class had before.
    shift
        White features of the run less those of the catalogue, which was taken off.
    next_id
        The id that a later new class will get.
    """

    mapping: dict[int, int]
    how: str
    matches: tuple[Match, ...] = ()
    new: tuple[int, ...] = ()
    shift: tuple[float, ...] = ()
    next_id: int = 0

    def table(self, dtype: str = "uint8") -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return the catalogue's id for each id of the run, ``(256,)`` or ``(65536,)``; the last value where none."""
        nodata = int(np.iinfo(dtype).max)
        table: NDArray[np.uint8] | NDArray[np.uint16] = np.full(nodata + 1, nodata, dtype)
        for local, known in self.mapping.items():
            table[local] = known
        return table

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `json.dump`."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Attachment:
        """Rebuild from what `to_json` returned, and JSON has made strings of keys and lists of tuples."""
        matches = tuple(
            Match(**each | {name: _numbered(each.get(name, {})) for name in ("votes", "ground")})
            for each in record["matches"]
        )
        return cls(
            _numbered(record["mapping"]), record["how"], matches, tuple(record["new"]), tuple(record["shift"]),
            record["next_id"],
        )  # fmt: skip


def _numbered(record: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in record.items()}


def attach(
    base: Catalogue | None,
    members: Members,
    used: Iterable[int],
    *,
    key: str,
    basis: str,
    model: str | None = None,
    dtype: str = "uint8",
) -> Attachment:
    """Decide which id each class of a run gets.

    Parameters
    ----------
    base
        The catalogue; None begins one, with the run's own ids.
    members
        Of the run, under its own ids, the drift between its blocks removed.
    used
        The ids of the run that occur.
    key, basis
        What names the run, and digest of how it numbered its own classes: the same run gets the same ids again.
    model
        Digest of the model where one served the whole scene: the same model's classes keep their ids.
    dtype
        Type of the labels, which the ids must fit in.

    Raises
    ------
    RunFailedError
        There are more classes than ids.
    """
    found = _attach(base, members, used, key=key, basis=basis, model=model)
    check_ids(found, dtype, begun=base is None)
    return found


def check_ids(attachment: Attachment, dtype: str, *, begun: bool) -> None:
    """Raise RunFailedError where labels of a type cannot hold the ids of a run."""
    most, highest = MAX_IDS[dtype], max(attachment.mapping.values(), default=-1)
    if highest < most:
        return
    said = f"the {len(attachment.mapping)} classes of this run have ids up to {highest}"
    wider = "give --label-dtype uint16, or " if dtype == "uint8" else ""
    other = "" if begun else "begin a new catalogue, or "
    raise RunFailedError(
        f"{said}, and {dtype} labels can hold {most} ids; {wider}{other}make fewer classes with a smaller --k or "
        "--global-classes"
    )


def _attach(
    base: Catalogue | None, members: Members, used: Iterable[int], *, key: str, basis: str, model: str | None
) -> Attachment:
    wanted = sorted(int(i) for i in used)
    if base is None:
        attachment = Attachment({i: i for i in wanted}, "begun", new=tuple(wanted))
        return replace(attachment, next_id=1 + max(wanted, default=-1))
    earlier = base.card.run(key)
    if earlier is not None and earlier.basis == basis and set(wanted) <= set(earlier.mapping):
        return _settle(base, {i: earlier.mapping[i] for i in wanted}, wanted, "same run")
    if model is not None and model in base.card.models:
        return _settle(base, base.card.models[model], wanted, "same model", members)
    found: tuple[Match, ...] = ()
    shift: tuple[float, ...] = ()
    if len(members) and len(base.members):
        known = prototypes(base.members, base.whitening, base.legend.current)
        found, moved = match(members, known, base.whitening, base.known_sites())
        shift = tuple(float(value) for value in moved)
    given = {each.local: each.known for each in found if each.known is not None}
    settled = _settle(base, given, wanted, "matched")
    matches = (*found, *(Match(i, "new", None, {}, None) for i in wanted if i not in {each.local for each in found}))
    return replace(settled, matches=tuple(sorted(matches, key=lambda each: each.local)), shift=shift)


def _settle(
    base: Catalogue, given: Mapping[int, int], wanted: Sequence[int], how: str, members: Members | None = None
) -> Attachment:
    """Resolve what is known through the history of merges, and give the next ids to what is not."""
    mapping, new, next_id = {}, [], base.legend.next_id
    for local in wanted:
        if local in given:
            mapping[local] = base.legend.current(given[local])
            continue
        mapping[local] = next_id
        new.append(next_id)
        next_id += 1
    shift: tuple[float, ...] = ()
    if members is not None and len(members):
        shift = usual_shift(base, members.renamed(mapping))
    return Attachment(mapping, how, new=tuple(new), next_id=next_id, shift=shift)


def usual_shift(base: Catalogue, members: Members) -> tuple[float, ...]:
    """Return by how much classes known to be the same have moved, in white features; of several, the median."""
    known, white = prototypes(base.members, base.whitening, base.legend.current), members.features @ base.whitening
    moved = [
        white[members.ids == each].mean(axis=0) - known.means[at]
        for at, each in enumerate(known.ids)
        if (members.ids == each).any()
    ]
    return tuple(float(value) for value in np.median(moved, axis=0)) if moved else ()


def unwhitened(base: Catalogue, shift: Sequence[float]) -> NDArray[np.float64]:
    """Return a shift of white features ``(D,)`` as one of features as they are measured."""
    return np.linalg.solve(base.whitening.T, np.asarray(shift)).astype(np.float64)


def rename(
    alignment: Alignment | None, attachment: Attachment, blocks: Sequence[Index], k: int, dtype: str = "uint8"
) -> Alignment | None:
    """Return the alignment in the ids of the catalogue, and in the type of the labels.

    Parameters
    ----------
    alignment
        In the run's own ids; None where one model served all blocks.
    blocks, k
        The blocks that were labelled, and the number of classes of the one model.
    """
    fits = alignment is None or alignment.no_class == np.iinfo(dtype).max
    if fits and all(local == known for local, known in attachment.mapping.items()):
        return alignment
    table = attachment.table(dtype)
    if alignment is None:
        ones = np.ones(k, dtype=np.float32)
        summaries = (ClassSummary(i, 0, len(blocks), ()) for i in sorted(set(attachment.mapping.values())))
        return Alignment(
            dict.fromkeys(blocks, table[:k]), dict.fromkeys(blocks, ones), dict.fromkeys(blocks, ones), tuple(summaries)
        )
    return replace(
        alignment,
        lookup={index: table[lookup] for index, lookup in alignment.lookup.items()},
        second={index: table[second] for index, second in alignment.second.items()},
        classes=_summaries(alignment.classes, attachment.mapping),
        mixed=tuple(
            replace(m, classes=known)
            for m in alignment.mixed
            # What is one class of the catalogue is not two of the map.
            if (known := (int(table[m.classes[0]]), int(table[m.classes[1]])))[0] != known[1]
        ),
        confusions=join_confusions(
            replace(c, classes=(int(table[c.classes[0]]), int(table[c.classes[1]]))) for c in alignment.confusions
        ),
    )


def _summaries(classes: Sequence[ClassSummary], mapping: Mapping[int, int]) -> tuple[ClassSummary, ...]:
    """Return one summary for each id of the catalogue, joined from those of the run that became one."""
    found = []
    for known in sorted({mapping[each.id] for each in classes}):
        of = [each for each in classes if mapping[each.id] == known]
        pixels = np.array([each.pixels for each in of], dtype=np.float64)
        mean = np.average([each.signature for each in of], axis=0, weights=np.maximum(pixels, 1))
        found.append(
            ClassSummary(known, int(pixels.sum()), max(each.blocks for each in of), tuple(float(v) for v in mean))
        )
    return tuple(found)


def extend(
    base: Catalogue | None,
    attachment: Attachment,
    members: Members,
    legend: Legend,
    *,
    bands: tuple[str, ...],
    scaling: Scaling,
    entry: RunEntry,
    model: str | None = None,
) -> Catalogue:
    """Return the catalogue as it is after a run.

    Members of classes that were matched for sure, and of new ones, are added as the catalogue would have seen them,
    the shift taken off. A run is counted once, however often it publishes.

    Parameters
    ----------
    base, attachment, members
        The catalogue before, what `attach` made of it, and the members it was given.
    legend
        The classes of the run in the catalogue's ids, with pixels, spectra and signatures.
    bands, scaling, model
        Of the run, as `Card` keeps them.
    entry
        The run. Its dates become the first or last in which a class was seen.
    """
    first = base is not None and base.card.run(entry.key) is None
    if base is None:
        kept = members.renamed(attachment.mapping)
        history = Legend((), next_id=attachment.next_id)
        card, whitening = Card(entry.key, SIGNATURE_VERSION, bands, scaling), whitening_of(members)
    else:
        unsure = {each.local for each in attachment.matches if each.state == "ambiguous"}
        learnt = members.of(~np.isin(members.ids, sorted(unsure)))
        learnt = replace(learnt, sites=members.sites.of(~np.isin(members.sites.ids, sorted(unsure))))
        learnt = learnt.renamed(attachment.mapping)
        if not first:
            learnt = learnt.of(np.isin(learnt.ids, attachment.new))
        if attachment.shift:
            learnt = replace(learnt, features=learnt.features - unwhitened(base, attachment.shift))
        kept, history, card, whitening = join([base.members, learnt]), base.legend, base.card, base.whitening
    grown = _grown(history, legend, entry.dates, count=base is None or first, next_id=attachment.next_id)
    models = dict(card.models)
    if model is not None:
        models[model] = {**models.get(model, {}), **attachment.mapping}
    runs = (*(each for each in card.runs if each.key != entry.key), entry)
    # A class may have lost its last pixel in the cut between blocks.
    living = [i for i in np.union1d(kept.ids, kept.sites.ids).tolist() if grown.current(i) in grown.ids]
    sites = fewest(kept.sites.of(np.isin(kept.sites.ids, living)), MAX_KEPT)
    kept = replace(kept.of(np.isin(kept.ids, living)), sites=sites)
    return Catalogue(grown, replace(card, models=models, runs=runs), thin(kept), whitening)


def _grown(history: Legend, run: Legend, dates: tuple[str, str], *, count: bool, next_id: int) -> Legend:
    """Return the legend of a catalogue with the classes of a run in it."""
    classes = {each.id: each for each in history.everything}
    for each in run.classes:
        known = classes.get(each.id)
        if known is None:
            classes[each.id] = replace(each, first_seen=dates[0], last_seen=dates[1])
        else:
            classes[each.id] = replace(
                known,
                pixels=known.pixels + (each.pixels if count else 0),
                first_seen=min((day for day in (known.first_seen, dates[0]) if day), default=""),
                last_seen=max(known.last_seen, dates[1]),
                signature=known.signature or each.signature,
                spectrum=known.spectrum or each.spectrum,
            )
    total = sum(each.pixels for each in classes.values())
    shared = (replace(each, share=each.pixels / total if total else 0.0) for each in classes.values())
    ordered = tuple(sorted(shared, key=lambda each: each.id))
    return Legend(ordered, merges=history.merges, next_id=max(next_id, history.next_id))


def slice_of(catalogue: Legend, run: Legend, signatures: str) -> Legend:
    """Return the legend of a run: its classes under the names and colours of the catalogue, the others as known."""
    named: list[LegendClass] = []
    for each in run.classes:
        known = next(other for other in catalogue.classes if other.id == each.id)
        named.append(
            replace(
                each, name=known.name, colour=known.colour, parents=known.parents, first_seen=known.first_seen,
                last_seen=known.last_seen,
            )
        )  # fmt: skip
    here = set(run.ids)
    others = tuple(replace(each, pixels=0, share=0.0) for each in catalogue.classes if each.id not in here)
    return Legend(tuple(named), others, catalogue.merges, catalogue.next_id, signatures)
