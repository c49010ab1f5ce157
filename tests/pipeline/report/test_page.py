"""Laws of the page: complete, self-contained, safe, small, and made again from what was published."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from rasterio.io import MemoryFile
from scipy import ndimage

from flows.cli import main
from pipeline.checksums import checksums, edited
from pipeline.errors import InputError
from pipeline.legend import Legend, LegendClass
from pipeline.polygons import write_polygons
from pipeline.record import AlignmentMetrics
from pipeline.report import remake_report
from pipeline.report.charts import draw_spectra, draw_trainings
from pipeline.report.diagnostics import Curve, Diagnostics, Training
from pipeline.report.figures import describe_catalogue
from pipeline.report.views import fade
from pipeline.results import Result, open_result
from tests.pipeline.made_run import make_run

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The page as a browser splits it: elements with their attributes, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        self._open = (found.get("id") or found.get("type") or tag) if tag in {"script", "style", "h1"} else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def unpack(text: str, dtype: str, shape: tuple[int, int]) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape)


def test_the_map_in_the_page_is_the_published_one(made: Result) -> None:
    page = read(made.path / "report.html")
    data = json.loads(page.texts["data"])
    shape = data["height"], data["width"]
    labels = made.labels.to_numpy()
    np.testing.assert_array_equal(unpack(page.texts["labels"], "u1", shape), labels)
    steps = unpack(page.texts["confidence"], "u1", shape)
    sure = made.confidence.to_numpy()
    np.testing.assert_array_equal(steps, np.where(labels == 255, 255, sure // 10))
    assert [each["id"] for each in data["classes"]] == made.legend.ids
    nominal = 25e-6 * np.bincount(labels.ravel(), minlength=256)
    for each in data["classes"]:
        assert each["km2"] == pytest.approx(nominal[each["id"]], rel=0.01), "UTM near its middle: within a per cent"
    with rasterio.open(made.path / "labels.tif") as file:
        assert data["transform"] == list(file.transform[:6])


def test_the_page_loads_nothing_and_runs_its_own_script_only(made: Result) -> None:
    text = (made.path / "report.html").read_text("utf-8")
    page = Page(text)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    for name, found in (("script-src", page.texts["module"]), ("style-src", page.texts["style"])):
        digest = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("src", "href", "action", "srcset", "poster"):
            if name in attrs:
                assert (attrs[name] or "").startswith(("data:", "#")), (tag, attrs)
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page.texts["module"] + page.texts["style"])


def test_names_of_files_classes_and_runs_are_text_and_never_markup(run_copy: Path, made: Result) -> None:
    page = read(made.path / "report.html")
    assert page.texts["h1"] == "run <i>one", "the title is the directory's name, as it is"
    assert "i" not in {tag for tag, _ in page.elements}
    classes = [LegendClass(each.id, HOSTILE, each.colour, each.pixels, each.share) for each in made.legend.classes]
    Legend(tuple(classes)).to_json(run_copy / "classes.json")
    page = read(remake_report(run_copy)[0])
    assert not [attrs for attrs in page.all("img") if "onerror" in attrs]
    assert {each["name"] for each in json.loads(page.texts["data"])["classes"]} == {HOSTILE}
    assert {attrs["value"] for attrs in page.all("input") if attrs.get("class") == "name"} == {HOSTILE}


def test_each_class_has_real_patches_and_the_texture_of_its_own_grey(made: Result) -> None:
    page = read(made.path / "report.html")
    alts = [str(attrs.get("alt")) for attrs in page.all("img")]
    assert sum("patch at row" in alt for alt in alts) == 4 * len(made.legend)
    assert sum("generates" in alt for alt in alts) == len(made.legend)
    brightness = []
    for each in made.legend.classes:
        with (
            pytest.warns(rasterio.errors.NotGeoreferencedWarning),
            rasterio.open(made.path / "textures" / f"{each.id}.png") as file,
        ):
            brightness.append(float(file.read(1).mean()))
    spectra = [each.spectrum[0] for each in made.legend.classes]
    assert np.argsort(brightness).tolist() == np.argsort(spectra).tolist(), "the brighter class, the brighter texture"


@pytest.mark.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
def test_in_a_patch_only_its_class_is_seen_and_the_rest_is_faded(made: Result) -> None:
    labels, seen = made.labels.to_numpy(), {each.id: 0 for each in made.legend.classes}
    darkest = min(made.legend.classes, key=lambda each: each.spectrum[0]).id
    for attrs in read(made.path / "report.html").all("img"):
        found = re.search(r"(\d+) px patch at row (\d+), column (\d+)", str(attrs.get("alt")))
        if found is None:
            continue
        side, row, column = (int(number) for number in found.groups())
        with MemoryFile(base64.b64decode(str(attrs["src"]).partition(",")[2])) as memory, memory.open() as file:
            picture = file.read([1, 2, 3]).astype(int)
        window = labels[row : row + side, column : column + side]
        class_id = max(seen, key=lambda i: (window == i).sum())
        seen[class_id] += 1
        # Well away from borders, where the lossy picture mixes the two.
        inside, outside = (
            ndimage.binary_erosion(each, iterations=6) for each in (window == class_id, window != class_id)
        )
        assert (abs(picture[:, outside] - 190) <= 0.2 * 128 + 6).all()
        if class_id == darkest:
            assert picture[:, inside].max() < 60
    assert set(seen.values()) == {4}


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.uint8, (5, 4, 4)), hnp.arrays(bool, (5, 4)))
def test_what_is_faded_is_grey_and_faint_and_the_rest_as_it_was(shown: Any, kept: Any) -> None:
    found = fade(shown, kept)
    np.testing.assert_array_equal(found[kept], shown[kept])
    np.testing.assert_array_equal(found[..., 3], shown[..., 3])
    rest = found[~kept][:, :3].astype(int)
    assert (rest == rest[:, :1]).all()
    assert rest.max(initial=0) - rest.min(initial=255) <= 0.2 * 255 + 1


@pytest.mark.parametrize(
    ("by_class", "expected"),
    [
        ({0: (80.36, 202.0), 1: (9.9, 1.0)}, ["80", "202"]),
        ({0: (0.0312, 0.4), 1: (0.1, 0.2)}, ["0.031", "0.400"]),
        ({0: (1204.4, 20.0)}, ["1,204", "20"]),
        ({0: (-12.5, -3.0)}, ["-12.50", "-3.00"]),
    ],
)
def test_means_of_bands_have_as_many_digits_as_count(by_class: Any, expected: list[str]) -> None:
    assert [text for _, text in draw_spectra(by_class, ("R", "N"))[0].values] == expected


def test_without_pixels_none_is_in_the_page(run_copy: Path) -> None:
    path, reason = remake_report(run_copy, pixels=False)
    page = read(path)
    assert reason == ""
    assert "image" not in page.texts
    assert not [attrs for attrs in page.all("img") if "patch" in str(attrs.get("alt"))]
    assert "licence" in path.read_text("utf-8")
    assert {attrs.get("alt", "")[:7] for attrs in page.all("img") if attrs.get("alt")} == {"Texture"}


@pytest.mark.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
def test_a_run_that_may_not_show_pixels_shows_none_in_page_and_quicklook(made: Result, tmp_path: Path) -> None:
    told = make_run(tmp_path, show_pixels=False)
    page = read(told.path / "report.html")
    assert "image" not in page.texts
    assert not [attrs for attrs in page.all("img") if "patch" in str(attrs.get("alt"))]
    (width, others), (wide, pixels) = quicklook(told.path), quicklook(made.path)
    assert (width, wide) == (340, 680), "the scene stands beside the map only where it may be shown"
    assert len(others) <= 1 < len(pixels), "nodata has a colour of its own"


@pytest.mark.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
def test_a_report_without_pixels_takes_them_out_of_all_that_was_published(made: Result, run_copy: Path) -> None:
    assert main(["report", str(run_copy), "--no-pixels"]) == 0
    width, others = quicklook(run_copy)
    assert width == 340
    assert len(others) <= 1
    told = {"report.html", "quicklook.png", "item.json"}
    assert set(edited(run_copy)) == told, "noted as changed on purpose"
    item = json.loads((run_copy / "item.json").read_text())
    digest = hashlib.sha256((run_copy / "quicklook.png").read_bytes()).hexdigest()
    assert item["assets"]["quicklook"]["file:checksum"] == "1220" + digest
    changed = {name for name, digest in checksums(run_copy).items() if checksums(made.path).get(name) != digest}
    assert changed == told, "the rest never held any"


def quicklook(run: Path) -> tuple[int, set[Any]]:
    """Width of the picture, and its colours that are of no class."""
    known = {tuple(bytes.fromhex(each.colour[1:])) for each in Legend.from_json(run / "classes.json").classes}
    with rasterio.open(run / "quicklook.png") as file:
        return file.width, {tuple(colour) for colour in file.read([1, 2, 3]).reshape(3, -1).T.tolist()} - known


def test_a_report_is_made_again_like_the_first(run_copy: Path, made: Result) -> None:
    first = read(made.path / "report.html")
    again = read(remake_report(run_copy)[0])
    for name in ("labels", "confidence", "image", "data"):
        assert again.texts[name] == first.texts[name]
    assert again.texts["h1"] == "copy"


@pytest.mark.parametrize("change", ["gone", "other"])
def test_imagery_that_is_gone_or_changed_is_not_shown(run_copy: Path, change: str) -> None:
    record = json.loads((run_copy / "run.json").read_text())
    source = record["inputs"][0]["path"]
    other = run_copy.parent / "moved.tif"
    if change == "other":
        other.write_bytes(b"0" * Path(source).stat().st_size)
    record["inputs"][0]["path"] = str(other)
    (run_copy / "run.json").write_text(json.dumps(record))
    path, reason = remake_report(run_copy)
    assert ("no longer there" if change == "gone" else "has changed") in reason
    assert "image" not in read(path).texts
    assert "moved.tif" in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("diagnostics.json", None, "diagnostics.json of this run is missing"),
        ("diagnostics.json", "{}", "is not in format"),
        ("diagnostics.json", '{"format": "ktextures-diagnostics", "version": 1, "bands": 3}', "bands"),
        ("run.json", None, "there is no run record"),
    ],
)
def test_what_is_missing_or_wrong_is_named(run_copy: Path, name: str, content: str | None, match: str) -> None:
    before = (run_copy / "report.html").read_bytes()
    (run_copy / name).unlink()
    if content is not None:
        (run_copy / name).write_text(content)
    with pytest.raises(InputError, match=match):
        remake_report(run_copy)
    assert (run_copy / "report.html").read_bytes() == before


def test_a_directory_that_cannot_be_written_is_named(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.workspace.tempfile.TemporaryFile", refuse)  # root may write everywhere
    with pytest.raises(InputError, match=r"copy: cannot be written \(Permission denied\); have its permissions"):
        remake_report(run_copy)
    with pytest.raises(InputError, match=r"copy: cannot be written \(Permission denied\)"):
        write_polygons(open_result(run_copy), run_copy / "polygons.gpkg")
    assert not list(run_copy.glob("*.gpkg"))


def test_diagnostics_survive_their_file(made: Result, tmp_path: Path) -> None:
    found = Diagnostics.read(made.path)
    assert found.bands == ("R", "G", "B", "N")
    assert found.nodes is not None
    by_id = {i: sum(node.pixels for node in found.nodes if node.id == i) for i in made.legend.ids}
    assert sum(by_id.values()) == made.record.metrics.pixels_valid  # type: ignore[union-attr]
    found.write(tmp_path)
    assert Diagnostics.read(tmp_path) == found


def test_the_median_ends_where_most_models_have_ended() -> None:
    def train(rounds: int, last: float) -> Training:
        values = (*(0.1 for _ in range(rounds - 1)), last)
        return Training("m", 1.0, 0.0, "", (Curve("rounds", "changes", tuple(range(1, rounds + 1)), values),))

    (chart,) = draw_trainings([train(5, 0.1), train(5, 0.1), train(9, 0.9)])
    ends = [float(line.split()[-1].split(",")[0]) for line in chart.lines]
    assert ends == [50.0, 50.0, 100.0]
    middle = [tuple(map(float, point.split(","))) for point in chart.middle.split()]
    assert max(x for x, _ in middle) == pytest.approx(50, abs=1)
    assert {y for _, y in middle} == {90.0}, "10 % of 100 %"
    assert "to 10% at the end" in chart.summary


def test_a_page_says_what_a_catalogue_knew_again_and_what_was_new() -> None:
    classes = [
        {"class": i, "id": id, "state": state}
        for i, (id, state) in enumerate([(4, "matched"), (1, "matched"), (6, "ambiguous"), (9, "new")])
    ]
    said = AlignmentMetrics(new_classes=[9], catalogue={"how": "attached", "classes": classes})
    assert describe_catalogue(said) == ["Classes by the catalogue - known: 1, 4; doubtful: 6; new: 9."]
    assert describe_catalogue(AlignmentMetrics(new_classes=[0, 1])) == describe_catalogue(None) == []
