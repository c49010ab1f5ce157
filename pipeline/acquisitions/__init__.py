"""Where imagery comes from: sources that list acquisitions and fetch their files.

`values` says what an acquisition is; `deliveries` when files that were dropped somewhere are complete; `folder`,
`bucket`, `stac` and `planet` are the sources; `fetch` is how a remote file becomes a whole local one. Nothing here runs
or records anything.
"""

from pipeline.acquisitions.values import Acquisition, Asset, DeliveryError, Source, SourceError

__all__ = ["Acquisition", "Asset", "DeliveryError", "Source", "SourceError"]
