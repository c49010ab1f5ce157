"""Acquisitions below a prefix of a bucket (S3, Google Cloud Storage, Azure), listed and copied by obstore.

Credentials come from the environment or the machine's identity, as obstore finds them; never from a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.acquisitions.deliveries import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Entry,
    Listed,
    group_deliveries,
    parse_manifest,
)
from pipeline.acquisitions.fetch import has_copy, keep_copy
from pipeline.acquisitions.values import (
    Acquisition,
    Asset,
    DeliveryError,
    SourceError,
    is_since,
    local_path,
)


@dataclass(frozen=True)
class BucketSource:
    """A prefix of a bucket.

    Attributes
    ----------
    name, url
        Name of the source, and ``s3://BUCKET/PREFIX``, ``gs://...`` or ``az://...``.
    pattern, quiet
        As for a folder.
    options
        Of the store: region, endpoint and the like.
    """

    name: str
    url: str
    pattern: str = "*"
    quiet: timedelta = timedelta(minutes=10)
    options: Mapping[str, str] = field(default_factory=dict)

    def survey(self, now: datetime, since: str | None = None) -> list[Acquisition]:
        """List all that is there, incomplete or not, from the date `since` on."""
        entries = list(self._entries())
        manifests = {str(entry.path.parent): self._manifest(entry) for entry in entries if entry.path.name == MANIFEST}
        found = group_deliveries(self.name, entries, manifests, now=now, quiet=self.quiet, pattern=self.pattern)
        return [each for each in found if is_since(each.date, since)]

    def fetch(self, asset: Asset, folder: Path) -> Path:
        """Return a copy in `folder`, made unless this very version lies there."""
        import obstore

        path = local_path(folder, asset.name)
        if has_copy(path, asset):
            return path
        try:
            chunks = (bytes(chunk) for chunk in obstore.get(self._store(), asset.name).stream())
            return keep_copy(path, asset, chunks)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise SourceError(f"{asset.href}: cannot be fetched ({_one_line(error)})") from error

    def _store(self) -> Any:
        import obstore.store

        options: Any = dict(self.options)
        client: Any = {"allow_http": True} if options.get("endpoint", "").startswith("http://") else {}
        open_store: Any = obstore.store.from_url  # its overloads name every option of every store
        return open_store(self.url, config=options, client_options=client)

    def _entries(self) -> Iterator[Entry]:
        import obstore

        try:
            for batch in obstore.list(self._store()):
                for meta in batch:
                    key = str(meta["path"])
                    yield Entry(
                        key=key,
                        href=f"{self.url.rstrip('/')}/{key}",
                        size_bytes=int(meta["size"]),
                        changed=meta["last_modified"],
                        version=meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].isoformat()}",
                    )
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise SourceError(f"source {self.name}: {self.url} cannot be listed ({_one_line(error)})") from error

    def _manifest(self, entry: Entry) -> dict[str, Listed] | DeliveryError:
        import obstore

        if entry.size_bytes > MAX_MANIFEST_BYTES:
            return DeliveryError(f"{entry.key}: is larger than {MAX_MANIFEST_BYTES >> 20} MiB; no manifest is")
        try:
            text = bytes(obstore.get(self._store(), entry.key).bytes()).decode()
            return parse_manifest(text, entry.key)
        except DeliveryError as error:
            return error
        except UnicodeDecodeError as error:
            return DeliveryError(f"{entry.key}: is not UTF-8 text ({error.reason})")
        except obstore.exceptions.BaseError as error:
            raise SourceError(f"{entry.href}: cannot be read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
