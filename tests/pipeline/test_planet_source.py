"""Planet Basemaps on a loopback server that answers as the documented API does: pages, 429s, broken bodies."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from pipeline.acquisitions import SourceError
from pipeline.acquisitions.planet import PlanetSource, WithoutSecrets, date_of_mosaic, hide_secrets
from tests.pipeline.rasters import write_quad

pytest.importorskip("planet", reason="needs the extra planet: pip install 'ktextures[planet]'")
pytestmark = pytest.mark.e2e

KEY = "PLAK0123456789abcdef0123456789abcd"
NOW = datetime(2021, 5, 1, tzinfo=UTC)
SERIES = "00000000-0000-0000-0000-00000000000a"
MONTHS = ("2021-02", "2021-03", "2021-04")


def mosaic_id(month: str) -> str:
    return f"00000000-0000-0000-0000-0000{month.replace('-', ''):>08}"


class Planet:
    """What the server has, and what has been asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scenes = {(month, quad): [f"{month}-{quad}-1"] for month in MONTHS for quad in ("639-941", "639-942")}
        self.asked: list[str] = []
        self.unauthorised: list[str] = []
        self.refuse_next = 0
        self.truncate_next = 0
        self.root = ""

    def file(self, month: str, quad: str) -> Path:
        return self.folder / f"{month}_{quad}.tif"

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:  # noqa: PLR0911
        parts = path.removeprefix("/basemaps/v1/").split("/")
        page = int(query.get("_page", ["0"])[0])
        match parts:
            case ["series"]:
                named = query.get("name__is", ["monthly"]) == ["monthly"]
                return {"series": [{"id": SERIES, "name": "monthly"}] if named else [], "_links": {}}
            case ["series", _, "mosaics"]:
                return self.paged("mosaics", [self.mosaic(month) for month in MONTHS], path, page, size=2)
            case ["mosaics", found]:
                return self.mosaic(self.month(found))
            case ["mosaics", found, "quads"]:
                quads = [self.quad(self.month(found), quad) for quad in ("639-941", "639-942")]
                return self.paged("items", quads, path, page, size=1)
            case ["mosaics", found, "quads", quad]:
                return self.quad(self.month(found), quad)
            case ["mosaics", found, "quads", quad, "items"]:
                return {"items": [{"link": f"https://x/{name}"} for name in self.scenes[self.month(found), quad]]}
        return None

    def month(self, found: str) -> str:
        return next(month for month in MONTHS if mosaic_id(month) == found)

    def paged(self, key: str, items: list[Any], path: str, page: int, size: int) -> dict[str, Any]:
        start = page * size
        links = {"_self": f"{self.root}{path}"}
        if start + size < len(items):
            links["_next"] = f"{self.root}{path}?_page={page + 1}&api_key={KEY}"
        return {key: items[start : start + size], "_links": links}

    def mosaic(self, month: str) -> dict[str, Any]:
        base = f"{self.root}/basemaps/v1/mosaics/{mosaic_id(month)}"
        return {
            "id": mosaic_id(month),
            "name": f"planet_medres_normalized_analytic_{month}_mosaic",
            "first_acquired": f"{month}-01T00:00:00.000Z",
            "bbox": [-180, -85, 180, 85],
            "_links": {"_self": base, "quads": f"{base}/quads?api_key={KEY}&bbox={{lx}},{{ly}},{{ux}},{{uy}}"},
        }

    def quad(self, month: str, quad: str) -> dict[str, Any]:
        base = f"{self.root}/basemaps/v1/mosaics/{mosaic_id(month)}/quads/{quad}"
        links = {"_self": base, "download": f"{base}/full?api_key={KEY}", "items": f"{base}/items?api_key={KEY}"}
        return {"id": quad, "percent_covered": 100, "bbox": [0, 0, 1, 1], "_links": links}


