"""The Prefect flow that looks after a series: goes on with what died, checks what is published, removes what is old."""

from __future__ import annotations

from pathlib import Path

from flows.prefect_settings import stay_private

stay_private()

from prefect import flow  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed  # noqa: E402

from flows.watch_acquisitions import outcome_table, segment_as_flow, state_of  # noqa: E402
from pipeline.watch import WatchConfig, watch  # noqa: E402
from pipeline.watch.maintenance import Upkeep  # noqa: E402
from pipeline.watch.maintenance import maintain as look_after  # noqa: E402


@flow(name="maintain", flow_run_name="maintain {config}", persist_result=False)
def maintain(config: str) -> State[dict[str, int]]:
    """Look after a series.

    Parameters
    ----------
    config
        Watch configuration, a YAML file (`pipeline.watch.WatchConfig`).

    Returns
    -------
    State
        Completed; named ``Repaired`` where something published was no longer what had been published and has been
        mended, ``Damaged`` where it is due again, or needs a person.

    Raises
    ------
    InputError
        The configuration is wrong.
    """
    series = WatchConfig.read(Path(config))
    resumed = watch(series, segment_as_flow, only_resume=True)
    done = look_after(series)
    create_table_artifact(
        [*outcome_table(resumed), *upkeep_table(done)], key="ktex-maintain", description=f"Maintenance of {config}"
    )
    counts = {"resumed": len(resumed.outcomes), "checked": done.checked, "removed": len(done.removed)}
    counts |= {"repaired": len(done.repaired)}
    if done.damaged or done.broken:
        told = [*done.broken.values(), *done.damaged.values()]
        return Completed(name="Damaged", message="; ".join(told)[:1000], data=counts)
    if resumed.exit_code:
        return state_of(resumed)
    mended = "; ".join(f"{name}: {why}" for name, why in done.repaired.items())[:1000]
    return Completed(name="Repaired", message=mended, data=counts) if mended else Completed(data=counts)


def upkeep_table(done: Upkeep) -> list[dict[str, str]]:
    """Return what maintenance found and did, in rows."""
    told = {"damaged": done.damaged, "broken": done.broken, "repaired": done.repaired}
    rows = [
        {"acquisition": name, "what": what, "reason": why, "run": ""}
        for what, found in told.items()
        for name, why in found.items()
    ]
    return rows + [{"acquisition": "", "what": "removed", "reason": "old", "run": path} for path in done.removed]
