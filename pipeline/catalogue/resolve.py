"""Ids of many runs, solved again together: each run is matched anew, as if it had come last and all others were known.

A date gets its ids from the dates before it; what later dates tell of its classes nobody had asked then. Here every
class of every run (a node) is matched against what all other runs know, in turns until nothing moves any more. What
comes out is pure advice: classes that are one, and nodes that belong to another class. An id that was given is never
given to anything else, and of two classes that are one the older id stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.catalogue.edits import merge_classes
from pipeline.catalogue.matching import Match, Prototypes, match, prototypes
from pipeline.catalogue.members import join, thin
from pipeline.catalogue.sites import MAX_KEPT, fewest
from pipeline.catalogue.values import Catalogue, Members, Sites
from pipeline.legend import Legend, LegendRemap

ALIKE = 0.5
"""Two classes are one where their means are nearer than this share of the smaller reach of the two."""
MAX_TURNS = 20
PATIENCE = 3
"""A node that has moved so often cannot be decided, and stays where it was."""


@dataclass(frozen=True, eq=False)
class Group:
    """Runs whose classes are named together: one run, or all runs of one model.

    Attributes
    ----------
    runs
        Their keys.
    members
        Under ids of the catalogue, as the runs attached; the shift of each run is taken off.
    unsure
        Ids under which nothing is known for sure.
    pixels
        Pixels of each class.
    model
        Digest of the model, if it is one that served whole scenes.
    """

    runs: tuple[str, ...]
    members: Members
    unsure: frozenset[int] = frozenset()
    pixels: Mapping[int, int] = field(default_factory=dict)
    model: str | None = None


@dataclass(frozen=True)
class Change:
    """What the runs together say of a class.

    Attributes
    ----------
    gone, kept
        The class that is another, and that other one.
    runs
        Keys of the runs whose maps change only; empty where the classes are one everywhere.
    pixels
        How many pixels change their id.
    share
        Share of these that resembles the other class; None where whole classes were compared.
    distance
        Between the means, as a share of the reach of the class.
    ground
        Share of their ground that was the other class in other runs; None where it was not seen.
    """

    gone: int
    kept: int
    runs: tuple[str, ...] = ()
    pixels: int = 0
    share: float | None = None
    distance: float | None = None
    ground: float | None = None


@dataclass(frozen=True, eq=False)
class Resolution:
    """The outcome: `changes`, and the members that the catalogue would keep; None where it keeps those that it has."""

    changes: tuple[Change, ...]
    members: Members | None = None


def resolve(catalogue: Catalogue, groups: Sequence[Group], *, complete: bool = True) -> Resolution:
    """Solve the ids of all runs again.

    Parameters
    ----------
    catalogue
        As it is.
    groups
        What the runs said, in the order in which they attached.
    complete
        Whether `groups` are all that the catalogue was made of. Otherwise what it knows beside them is taken as given.
    """
    solver = _Solver(catalogue, groups, complete)
    solver.run()
    changes = solver.changes()
    return Resolution(tuple(changes), solver.kept(changes) if changes and complete else None)


def apply_resolution(catalogue: Catalogue, found: Resolution, at: str) -> Catalogue:
    """Return the catalogue after a resolution, with its history: remaps of runs first, then merges."""
    legend, card = catalogue.legend, catalogue.card
    tables: dict[str, dict[int, int]] = {}
    for change in found.changes:
        for run in change.runs:
            tables.setdefault(run, {})[change.gone] = change.kept
    runs, models = list(card.runs), dict(card.models)
    for i, entry in enumerate(runs):
        if entry.key in tables:
            table = tables[entry.key]
            remap = LegendRemap(at, tuple(sorted(table.items())), merges=len(legend.merges))
            mapping = {local: table.get(legend.current(known), known) for local, known in entry.mapping.items()}
            runs[i] = replace(entry, mapping=mapping, remaps=(*entry.remaps, remap))
            models = {
                digest: mapping if mapping.keys() == known.keys() and known == entry.mapping else known
                for digest, known in models.items()
            }
    for change in found.changes:
        if change.runs:
            legend = _count(legend, change)
    for change in found.changes:
        if not change.runs:
            legend = merge_classes(legend, [change.gone], change.kept, at)
    members = catalogue.members if found.members is None else found.members
    return replace(catalogue, legend=legend, card=replace(card, runs=tuple(runs), models=models), members=members)


def _count(legend: Legend, change: Change) -> Legend:
    """Move the pixels of a node from one class to the other."""
    counts = {each.id: each.pixels for each in legend.everything}
    moved = min(change.pixels, counts[change.gone])
    counts[change.gone] -= moved
    counts[change.kept] += moved
    total = sum(counts.values())
    classes, known = (
        tuple(replace(each, pixels=counts[each.id], share=counts[each.id] / max(total, 1)) for each in part)
        for part in (legend.classes, legend.known)
    )
    return replace(legend, classes=classes, known=known)


class _Solver:
    """The ids of all nodes while they are solved.

    A node is a class of a group. `name` is the id under which its members are kept: that which it got when it attached,
    so that a class which was merged from several keeps the looks of each, or the id of the class that it moved to.
    """

    def __init__(self, catalogue: Catalogue, groups: Sequence[Group], complete: bool) -> None:
        self.catalogue, self.groups = catalogue, groups
        self.fixed = None if complete else catalogue.members
        living = {each.id for each in catalogue.legend.everything}
        self.name: dict[tuple[int, int], int] = {
            (g, int(i)): int(i)
            for g, group in enumerate(groups)
            for i in np.unique(np.concatenate([group.members.ids, group.members.sites.ids]))
            if catalogue.legend.current(int(i)) in living
        }
        self.first = {node: catalogue.legend.current(name) for node, name in self.name.items()}
        self.sure = {(g, i) for g, i in self.name if i not in groups[g].unsure}
        self.joined: dict[int, int] = {}
        self.why: dict[tuple[int, int], Match] = {}
        self.near: dict[int, float] = {}
        self.moves: dict[tuple[int, int], int] = {}

    def current(self, name: int) -> int:
        """Return the class that a name stands for by now."""
        found = self.catalogue.legend.current(name)
        while found in self.joined:
            found = self.joined[found]
        return found

    def run(self) -> None:
        """Match every group against all others, and every class against all others, until nothing changes."""
        for _ in range(MAX_TURNS):
            # The last first: of two runs that contradict each other the earlier keeps its ids.
            changed = [self._match(g) for g in reversed(range(len(self.groups)))]
            if not (self._join_alike() or any(changed)):
                return

    def _rows(self, without: int | None = None) -> Members:
        """Return the members of all that is sure, by name, in one piece; of all groups but one."""
        parts = [] if self.fixed is None else [self.fixed]
        for g, group in enumerate(self.groups):
            if g != without:
                table = {i: self.name[g, i] for h, i in self.sure if h == g}
                ids, sites = group.members.ids, group.members.sites
                of = replace(group.members.of(np.isin(ids, [*table])), sites=sites.of(np.isin(sites.ids, [*table])))
                parts.append(of.renamed(table))
        found = [part for part in parts if len(part)]
        return join(found) if found else self.catalogue.members.of(np.zeros(0, np.intp))

    def _known(self, rows: Members) -> tuple[Prototypes, Sites]:
        known = prototypes(rows, self.catalogue.whitening, self.current)
        sites = fewest(rows.sites, MAX_KEPT)
        used, at = np.unique(sites.ids, return_inverse=True)
        return known, replace(sites, ids=np.array([self.current(int(i)) for i in used], np.int64)[at])

    def _match(self, g: int) -> bool:
        """Match a group against all others; returns whether anything came out otherwise than before."""
        mine = {i: self.current(self.name[h, i]) for h, i in self.name if h == g}
        rows = self._rows(without=g)
        members = self.groups[g].members
        members = replace(
            members.of(np.isin(members.ids, [*mine])), sites=members.sites.of(np.isin(members.sites.ids, [*mine]))
        )
        if not len(rows) or not len(members):
            return False
        known, seen = self._known(rows)
        found, _ = match(members.renamed(mine), known, self.catalogue.whitening, seen)
        heeded = [self._heed(g, each, mine) for each in found]  # all of them, whatever the first says
        return any(heeded)

    def _heed(self, g: int, said: Match, mine: Mapping[int, int]) -> bool:
        """Give the nodes of a class of a group the id that was found for them, if that is sure."""
        nodes = [(g, i) for i, class_id in mine.items() if class_id == said.local]
        if said.state != "matched" or said.known is None:
            return False
        before = self.sure.issuperset(nodes)
        self.sure.update(nodes)
        now, target = self.current(said.local), self.current(said.known)
        if now == target or any(self.moves.get(node, 0) >= PATIENCE for node in nodes):
            return not before
        self.why |= dict.fromkeys(nodes, said)
        for node in nodes:
            self.moves[node] = self.moves.get(node, 0) + 1
            self.name[node] = target if self.moves[node] < PATIENCE else node[1]
        return True

    def _join(self, one: int, other: int, distance: float | None) -> None:
        gone, kept = max(one, other), min(one, other)
        self.joined[gone] = kept
        if distance is not None:
            self.near[gone] = distance

    def _join_alike(self) -> bool:
        """Join classes whose members lie together, the nearest first; returns whether there were any."""
        any_joined = False
        while len(rows := self._rows()):
            known = prototypes(rows, self.catalogue.whitening, self.current)
            away = np.linalg.norm(known.means[:, None] - known.means[None], axis=2)
            share = away / np.minimum(known.reach[:, None], known.reach[None])
            share[known.ids[:, None] == known.ids[None]] = np.inf
            i, j = np.unravel_index(int(share.argmin()), share.shape)
            if not share[i, j] < ALIKE:
                return any_joined
            self._join(int(known.ids[i]), int(known.ids[j]), float(share[i, j]))
            any_joined = True
        return any_joined

    def changes(self) -> list[Change]:
        """Return what has come out: what whole classes are first, then what nodes of single groups are."""
        self._settle_emptied()
        pixels = {each.id: each.pixels for each in self.catalogue.legend.everything}
        merged = [
            Change(gone, self.current(gone), (), pixels.get(gone, 0), *self._told(gone)) for gone in sorted(self.joined)
        ]
        return merged + self._moved()

    def _moved(self) -> list[Change]:
        found: list[Change] = []
        for (g, i), name in sorted(self.name.items()):
            node, now = (g, i), self.current(name)
            before, group = self.first[node], self.groups[g]
            # Looks of one class move together, because they had one id in the map.
            if now == self.current(before) or any(each.gone == before and each.runs == group.runs for each in found):
                continue
            said = self.why.get(node)
            count = sum(n for look, n in group.pixels.items() if self.catalogue.legend.current(look) == before)
            told: tuple[float | None, float | None, float | None] = (None, None, None)
            if said is not None:
                told = said.votes.get(now), said.distance, said.ground.get(now)
            found.append(Change(before, now, group.runs, count, *told))
        return found

    def _settle_emptied(self) -> None:
        """Join each class all of whose nodes are of one other by now with that class, everywhere and for ever."""
        if self.fixed is not None:
            return
        for class_id in sorted({*self.first.values()}):
            if class_id in self.joined:
                continue
            targets = {self.current(self.name[node]) for node, first in self.first.items() if first == class_id}
            if len(targets) == 1 and targets != {class_id}:
                self._join(class_id, targets.pop(), None)

    def _told(self, gone: int) -> tuple[float | None, float | None, float | None]:
        """Return what spoke for the joining of a class: of its nodes, or of those of the class that it is now."""
        if gone in self.near:
            return None, self.near[gone], None
        both = gone, self.current(gone)
        said = next(
            (self.why[node] for node, first in sorted(self.first.items()) if node in self.why and first in both), None
        )
        if said is None or said.known is None:
            return None, None, None
        return said.votes.get(said.known), said.distance, said.ground.get(said.known)

    def kept(self, changes: Sequence[Change]) -> Members:
        """Return the members that the catalogue is to keep: those of nodes that moved under their new id."""
        moved = {(run, each.gone): each.kept for each in changes for run in each.runs}
        parts = []
        for g, group in enumerate(self.groups):
            looks = [i for h, i in self.sure if h == g]
            of = replace(
                group.members.of(np.isin(group.members.ids, looks)),
                sites=group.members.sites.of(np.isin(group.members.sites.ids, looks)),
            )
            parts.append(of.renamed({i: moved.get((group.runs[0], self.first[g, i]), i) for i in looks}))
        rows = join(parts)
        nowhere = ~np.isin(self.catalogue.members.ids, [i for _, i in self.name])
        rest = replace(self.catalogue.members.of(nowhere), sites=Sites.none())
        whole = join([rest, rows])
        return thin(replace(whole, sites=fewest(whole.sites, MAX_KEPT)))
