"""The page in a real browser: it draws the map, names classes, is accessible, and says nothing wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from pystac.extensions.classification import ClassificationExtension
from scipy import ndimage

from flows.cli import main
from pipeline.report import remake_report, shows_pixels
from pipeline.results import Result, open_result

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore::ResourceWarning")]

WIDTHS = (1440, 390)
Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, made: Result) -> Iterator[Open]:
    """Open a page offline; in the end it must have said nothing on the console and asked for nothing."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(width: int = 1440, path: Path | None = None, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url[:60]))
        page.goto((path or made.path / "report.html").as_uri())
        page.wait_for_selector("#stage[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # These tests read the canvas back, and Chromium has advice about that.
    assert [line for line in said if not line.startswith("Canvas2D: Multiple readback")] == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def colour_at(page: Any, x: float, y: float) -> list[int]:
    """Colour of the map at a share of the picture's width and height."""
    found: list[int] = page.evaluate(
        """([x, y]) => { const box = document.querySelector("canvas").getBoundingClientRect();
        const side = Math.min(box.width / 340, box.height / 300), canvas = document.querySelector("canvas");
        const px = (box.width - 340 * side) / 2 + x * 340 * side, py = (box.height - 300 * side) / 2 + y * 300 * side;
        return [...canvas.getContext("2d").getImageData(Math.round(px), Math.round(py), 1, 1).data]; }""",
        [x, y],
    )
    return found


def rgb(colour: str) -> list[int]:
    return [*bytes.fromhex(colour[1:]), 255]


def settle(page: Any) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def show_labels(page: Any) -> None:
    page.fill("#opacity", "100")
    settle(page)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_shifts_or_overflows(opened: Open, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make setup")
    page = opened(width, color_scheme=scheme, reduced_motion="reduce")
    page.click("[data-select='1']")
    page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    result = axe.Axe().run(page)
    assert [f"{v['id']}: {[n['html'][:120] for n in v['nodes']]}" for v in result.response["violations"]] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    shifts = page.evaluate(
        """() => new Promise((done) => { new PerformanceObserver((list) => done(list.getEntries()
        .filter((each) => !each.hadRecentInput).reduce((sum, each) => sum + each.value, 0)))
        .observe({ type: "layout-shift", buffered: true }); setTimeout(() => done(0), 300); })"""
    )
    assert shifts < 0.05


def test_the_map_shows_each_class_in_its_colour(opened: Open, made: Result) -> None:
    page = opened()
    show_labels(page)
    labels = made.labels.to_numpy()
    for y, x in ((30, 90), (90, 90), (150, 210), (270, 330)):
        expected = made.legend[int(labels[y, x])].colour
        assert colour_at(page, (x + 0.5) / 340, (y + 0.5) / 300) == rgb(expected)
    assert colour_at(page, 5 / 340, 5 / 300)[3] == 0, "nodata is nothing"


def test_a_swipe_shows_imagery_on_one_side_and_labels_on_the_other(opened: Open, made: Result) -> None:
    page = opened()
    page.check("input[value=swipe]", force=True)
    page.focus("#divider")
    page.keyboard.press("Home")
    settle(page)
    labels = made.labels.to_numpy()
    right = rgb(made.legend[int(labels[150, 30])].colour)
    assert colour_at(page, 30.5 / 340, 150.5 / 300) == right
    page.keyboard.press("End")
    settle(page)
    assert page.get_attribute("#divider", "aria-valuenow") == "100"
    assert colour_at(page, 30.5 / 340, 150.5 / 300) != right


def test_confidence_is_one_side_of_the_swipe_and_darker_where_the_map_is_less_sure(opened: Open, made: Result) -> None:
    page = opened()
    page.check("input[value=swipe]", force=True)
    assert page.locator("#left option").all_inner_texts() == ["Imagery", "Labels", "Confidence"]
    assert page.locator("#right option").all_inner_texts() == ["Imagery", "Labels", "Confidence"]
    page.select_option("#right", "confidence")
    page.focus("#divider")
    page.keyboard.press("Home")
    settle(page)
    sure = made.confidence.to_numpy() // 10
    brightness = []
    for step in np.unique(sure[:, 30:][sure[:, 30:] <= 20]):
        inside = ndimage.binary_erosion(sure == step)
        if inside.any():
            y, x = np.argwhere(inside)[0]
            brightness.append(sum(colour_at(page, (x + 0.5) / 340, (y + 0.5) / 300)[:3]))
    assert len(brightness) > 0
    assert brightness == sorted(brightness)
    assert page.is_visible("#ramp")


def test_a_look_alike_is_merged_by_its_button(opened: Open, made: Result) -> None:
    page = opened()
    distances = [float(text.split()[0]) for text in page.locator(".alike .distance").all_inner_texts()]
    assert distances == sorted(distances)
    assert distances
    button = page.locator(".alike button[data-merge]").first
    gone, kept = (button.get_attribute(name) for name in ("data-merge", "data-into"))
    assert made.legend[int(str(gone))].share <= made.legend[int(str(kept))].share, "the smaller goes"
    button.click()
    assert page.locator(f".card select[data-id='{gone}']").input_value() == kept
    assert page.inner_text("#edit-count").startswith("1 change")


def test_classes_are_named_recoloured_and_merged_by_clicking_and_exported(
    opened: Open, made: Result, tmp_path: Path
) -> None:
    page = opened()
    show_labels(page)
    field = page.locator("input.name[data-id='1']")
    field.fill("Wald <dicht>")
    field.press("Enter")
    assert page.inner_text(".legend [data-name='1']") == "Wald <dicht>"
    page.locator("input[type=color][data-id='1']").first.fill("#1b7837")
    page.locator(".card select[data-id='3']").select_option("1")
    settle(page)
    labels = made.labels.to_numpy()
    y, x = (int(values[len(values) // 2]) for values in np.nonzero(labels == 3))
    assert colour_at(page, (x + 0.5) / 340, (y + 0.5) / 300) == rgb("#1B7837"), "what is merged has the other's colour"
    shares = {each.id: each.share for each in made.legend.classes}
    assert page.inner_text(".legend [data-share='1']") == f"{100 * (shares[1] + shares[3]):.1f}%"
    assert page.inner_text("#edit-count") == "3 changes."
    with page.expect_download() as download:
        page.click("#save")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "class-edits.json"
    assert json.loads(path.read_text()) == {
        "format": "ktextures-class-edits",
        "version": 1,
        "edits": [{"id": 1, "name": "Wald <dicht>", "color": "#1B7837"}, {"id": 3, "merge_into": 1}],
    }


def test_outlines_of_blocks_lie_on_the_borders_of_the_blocks(opened: Open) -> None:
    page = opened()
    show_labels(page)
    places = {"column": (128 / 340, 30.5 / 300), "row": (30.5 / 340, 128 / 300), "inside": (70.5 / 340, 70.5 / 300)}
    before = {name: colour_at(page, *place) for name, place in places.items()}
    page.check("#outlines")
    settle(page)
    shown = {name: colour_at(page, *place) for name, place in places.items()}
    assert shown["inside"] == before["inside"]
    for name in ("column", "row"):
        assert min(shown[name][:3]) > 200 > min(before[name][:3]), "a light line over the colour of the class"
    page.uncheck("#outlines")
    settle(page)
    assert {name: colour_at(page, *place) for name, place in places.items()} == before


class Fingers:
    """Touches of a phone, as the browser gets them from its screen; places are pixels from the middle of the map."""

    def __init__(self, page: Any) -> None:
        self.session = page.context.new_cdp_session(page)
        box = page.locator("#canvas").bounding_box()
        self.x, self.y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.scale = min(box["width"] / 340, box["height"] / 300)

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": self.x + x, "y": self.y + y, "id": i} for i, (x, y) in enumerate(places)]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def move(self, *paths: tuple[tuple[float, float], tuple[float, float]], steps: int = 8) -> None:
        """Move a finger along each path, all at the same time."""
        self.touch("touchStart", *(begin for begin, _ in paths))
        for step in range(1, steps + 1):
            at = [tuple(a + (b - a) * step / steps for a, b in zip(*path, strict=True)) for path in paths]
            self.touch("touchMove", *at)  # type: ignore[arg-type]
        self.touch("touchEnd")


def shown_at(page: Any, x: float, y: float) -> list[int]:
    """Colour of the screen at pixels from the middle of the map."""
    found: list[int] = page.evaluate(
        """([x, y]) => { const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect();
        const ratio = canvas.width / box.width;
        return [...canvas.getContext("2d").getImageData(Math.round((box.width / 2 + x) * ratio),
        Math.round((box.height / 2 + y) * ratio), 1, 1).data]; }""",
        [x, y],
    )
    return found


def check_view(page: Any, made: Result, scale: float, moved: tuple[float, float]) -> None:
    """Each place on the screen must show the class that a map of this scale, moved by so much, has there."""
    labels, compared = made.labels.to_numpy(), 0
    for dx in range(-100, 101, 25):
        for dy in range(-100, 101, 25):
            y, x = 150 + (dy - moved[1]) / scale, 170 + (dx - moved[0]) / scale
            around = labels[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
            if around.size and around.min() == around.max() != 255:
                assert shown_at(page, dx, dy) == rgb(made.legend[int(around[0, 0])].colour), f"at {dx}, {dy}"
                compared += 1
    assert compared >= 20


def test_two_fingers_zoom_and_one_moves_the_map_on_a_phone(opened: Open, made: Result) -> None:
    page = opened(390, has_touch=True, is_mobile=True, device_scale_factor=2)
    show_labels(page)
    page.locator("#stage").scroll_into_view_if_needed()
    fingers = Fingers(page)
    check_view(page, made, fingers.scale, (0, 0))
    fingers.move(((-30, 0), (-75, 0)), ((30, 0), (75, 0)))
    settle(page)
    check_view(page, made, 2.5 * fingers.scale, (0, 0))
    scrolled = page.evaluate("() => window.scrollY")
    fingers.move(((0, 0), (40, -56)))
    settle(page)
    check_view(page, made, 2.5 * fingers.scale, (40, -56))
    assert page.evaluate("() => window.scrollY") == scrolled, "a map that was zoomed keeps the drag for itself"
    fingers.move(((-75, 0), (-10, 0)), ((75, 0), (10, 0)))
    settle(page)
    check_view(page, made, fingers.scale, (0, 0))
    assert page.is_hidden("#inspector"), "to move is not to pick"


def test_a_finger_on_the_whole_map_scrolls_the_page_and_a_tap_picks(opened: Open, made: Result) -> None:
    page = opened(390, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.locator("#stage").scroll_into_view_if_needed()
    before = page.evaluate("() => window.scrollY")
    Fingers(page).move(((0, 60), (0, -120)), steps=12)
    page.wait_for_function("(before) => window.scrollY > before + 50", arg=before)
    page.locator("#stage").scroll_into_view_if_needed()
    fingers = Fingers(page)
    page.touchscreen.tap(fingers.x, fingers.y)
    middle = int(made.labels.to_numpy()[150, 170])
    assert page.get_attribute(f".legend [data-select='{middle}']", "aria-pressed") == "true"


def test_what_the_page_exports_is_applied_to_all_outputs(opened: Open, run_copy: Path, tmp_path: Path) -> None:
    remake_report(run_copy)
    before = open_result(run_copy)
    page = opened(path=run_copy / "report.html")
    field = page.locator("input.name[data-id='1']")
    field.fill("Wald <dicht>")
    field.press("Enter")
    page.locator("input[type=color][data-id='1']").first.fill("#1b7837")
    page.locator(".card select[data-id='3']").select_option("1")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "edits.json")
    assert main(["classes", "apply", str(run_copy), str(tmp_path / "edits.json")]) == 0

    after = open_result(run_copy)
    expected = np.where(before.labels == 3, 1, before.labels)
    np.testing.assert_array_equal(after.labels, expected)
    with rasterio.open(run_copy / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), expected)
        assert cog.colormap(1)[1] == (0x1B, 0x78, 0x37, 255)
    assert (after.legend[1].name, after.legend[1].colour) == ("Wald <dicht>", "#1B7837")
    assert after.legend.ids == [0, 1, 2]
    item = pystac.Item.from_file(str(run_copy / "item.json"))
    classes = ClassificationExtension.ext(item.assets["labels"]).classes or []
    assert {each.value: each.title for each in classes if each.value == 1} == {1: "Wald <dicht>"}
    page = opened(path=run_copy / "report.html")
    assert page.inner_text(".legend [data-name='1']") == "Wald <dicht>"
    assert page.inner_text(".legend [data-share='1']") == f"{100 * after.legend[1].share:.1f}%"
    assert page.locator(".card").count() == 3


def test_pixels_that_were_left_out_stay_out_when_classes_change(run_copy: Path) -> None:
    remake_report(run_copy, pixels=False)
    assert main(["classes", "name", str(run_copy), "0", "Water"]) == 0
    assert "Water" in (run_copy / "report.html").read_text("utf-8")
    assert not shows_pixels(run_copy / "report.html")
    remake_report(run_copy)
    assert main(["classes", "name", str(run_copy), "0", "Lake"]) == 0
    assert shows_pixels(run_copy / "report.html")


def test_names_are_text_whatever_they_hold(opened: Open, run_copy: Path) -> None:
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "O'Brien & Söhne, 水田", "a" * 400]
    for class_id, name in enumerate(names):
        assert main(["classes", "name", str(run_copy), str(class_id), name]) == 0
    page = opened(390, run_copy / "report.html")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for class_id, name in enumerate(names):
        assert page.inner_text(f".legend [data-name='{class_id}']") == name
        page.click(f".legend [data-select='{class_id}']")
        assert page.input_value("#inspect-name") == name
    assert page.locator("main img[src='x']").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert max(box["height"] for box in (each.bounding_box() for each in page.locator(".legend li").all())) < 110
    page.locator(".card select[data-id='1']").select_option("0")
    assert page.locator(".card select[data-id='2'] option").all_inner_texts()[1] == f"Merge into {names[0]}"
    assert dialogs == []


def test_undo_and_redo_go_through_all_changes_and_a_reload_keeps_them(opened: Open, made: Result) -> None:
    page = opened()
    page.locator("input.name[data-id='0']").fill("Water")
    page.locator("input.name[data-id='0']").press("Enter")
    page.locator(".card select[data-id='2']").select_option("0")
    page.locator(".card select[data-id='0']").select_option("1")
    assert page.locator(".card select[data-id='2']").input_value() == "1", "what was merged goes along"
    for expected in ("2", "1"):
        page.click("#undo")
        assert page.inner_text("#edit-count").startswith(expected)
    page.click("#undo")
    assert page.input_value("input.name[data-id='0']") == made.legend[0].name
    assert page.is_disabled("#undo")
    page.click("#redo")
    assert page.input_value("input.name[data-id='0']") == "Water"
    page.reload()
    page.wait_for_selector("#stage[data-ready]")
    assert page.input_value("input.name[data-id='0']") == "Water"


def test_the_map_is_worked_by_keyboard_and_tells_what_is_there(opened: Open, made: Result) -> None:
    page = opened()
    page.focus("#canvas")
    page.keyboard.press("Enter")
    middle = made.legend[int(made.labels.to_numpy()[150, 170])]
    assert middle.name in page.inner_text("#status")
    assert page.get_attribute(f"[data-select='{middle.id}'][aria-pressed]", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.is_hidden("#inspector")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert middle.name[:5] in page.inner_text("#readout")


def test_a_page_without_pixels_works_as_well(opened: Open, run_copy: Path) -> None:
    path, _ = remake_report(run_copy, pixels=False)
    page = opened(390, path)
    assert page.locator("#left option").all_inner_texts() == ["Labels", "Confidence"]
    page.check("input[value=swipe]", force=True)
    assert page.is_visible("#ramp"), "confidence is explained"
