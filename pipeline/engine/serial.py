"""One item after the other in this process: for debugging, and for very small scenes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

from pipeline.engine.interface import Item, Outcome, Result

logger = logging.getLogger(__name__)


class SerialEngine:
    """An engine without processes."""

    workers = 1

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = 1
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield the outcome of `function` for each item, in order."""
        for item in items:
            yield _attempt(function, item, retries)


def _attempt(function: Callable[[Item], Result], item: Item, retries: int) -> Outcome[Item, Result]:
    for left in reversed(range(retries + 1)):
        try:
            return Outcome(item, function(item))
        except Exception as error:  # the caller decides what a failed block means
            if not left:
                return Outcome(item, None, error)
            logger.warning("%s failed (%s); trying again", item, error)
    raise AssertionError("unreachable")