def make_handler(planet: Planet) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            planet.asked.append(address.path)
            if address.path.startswith("/storage/"):
                return self._send_file(planet.folder / address.path.removeprefix("/storage/"))
            if KEY not in self.headers.get("Authorization", "") and KEY not in address.query:
                planet.unauthorised.append(address.path)
                return self._send(401, {"message": "unauthorised"})
            if planet.refuse_next:
                planet.refuse_next -= 1
                return self._send(429, {"message": "too many requests"})
            if address.path.endswith("/full"):
                *_, found, _, quad, _ = address.path.split("/")
                self.send_response(302)
                file = planet.file(planet.month(found), quad)
                self.send_header("Location", f"{planet.root}/storage/{file.name}")
                self.end_headers()
                return None
            found = planet.answer(address.path, parse_qs(address.query))
            return self._send(404, {"message": "not found"}) if found is None else self._send(200, found)

        def _send(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _send_file(self, path: Path) -> None:
            body = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "image/tiff")
            self.send_header("Content-Disposition", f'attachment; filename="{path.name}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if planet.truncate_next:
                planet.truncate_next -= 1
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

    return Handler


def write(planet: Planet, month: str, quad: str, seed: int) -> Path:
    bands = np.random.default_rng(seed).integers(1, 9000, (4, 32, 32)).astype(np.uint16)
    return write_quad(planet.file(month, quad), bands)


@pytest.fixture
def planet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planet]:
    monkeypatch.setenv("PL_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "storage").mkdir()
    planet = Planet(tmp_path / "storage")
    for seed, (month, quad) in enumerate(planet.scenes):
        write(planet, month, quad, seed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(planet))
    planet.root = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield planet
    server.shutdown()
    server.server_close()
    thread.join()


def source_of(planet: Planet) -> PlanetSource:
    return PlanetSource("nicfi", "monthly", (-67.8, -14.2, -67.5, -14.0), f"{planet.root}/basemaps/v1")


def test_mosaics_and_quads_are_found_page_by_page_and_fetched_whole(
    planet: Planet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = source_of(planet)
    planet.refuse_next = 1
    found = {each.name: each for each in source.survey(NOW, since="2021-03-01")}
    assert {name: [asset.name.rpartition("/")[2] for asset in each.assets] for name, each in found.items()} == {
        month: ["639-941.tif", "639-942.tif"] for month in ("2021-03", "2021-04")
    }
    assert not any(path.endswith("/full") for path in planet.asked), "to look costs none of the quota"
    march = found["2021-03"]
    planet.truncate_next = 1
    with pytest.raises(SourceError, match=r"Planet cannot be asked|came damaged"):
        source.fetch(march.assets[0], tmp_path / "copies")
    assert not list((tmp_path / "copies").rglob("*.tif")), "nothing broken is taken for a quad"
    paths = [source.fetch(asset, tmp_path / "copies") for asset in march.assets]
    assert [path.read_bytes() for path in paths] == [
        planet.file("2021-03", quad).read_bytes() for quad in ("639-941", "639-942")
    ]
    asked = len(planet.asked)
    assert source.fetch(march.assets[0], tmp_path / "copies") == paths[0]
    assert len(planet.asked) == asked, "what is there is not asked for again"
    assert planet.unauthorised == []

    write(planet, "2021-03", "639-942", 99)
    planet.scenes["2021-03", "639-942"].append("2021-03-639-942-2")
    again = {each.name: each for each in source.survey(NOW, since="2021-03-01")}
    assert again["2021-04"].version == found["2021-04"].version
    assert again["2021-03"].assets[0] == march.assets[0]
    assert again["2021-03"].assets[1].version != march.assets[1].version, "made of other scenes now"
    assert (
        source.fetch(again["2021-03"].assets[1], tmp_path / "copies").read_bytes()
        == planet.file("2021-03", "639-942").read_bytes()
    )

    assert KEY not in caplog.text
    assert KEY not in repr((source, found, again))
    assert "api_key=***" in caplog.text, "the addresses were logged, without the key"


def test_a_series_that_is_not_there_and_a_key_that_is_wrong_are_told(
    planet: Planet, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = PlanetSource("nicfi", "weekly", (0.0, 0.0, 1.0, 1.0), f"{planet.root}/basemaps/v1")
    with pytest.raises(SourceError, match="Series Not Found: weekly"):
        missing.survey(NOW)
    wrong = KEY[::-1]
    monkeypatch.setenv("PL_API_KEY", wrong)
    with pytest.raises(SourceError, match="InvalidAPIKey") as caught:
        source_of(planet).survey(NOW)
    assert wrong not in repr(caught.value)
    assert caught.value.__cause__ is None
    monkeypatch.delenv("PL_API_KEY")
    asked = len(planet.asked)
    with pytest.raises(SourceError, match="no key for Planet; set PL_API_KEY"):
        source_of(planet).survey(NOW)
    assert len(planet.asked) == asked


def test_secrets_are_hidden_whatever_the_form() -> None:
    for text in (f"x?api_key={KEY}&a=1", f"Authorization: api-key {KEY}", f"{{'authorization': 'Basic {KEY}'}}", KEY):
        assert KEY not in hide_secrets(text)
    record = logging.LogRecord("planet", logging.INFO, "", 0, "GET %s", (f"http://x?api_key={KEY}",), None)
    assert WithoutSecrets().filter(record)
    assert record.getMessage() == "GET http://x?api_key=***"


def test_the_date_of_a_mosaic_is_in_its_name_or_its_time() -> None:
    name = "ps_weekly_sen2_normalized_analytic_8b_sr_subscription_2024-07-15_2024-07-22_mosaic"
    assert date_of_mosaic({"name": name}) == "2024-07-15"
    assert date_of_mosaic({"name": "global_monthly_2021_02_mosaic"}) == "2021-02"
    assert date_of_mosaic({"name": "mine", "first_acquired": "2020-09-01T00:00:00.000Z"}) == "2020-09-01"
    assert date_of_mosaic({"name": "mine"}) is None
