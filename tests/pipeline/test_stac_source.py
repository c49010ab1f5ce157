"""A STAC API, a real server on loopback, and a static catalogue: what is listed, fetched, and not trusted."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pystac
import pytest

from pipeline.acquisitions import Asset, DeliveryError, SourceError
from pipeline.acquisitions.stac import StacSource
from tests.pipeline.rasters import write_raster
from tests.servers import free_port

NOW = datetime(2026, 1, 10, tzinfo=UTC)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def make_item(name: str, day: str, href: str, west: float = 0.0, **fields: Any) -> dict[str, Any]:
    item = pystac.Item(
        name,
        {"type": "Point", "coordinates": [west + 0.5, 0.5]},
        [west, 0, west + 1, 1],
        datetime.fromisoformat(f"{day}T10:00:00+00:00"),
        {"updated": f"{day}T12:00:00Z"},
        collection="quads",
    )
    item.add_asset("image", pystac.Asset(href, media_type=COG, roles=["data"], extra_fields=fields))
    item.add_asset("thumbnail", pystac.Asset("t.png", media_type="image/png", roles=["thumbnail"]))
    return item.to_dict(include_self_link=False)


def write_image(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(1, 255, (2, 32, 32)).astype(np.uint8)
    return write_raster(path, values)


def make_api(items: list[dict[str, Any]], images: Path, faults: list[int], page: int = 2) -> Any:
    """A STAC API of stac-fastapi over a list, with paging by tokens, and the images beside it."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.staticfiles import StaticFiles
    from stac_fastapi.api.app import StacApi
    from stac_fastapi.types.config import ApiSettings
    from stac_fastapi.types.core import BaseCoreClient
    from stac_fastapi.types.search import BaseSearchPostRequest

    class Search(BaseSearchPostRequest):
        token: str | None = None

    class Client(BaseCoreClient):
        def _page(self, chosen: list[dict[str, Any]], request: Request, token: str | None) -> dict[str, Any]:
            start = int(token or 0)
            if start and faults:
                raise HTTPException(faults[0], "the database is away")
            links = []
            if start + page < len(chosen):
                body = {"token": str(start + page)}
                links = [
                    {"rel": "next", "href": f"{request.base_url}search", "method": "POST", "body": body, "merge": True}
                ]
            return {"type": "FeatureCollection", "features": chosen[start : start + page], "links": links}

        def post_search(self, search_request: Any, **kwargs: Any) -> dict[str, Any]:
            chosen = [
                item
                for item in items
                if (not search_request.collections or item["collection"] in search_request.collections)
                and (search_request.bbox is None or _meets(item["bbox"], search_request.bbox))
                and (search_request.start_date is None or _time(item) >= search_request.start_date)
            ]
            return self._page(chosen, kwargs["request"], getattr(search_request, "token", None))

        def get_search(self, **kwargs: Any) -> dict[str, Any]:
            raise NotImplementedError

        def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> dict[str, Any]:
            return next(item for item in items if item["id"] == item_id)

        def all_collections(self, **kwargs: Any) -> dict[str, Any]:
            return {"collections": [], "links": []}

        def get_collection(self, collection_id: str, **kwargs: Any) -> dict[str, Any]:
            raise NotImplementedError

        def item_collection(self, collection_id: str, **kwargs: Any) -> dict[str, Any]:
            raise NotImplementedError

    app = FastAPI()
    app.mount("/images", StaticFiles(directory=images))
    StacApi(
        settings=ApiSettings(enable_response_models=False),
        client=Client(),
        app=app,
        search_post_request_model=Search,
    )
    return app


