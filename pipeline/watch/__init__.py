"""A series that keeps itself up to date: sources are looked at, what is new is segmented and published, once.

`config` says what is watched, `passes` does one pass, `inspection` finds what is wrong with a delivery, `publication`
and `series` make a run part of the series, `maintenance` looks after what is there. Knows no scheduler.
"""

from pipeline.watch.config import WatchConfig
from pipeline.watch.passes import Outcome, Pass, watch

__all__ = ["Outcome", "Pass", "WatchConfig", "watch"]
