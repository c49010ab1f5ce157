"""deploy/prefect.yaml and `ktex provision` on a real Prefect server: pools, deployments, dead runs, notices."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import provision as module
from flows.provision import HEARTBEAT_S, Notice, PoolType, fit_template, make_automations, provision
from pipeline.errors import InputError
from tests.servers import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "deploy" / "prefect.yaml"
FILES = (FILE, REPOSITORY / "deploy" / "prefect-kubernetes.yaml")
PLANS = [yaml.safe_load(file.read_text()) for file in FILES]
POOLS: dict[str, PoolType] = {f"ktex-{kind}": kind for kind in ("process", "docker", "kubernetes")}  # type: ignore[misc]
WORKERS = json.loads(
    (Path(module.get_client.__code__.co_filename).parents[2] / "server/api/collections_data/views").joinpath(
        "aggregate-worker-metadata.json"
    ).read_text()
)  # fmt: skip


def template(kind: str) -> dict[str, Any]:
    """Return Prefect's own template of a job of that type."""
    (found,) = (worker[kind] for worker in WORKERS.values() if kind in worker)
    return found["default_base_job_configuration"]


DEPLOYMENTS = [each for plan in PLANS for each in plan["deployments"]]
NAMES = [f"{each['entrypoint'].rpartition('.')[2]}/{each['name']}" for each in DEPLOYMENTS]


def test_prefect_accepts_the_files_and_every_key_of_a_deployment_is_one() -> None:
    for plan in PLANS:
        PrefectYamlModel.model_validate(plan)
    known = set(PrefectYamlModel.model_fields["deployments"].annotation.__args__[0].model_fields)  # type: ignore[union-attr]
    for each in DEPLOYMENTS:
        assert set(each) <= known


def test_the_versions_are_those_of_the_project() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert all(f"prefect=={plan['prefect-version']} " in lock for plan in PLANS)
    assert all(each["version"] == version_of_project() for each in DEPLOYMENTS)


def version_of_project() -> str:
    import tomllib

    return str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"])


@pytest.mark.parametrize("each", DEPLOYMENTS, ids=NAMES)
def test_a_deployment_fits_its_flow_its_pool_and_the_job_that_the_pool_makes(each: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(each["entrypoint"], use_placeholder_flow=False)
    assert isinstance(flow, Flow)
    parameters = inspect.signature(flow.fn).parameters
    assert set(each.get("parameters", {})) <= set(parameters)
    if each.get("schedules"):
        required = {name for name, each in parameters.items() if each.default is inspect.Parameter.empty}
        assert required <= set(each["parameters"]), "nobody is there to give the rest"
    if settings := each.get("parameters", {}).get("settings"):
        from pipeline.settings import Settings

        Settings.parse(settings)
    pool = each["work_pool"]
    variables = template(POOLS[pool["name"]])["variables"]["properties"]
    assert set(pool["job_variables"]) <= set(variables)
    assert pool["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
    assert {"ktextures", POOLS[pool["name"]]} <= set(each["tags"])
    limit = each["concurrency_limit"]
    assert limit["limit"] == 1
    assert 60 <= limit["grace_period_seconds"] <= 86400


def test_names_are_unique_and_every_flow_has_its_deployment() -> None:
    assert len(set(NAMES)) == len(NAMES)
    modules = {path.stem for path in (REPOSITORY / "flows").glob("*.py") if "@flow(" in path.read_text()}
    assert {each["entrypoint"].split(".")[1] for each in DEPLOYMENTS} == modules


def test_a_series_is_deployed_on_kubernetes_as_on_one_machine_and_nothing_waits_for_a_pool_of_others() -> None:
    series = [each for each in DEPLOYMENTS if each["name"].startswith("series")]
    here, there = (
        {each["entrypoint"]: each for each in series if each["work_pool"]["name"] == pool}
        for pool in ("ktex-process", "ktex-kubernetes")
    )
    assert here.keys() == there.keys()
    for name, each in here.items():
        for key in ("parameters", "schedules", "concurrency_limit", "description"):
            assert each.get(key) == there[name].get(key)
    segment, *jobs = [each["work_pool"] for each in DEPLOYMENTS if each["work_pool"]["name"] == "ktex-kubernetes"]
    assert all(job == segment for job in jobs)
    pools = {each["work_pool"]["name"] for each in PLANS[0]["deployments"] if each.get("schedules")}
    assert pools == {"ktex-process"}, "who deploys all of it on one machine gets no run that nobody starts"


def test_jobs_on_kubernetes_are_not_root_and_find_data_and_certificates() -> None:
    before = template("kubernetes")
    job = fit_template("kubernetes", before)["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["backoffLimit"] == 0
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert {each["name"] for each in pod["volumes"]} == {each["name"] for each in container["volumeMounts"]}
    assert container["args"] == "{{ command }}", "the image's entrypoint stays"
    assert container["envFrom"] == [{"secretRef": {"name": "ktextures-credentials", "optional": True}}]
    assert before == template("kubernetes"), "Prefect's template is left as it is"
    assert fit_template("process", template("process")) == template("process")


def test_a_run_is_lost_only_after_many_heartbeats_and_worrying_states_are_told() -> None:
    from uuid import uuid4

    (lost,) = make_automations(None)
    assert lost.trigger.within.total_seconds() >= 3 * HEARTBEAT_S  # type: ignore[union-attr]
    _, told = make_automations(uuid4())
    assert {f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "Incomplete")} <= told.trigger.expect  # type: ignore[union-attr]


MAIL = {
    "KTEX_NOTICE_EMAIL": "a@example.com",
    "KTEX_NOTICE_SENDER": "k@example.com",
    "KTEX_NOTICE_SENDGRID_KEY": "SG.s3cret",
}


@pytest.mark.parametrize(
    "environment",
    [{"KTEX_NOTICE_EMAIL": "a@b.c"}, {"KTEX_NOTICE_WEBHOOK": "https://h/x", **MAIL}],
)
def test_half_a_notice_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match="not both"):
        Notice.from_environment(environment)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library that sends the mail
def test_secrets_of_a_notice_are_shown_nowhere() -> None:
    assert Notice.from_environment({}) is None
    mail = Notice.from_environment(MAIL)
    hook = Notice.from_environment({"KTEX_NOTICE_WEBHOOK": "https://hooks.example.com/s3cret"})
    assert mail is not None
    assert hook is not None
    for block in (mail.to_block(), hook.to_block()):
        assert "s3cret" not in repr(block) + str(block) + block.model_dump_json()


@pytest.mark.filterwarnings("ignore")
def test_an_address_that_is_none_is_an_error_of_the_user() -> None:
    notice = Notice.from_environment({**MAIL, "KTEX_NOTICE_SENDER": "nobody"})
    assert notice is not None
    with pytest.raises(InputError, match="give addresses of mail"):
        notice.to_block()


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.5)
    return found


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post, and again where SQLite was busy, as Prefect's own clients do."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers.append(client.post(path, json=body))
        return answers[-1].status_code != 503

    wait_for(is_answered)
    return dict(answers[-1].raise_for_status().json())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Prefect server on loopback, with all its services and SQLite, that has just been started."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    address = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)

    try:
        yield address
    finally:
        process.terminate()
        process.wait(60)


