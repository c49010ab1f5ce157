"""The Prefect flow that looks at the classes of all runs together, and brings the maps to what the catalogue says."""

from __future__ import annotations

from pathlib import Path

from flows.prefect_settings import stay_private

stay_private()

from prefect import flow  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed  # noqa: E402

from pipeline.watch import WatchConfig  # noqa: E402
from pipeline.watch.refresh import Refresh, refresh  # noqa: E402


@flow(name="refresh-catalogue", flow_run_name="refresh {config}", persist_result=False)
def refresh_catalogue(config: str, apply: bool = False) -> State[dict[str, int]]:
    """Look for classes that are one by all that is known of them, and rewrite the maps that lag behind the catalogue.

    Parameters
    ----------
    config
        Watch configuration, a YAML file (`pipeline.watch.WatchConfig`).
    apply
        Make one what is alike; without it that is only told.

    Returns
    -------
    State
        Completed, with the numbers of pairs and of maps.

    Raises
    ------
    InputError
        The configuration is wrong, or the series has no catalogue.
    """
    done = refresh(WatchConfig.read(Path(config)), apply=apply)
    create_table_artifact(refresh_table(done), key="ktex-refresh", description=f"Classes of {config}")
    counts = {"alike": len(done.alike), "merged": len(done.alike) * done.merged, "rewritten": len(done.rewritten)}
    return Completed(message=", ".join(f"{count} {what}" for what, count in counts.items()), data=counts)


def refresh_table(done: Refresh) -> list[dict[str, str]]:
    """Return what was found and done, in rows."""
    what = "merged" if done.merged else "alike"
    rows = [
        {"what": what, "of": f"{each.gone} into {each.kept}", "distance": f"{each.distance:.2f}"} for each in done.alike
    ]
    rows += [{"what": "rewritten", "of": run, "distance": ""} for run in done.rewritten]
    return rows or [{"what": "nothing to change", "of": "", "distance": ""}]
