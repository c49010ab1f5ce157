"""Alignment of class ids across blocks: what to measure, how to solve, where to cut."""

from pipeline.align.solve import align
from pipeline.align.values import Alignment, BlockSignature, ClassSummary, Merge, Overlap

__all__ = ["Alignment", "BlockSignature", "ClassSummary", "Merge", "Overlap", "align"]
