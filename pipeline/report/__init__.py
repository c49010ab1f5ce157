"""The report of a run: one page in one file, for people, made from what was published and from the imagery.

`diagnostics` is what the stages leave for it. `survey` looks at the outputs and the imagery, by `views`, `patches`,
`likeness` and `borders`; `contents` puts into words and figures what it found; `render` makes the page of that, with
the template, styles and scripts in ``page/``.
"""

from pipeline.report.stage import report_run
from pipeline.report.survey import Imagery
from pipeline.report.write import REPORT, follow_report, remake_report, shows_pixels, write_report

__all__ = [
    "REPORT",
    "Imagery",
    "follow_report",
    "remake_report",
    "report_run",
    "shows_pixels",
    "write_report",
]
