"""Pictures of the report of a run as it is seen on a desk and on a phone: ``python -m benchmarks.page.pictures RUN``.

Needs Chromium. They are to be looked at, by people; those in ``docs/images`` are of the demo and of a real scene.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.io import MemoryFile

from pipeline.report.encode import encode_picture
from tests.pipeline.report.conftest import CHROMIUM, FLAGS

SIZES = {"1440": (1440, 1000), "390": (390, 844)}
SECTIONS = {"classes": "#classes", "training": "#training-title"}
"""What is scrolled to, by the end of the picture's name; the first picture of each size is of the page's head."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures that the command line asks for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.page.pictures", description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path, metavar="RUN", help="directory of a published run with its report")
    options.add_argument("--name", default="run", help="the pictures' names begin with report-NAME")
    options.add_argument("--out", type=Path, default=Path("docs/images"))
    options.add_argument("--dark", action="store_true", help="as by a browser that is set to dark")
    options.add_argument("--whole", action="store_true", help="one picture of the whole page for each size")
    asked = options.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    asked.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for size, (width, height) in SIZES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if asked.dark else "light",
                offline=True,
                reduced_motion="reduce",
            )
            page.goto((asked.run.resolve() / "report.html").as_uri())
            page.wait_for_selector("#stage[data-ready]")
            name = f"report-{asked.name}-{size}"
            if asked.whole:
                save(page.screenshot(full_page=True), asked.out / f"{name}-whole.webp")
                continue
            if width > 1000:
                page.check("input[value=swipe]", force=True)
                if page.locator("#outlines").count():
                    page.check("#outlines")
            page.wait_for_timeout(300)
            save(page.screenshot(), asked.out / f"{name}.webp")
            for end, selector in SECTIONS.items():
                page.evaluate("(each) => document.querySelector(each).scrollIntoView()", selector)
                page.wait_for_timeout(300)
                save(page.screenshot(), asked.out / f"{name}-{end}.webp")
        browser.close()
    return 0


def save(png: bytes, path: Path) -> None:
    """Write a picture as WebP."""
    with MemoryFile(png) as memory, memory.open() as file:
        picture: Any = np.moveaxis(file.read([1, 2, 3]), 0, -1)
    path.write_bytes(encode_picture(picture))


if __name__ == "__main__":
    sys.exit(main())