def _time(item: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(item["properties"]["datetime"].replace("Z", "+00:00"))


def _meets(box: list[float], wanted: Any) -> bool:
    return box[0] <= wanted[2] and wanted[0] <= box[2]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A running STAC API, the list of its items, and the folder of its images."""
    import uvicorn

    images = tmp_path / "images"
    images.mkdir()
    items: list[dict[str, Any]] = []
    faults: list[int] = []
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(make_api(items, images, faults), host="127.0.0.1", port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.05)
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", items=items, images=images, faults=faults)
    server.should_exit = True
    thread.join(30)


@pytest.mark.e2e
def test_the_items_of_an_api_are_found_page_by_page_and_fetched(api: SimpleNamespace, tmp_path: Path) -> None:
    for index, (day, west) in enumerate([("2021-03-01", 0), ("2021-03-01", 1), ("2021-04-01", 0), ("2020-01-01", 0)]):
        image = write_image(api.images / f"i{index}.tif", index)
        checksum = "1220" + hashlib.sha256(image.read_bytes()).hexdigest()
        href = f"{api.url}/images/{image.name}"
        api.items.append(make_item(f"i{index}", day, href, west, **{"file:checksum": checksum}))
    far = make_item("far", "2021-03-01", f"{api.url}/images/i0.tif", west=50)
    api.items.append(far)
    source = StacSource("api", api.url, ("quads",), (0.0, 0.0, 2.0, 1.0))
    found = {each.name: each for each in source.survey(NOW, since="2021-01-01")}
    assert {name: [asset.name for asset in each.assets] for name, each in found.items()} == {
        "2021-03-01": ["i0/i0.tif", "i1/i1.tif"],
        "2021-04-01": ["i2/i2.tif"],
    }
    paths = [source.fetch(asset, tmp_path / "copies") for asset in found["2021-03-01"].assets]
    assert [path.read_bytes() for path in paths] == [(api.images / f"i{n}.tif").read_bytes() for n in (0, 1)]

    write_image(api.images / "i0.tif", 99)
    assert source.fetch(found["2021-03-01"].assets[0], tmp_path / "copies") == paths[0], "this version is there"
    with pytest.raises(DeliveryError, match="its listing says"):
        source.fetch(found["2021-03-01"].assets[0], tmp_path / "others")
    api.items[0]["assets"]["image"]["file:checksum"] = "1220" + "0" * 64
    again = {each.name: each for each in source.survey(NOW)}
    assert again["2021-03-01"].version != found["2021-03-01"].version
    assert again["2021-04-01"].version == found["2021-04-01"].version


@pytest.mark.e2e
@pytest.mark.parametrize("status", [500, 429, 403])
def test_of_a_listing_that_breaks_off_nothing_is_taken_for_all(api: SimpleNamespace, status: int) -> None:
    """Of a day whose quads are on two pages the first half alone would be a mosaic with a hole."""
    for quad in range(5):
        write_image(api.images / f"q{quad}.tif", quad)
        api.items.append(make_item(f"q{quad}", "2026-01-02", f"{api.url}/images/q{quad}.tif"))
    source = StacSource("s", api.url)
    api.faults.append(status)
    with pytest.raises(SourceError, match=r"source s: http://127.0.0.1:\d+ cannot be asked \(APIError"):
        source.survey(NOW)
    api.faults.clear()
    (found,) = source.survey(NOW)
    assert len(found.assets) == 5


@pytest.mark.e2e
def test_what_a_server_does_not_give_is_asked_for_later(api: SimpleNamespace, tmp_path: Path) -> None:
    source = StacSource("api", api.url)
    with pytest.raises(SourceError, match="the server answers 404"):
        source.fetch(Asset("n.tif", f"{api.url}/images/none.tif?sig=secret", "1"), tmp_path)
    with pytest.raises(SourceError, match="cannot be asked"):
        StacSource("gone", f"http://127.0.0.1:{free_port()}").survey(NOW)


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A static catalogue of two items with relative links, and their images."""
    root = tmp_path / "catalogue"
    catalogue = pystac.Catalog("quads", "Quads")
    for index, day in enumerate(("2021-03-01", "2021-04-01")):
        write_image(root / f"i{index}" / "image.tif", index)
        catalogue.add_item(pystac.Item.from_dict(make_item(f"i{index}", day, "./image.tif", float(index))))
    catalogue.normalize_hrefs(str(root))
    catalogue.save(pystac.CatalogType.SELF_CONTAINED)
    return root / "catalog.json"


def test_a_static_catalogue_is_walked_and_read_in_place(static: Path, tmp_path: Path) -> None:
    found = StacSource("files", str(static), ("quads",)).survey(NOW)
    assert [(each.name, [asset.name for asset in each.assets]) for each in found] == [
        ("2021-03-01", ["i0/image.tif"]),
        ("2021-04-01", ["i1/image.tif"]),
    ]
    source = StacSource("files", str(static), bbox=(1.5, 0.0, 2.0, 1.0))
    (second,) = source.survey(NOW)
    assert source.fetch(second.assets[0], tmp_path / "copies") == static.parent / "i1" / "image.tif"
    assert StacSource("files", str(static), keys=("thumbnail",)).survey(NOW)[0].assets[0].name == "i0/t.png"
    assert StacSource("files", str(static), ("other",)).survey(NOW) == []


@pytest.mark.parametrize(
    "href", ["/etc/passwd", "../../secret.tif", "/vsicurl/http://host/a.tif", "https://elsewhere.example/a.tif"]
)
def test_a_catalogue_has_no_say_over_other_files(static: Path, tmp_path: Path, href: str) -> None:
    write_image(tmp_path / "secret.tif")
    item = json.loads((static.parent / "i0" / "i0.json").read_text())
    item["assets"]["image"]["href"] = href
    (static.parent / "i0" / "i0.json").write_text(json.dumps(item))
    source = StacSource("files", str(static))
    asset = source.survey(NOW)[0].assets[0]
    with pytest.raises(DeliveryError, match=r"does not lie below its catalogue|add it to the hosts"):
        source.fetch(asset, tmp_path / "copies")


def test_what_is_no_catalogue_is_told(tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text("{}", encoding="utf-8")
    for name in ("catalog.json", "none.json"):
        with pytest.raises(SourceError, match="cannot be asked"):
            StacSource("files", str(tmp_path / name)).survey(NOW)
