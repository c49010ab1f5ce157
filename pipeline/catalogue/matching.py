"""Which classes of a catalogue the classes of a run are: matched, ambiguous or new.

All members of a run are first moved by one common shift, because between dates illumination, haze and season move
everything. Then each member votes for the class whose members it resembles most, or for none where it lies farther
out than almost all of theirs. A class of the run is what its members, weighted by pixels, say it is.

Where the catalogue has seen the same ground before, most of it has not changed: a class that lies where a known one
lay is recognised up to twice as far from it as elsewhere; and where its looks leave doubt, it is by its place what
lay there above all others, if it looks anything like it. Place alone makes nothing known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from pipeline.align.classes import squared_distances
from pipeline.catalogue.sites import meetings
from pipeline.catalogue.values import Float, Members, Sites

QUANTILE = 0.95
"""A class reaches as far as this share of its own members."""
NEW_ABOVE = 0.5
"""A class is new where more than this share of its pixels, and its mean, resemble no known class."""
SURE_ABOVE = 2 / 3
"""A class of which more than this share of pixels resembles one known class is matched; what remains is ambiguous."""

_POOLED = 12.0
_FEW_SITES = 10.0
_STAYS = 0.5
_ELSEWHERE = 0.05
_MOSTLY = 0.4
_CLEARLY = 1.5
_FAR = 3.0
"""By its place a class is what covered this share of its ground, this many times more above chance than anything else,
within this many reaches."""
_PRIOR = 0.15
_STEPS = 12

State = Literal["matched", "ambiguous", "new"]


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Classes as the matching sees them.

    Attributes
    ----------
    ids
        ``(K,)``: the id that each goes by. Classes that were merged are several prototypes of one id.
    means
        ``(K, D)``, white.
    reach
        ``(K,)``: distance from the mean within which `QUANTILE` of the members lie.
    """

    ids: NDArray[np.int64]
    means: Float
    reach: Float


@dataclass(frozen=True)
class Match:
    """What a class of a run is.

    Attributes
    ----------
    local
        The class, as the run numbers it.
    state
        ``matched``, ``ambiguous`` (`known` is then the best guess) or ``new``.
    known
        Id of the class in the catalogue; None where it is new.
    votes
        Share of pixels that resembles each class of the catalogue, by id; what is missing to 1 resembles none.
    distance
        Of the class's mean from that of the nearest class, as a share of that class's reach; None where nothing is
        known of the class but that it is there.
    ground
        What the ground of the class was before: shares by id of the catalogue, where it was seen.
    """

    local: int
    state: State
    known: int | None
    votes: dict[int, float]
    distance: float | None
    ground: dict[int, float] = field(default_factory=dict)


def prototypes(
    members: Members, whitening: Float, current: Callable[[int], int] = int, quantile: float = QUANTILE
) -> Prototypes:
    """Describe each class by the mean and the reach of its members.

    The reach of a class of few members is drawn towards that of all classes together. `current` gives the id that a
    class goes by after all merges.
    """
    white = members.features @ whitening
    ids, label = np.unique(members.ids, return_inverse=True)
    weight = np.sqrt(members.pixels.astype(np.float64))
    means = np.stack([np.average(white[label == c], axis=0, weights=weight[label == c]) for c in range(len(ids))])
    count = np.bincount(label)
    # A mean that was fitted to n members is nearer to them than to the next one of its kind.
    away = np.sqrt(np.einsum("nd,nd->n", white - means[label], white - means[label]))
    away *= np.sqrt(count / np.maximum(count - 1, 1))[label]
    several = count[label] > 1
    typical = np.sqrt(members.features.shape[1])
    pooled = float(np.quantile(away[several], quantile)) if several.any() else 2.0 * typical
    own = np.array([np.quantile(away[label == c], quantile) for c in range(len(ids))])
    trust = np.where(count > 1, count / (count + _POOLED), 0.0)
    now = np.array([current(int(i)) for i in ids], dtype=np.int64)
    return Prototypes(now, means, np.maximum(trust * own + (1 - trust) * pooled, typical))


