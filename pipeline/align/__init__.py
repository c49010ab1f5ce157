"""Alignment of class ids across blocks: what to measure, how to solve, where to cut."""

from pipeline.align.cut import NO_OWNER, compose, gather
from pipeline.align.measure import measure, overlap
from pipeline.align.solve import align
from pipeline.align.values import Alignment, BlockSignature, ClassSummary, Merge, Mixed, Overlap, Repair

__all__ = [
    "NO_OWNER",
    "Alignment",
    "BlockSignature",
    "ClassSummary",
    "Merge",
    "Mixed",
    "Overlap",
    "Repair",
    "align",
    "compose",
    "gather",
    "measure",
    "overlap",
]
