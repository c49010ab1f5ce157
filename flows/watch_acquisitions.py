"""The Prefect flow that runs on a schedule: one pass over the sources of a series, each new date by `segment-mosaic`.

What is due, who works on it and what came of it is the ledger's; Prefect starts passes and tells what happened in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.prefect_settings import stay_private

stay_private()

from prefect import flow  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from flows.segment_mosaic import segment_mosaic  # noqa: E402
from pipeline.watch import Outcome, Pass, WatchConfig, watch  # noqa: E402

MAX_LISTED = 100
"""So many files are named in the parameters of a flow."""


def segment_as_flow(source: list[str], out: str, settings: dict[str, Any]) -> object:
    """Segment files into a run directory by the flow `segment-mosaic`, as a part of the flow that calls.

    Many files are given as a list beside the directory: a server refuses parameters of more than 512 KiB.
    """
    if len(source) <= MAX_LISTED:
        return segment_mosaic(source, out, settings)
    listing = Path(f"{out}.txt")
    listing.write_text("\n".join(source) + "\n", encoding="utf-8")
    try:
        return segment_mosaic(str(listing), out, settings)
    finally:
        listing.unlink()


@flow(name="watch-acquisitions", flow_run_name="watch {config}", persist_result=False)
def watch_acquisitions(config: str, limit: int | None = None) -> State[dict[str, int]]:
    """Look at the sources of a series, and segment and publish what is new or changed.

    Parameters
    ----------
    config
        Watch configuration, a YAML file (`pipeline.watch.WatchConfig`).
    limit
        Work on so many acquisitions at most.

    Returns
    -------
    State
        Completed; named ``Quarantined`` where a delivery needs a person; Failed where something is to be tried again.

    Raises
    ------
    InputError
        The configuration is wrong.
    """
    done = watch(WatchConfig.read(Path(config)), segment_as_flow, limit=limit)
    create_table_artifact(outcome_table(done), key="ktex-watch", description=f"Pass over {config}")
    return state_of(done)


def state_of(done: Pass) -> State[dict[str, int]]:
    """Return the state in which a pass ends, with how often each outcome came."""
    counts = done.counts
    if done.exit_code == 1:
        return Failed(message="; ".join([*done.unreachable.values(), *_reasons(done.of("failed"))])[:1000])
    if done.exit_code == 3:
        told = [each for each in done.outcomes if each.reason]
        return Completed(name="Quarantined", message="; ".join(_reasons(told))[:1000], data=counts)
    return Completed(message=", ".join(f"{count} {what}" for what, count in counts.items()), data=counts)


def _reasons(outcomes: list[Outcome]) -> list[str]:
    return [f"{each.acquisition}: {each.reason}" for each in outcomes]


def outcome_table(done: Pass) -> list[dict[str, str]]:
    """Return what a pass did: a row for each acquisition that it worked on or that waits, and each silent source."""
    rows = [
        {"acquisition": each.acquisition, "what": each.what, "reason": each.reason or "", "run": each.run or ""}
        for each in done.outcomes
    ]
    rows += [{"acquisition": name, "what": "waiting", "reason": why, "run": ""} for name, why in done.waiting.items()]
    rows += [
        {"acquisition": name, "what": "unreachable", "reason": why, "run": ""} for name, why in done.unreachable.items()
    ]
    return rows or [{"acquisition": "", "what": "nothing new", "reason": "", "run": ""}]
