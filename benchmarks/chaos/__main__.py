"""Kill workers at random times in one run, and the whole run at each stage: the bytes stay those of a quiet run."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scale.measure import BANDS
from benchmarks.scale.scenes import make_model, make_quads

STAGES = ("Labelling", "Cutting and joining", "Writing outputs", "Publishing")

DATED = {"run.json", "run.log", "item.json", "report.html", "zarr.json"}


def content(out: Path) -> dict[str, str]:
    """Digest every published file but those that say when they were made; of stores the heads do, the chunks do not."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and ".ktex" not in path.parts]
    files = [path for path in files if path.name not in DATED]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def counted_predict(notes: Path, plan: Any, block: Any) -> dict[str, Any]:
    """Label a block, and leave a line for the try."""
    from pipeline.predict import predict_block

    with notes.open("a") as file:
        file.write(f"{os.getpid()} {block.name}\n")
    return predict_block(plan, block)


def run_with_kills(scene: Path, model: Path, out: Path, notes: Path, kills: int, seed: int) -> dict[str, Any]:
    """Apply a model with 2 workers, killing one of them at random times; returns what it came to."""
    from pipeline import Settings
    from pipeline import run as run_module
    from pipeline.engine import open_engine
    from pipeline.preparation import prepare

    rng, killed, last = random.Random(seed), 0, ""
    settings = Settings(bands=BANDS, model=model, workers=2, block_px=256, retries=3)
    with prepare(scene, settings, out, fresh=True) as run:
        blocks = len(run.plan.grid)
        # Where no worker is alive at a mark, the next block that ends will do: the last fifth is left for those.
        marks = sorted(rng.sample(range(1, blocks * 4 // 5), kills))

        def report(done: int, total: int) -> None:
            nonlocal killed, last
            if killed < kills and done >= marks[killed]:
                time.sleep(rng.uniform(0, 0.3))  # anywhere in a block
                killed += bool(pids := _working(notes)) and _kill(rng.choice(pids))

        start = time.perf_counter()
        run_module.predict_block = partial(counted_predict, notes)  # type: ignore[assignment]
        with open_engine(settings, run.log, run.capacity) as engine:
            for stage in run_module.STAGES:
                stage(run, engine, report if stage.name == "predict" else (lambda done, total: None))
        state = run.result().record.state
    tries = len(notes.read_text().splitlines())
    return {"blocks": blocks, "kills": killed, "tries": tries, "state": state, "seconds": time.perf_counter() - start}


def _working(notes: Path) -> list[int]:
    """Return the workers that are alive, of those that have begun a block."""
    if not notes.exists():
        return []
    pids = {int(line.split()[0]) for line in notes.read_text().splitlines()}
    return sorted(pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and _is_alive(pid))


def _kill(pid: int) -> bool:
    """Kill a process; False where it has gone by itself: the next moment will do."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_at_stages(scene: Path, model: Path, folder: Path, block_px: int) -> Iterator[tuple[str, bool, Path]]:
    """Kill the command and its workers as each stage begins, then run it again; yields stage, published, directory."""
    for stage in STAGES:
        out = folder / stage.replace(" ", "-")
        options = ["--bands", BANDS, "--model", str(model), "--workers", "2", "--block-px", str(block_px)]
        command = [sys.executable, "-m", "flows.cli", "run", str(scene), "--out", str(out), *options]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        published = (out / "run.json").exists()
        subprocess.run(command, check=True, capture_output=True)
        yield stage, published, out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, and say whether the bytes stay."""
    options = parser("chaos", __doc__ or "")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--scratch", type=Path, metavar="DIR", help="where scenes and the model stay between calls")
    options.add_argument("--workers-only", action="store_true", help="kill workers, and leave the stages out")
    asked = options.parse_args(arguments)
    record = begin_record("chaos", {"quick": asked.quick, "seed": asked.seed, "workers_only": asked.workers_only})
    side, kills = (1536, 3) if asked.quick else (3072, 20)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.scratch or Path(temporary)
        scene, model = make_quads(folder / f"scene-{side}", side), make_model(folder, quick=True)
        quiet, notes = Path(temporary) / "quiet", Path(temporary) / "notes.txt"
        record["quiet"] = run_with_kills(scene, model, quiet, Path(temporary) / "quiet.txt", 0, asked.seed)
        record["killed"] = run_with_kills(scene, model, Path(temporary) / "killed", notes, kills, asked.seed)
        same = content(quiet) == content(Path(temporary) / "killed")
        extra = record["killed"]["tries"] - record["killed"]["blocks"]
        rows: list[list[object]] = [
            ["worker kills in one run", record["killed"]["kills"], kills],
            ["blocks", record["killed"]["blocks"], None],
            ["blocks begun again", extra, f"<= {2 * kills}: what was in flight"],
            ["bytes as those of a quiet run", same, True],
        ]
        record |= {"same_bytes": same, "extra_tries": extra, "stages": {}}
        stages = () if asked.workers_only else kill_at_stages(scene, model, Path(temporary), 256)
        for stage, published, out in stages:
            equal = content(out) == content(quiet)
            record["stages"][stage] = {"published_when_killed": published, "same_bytes": equal}
            rows += [
                [f"killed at {stage!r}: published then", published, False],
                ["  bytes after the rerun", equal, True],
            ]
    said = f"{format_table(['what', 'found', 'must be'], rows)}\n\n{describe_run(record)}\n"
    print(said)
    write_record(asked.json, record)
    if asked.markdown:
        asked.markdown.write_text(
            format_table(["what", "found", "must be"], rows) + "\n\n" + describe_run(record) + "\n"
        )
    right = same and extra <= 2 * kills and all(each["same_bytes"] for each in record["stages"].values())
    return 0 if right and record["killed"]["kills"] == kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
