"""The stage of a run that makes its report: textures from the models, diagnostics from the markers, then the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pipeline.catalogue.stage import read_vocabulary
from pipeline.engine import Engine
from pipeline.errors import RunFailedError
from pipeline.ground import kept_ground
from pipeline.legend import Legend
from pipeline.publish import make_run_record
from pipeline.report.diagnostics import gather_diagnostics
from pipeline.report.survey import Imagery
from pipeline.report.textures import choose_exemplars, write_textures
from pipeline.report.views import Stretch
from pipeline.report.write import write_report

if TYPE_CHECKING:
    from pipeline.run import Run


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
    for outcome in engine.map(partial(write_textures, plan, stretch), exemplars):
        if outcome.error is not None:
            raise RunFailedError(f"textures could not be generated: {outcome.error}") from outcome.error
    report(1, 3)
    imagery = Imagery(plan.scene, plan.settings.show_pixels, ground=ground)
    write_report(outputs, make_run_record(run, under_way="report"), imagery, title=plan.folders.root.name)
    report(3, 3)
