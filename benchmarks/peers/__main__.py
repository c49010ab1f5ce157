"""Turn one scene on disk into a label GeoTIFF by our model and by others: time, memory, agreement with the truth."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.measured import measure
from benchmarks.peers.scene import make_mosaic, make_sample, score
from benchmarks.quality.scenes import K
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scale.measure import BANDS

OTB = "otbcli_SOMClassification"
SCRIPT = Path(__file__).with_name("kmeans.py")
MB = 1e6


@dataclass(frozen=True)
class Contestant:
    """One way from the scene to a map: its command, given scene and output, and where the map then lies."""

    name: str
    command: Callable[[Path, Path], list[str]]
    labels: Callable[[Path], Path] = lambda out: out


def list_contestants(model: Path, peer_python: str | None) -> tuple[list[Contestant], list[str]]:
    """Return who takes part, and a line for each who cannot."""
    here, absent = sys.executable, list[str]()

    def ours(scene: Path, out: Path) -> list[str]:
        what = [here, "-m", "benchmarks.scale.measure", str(scene), str(model), str(out.with_suffix(""))]
        return [*what, "--workers", "2", "--block-px", "2048"]

    def kmeans(python: str, engine: str, features: str) -> Callable[[Path, Path], list[str]]:
        return lambda scene, out: [python, str(SCRIPT), engine, features, str(scene), str(out), "--k", str(K)]

    def som(scene: Path, out: Path) -> list[str]:
        size = ["-sx", "3", "-sy", str(K // 3), "-nx", "2", "-ny", "2", "-ts", "100000", "-rand", "1"]
        return [OTB, "-in", str(scene), "-out", str(out), "uint8", *size]

    found = [
        Contestant("ktextures, applying a model", ours, lambda out: out.with_suffix("") / "labels.tif"),
        Contestant("scikit-learn MiniBatchKMeans, colours", kmeans(here, "sklearn", "colours")),
        Contestant("scikit-learn MiniBatchKMeans, local statistics", kmeans(here, "sklearn", "textures")),
    ]
    if _has_dask_ml(peer_python):
        found.append(Contestant("dask-ml KMeans, colours", kmeans(peer_python or here, "dask", "colours")))
    else:
        absent.append(
            "dask-ml: not found; make an environment with dask-ml and rasterio, and give --peer-python its interpreter"
        )
    if shutil.which(OTB):
        found.append(Contestant("Orfeo ToolBox SOMClassification, colours", som))
    else:
        absent.append(f"Orfeo ToolBox: {OTB} is not found; apt-get install --no-install-recommends otb-bin")
    absent.append("pyshepseg: not on the package index; it makes segments, not classes")
    return found, absent


def _has_dask_ml(python: str | None) -> bool:
    command = [python or sys.executable, "-c", "import dask_ml.cluster, rasterio, scipy"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def train(folder: Path) -> Path:
    """Train the model that is applied, once; returns the directory of its run."""
    out = folder / "model-run"
    if not (out / "run.json").exists():
        from pipeline import Settings, segment
        from pipeline.engine import limit_threads

        limit_threads()
        settings = Settings(
            k=K, mode="global", bands=BANDS, scaling="reflectance", engine="serial", block_px=1024, sample_windows=16
        )
        segment(make_sample(folder), settings, out)
    return out


def run(contestant: Contestant, scene: Path, truth: Path, folder: Path) -> dict[str, Any]:
    """Let one contestant turn the scene into a map, and score it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = Path(scratch) / "labels.tif"
        found = measure(contestant.command(scene, out), Path(scratch) / "log.txt")
        told = found["told"]
        # What a contestant says of itself: fitting and start-up apart from the way through the scene.
        fit = told.get("fit_s", 0.0)
        apply = told.get("apply_s", told.get("wall_s", found["wall_s"]))
        return found | {
            "fit_s": fit,
            "apply_s": apply,
            "startup_s": found["wall_s"] - fit - apply,
            "ari": score(contestant.labels(out), truth),
        }


def tabulate(runs: dict[str, list[dict[str, Any]]]) -> list[list[object]]:
    """Return a row of medians for each contestant."""
    kinds = ("ari", "startup_s", "fit_s", "apply_s", "wall_s", "cpu_s")
    return [
        [
            name,
            *(statistics.median(each[kind] for each in found) for kind in kinds),
            round(statistics.median(each["peak_bytes"] for each in found) / MB),
        ]
        for name, found in runs.items()
    ]


def judge(runs: dict[str, list[dict[str, Any]]]) -> list[list[object]]:
    """Hold our time against twice that of the fastest, and our agreement with the truth against the best."""
    ours, *others = runs

    def median(name: str, kind: str) -> float:
        return statistics.median(each[kind] for each in runs[name])

    fastest = min(others, key=lambda name: median(name, "apply_s"))
    best = max(others, key=lambda name: median(name, "ari"))
    return [
        [
            f"time of ours / {fastest}, without start-up and fit",
            median(ours, "apply_s") / median(fastest, "apply_s"),
            "<= 2",
        ],
        [f"time of ours / {fastest}, all", median(ours, "wall_s") / median(fastest, "wall_s"), "-"],
        [f"ARI of ours - {best}", median(ours, "ari") - median(best, "ari"), "> 0"],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Let all contestants run in turn, so that a busy moment of the machine meets all alike."""
    options: argparse.ArgumentParser = parser("peers", __doc__ or "")
    options.add_argument("--scratch", type=Path, metavar="DIR", help="where scene and model stay between calls")
    options.add_argument("--peer-python", metavar="FILE", help="interpreter of an environment that holds dask-ml")
    options.add_argument("--repeats", type=int, metavar="N", help="runs of each [3; quick: 1]")
    asked = options.parse_args(arguments)
    side, repeats = (2048, 1) if asked.quick else (6144, 3)
    repeats = asked.repeats or repeats
    record = begin_record("peers", {"quick": asked.quick, "side_px": side, "repeats": repeats})
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.scratch or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (scene, truth), model = make_mosaic(folder, side), train(folder)
        contestants, absent = list_contestants(model, asked.peer_python)
        runs: dict[str, list[dict[str, Any]]] = {each.name: [] for each in contestants}
        for _ in range(repeats):
            for each in contestants:
                runs[each.name].append(run(each, scene, truth, folder))
                record |= {"runs": runs, "absent": absent}
                write_record(asked.json, record)
    columns = ["contestant", "ARI", "start-up s", "fit s", "apply s", "all, wall s", "all, CPU s", "memory MB"]
    said = [
        f"{side**2 / 1e6:.0f} Mpx of 4 bands uint16, {K} classes; medians of {repeats} runs in turn\n",
        format_table(columns, tabulate(runs)) + "\n",
        format_table(["what", "measured", "limit"], judge(runs)) + "\n",
        *(f"- {line}" for line in absent),
        "\n" + describe_run(record),
    ]
    print("\n".join(said))
    if asked.markdown:
        asked.markdown.write_text("\n".join(said) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
