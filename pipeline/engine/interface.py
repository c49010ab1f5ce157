"""What all engines have in common: a way to work on items, what becomes of an item, and how long one waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the error of its last try."""

    item: Item
    result: Result | None
    error: BaseException | None = None


@dataclass(frozen=True)
class Limits:
    """How long an engine waits, in seconds, before it gives up.

    Attributes
    ----------
    item_s
        For one item, from its submission. The worker that holds it is started anew, and the item counts as failed.
    no_worker_s
        Without any worker. The run then ends, and can be resumed.
    fetch_s
        For the record of a finished item. It is worked on again where its worker died with it.
    poll_s
        Between two looks at the clock while nothing ends.
    """

    item_s: float = 12 * 3600
    no_worker_s: float = 300
    fetch_s: float = 60
    poll_s: float = 5


class Engine(Protocol):
    """A way to work on blocks."""

    @property
    def workers(self) -> int:
        """How many items are worked on at a time."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = 1
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield the outcome of `function` for each item, in the order in which they end.

        An item whose function raises is tried `retries` times more; `items` are taken as there is room for them.
        """
