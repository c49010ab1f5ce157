"""The command ``ktex``. Only click is imported here at the top: help has to be quick, and a typing error too."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from flows import advise_command, extractor_command, operations, output_commands, series_commands
from flows.classes_command import classes
from flows.report import report
from flows.samples import samples

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

DEMO_BLOCK_PX = 512

SOURCE_HELP = (
    "SOURCE: a GeoTIFF, a folder or glob of them, or a text file with one path a line; several make one mosaic."
)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# No option has a default of its own: what is not given comes from --config, then from the settings.
_READING = _options(
    click.option(
        "--bands", metavar="NAME|MAP", help="nicfi, rgbn, bgrn, rgb, or a map such as R=3,G=2,B=1,N=4,alpha=5."
    ),
    click.option(
        "--mask", type=click.Path(path_type=Path), metavar="FILE", help="Raster; its non-zero pixels are valid."
    ),
    click.option("--aoi", type=click.Path(path_type=Path), metavar="FILE", help="GeoJSON or GeoPackage of the area."),
    click.option("--date", metavar="D", help="Which date to take, where the files have several (2021, 2021-03 ...)."),
    click.option(
        "--overlap-rule",
        type=click.Choice(["first", "last", "most-valid"]),
        help="Which file wins where several overlap [first].",
    ),
    click.option(
        "--align",
        type=click.Choice(["refuse", "resample"]),
        help="Files off the common grid: refuse or resample [refuse].",
    ),
)
_WORK = _options(
    click.option("--k", type=int, metavar="N", help="Texture classes of each model, 2 to 128 [6]."),
    click.option(
        "--preset", type=click.Choice(["texture", "paper"]), help="Our own model or the published one [texture]."
    ),
    click.option(
        "--mode",
        type=click.Choice(["local", "global"]),
        help="A model for each block, then aligned; or one for all [local].",
    ),
    click.option("--block-px", metavar="N|auto", help="Side of a block in pixels; auto: as memory allows [2048]."),
    click.option(
        "--scaling",
        type=click.Choice(["percentile", "reflectance", "byte", "paper"]),
        help="Radiometric rule of the whole run [percentile].",
    ),
    click.option(
        "--model",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Apply the model of an earlier run instead of training.",
    ),
    click.option(
        "--catalogue",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Catalogue of classes whose ids to go on with; begun where it is new. Or an earlier run.",
    ),
    click.option("--global-classes", type=int, metavar="N", help="Number of classes of the aligned map [found]."),
    click.option(
        "--label-dtype",
        type=click.Choice(["uint8", "uint16"]),
        help="Type of the labels: up to 255 ids in a catalogue's life, or up to 65,535 [uint8].",
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of the run [0]."),
    click.option("--license", metavar="ID", help="Licence of the outputs: an SPDX identifier, or proprietary."),
    click.option("--attribution", metavar="TEXT", help="Whom the sources want named; written into the outputs."),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML file of settings; options given here win.",
    ),
    click.option("--workers", type=int, metavar="N", help="Worker processes [one a core]."),
    click.option(
        "--scheduler", metavar="ADDRESS", help="An existing Dask scheduler: tls://HOST:PORT, or tcp:// on this machine."
    ),
    click.option(
        "--engine",
        type=click.Choice(["serial", "processes", "cuda"]),
        help="In this process, in worker processes, or in one a GPU (needs dask-cuda) [processes].",
    ),
    click.option(
        "--resource",
        "resources",
        multiple=True,
        metavar="NAME=N",
        help="What a block asks of a worker of --scheduler, such as GPU=1; may be repeated.",
    ),
)
_LOG_FORMAT = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar="KTEX_LOG_FORMAT",
    help="Lines of the log: text, or JSON with the ids of run and block [text].",
)
_VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Log to standard error, and show tracebacks.")
_SOURCES = click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ktextures", prog_name="ktex")
def ktex() -> None:
    """Turn satellite mosaics into one seamless map of k texture classes, without labels."""


@ktex.command(epilog=SOURCE_HELP)
@_SOURCES
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    help="Run directory, or s3://BUCKET/PREFIX; a rerun resumes what it holds.",
)
@_WORK
@_READING
@click.option("--fresh", is_flag=True, help="Begin anew instead of resuming.")
@click.option("--keep-work", is_flag=True, default=None, help="Keep the intermediate stores.")
@click.option(
    "--no-pixels",
    "show_pixels",
    flag_value=False,
    default=None,
    help="Leave pixels of the imagery out of report and quicklook, for licences that forbid them.",
)
@click.option("--simulated", is_flag=True, default=None, help="Publish the simulated image, too, as simulated.tif.")
@_LOG_FORMAT
@_VERBOSE
def run(
    sources: tuple[str, ...],
    out: str,
    config: Path | None,
    fresh: bool,
    log_format: str | None,
    verbose: bool,
    **given: Any,
) -> int:
    """Segment a mosaic into texture classes."""
    from flows.commands import run_segmentation

    if log_format is not None:
        os.environ["KTEX_LOG_FORMAT"] = log_format  # worker processes inherit it
    return run_segmentation(list(sources), out, _given(given), config=config, fresh=fresh, verbose=verbose)


@ktex.command()
@click.option(
    "--out",
    default=Path("ktex-demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory; the scene goes into its folder scene.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the scene and of the run.")
@click.option("--workers", type=int, metavar="N", help="Worker processes [one a core].")
@click.option(
    "--engine", type=click.Choice(["serial", "processes"]), help="In this process, or in worker processes [processes]."
)
@click.option("--fresh", is_flag=True, help="Begin anew instead of resuming.")
@_VERBOSE
def demo(out: Path, seed: int, fresh: bool, verbose: bool, **given: Any) -> int:
    """Make a mosaic of known truth, segment it by the Prefect flow, and print the scores."""
    from flows.commands import run_demo

    settings = {"k": 6, "mode": "local", "block_px": DEMO_BLOCK_PX, "seed": seed, **_given(given)}
    return run_demo(out, settings, fresh=fresh, verbose=verbose)


@ktex.command()
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--bands", metavar="NAME|MAP", help="Band map, where the file does not say.")
@_VERBOSE
def info(path: Path, as_json: bool, bands: str | None, verbose: bool) -> int:
    """Say what a run directory, a store of labels or an input holds."""
    from flows.commands import show_info

    return show_info(path, bands=bands, as_json=as_json)


@ktex.command(epilog=SOURCE_HELP)
@_SOURCES
@_WORK
@_READING
@_VERBOSE
def check(sources: tuple[str, ...], config: Path | None, verbose: bool, **given: Any) -> int:
    """Say what a run would read and what it would cost; nothing is written."""
    from flows.commands import check_sources

    return check_sources(list(sources), _given(given), config=config)


ktex.add_command(classes)
for _command in (operations.status, operations.health, operations.metrics, operations.provision):
    ktex.add_command(_command)
for _command in (series_commands.watch, series_commands.maintain, series_commands.refresh):
    ktex.add_command(_command)
for _command in output_commands.COMMANDS:
    ktex.add_command(_command)
for _command in (advise_command.advise_k, extractor_command.extractor):
    ktex.add_command(_command)
ktex.add_command(report)
ktex.add_command(samples)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "resources" in given:
        given["resources"] = dict(each.partition("=")[::2] for each in given["resources"])
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong input, 1 failed, 3 incomplete, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(ktex.main(args=arguments, prog_name="ktex", standalone_mode=False) or 0)
    except click.ClickException as error:
        return _say_usage(error)
    except (KeyboardInterrupt, click.Abort):
        kept = arguments[:1] in (["run"], ["demo"])
        _say("interrupted" + ("; what is done is kept, and the same command resumes it" if kept else ""))
        return EXIT_INTERRUPTED
    except Exception as error:  # the last door: whatever comes is told in one line
        if {"-v", "--verbose"} & set(arguments) and not hasattr(error, "log_path"):
            traceback.print_exc()
        code = int(getattr(error, "exit_code", EXIT_FAILED))
        _say(_one_line(error) if hasattr(error, "exit_code") else f"failed: {type(error).__name__}: {_one_line(error)}")
        if code == EXIT_FAILED and (log := getattr(error, "log_path", None)) is not None:
            _say(f"the log is {log}; the same command resumes what was done")
        return code


def _say_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
    else:
        hint = f"; see {context.command_path} --help" if context is not None else ""
        _say(" ".join(error.format_message().split()).rstrip(".") + hint)
    return EXIT_USAGE


def _say(line: str) -> None:
    click.echo(f"ktex: {line}", err=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).replace("/vsis3/", "s3://") or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