def test_a_server_that_is_not_there_is_told_in_one_line_after_a_while() -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    began = time.monotonic()
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(InputError, match=f"no Prefect server answers at {url}"),
    ):
        asyncio.run(provision({}, None, wait_s=1.5))
    assert time.monotonic() - began >= 1.5


@pytest.fixture
def notices() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Address of a loopback server that stands for a chat's webhook, and what was posted to it."""
    posted: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/s3cret", posted
        server.shutdown()
        thread.join()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dead_run_gives_its_slot_free_and_somebody_is_told(
    api: str, notices: tuple[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    hook, posted = notices
    with temporary_settings({PREFECT_API_URL: api}):
        first = asyncio.run(provision(POOLS, Notice(webhook=hook), silence_s=10))
        again = asyncio.run(provision(POOLS, Notice(webhook=hook), silence_s=10))
    assert first == [line.replace("up to date", "created") for line in again], "carried out twice, made once"
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path), "KTEX_WATCH_CONFIG": "/c.yaml"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    with httpx.Client(base_url=api, timeout=30) as client:
        made = client.post("/deployments/filter", json={}).json()
        assert len(made) == len(PLANS[0]["deployments"])
        deployments = {each["name"]: each for each in made}
        scheduled = [each for each in made if each["schedules"]]
        assert {each["parameters"]["config"] for each in scheduled} == {"/c.yaml"}
        for each in scheduled:
            body = {"deployments": {"id": {"any_": [each["id"]]}}}
            wait_for(lambda body=body: client.post("/flow_runs/filter", json=body).json())

        def start() -> dict[str, Any]:
            target = f"/deployments/{deployments['process']['id']}/create_flow_run"
            made = post(client, target, {"parameters": {"source": "/x", "out": "/y"}})
            for state in ("PENDING", "RUNNING"):
                post(client, f"/flow_runs/{made['id']}/set_state", {"state": {"type": state}})
            return made

        def state(run: dict[str, Any]) -> str:
            return str(client.get(f"/flow_runs/{run['id']}").json()["state"]["type"])

        lost = start()
        assert state(lost) == "RUNNING"
        beat = {
            "id": "00000000-0000-4000-8000-000000000001", "event": "prefect.flow-run.heartbeat",
            "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "resource": {"prefect.resource.id": f"prefect.flow-run.{lost['id']}"},
        }  # fmt: skip
        assert client.post("/events", json=[beat]).status_code == 204
        second = start()
        assert state(second) != "RUNNING", "the one slot is taken"
        wait_for(lambda: state(lost) == "CRASHED", 90)
        assert state(start()) == "RUNNING", "the slot of the dead run is free"
        told = wait_for(lambda: [each for each in posted if "Crashed" in each["text"]], 60)
        assert "no heartbeat for 10 s" in told[0]["text"]
        assert "s3cret" not in client.post("/block_documents/filter", json={}).text
