"""Where a series keeps what.

```
OUT/
  runs/DATE/        published run directories: COG, Zarr, legend, record; STAC item
  series.zarr       (time, y, x); classes.json beside it
  collection.json   the STAC collection
  work/SOURCE.DATE/ runs under way, resumed after a crash
  copies/SOURCE/    files fetched from buckets and servers
  model/, catalogue/  what gives the classes of all dates their ids
  reference.json    what all deliveries have in common
  ledger.db         the ledger, unless it is elsewhere
  refresh.json      only while maps are brought to new ids
  series.json       the name of the series, and where its ledger is
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.acquisitions.values import safe_name
from pipeline.ledger import Claim


@dataclass(frozen=True)
class Layout:
    """Paths below the folder of a series."""

    root: Path

    @property
    def runs(self) -> Path:
        """Folder of the published runs."""
        return self.root / "runs"

    @property
    def reference(self) -> Path:
        """What all deliveries have in common."""
        return self.root / "reference.json"

    @property
    def model(self) -> Path:
        """Model of the first date, where it serves all dates."""
        return self.root / "model"

    @property
    def catalogue(self) -> Path:
        """Catalogue of classes, unless it is elsewhere."""
        return self.root / "catalogue"

    @property
    def refreshing(self) -> Path:
        """File that is there while the maps are brought to new ids."""
        return self.root / "refresh.json"

    def published(self, claim: Claim) -> Path:
        """Folder of the published run of an acquisition."""
        return self.runs / safe_name(claim.date or claim.name)

    def run_of(self, result: Mapping[str, Any] | None) -> Path:
        """Folder of a run that the ledger tells of: here, though the series may have been copied or moved since."""
        return self.runs / Path(str((result or {}).get("run", ""))).name

    def work(self, claim: Claim) -> Path:
        """Folder in which an acquisition is segmented."""
        return self.root / "work" / safe_name(f"{claim.source}.{claim.name}")

    def basis(self, claim: Claim) -> Path:
        """File that says what the work in that folder rests on."""
        work = self.work(claim)
        return work.with_name(f"{work.name}.json")

    def copies(self, claim: Claim) -> Path:
        """Folder of the copies of an acquisition's files."""
        return self.root / "copies" / safe_name(claim.source) / safe_name(claim.name)
