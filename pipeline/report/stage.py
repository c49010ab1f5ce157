"""The stage of a run that makes its report: textures from the models, diagnostics from the markers, then the page."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from pipeline.catalogue.stage import read_vocabulary
from pipeline.engine import Engine, SerialEngine
from pipeline.errors import RunFailedError
from pipeline.ground import kept_ground
from pipeline.legend import Legend
from pipeline.plan import Plan
from pipeline.publish import make_run_record, read_borders
from pipeline.report.diagnostics import gather_diagnostics
from pipeline.report.survey import Imagery, draw
from pipeline.report.textures import Exemplars, choose_exemplars, write_textures
from pipeline.report.views import Stretch
from pipeline.report.write import write_report

if TYPE_CHECKING:
    from pipeline.running import Run


def report_run(run: Run, engine: Engine, report: Callable[[int, int], None]) -> None:
    """Write the report of a run beside its other outputs, with what it is made of."""
    plan, outputs = run.plan, run.plan.folders.outputs
    report(0, 3)
    plan.check_inputs()
    diagnostics = gather_diagnostics(plan, read_vocabulary(plan), run.alive())
    diagnostics.write(outputs)
    legend = Legend.from_json(outputs / "classes.json")
    ground = kept_ground(plan)
    stretch = Stretch.fit(ground, plan.scene.bands)
    exemplars = choose_exemplars(diagnostics, legend.ids, one_model=plan.one_model, k=plan.k)
    imagery = Imagery(plan.scene, plan.settings.show_pixels, ground=ground, stretch=stretch)
    borders = read_borders(plan)
    record, title = make_run_record(run, under_way="report"), plan.folders.root.name
    if isinstance(engine, SerialEngine):  # there is nobody else to draw
        picture = _draw(plan, engine, stretch, exemplars)
        write_report(outputs, record, imagery, title=title, meanwhile=lambda: picture, borders=borders)
    else:
        with ThreadPoolExecutor(1) as beside:
            drawn = beside.submit(_draw, plan, engine, stretch, exemplars)
            write_report(outputs, record, imagery, title=title, meanwhile=drawn.result, borders=borders)
    report(3, 3)


def _draw(plan: Plan, engine: Engine, stretch: Stretch, exemplars: list[Exemplars]) -> str | None:
    """Have the workers draw the textures, and the scene where it may be shown; returns the picture of the scene."""
    shown = plan.settings.show_pixels
    for outcome in engine.map(partial(_draw_one, plan, stretch), [*([None] if shown else []), *exemplars]):
        if outcome.error is not None:
            raise RunFailedError(f"pictures of the report could not be drawn: {outcome.error}") from outcome.error
    return plan.folders.drawn.read_text("ascii") if shown else None


def _draw_one(plan: Plan, stretch: Stretch, exemplars: Exemplars | None) -> None:
    if exemplars is None:
        plan.folders.drawn.write_text(draw(kept_ground(plan), stretch), "ascii")
    else:
        write_textures(plan, stretch, exemplars)
