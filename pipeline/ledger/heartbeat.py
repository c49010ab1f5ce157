"""A claim that is kept alive while its work goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from pipeline.ledger.ledger import Ledger
from pipeline.ledger.values import Claim, FencedError

logger = logging.getLogger(__name__)

BEATS = 4
"""Renewals in a lease: so many may be lost before the claim is."""


@contextmanager
def kept_alive(ledger: Ledger, claim: Claim, lease_s: float) -> Iterator[threading.Event]:
    """Renew a claim from a thread; the event that is given is set when the claim turns out to be another's."""
    done, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not done.wait(lease_s / BEATS):
            try:
                ledger.renew(claim, lease_s)
            except FencedError as error:
                logger.warning("%s", error)
                lost.set()
                return
            except SQLAlchemyError as error:
                logger.warning("the claim of %s could not be renewed: %s", claim.name, type(error).__name__)

    thread = threading.Thread(target=beat, name=f"claim {claim.name}", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()
