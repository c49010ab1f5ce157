"""What reading, the model and writing take when nothing else is done: the CPU seconds that no run can do without.

Reading is without halos. The model's part begins with the values as they were read. Writing is that of all rasters that
a run publishes: both layers and the coarser levels of the Zarr, and both COGs with their overviews. Their comparison
with each other is not in it, nor are quicklook, figures, report and records.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BANDS = "R=3,G=2,B=1,N=4"


def measure_alone(scene: Path, model: Path, scratch: Path, *, block_px: int) -> dict[str, float]:
    """Return CPU seconds of reading, labelling and writing all pixels of a scene, in a process of its own."""
    module = [sys.executable, "-m", "benchmarks.scale.alone"]
    command = [*module, str(scene), str(model), str(scratch), "--block-px", str(block_px)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _counted(spent: dict[str, float], kind: str) -> Iterator[None]:
    start = time.process_time()
    yield
    spent[kind] = spent.get(kind, 0.0) + time.process_time() - start


def run(scene_path: Path, model_path: Path, scratch: Path, block_px: int) -> dict[str, float]:
    """Read block by block without halos, label what was read, write the labels as the run does."""
    from benchmarks.scale.measure import compile_for
    from pipeline.blocks import BlockGrid
    from pipeline.cog import write_cog
    from pipeline.engine import limit_threads
    from pipeline.levels import write_levels
    from pipeline.models import find_model, load_model
    from pipeline.scaled import ScaledImage
    from pipeline.scene import open_scene
    from pipeline.stores import LabelStore, create_labels, store_attributes

    limit_threads()
    scene, found = open_scene(scene_path, bands=BANDS), find_model(model_path)
    model = load_model(found.directory, found.digest)
    height, width = (int(size) for size in scene.geobox.shape)
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        attrs = store_attributes(title="alone", sources=[], k=found.k, settings_digest="", created=datetime.now(UTC))
        create_labels(Path(folder) / "labels.zarr", scene.geobox, attrs=attrs)
        store = LabelStore.open(Path(folder) / "labels.zarr", "r+")
        grid = BlockGrid((height, width), block_px)
        compile_for(model, grid.windows)  # before the clock
        for block in grid:
            with _counted(spent, "read"):
                pixels = scene.read(block.core)
            with _counted(spent, "model"):
                image: Any = ScaledImage(pixels.data, found.scaling)
                labelled = model.predict(image, pixels.valid, None, grid.windows)
            with _counted(spent, "write"):
                store.write(block.core, labelled.labels, labelled.margin)
        with _counted(spent, "write"):
            write_levels(store)
            for variable in ("labels", "confidence"):
                write_cog(store, Path(folder) / f"{variable}.tif", variable=variable, threads=1)
    return spent


def main() -> None:
    """Measure and print as JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("scene", "model", "scratch"):
        options.add_argument(name, type=Path)
    options.add_argument("--block-px", type=int, required=True)
    given = options.parse_args()
    print(json.dumps(run(given.scene, given.model, given.scratch, given.block_px)))


if __name__ == "__main__":
    main()
