"""Look-alikes: distances by a slow rule, and the same whatever the units and the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.report.likeness import compare, describe_patch


def made(seed: int = 0) -> dict[int, list[NDArray[np.float32]]]:
    """Two patches of each class, of different sizes; feature 2 varies a hundred times as much as the others."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 3, (4, 3))
    scale = np.array([1, 1, 100])
    return {
        class_id: [(rng.normal(mean, 1, (count, 3)) * scale).astype(np.float32) for count in (30, 50)]
        for class_id, mean in zip((0, 3, 7, 200), means, strict=True)
    }


def slowly(features: Mapping[int, Sequence[NDArray[Any]]]) -> list[tuple[float, int, int]]:
    """Root mean square over the features of the difference of means over the standard deviation within classes."""
    cells = {class_id: [row for part in parts for row in part.tolist()] for class_id, parts in features.items()}
    columns = range(len(next(iter(cells.values()))[0]))
    mean = {i: [sum(row[f] for row in rows) / len(rows) for f in columns] for i, rows in cells.items()}
    spread = [
        sum(sum((row[f] - mean[i][f]) ** 2 for row in rows) / len(rows) for i, rows in cells.items()) / len(cells)
        for f in columns
    ]
    pairs = []
    for a in cells:
        for b in cells:
            if a < b:
                squares = [(mean[a][f] - mean[b][f]) ** 2 / spread[f] for f in columns]
                pairs.append(((sum(squares) / len(squares)) ** 0.5, a, b))
    return sorted(pairs)


def test_distances_are_those_of_the_slow_rule_the_closest_first() -> None:
    found, expected = compare(made()), slowly(made())
    assert [(pair.a, pair.b) for pair in found] == [(a, b) for _, a, b in expected]
    assert [pair.distance for pair in found] == pytest.approx([distance for distance, _, _ in expected], rel=1e-4)


def test_a_class_without_cells_is_in_no_pair() -> None:
    features = {**made(), 5: [np.zeros((0, 3), np.float32)], 6: [np.ones((1, 3), np.float32)]}
    assert compare(features) == compare(made())
    assert compare({1: features[0]}) == []


def test_cells_count_where_all_their_pixels_are_of_the_class() -> None:
    image = np.random.default_rng(0).random((64, 64, 2), np.float32)
    whole, half = np.ones((64, 64), np.bool_), np.ones((64, 64), np.bool_)
    half[:, 30:] = False  # in the middle of the fourth column of cells
    all_cells = describe_patch(image, whole)
    assert len(all_cells) == 64
    kept = all_cells.reshape(8, 8, -1)[:, :3].reshape(24, -1)
    np.testing.assert_array_equal(describe_patch(image, half), kept)
