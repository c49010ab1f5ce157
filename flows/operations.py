"""The commands for whoever operates it: what became of the runs, whether a machine can work, figures to scrape."""

from __future__ import annotations

import json
from pathlib import Path

import click

_ROOT = click.argument("root", default=".", metavar="DIR|CONFIG", type=click.Path(path_type=Path))


@click.command()
@_ROOT
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(root: Path, as_json: bool) -> int:
    """Say on one page what became of the runs and series in or under DIR, or of the series of a CONFIG.

    Runs: state, progress, last result. Series: what the ledger says of acquisitions, claims and the last pass. Then
    problems. It changes nothing, and needs no server.
    """
    from pipeline.ledger.overview import find_series, look_at_series
    from pipeline.status import look_at

    folder = folder_of(root)
    found, series = look_at(folder), [look_at_series(each) for each in find_series(folder)]
    if as_json:
        click.echo(json.dumps({**found.to_json(), "series": [each.to_json() for each in series]}, indent=1))
    else:
        from flows.status_page import to_page

        click.echo(to_page(found, series))
    return 0


def folder_of(path: Path) -> Path:
    """Return the folder to look at: a folder itself; of a watch configuration, that of its series.

    Raises
    ------
    InputError
        The configuration is wrong, or no pass has been made with it.
    """
    if not path.is_file():
        return path
    from pipeline.errors import InputError
    from pipeline.watch import WatchConfig

    folder = WatchConfig.read(path).out
    if not folder.is_dir():
        raise InputError(f"{path}: no pass has been made, so that {folder} is not there; run ktex watch {path}")
    return folder


@click.command()
@click.option("--gpu", is_flag=True, envvar="KTEX_REQUIRE_GPU", help="Fail unless a GPU is there and computes.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def health(gpu: bool, as_json: bool) -> int:
    """Train and apply a tiny model here, and list the GPUs; for the health check of a container."""
    from pipeline.health import check_health

    found = check_health(gpu=gpu)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        gpus = ", ".join(found.gpus) or "none"
        click.echo(f"healthy: {found.backend} computes on {found.device}; GPUs: {gpus}; {found.seconds:.1f} s")
    return 0


@click.command()
@_ROOT
@click.option("--listen", default="127.0.0.1:9464", show_default=True, metavar="HOST:PORT", help="Where to serve them.")
@click.option("--once", is_flag=True, help="Print them and end.")
def metrics(root: Path, listen: str, once: bool) -> int:
    """Serve figures of the runs and series in or under DIR, or of the series of a CONFIG, to Prometheus."""
    from flows.exporter import print_metrics, serve_metrics

    folder = folder_of(root)
    if once:
        print_metrics(folder)
    else:
        serve_metrics(folder, listen)
    return 0


@click.command()
@click.option(
    "--pool",
    "pools",
    multiple=True,
    default=("process", "docker", "kubernetes"),
    show_default=True,
    type=click.Choice(["process", "docker", "kubernetes"]),
    help="Work pools to provide, as ktex-TYPE.",
)
@click.option(
    "--silence",
    type=click.FloatRange(min=10),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="A run without a heartbeat for so long is Crashed.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server that does not answer yet.",
)
def provision(pools: tuple[str, ...], silence: float, wait: float) -> int:
    """Give a Prefect server the work pools and automations that the deployments need; again after each upgrade.

    Notices of failure go where KTEX_NOTICE_WEBHOOK says, or KTEX_NOTICE_EMAIL, _SENDER and _SENDGRID_KEY.
    """
    import asyncio
    from typing import cast

    from flows.provision import Notice, PoolType
    from flows.provision import provision as provide

    wanted = {f"ktex-{kind}": cast("PoolType", kind) for kind in pools}
    for line in asyncio.run(provide(wanted, Notice.from_environment(), silence_s=silence, wait_s=wait)):
        click.echo(line)
    return 0
