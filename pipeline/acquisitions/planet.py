"""Acquisitions of Planet Basemaps: each mosaic of a series is one, made of the quads of an area.

The key is Planet's SDK's to find (``PL_API_KEY``, or a profile of its own); it is never asked for, kept or logged here.
Links of the API carry it, so that an asset names its quad, and the link is looked up when the quad is fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.acquisitions.fetch import has_copy, keep_copy
from pipeline.acquisitions.values import Acquisition, Asset, SourceError, date_in_time, is_since, local_path, safe_name
from pipeline.dates import date_in_text

if TYPE_CHECKING:
    from planet.clients.mosaics import MosaicsClient
    from planet.models import Mosaic, Quad

Answer = TypeVar("Answer")

SCHEME = "planet:"
ASKED_AT_ONCE = 8
_SECRET = re.compile(r"(?i)(api_key=|authorization['\"]?:\s*['\"]?(?:basic|bearer|api-key)\s+)[^&\s'\"]+|\bPLAK\w+")


class WithoutSecrets(logging.Filter):
    """Takes keys out of what the SDK and its HTTP client log: addresses with ``api_key=``, headers, bare keys."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record through, without secrets."""
        message = record.getMessage()
        plain = hide_secrets(message)
        if plain != message:
            record.msg, record.args = plain, ()
        return True


def hide_secrets(text: str) -> str:
    """Return a text without keys.

    Examples
    --------
    >>> hide_secrets("GET https://api.planet.com/q/full?api_key=abc&x=1 by PLAK123")
    'GET https://api.planet.com/q/full?api_key=***&x=1 by ***'
    """
    return _SECRET.sub(lambda match: f"{match.group(1) or ''}***", text)


@dataclass(frozen=True)
class PlanetSource:
    """The mosaics of a Planet series.

    Attributes
    ----------
    name, series
        Name of the source; name or id of the series.
    bbox
        West, south, east, north in degrees: quads that reach into it.
    url
        Root of the Basemaps API; Planet's own by default.
    """

    name: str
    series: str
    bbox: tuple[float, float, float, float]
    url: str | None = None

    def survey(self, now: datetime, since: str | None = None) -> list[Acquisition]:
        """List the mosaics of the series and their quads, from the date `since` on.

        A quad is told apart by the scenes that it was made of, which costs a small request and none of the quota.
        """
        return self._ask(lambda client: self._survey(client, since))

    def fetch(self, asset: Asset, folder: Path) -> Path:
        """Return a copy of a quad in `folder`, made unless this very version lies there."""
        path = local_path(folder, asset.name)
        if has_copy(path, asset):
            return path
        mosaic, _, quad = asset.href.removeprefix(SCHEME).partition("/")
        return self._ask(lambda client: self._fetch(client, mosaic, quad, asset, path))

    def _ask(self, question: Callable[[MosaicsClient], Awaitable[Answer]]) -> Answer:
        import httpx
        from planet.exceptions import PlanetError

        async def ask() -> Answer:
            async with self._client() as client:
                return await question(client)

        try:
            return asyncio.run(ask())
        except (PlanetError, httpx.HTTPError, OSError, KeyError, ValueError) as error:
            reason = hide_secrets(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]
            # Not `from error`: its own text and arguments may hold a link with the key.
            raise SourceError(f"source {self.name}: Planet cannot be asked ({reason})") from None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[MosaicsClient]:
        from planet import Auth, Session
        from planet.clients.mosaics import MosaicsClient

        for logger in map(logging.getLogger, ("planet", "planet.http", "planet.models", "httpx", "httpcore")):
            if not any(isinstance(each, WithoutSecrets) for each in logger.filters):
                logger.addFilter(WithoutSecrets())
        auth = Auth.from_user_default_session()
        if not auth.is_initialized():
            raise SourceError(f"source {self.name}: no key for Planet; set PL_API_KEY, or log in with Planet's SDK")
        async with Session(auth=auth) as session:
            yield MosaicsClient(session, base_url=self.url)

    async def _survey(self, client: MosaicsClient, since: str | None) -> list[Acquisition]:
        found = []
        async for mosaic in client.list_series_mosaics(self.series):
            date = date_of_mosaic(mosaic)
            if is_since(date, since):
                assets = await self._quads(client, mosaic)
                if assets:
                    found.append(Acquisition(self.name, date or safe_name(mosaic["name"]), date, assets))
        return sorted(found, key=lambda each: each.name)

    async def _quads(self, client: MosaicsClient, mosaic: Mosaic) -> tuple[Asset, ...]:
        quads = [quad async for quad in client.list_quads(mosaic, bbox=list(self.bbox))]
        turns = asyncio.Semaphore(ASKED_AT_ONCE)

        async def describe(quad: Quad) -> Asset:
            async with turns:
                scenes = await client.get_quad_contributions(quad)
            made_of = sorted(hide_secrets(str(each.get("link"))) for each in scenes)
            version = hashlib.sha256(json.dumps([quad.get("percent_covered"), made_of]).encode()).hexdigest()
            name = f"{safe_name(mosaic['name'])}/{safe_name(quad['id'])}.tif"
            return Asset(name, f"{SCHEME}{mosaic['id']}/{quad['id']}", version)

        return tuple(sorted(await asyncio.gather(*map(describe, quads)), key=lambda asset: asset.name))

    async def _fetch(self, client: MosaicsClient, mosaic: str, quad_id: str, asset: Asset, path: Path) -> Path:
        # The SDK writes to the final name and takes a broken file for a whole one; it is given a folder of its own.
        quad = await client.get_quad(mosaic, quad_id)
        folder = path.with_name(f".{path.name}.download")
        try:
            await client.download_quad(quad, directory=str(folder), overwrite=True)
            (came,) = folder.glob("*.tif")
            return keep_copy(path, asset, _chunks(came))
        finally:
            for left in folder.glob("*") if folder.is_dir() else ():
                left.unlink()
            if folder.is_dir():
                folder.rmdir()


def _chunks(path: Path) -> Any:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def date_of_mosaic(mosaic: Mosaic) -> str | None:
    """Return the date of a mosaic: that in its name, else the day on which its imagery begins.

    Examples
    --------
    >>> date_of_mosaic({"name": "planet_medres_normalized_analytic_2021-03_mosaic"})
    '2021-03'
    """
    return date_in_text(mosaic["name"]) or date_in_time(mosaic.get("first_acquired"))