def persistence(run: Sites, known: Sites, names: NDArray[np.int64], ids: NDArray[np.int64]) -> Float:
    """Return ``(A, K)``: how much of the ground of each class `names` of a run was each known class `ids` before.

    A share of 0..1 of the sites that both have seen; few sites are drawn towards 0.
    """
    mine, theirs = meetings(run, known)
    place = np.searchsorted(names, mine), np.searchsorted(unique := np.unique(ids), theirs)
    there = np.isin(mine, names) & np.isin(theirs, unique)
    table = np.zeros((len(names), len(unique)))
    np.add.at(table, (place[0][there], place[1][there]), 1.0)
    seen = np.bincount(np.searchsorted(names, mine[np.isin(mine, names)]), minlength=len(names))
    result: Float = (table / (seen + _FEW_SITES)[:, None])[:, np.searchsorted(unique, ids)]
    return result


def _chance(run: Sites, known: Sites, ids: NDArray[np.int64]) -> Float:
    """Return ``(K,)``: the share of all ground that both have seen that each class of the catalogue had."""
    _, theirs = meetings(run, known)
    result: Float = np.array([np.mean(theirs == i) for i in ids]) if len(theirs) else np.zeros(len(ids))
    return result


def register(
    white: Float, weight: Float, label: NDArray[np.int64], known: Prototypes, persistent: Float | None = None
) -> Float:
    """Return the ``(D,)`` shift of a run that, taken off, puts most of it onto known classes.

    Tried are no shift at all, every shift that puts a class of the run onto a known one, and the median of those of
    classes that lie mostly where a known one lay; each is refined by closest points. A shift has its price, which
    grows with its length but is bounded by nothing that many classes could not pay.
    """
    dims = white.shape[1]
    names = np.unique(label)
    own = np.stack([np.average(white[label == n], axis=0, weights=weight[label == n]) for n in names])
    share = np.array([weight[label == n].sum() for n in names])
    share = share / share.sum()
    scale = 2.0 * dims
    at_place = np.zeros((1, dims))
    if persistent is not None and np.any(stays := persistent > _STAYS):
        at_place = np.median([own[a] - known.means[c] for a, c in np.argwhere(stays)], axis=0, keepdims=True)
    to_try = np.concatenate([np.zeros((1, dims)), at_place, (own[:, None] - known.means[None]).reshape(-1, dims)])
    first = np.argsort(-_score(to_try, own, share, known.means, scale), kind="stable")[:10]
    refined = np.array([_refine(to_try[i], own, share, known.means, scale) for i in np.union1d(first, [0, 1])])
    best: Float = refined[int(np.argmax(_score(refined, own, share, known.means, scale)))]
    return best


def _score(shifts: Float, own: Float, share: Float, means: Float, scale: float) -> Float:
    placed = (own[None] - shifts[:, None]).reshape(-1, own.shape[1])
    nearest = squared_distances(placed, means).min(axis=1).reshape(len(shifts), -1)
    price = _PRIOR * np.log1p(np.einsum("td,td->t", shifts, shifts) / own.shape[1])
    result: Float = np.exp(-nearest / (2 * scale)) @ share - price
    return result


def _refine(shift: Float, own: Float, share: Float, means: Float, scale: float) -> Float:
    for _ in range(_STEPS):
        distance = squared_distances(own - shift, means)
        pull = share * np.exp(-distance.min(axis=1) / (2 * scale))
        if pull.sum() < 1e-6:
            break
        moved = pull @ (own - means[distance.argmin(axis=1)]) / pull.sum()
        if np.allclose(moved, shift, atol=1e-6):
            break
        shift = moved
    return shift


