"""The commands for whoever operates it: what became of the runs, whether a machine can work, figures to scrape."""

from __future__ import annotations

import json
from pathlib import Path

import click

_ROOT = click.argument("root", default=".", metavar="DIR", type=click.Path(path_type=Path))


@click.command()
@_ROOT
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(root: Path, as_json: bool) -> int:
    """Say on one page what became of the runs in or under DIR: state, progress, last result, problems."""
    from pipeline.status import look_at

    found = look_at(root)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        from flows.status_page import to_page

        click.echo(to_page(found))
    return 0


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
    """Serve figures of the runs in or under DIR to Prometheus."""
    from flows.exporter import print_metrics, serve_metrics

    if once:
        print_metrics(root)
    else:
        serve_metrics(root, listen)
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
def provision(pools: tuple[str, ...], silence: float) -> int:
    """Give a Prefect server the work pools and automations that the deployments need; again after each upgrade.

    Notices of failure go where KTEX_NOTICE_WEBHOOK says, or KTEX_NOTICE_EMAIL, _SENDER and _SENDGRID_KEY.
    """
    import asyncio
    from typing import cast

    from flows.provision import Notice, PoolType
    from flows.provision import provision as provide

    wanted = {f"ktex-{kind}": cast("PoolType", kind) for kind in pools}
    for line in asyncio.run(provide(wanted, Notice.from_environment(), silence_s=silence)):
        click.echo(line)
    return 0
