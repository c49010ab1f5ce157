"""The Prefect flow that solves the ids of all dates again, and brings the maps to what the catalogue says."""

from __future__ import annotations

from pathlib import Path

from flows.prefect_settings import stay_private

stay_private()

from prefect import flow  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402

from pipeline.watch import WatchConfig  # noqa: E402
from pipeline.watch.refresh import Refresh, refresh  # noqa: E402


@flow(name="refresh-catalogue", flow_run_name="refresh {config}", persist_result=False)
def refresh_catalogue(config: str, apply: bool = False, follow: bool = False) -> State[dict[str, int]]:
    """Solve the ids of all dates again together; without a word more nothing is written but the table of this run.

    Parameters
    ----------
    config
        Watch configuration, a YAML file (`pipeline.watch.WatchConfig`).
    apply
        Carry out what is found, and rewrite the maps.
    follow
        Only bring the maps to what the catalogue says already.

    Returns
    -------
    State
        Completed, with the numbers of changes and of maps; Failed where a map could not be rewritten.

    Raises
    ------
    InputError
        The configuration is wrong, the series has no catalogue, or a run is attaching to it.
    """
    done = refresh(WatchConfig.read(Path(config)), apply=apply, follow_up=follow)
    create_table_artifact(refresh_table(done), key="ktex-refresh", description=f"Classes of {config}")
    counts = {"found": len(done.changes), "carried out": len(done.changes) * done.applied}
    counts |= {"rewritten": len(done.rewritten), "behind": len(done.behind)}
    message = ", ".join(f"{count} {what}" for what, count in counts.items())
    if done.failed:
        return Failed(message=f"{message}; {'; '.join(done.failed.values())}"[:1000])
    return Completed(message=message, data=counts)


def refresh_table(done: Refresh) -> list[dict[str, str]]:
    """Return what was found and done, in rows."""
    rows = [
        {
            "what": "carried out" if done.applied else "found",
            "class": f"{each.gone} is {each.kept}",
            "in": ", ".join(each.runs) or "all dates",
            "pixels": f"{each.pixels:,}",
            "resembles": "" if each.share is None else f"{each.share:.0%}",
            "distance": "" if each.distance is None else f"{each.distance:.2f}",
            "ground": "" if each.ground is None else f"{each.ground:.0%}",
        }
        for each in done.changes
    ]
    told = {"rewritten": done.rewritten, "behind": done.behind, "not asked": done.unread, "failed": [*done.failed]}
    empty = dict.fromkeys(("class", "pixels", "resembles", "distance", "ground"), "")
    rows += [{"what": what, "in": path} | empty for what, paths in told.items() for path in paths]
    return rows or [{"what": "nothing to change", "in": ""} | empty]