def match(
    members: Members,
    known: Prototypes,
    whitening: Float,
    seen: Sites | None = None,
    *,
    new_above: float = NEW_ABOVE,
) -> tuple[tuple[Match, ...], Float]:
    """Match the classes of a run.

    Parameters
    ----------
    members
        Of the run, under its own ids, the drift between its blocks removed.
    known, whitening, seen
        Of the catalogue: its classes, and what it saw at which site.

    Returns
    -------
    matches, shift
        One for each class of the run, by its own id; and the ``(D,)`` white shift that was taken off.
    """
    white = members.features @ whitening
    weight = members.pixels.astype(np.float64)
    names, at = np.unique(members.ids, return_inverse=True)
    persistent = persistence(members.sites, seen or Sites.none(), names, known.ids)
    chance = _chance(members.sites, seen or Sites.none(), known.ids)
    shift = register(white, np.sqrt(weight), members.ids, known, persistent)
    reach = known.reach * (1 + persistent)
    distance = np.sqrt(squared_distances(white - shift, known.means)) / reach[at]
    vote = _surprise(distance, known, persistent[at]).argmin(axis=1)
    inside = np.take_along_axis(distance, vote[:, None], axis=1)[:, 0] <= 1.0
    matches = []
    for a, local in enumerate(names):
        mine = members.ids == local
        total = weight[mine].sum()
        tally = np.bincount(vote[mine & inside], weight[mine & inside], minlength=len(known.ids)) / total
        mean = np.average(white[mine] - shift, axis=0, weights=np.sqrt(weight[mine]))
        near = np.sqrt(squared_distances(mean[None], known.means))[0] / reach[a]
        found = _decide(int(local), tally, near, known, new_above)
        matches.append(_place(found, persistent[a], chance, near * (1 + persistent[a]), known))
    return tuple(matches), shift


def _place(found: Match, persistent: Float, chance: Float, near: Float, known: Prototypes) -> Match:
    """Let the place decide what looks leave open.

    Parameters
    ----------
    persistent, chance
        ``(K,)``: the share of the class's ground that was each known class, and that of all ground.
    near
        ``(K,)``: distance of the class's mean in reaches.
    """
    _, first = np.unique(known.ids, return_index=True)
    ground = {int(known.ids[c]): round(float(persistent[c]), 4) for c in first if persistent[c] >= _ELSEWHERE}
    found = replace(found, ground=ground)
    if found.state == "matched" or not ground:
        return found
    lift = np.where(persistent >= _ELSEWHERE, persistent / np.maximum(chance, 1e-12), 0.0)
    best = int(persistent.argmax())
    others = lift[known.ids != known.ids[best]]
    close = near[known.ids == known.ids[best]].min() <= _FAR
    if persistent[best] < _MOSTLY or lift[best] < _CLEARLY * max(1.0, others.max(initial=0.0)) or not close:
        return found
    state: State = "matched" if found.known == int(known.ids[best]) else "ambiguous"
    return replace(found, state=state, known=int(known.ids[best]))


def _surprise(distance: Float, known: Prototypes, persistent: Float) -> Float:
    """Return ``(M, K)``: how unlikely members are in each class, up to a constant, if they scatter normally.

    A class that reaches far holds everything thinly; and most land is what it was.
    """
    dims = known.means.shape[1]
    # Half the quantile of chi squared; scipy.stats would take seconds to import.
    spread = gammaincinv(dims / 2, QUANTILE) * distance**2 + dims * np.log(known.reach)
    result: Float = spread - np.log(persistent + _ELSEWHERE)
    return result


def _decide(local: int, tally: Float, near: Float, known: Prototypes, new_above: float) -> Match:
    ids, owner = np.unique(known.ids, return_inverse=True)
    tally = np.bincount(owner, tally).astype(np.float64)
    votes = {int(ids[c]): round(float(tally[c]), 4) for c in np.argsort(-tally, kind="stable") if tally[c] > 0}
    distance = round(float(near.min()), 4)
    if 1 - tally.sum() > new_above:
        # Members that scatter around a known class, as water does that was calm and is rough, are no new class.
        if distance > 1:
            return Match(local, "new", None, votes, distance)
        return Match(local, "ambiguous", int(known.ids[near.argmin()]), votes, distance)
    best = int(np.argmax(tally))
    state: State = "matched" if tally[best] > SURE_ABOVE else "ambiguous"
    return Match(local, state, int(ids[best]), votes, distance)
