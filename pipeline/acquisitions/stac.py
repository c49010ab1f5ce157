"""Acquisitions that a STAC API or a static catalogue lists: the items of one date are one acquisition.

What a catalogue says is not trusted: its files are fetched from its own host or from hosts that are named, and local
files only from below a catalogue that is local itself.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pipeline.acquisitions.fetch import has_copy, keep_copy, verify_in_place
from pipeline.acquisitions.values import (
    Acquisition,
    Asset,
    DeliveryError,
    SourceError,
    date_in_time,
    group_by_date,
    is_since,
    local_path,
    safe_name,
)

if TYPE_CHECKING:
    import pystac
    from pystac_client import Client

GEOTIFF = "image/tiff"
SHA256 = "1220"
"""How a multihash of a sha256 begins: the function, and the length of its digest."""


@dataclass(frozen=True)
class StacSource:
    """A STAC API or a static catalogue.

    Attributes
    ----------
    name, url
        Name of the source, and address or path of its root.
    collections, bbox
        Which items; all, where none are given.
    keys
        Which assets of an item; those with the role ``data`` that are GeoTIFF, where none are given.
    hosts
        From which hosts files may come besides that of the catalogue.
    """

    name: str
    url: str
    collections: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def survey(self, now: datetime, since: str | None = None) -> list[Acquisition]:
        """List all items, from the date `since` on; an item is complete when it is listed."""
        import requests
        from pystac.errors import STACError
        from pystac_client.errors import ClientTypeError
        from pystac_client.exceptions import APIError

        try:
            items = list(self._items(since))
        except (
            APIError,
            ClientTypeError,
            STACError,
            OSError,
            ValueError,
            KeyError,
            requests.RequestException,
        ) as error:
            raise SourceError(f"source {self.name}: {self.url} cannot be asked ({_one_line(error)})") from error
        found = [(asset, date_of_item(item)) for item in items for asset in self._assets(item)]
        grouped = group_by_date(self.name, (asset for asset, _ in found), (date for _, date in found))
        return [each for each in grouped if is_since(each.date, since)]

    def fetch(self, asset: Asset, folder: Path) -> Path:
        """Return the file, in `folder` where it came from a server."""
        self.check_href(asset)
        if not is_remote(asset.href):
            try:
                return verify_in_place(Path(asset.href), asset)
            except OSError as error:
                raise SourceError(f"{asset.name}: cannot be read ({error.strerror})") from error
        path = local_path(folder, asset.name)
        return path if has_copy(path, asset) else keep_copy(path, asset, _download(asset.href))

    def check_href(self, asset: Asset) -> None:
        """Raise DeliveryError where a catalogue names a file that it has no say over."""
        if is_remote(asset.href):
            allowed = {urlsplit(self.url).netloc, *self.hosts} if is_remote(self.url) else {*self.hosts}
            if urlsplit(asset.href).netloc not in allowed:
                raise DeliveryError(
                    f"{asset.name}: lies on {urlsplit(asset.href).netloc}; add it to the hosts of source {self.name}, "
                    "if it is to be trusted"
                )
            return
        root = None if is_remote(self.url) else Path(self.url).resolve().parent
        if root is None or not Path(asset.href).resolve().is_relative_to(root):
            raise DeliveryError(f"{asset.name}: {asset.href} does not lie below its catalogue; it is not read")

    def _items(self, since: str | None) -> Iterator[pystac.Item]:
        from pystac_client import Client, ConformanceClasses
        from pystac_client.warnings import PystacClientWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)  # a static catalogue conforms to nothing, and says so
            client = Client.open(self.url)
            if client.conforms_to(ConformanceClasses.ITEM_SEARCH):
                yield from self._search(client, since)
            else:
                yield from self._walk(client)

    def _search(self, client: Client, since: str | None) -> Iterable[pystac.Item]:
        return client.search(
            collections=list(self.collections) or None,
            bbox=self.bbox,
            datetime=None if since is None else f"{since}T00:00:00Z/..",
        ).items()

    def _walk(self, client: Client) -> Iterator[pystac.Item]:
        for item in client.get_items(recursive=True):
            if self.collections and item.collection_id not in self.collections:
                continue
            if self.bbox is None or item.bbox is None or _overlap(self.bbox, item.bbox):
                yield item

    def _assets(self, item: pystac.Item) -> Iterator[Asset]:
        base = item.get_self_href() or self.url
        for key, asset in sorted(item.assets.items()):
            wanted = key in self.keys if self.keys else _is_data(asset)
            if wanted:
                yield _asset_of(item, key, asset, base)


def _is_data(asset: pystac.Asset) -> bool:
    return "data" in (asset.roles or []) and (asset.media_type or "").startswith(GEOTIFF)


def _asset_of(item: pystac.Item, key: str, asset: pystac.Asset, base: str) -> Asset:
    href = asset.href
    if not is_remote(href) and not Path(href).is_absolute():
        href = urljoin(base, href) if is_remote(base) else str(Path(base).parent / href)
    said = asset.extra_fields
    checksum = str(said.get("file:checksum") or "").lower()
    # Without a checksum the item's own words: whoever changes a file says so in the item.
    version = checksum or json.dumps([item.properties.get("updated"), said.get("file:size"), href])
    size = said.get("file:size")
    return Asset(
        name=f"{safe_name(item.id)}/{safe_name(Path(urlsplit(href).path).name)}",
        href=href,
        version=version[:300],
        size_bytes=int(size) if isinstance(size, int) else None,
        sha256=checksum.removeprefix(SHA256) if checksum.startswith(SHA256) and len(checksum) == 68 else None,
    )


def date_of_item(item: pystac.Item) -> str | None:
    """Return the day of an item: its datetime, or the start of its interval."""
    if item.datetime is not None:
        return item.datetime.date().isoformat()
    return date_in_time(item.properties.get("start_datetime"))


def is_remote(href: str) -> bool:
    """Whether an address is that of a server.

    Examples
    --------
    >>> is_remote("https://a/b.tif"), is_remote("/data/b.tif"), is_remote("/vsicurl/https://a/b.tif")
    (True, False, False)
    """
    return urlsplit(href).scheme in ("http", "https")


def _overlap(one: tuple[float, ...], other: list[float]) -> bool:
    west, south, east, north = (*other[:2], *other[-2:]) if len(other) == 4 else (other[0], other[1], *other[3:5])
    return one[0] <= east and west <= one[2] and one[1] <= north and south <= one[3]


def _download(href: str) -> Iterator[bytes]:
    import requests

    try:
        # A redirect may lead anywhere; a host that serves files elsewhere is named itself.
        with requests.get(href, stream=True, timeout=60, allow_redirects=False) as response:
            if response.status_code != requests.codes.ok:
                raise SourceError(f"{_plain(href)}: the server answers {response.status_code}")
            expected, came = response.headers.get("Content-Length"), 0
            for chunk in response.iter_content(1 << 20):
                came += len(chunk)
                yield chunk
            if expected is not None and "Content-Encoding" not in response.headers and came != int(expected):
                raise SourceError(f"{_plain(href)}: {came} of {expected} bytes came; it is asked for again")
    except requests.RequestException as error:
        raise SourceError(f"{_plain(href)}: cannot be fetched ({type(error).__name__})") from error


def _plain(href: str) -> str:
    return urlsplit(href)._replace(query="", fragment="").geturl()


def _one_line(error: Any) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
