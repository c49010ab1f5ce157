"""QGIS itself, without a screen: the COG opens with the names and colours of the legend, and draws in them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from pipeline.results import open_result
from tests.pipeline.published import publish

QGIS_PYTHON = "/usr/bin/python3"
"""Debian's QGIS is a package of the system's Python."""


def has_qgis() -> bool:
    if not Path(QGIS_PYTHON).exists():
        return False
    asked = [QGIS_PYTHON, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('qgis') is None)"]
    return subprocess.run(asked, check=False, env={}).returncode == 0


@pytest.mark.e2e
@pytest.mark.skipif(not has_qgis(), reason="needs QGIS: apt-get install --no-install-recommends qgis python3-qgis")
@pytest.mark.filterwarnings("ignore", category=NotGeoreferencedWarning)
def test_qgis_shows_the_legend(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice(np.array([0, 1, 7, 255], np.uint8), (12, 12)), np.ones((50, 50), np.uint8))
    run = publish(tmp_path / "run", labels, names={1: "soil & <ice>", 7: "Forêt"}, cogs=True, chunk_px=256)
    environment = {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "XDG_RUNTIME_DIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    for name in ("PYTHONPATH", "GDAL_DATA", "PROJ_DATA", "PROJ_LIB"):
        environment.pop(name, None)
    picture = Path(os.environ.get("KTEX_PICTURES", tmp_path)) / "qgis.png"
    script = Path(__file__).with_name("qgis_legend.py")
    command = [QGIS_PYTHON, str(script), str(run / "labels.tif"), str(picture)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    legend = open_result(run).legend
    assert found["classes"] == [[each.id, each.name, each.colour] for each in legend.classes]
    assert (found["valid"], found["drawn"], found["renderer"], found["crs"]) == (True, True, "paletted", "EPSG:32618")
    with rasterio.open(picture) as source:
        colours, counts = np.unique(source.read([1, 2, 3]).reshape(3, -1), axis=1, return_counts=True)
    drawn = {tuple(map(int, colour)): int(count) for colour, count in zip(colours.T, counts, strict=True)}
    shown = np.array([drawn.get(tuple(bytes.fromhex(each.colour[1:])), 0) for each in legend.classes])
    assert shown.min() > 0
    np.testing.assert_allclose(shown / shown.sum(), [each.share for each in legend.classes], atol=0.02)
