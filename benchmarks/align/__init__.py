"""Ids of blocks against the truth of a simulated mosaic."""
