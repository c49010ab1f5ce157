"""What was seen, who works on it and what came of it, in a database. Knows acquisitions, not how they are segmented."""

from pipeline.ledger.ledger import Ledger
from pipeline.ledger.values import STATES, Claim, FencedError, InputNote, PassRow, Row, State

__all__ = ["STATES", "Claim", "FencedError", "InputNote", "Ledger", "PassRow", "Row", "State"]
