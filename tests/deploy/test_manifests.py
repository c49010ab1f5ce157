"""Images, compose and Kubernetes: schemas, and that commands, paths, versions and ports are those of the project."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings as PrefectSettings

from flows.cli import ktex
from pipeline.watch import WatchConfig
from tests.deploy.kubernetes import KINDS, PodSpec

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()
README = (DEPLOY / "README.md").read_text()
LOCK = (REPOSITORY / "requirements.lock").read_text()
IMAGES = {f"ktextures:{PROJECT['version']}-{extra}" for extra in ("cpu", "gpu")}
# Read by prefect-redis, which only the images have, by Prefect itself though it is none of its settings, and by Dask,
# whose configuration has no default for levels of logging.
FOREIGN = {"PREFECT_REDIS_MESSAGING_HOST", "PREFECT_REDIS_MESSAGING_PORT", "PREFECT_SERVER_ENCRYPTION_KEY",
           "DASK_LOGGING__DISTRIBUTED"}  # fmt: skip
OWN = {"KTEX_IMAGE", "KTEX_LOG_FORMAT", "KTEX_REQUIRE_GPU", "KTEX_NOTICE_WEBHOOK"}
PLAIN = {"HOME", "PATH", "PYTHONUNBUFFERED", "DO_NOT_TRACK", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
         "TF_NUM_INTEROP_THREADS", "TF_FORCE_GPU_ALLOW_GROWTH", "POSTGRES_USER", "POSTGRES_DB",
         "POSTGRES_PASSWORD"}  # fmt: skip


def pins(text: str) -> dict[str, set[str]]:
    """Return the versions of each package; a universal lock may have several."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def names_of_prefect() -> set[str]:
    """Return every environment variable that some setting of Prefect reads."""
    found: set[str] = set()

    def walk(model: Any, prefix: str) -> None:
        for name, field in model.model_fields.items():
            inner = field.annotation
            alias = getattr(field.validation_alias, "choices", [])
            found.update(str(each).upper() for each in alias if isinstance(each, str))
            found.add(f"{prefix}{name}".upper())
            if hasattr(inner, "model_fields"):
                walk(inner, inner.model_config.get("env_prefix", f"{prefix}{name}_"))

    walk(PrefectSettings, "PREFECT_")
    return found


def exists_in_dask(name: str) -> bool:
    import dask
    import distributed  # noqa: F401  (brings its defaults)

    here: Any = dask.config.global_config
    for part in name.removeprefix("DASK_").lower().split("__"):
        key = dask.config.canonical_name(part, here)
        if key not in here:
            return False
        here = here[key]
    return True


def is_read(name: str) -> bool:
    """Whether the program, Prefect or Dask reads an environment variable."""
    if name in PLAIN | OWN | FOREIGN or name.startswith("PREFECT_LOGGING_"):
        return True
    return exists_in_dask(name) if name.startswith("DASK_") else name in names_of_prefect()


def check_command(words: list[str]) -> None:
    """Check a command of an image against the command lines that are installed."""
    program, *rest = words
    if program == "ktex":
        command = ktex.commands[rest[0]]
        known = {option for each in command.params for option in each.opts}
        assert {word for word in rest[1:] if word.startswith("--")} <= known
    elif program == "dask":
        part = importlib.import_module(f"distributed.cli.dask_{rest[0]}")
        known = {option for each in part.main.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in rest[1:] if word.startswith("--")} <= known
    elif program == "prefect":
        text = Path(importlib.import_module(f"prefect.cli.{rest[0]}").__file__ or "").read_text()
        assert {word for word in rest[1:] if word.startswith("-") and f'"{word}"' not in text} == set()
        assert f"def {rest[1]}" in text or f'"{rest[1]}"' in text
    else:
        assert program in {"python", "pg_isready", "redis-cli", "redis-server"}


def test_compose_fits_the_compose_specification() -> None:
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ports_are_open_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


OURS = {name: each for name, each in COMPOSE["services"].items() if each["image"].startswith("ktextures")}


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_may_little_and_its_image_is_built_here(name: str) -> None:
    service = OURS[name]
    assert service["image"] in IMAGES
    extra = service["build"]["args"]["EXTRA"]
    assert service["image"].endswith(extra)
    assert (
        DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]
    ).resolve() == DEPLOY / "docker/Dockerfile"
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert not service.get("privileged")
    for other in service.get("depends_on", {}):
        assert other in COMPOSE["services"]
    for volume in service.get("volumes", []):
        assert volume.split(":")[0] in {*COMPOSE["volumes"], "../certificates/dask"}


def test_only_the_gpu_service_asks_for_a_device() -> None:
    for name, service in OURS.items():
        devices = "devices" in json.dumps(service.get("deploy", {}))
        assert devices == (service["build"]["args"]["EXTRA"] == "gpu") == (name == "dask-worker-gpu")


def test_every_command_and_health_check_is_one_of_the_programs() -> None:
    commands = [each["command"] for each in COMPOSE["services"].values() if "command" in each]
    commands += [test[1:] for each in COMPOSE["services"].values() if (test := each.get("healthcheck", {}).get("test"))]
    commands += [json.loads(found) for found in re.findall(r"^CMD (\[.*\])", DOCKERFILE, re.MULTILINE)]
    (cluster,) = documents("dask.yaml")
    commands += [c["args"] for part in ("scheduler", "worker") for c in cluster["spec"][part]["spec"]["containers"]]
    for words in {json.dumps(words): words for words in commands}.values():
        check_command(words)


def test_every_dask_worker_is_prepared_before_its_first_block() -> None:
    from pipeline.engine import preload

    (cluster,) = documents("dask.yaml")
    commands = [
        each["command"] for each in COMPOSE["services"].values() if each.get("command", [])[:2] == ["dask", "worker"]
    ]
    commands += [c["args"] for c in cluster["spec"]["worker"]["spec"]["containers"]]
    commands += [shlex.split(line) for line in re.findall(r"^dask worker .*", README, re.MULTILINE)]
    assert len(commands) == 4
    for words in commands:
        assert words[words.index("--nthreads") + 1] == "1"
        assert words[words.index("--preload") + 1] == preload.__name__


def test_the_schedulers_that_the_runbook_names_are_those_of_the_manifests() -> None:
    from pipeline.settings import Settings

    (cluster,) = documents("dask.yaml")
    served = {f"tls://{name}:8786" for name in COMPOSE["services"] if name == "dask-scheduler"}
    served |= {f"tls://{cluster['metadata']['name']}-scheduler.ktextures.svc:8786"}
    told = re.findall(r"`settings: (\{scheduler.*?\})`", README)
    assert {yaml.safe_load(each)["scheduler"] for each in told} == served
    for each in told:
        Settings.parse(yaml.safe_load(each))


def test_every_variable_is_read_by_somebody_and_every_secret_must_be_given() -> None:
    names = {name for service in COMPOSE["services"].values() for name in service.get("environment", {})}
    names |= set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", re.findall(r"^ENV PATH.*?(?=^USER)", DOCKERFILE, re.M | re.S)[0]))
    (cluster,) = documents("dask.yaml")
    for part in ("scheduler", "worker"):
        names |= {each["name"] for c in cluster["spec"][part]["spec"]["containers"] for each in c["env"]}
    for file in ("prefect.yaml", "prefect-kubernetes.yaml"):
        plan = yaml.safe_load((DEPLOY / file).read_text())
        names |= {name for each in plan["deployments"] for name in each["work_pool"]["job_variables"]["env"]}
    assert {name for name in names if not is_read(name)} == set()
    assert not is_read("PREFECT_API_URI")
    assert not is_read("DASK_DISTRIBUTED__COMM__TLS__CAFILE")
    text = (DEPLOY / "compose.yaml").read_text()
    given = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE))
    asked = re.findall(r"\$\{([A-Z_]+)(:[?-])", text)
    assert {name for name, _ in asked} == given
    assert {name for name, how in asked if how == ":-"} == {"KTEX_NOTICE_WEBHOOK"}


def test_the_image_has_the_projects_python_uv_and_files() -> None:
    python = re.search(r"^ARG PYTHON_VERSION=(\S+)", DOCKERFILE, re.MULTILINE)
    assert python is not None
    assert PROJECT["requires-python"] == f">={python.group(1)},<3.12"
    uv = re.search(r"^ARG UV_VERSION=(\S+)", DOCKERFILE, re.MULTILINE)
    assert uv is not None
    assert pins(LOCK)["uv"] == {uv.group(1)}
    seen = (REPOSITORY / ".dockerignore").read_text()
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for each in source.replace("${EXTRA}", "gpu").split():
            assert (REPOSITORY / each).exists(), each
            assert any(each.startswith(line[1:]) for line in seen.splitlines() if line.startswith("!")), each
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.index("USER 10001") < DOCKERFILE.index("ENTRYPOINT")


def test_a_gpu_image_starts_nothing_without_a_gpu(tmp_path: Path) -> None:
    fake = tmp_path / "ktex"
    fake.write_text('#!/bin/sh\n[ "$KTEX_REQUIRE_GPU" = 1 ] && { echo no gpu >&2; exit 2; }\necho healthy\n')
    fake.chmod(0o755)

    def start(image: str, *words: str, **others: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "KTEX_IMAGE": image, **others}
        entry = str(DEPLOY / "docker" / "entrypoint")
        return subprocess.run([entry, *words], env=environment, capture_output=True, text=True, check=False)

    assert start("gpu", "echo", "work").returncode == 2
    assert start("gpu", "echo", "work").stdout == ""
    assert start("gpu", "ktex", "health").returncode == 2
    assert start("gpu", "echo", "work", KTEX_REQUIRE_GPU="0").stdout == "work\n"
    assert start("cpu", "echo", "work").stdout == "work\n"
    assert start("cpu", "ktex", "health").stdout == "healthy\n"


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_locks_of_the_images_follow_the_lock(extra: str) -> None:
    text = (DEPLOY / "docker" / f"requirements-{extra}.lock").read_text()
    found, ours = pins(text), pins(LOCK)
    assert {name: versions for name, versions in found.items() if not versions <= ours.get(name, versions)} == {}
    assert "://" not in text
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(found)
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    direct = {re.split(r"[<>=\[ ]", each)[0] for each in PROJECT["dependencies"]}
    assert direct <= found.keys()
    assert ("tensorflow" in found, "tensorflow-cpu" in found) == (extra == "gpu", extra == "cpu")
    assert {"prefect-redis", "prefect-docker", "prefect-kubernetes", "psycopg", "planet"} <= found.keys()
    assert not {"pytest", "playwright", "moto"} & found.keys()


@pytest.mark.parametrize("name", ["namespace.yaml", "data.yaml", "rbac.yaml", "network.yaml", "dask.yaml"])
def test_kubernetes_objects_have_known_fields_only(name: str) -> None:
    for each in documents(name):
        KINDS[each["apiVersion"], each["kind"]].model_validate(each)
        assert each["metadata"].get("namespace", each["metadata"]["name"]) == "ktextures"


def test_kustomization_names_every_file() -> None:
    (found,) = documents("kustomization.yaml")
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(found["resources"]) == {name for name in files if not name.startswith(("values-", "kustomization"))}
    if shutil.which("kubectl"):
        subprocess.run(["kubectl", "kustomize", DEPLOY / "kubernetes"], check=True, capture_output=True)


def test_pods_run_as_the_images_user_with_tls_and_one_gpu_a_worker() -> None:
    (cluster,) = documents("dask.yaml")
    scheduler, worker = (PodSpec.model_validate(cluster["spec"][part]["spec"]) for part in ("scheduler", "worker"))
    for pod in (scheduler, worker):
        (container,) = pod.containers
        assert pod.securityContext is not None
        assert (pod.securityContext.runAsUser, pod.securityContext.runAsNonRoot) == (10001, True)
        assert container.securityContext is not None
        assert container.securityContext.allowPrivilegeEscalation is False
        assert {each.name for each in pod.volumes} == {each.name for each in container.volumeMounts}
        assert container.image.rpartition("/")[2] in IMAGES
        assert any(word.startswith("tls://") for word in container.args)
    assert worker.containers[0].resources.limits["nvidia.com/gpu"] == 1
    assert worker.containers[0].image.endswith("-gpu")
    service = cluster["spec"]["scheduler"]["service"]
    ports = {port["name"]: port["port"] for port in service["ports"]}
    args = scheduler.containers[0].args
    assert args[args.index("--port") + 1] == str(ports["comm"])
    address = f"tls://{cluster['metadata']['name']}-scheduler.ktextures.svc:{ports['comm']}"
    assert address in worker.containers[0].args
    plan = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    (deployed,) = [each for each in plan["deployments"] if each["work_pool"]["name"] == "ktex-kubernetes"]
    assert deployed["parameters"]["settings"]["scheduler"] == address


def test_the_worker_may_what_it_needs_and_runs_may_nothing() -> None:
    objects = {(each["kind"], each["metadata"]["name"]): each for each in documents("rbac.yaml")}
    verbs = {(group, resource): set(rule["verbs"])
             for rule in objects["Role", "ktextures-worker"]["rules"]
             for group in rule["apiGroups"] for resource in rule["resources"]}  # fmt: skip
    assert {"create", "delete", "watch"} <= verbs["batch", "jobs"]
    assert all(each <= {"get", "list", "watch"} for key, each in verbs.items() if key != ("batch", "jobs"))
    assert all("*" not in (*key, *each) and "secrets" not in key for key, each in verbs.items())
    (subject,) = objects["RoleBinding", "ktextures-worker"]["subjects"]
    assert subject["name"] == "ktextures-worker"
    assert objects["ServiceAccount", "ktextures-run"]["automountServiceAccountToken"] is False
    plan = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    jobs = [each["work_pool"]["job_variables"] for each in plan["deployments"]]
    assert {job["service_account_name"] for job in jobs if "namespace" in job} == {"ktextures-run"}


def test_nothing_comes_in_but_what_is_named() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in documents("network.yaml")}
    assert policies["nothing-in"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule.get("from"), f"{name} lets everybody in"
    database = next(spec for spec in policies.values() if "postgresql" in json.dumps(spec["podSelector"]))
    (rule,) = database["ingress"]
    assert [each["port"] for each in rule["ports"]] == [5432], "else the server never reaches its database"
    assert [each["podSelector"]["matchLabels"] for each in rule["from"]] == [
        policies["prefect-server"]["podSelector"]["matchLabels"]
    ]


def test_pods_of_the_charts_are_let_into_the_namespace() -> None:
    """By what the profile `restricted` asks for and the charts leave open."""
    (namespace,), (server,), (worker,) = map(
        documents, ("namespace.yaml", "values-prefect-server.yaml", "values-prefect-worker.yaml")
    )
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    profile = {"type": "RuntimeDefault"}
    for part in (server["server"], worker["worker"]):
        assert part["podSecurityContext"]["seccompProfile"] == profile
        assert part["containerSecurityContext"]["capabilities"] == {"drop": ["ALL"]}
    job = server["migrations"]["securityContext"]
    assert (job["capabilities"], job["seccompProfile"]) == ({"drop": ["ALL"]}, profile)


@pytest.mark.parametrize("part", ["server", "worker"])
def test_prefect_on_kubernetes_is_of_the_locked_version_and_asks_for_a_password(part: str) -> None:
    (values,) = documents(f"values-prefect-{part}.yaml")
    text = json.dumps(values)
    tags = re.findall(r'"prefectTag": "([^"]+)"', text)
    assert [tag.split("-")[0] for tag in tags] == list(pins(LOCK)["prefect"])
    assert all("python3.11" in tag for tag in tags)
    assert '"enabled": true, "existingSecret": "ktextures-prefect-auth"' in text
    assert "authString" not in text, "passwords are secrets of Kubernetes, not values"


def test_the_database_on_kubernetes_has_a_password_of_its_own_and_the_charts_is_out_of_reach() -> None:
    """The chart reads `auth.password` only where no secret is named; where it is empty, it refuses to install."""
    (values,) = documents("values-prefect-server.yaml")
    auth = values["postgresql"]["auth"]
    assert auth["password"] == "", "were the secret taken out, nothing would be installed"
    created = runbook_secrets()[auth["existingSecret"]]
    assert {"connection-string", "password", "postgres-password"} == created.keys(), "what server and database look for"
    address = created["connection-string"]
    assert address.startswith(f"postgresql+asyncpg://{auth['username']}:$password@prefect-server-postgresql.ktextures:")
    assert address.endswith(f":5432/{auth['database']}")
    assert created["password"] == "$password"
    assert "openssl rand" in created["postgres-password"]
    assert "prefect-rocks" not in json.dumps(values)


def runbook_secrets() -> dict[str, dict[str, str]]:
    """Return the secrets that the runbook creates, with the values that it gives them."""
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    found = {}
    for name, rest in re.findall(r"^kubectl -n ktextures create secret generic (\S+) (.*)$", text, re.MULTILINE):
        found[name] = dict(re.findall(r'--from-literal ([a-z-]+)="(.*?)"(?=\s+--from|$)', rest.strip()))
    return found


def test_every_secret_that_is_required_is_created_by_the_runbook() -> None:
    wanted = set()
    for path in (DEPLOY / "kubernetes").glob("*.yaml"):
        wanted |= set(re.findall(r"(?:existingSecret|secretName): ([\w-]+)", path.read_text()))
        wanted |= set(re.findall(r"secretKeyRef: \{name: ([\w-]+)", path.read_text()))
    assert wanted <= runbook_secrets().keys()
    assert len(wanted) >= 4


def test_prometheus_scrapes_what_is_served_and_alerts_on_figures_that_there_are() -> None:
    from flows.exporter import DEFAULT_LISTEN, FIGURES

    plan = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    targets = {target for job in plan["scrape_configs"] for each in job["static_configs"] for target in each["targets"]}
    served = {port.rpartition(":")[0] for service in OURS.values() for port in service.get("ports", [])}
    assert targets <= served
    assert DEFAULT_LISTEN in targets
    assert all((DEPLOY / "prometheus" / name).exists() for name in plan["rule_files"])
    known = {metric for metric, _ in FIGURES.values()} | set(
        re.findall(r'"(ktex_[a-z_]+)"', (REPOSITORY / "flows" / "exporter.py").read_text())
    )
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    for rule in alerts["groups"][0]["rules"]:
        assert set(re.findall(r"ktex_[a-z_]+", rule["expr"])) <= known


def test_the_runbook_names_what_there_is() -> None:
    text = README
    for path in re.findall(r"(?<![\w/.])deploy/[\w./-]+\w", text):
        assert (REPOSITORY / path).exists() or path == "deploy/.env", path
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)\b", text):
        assert f"\n{target}:" in makefile or target == "room", target
    for command in re.findall(r"\bktex ([a-z]+)\b", text):
        assert command in ktex.commands, command
    for name in set(re.findall(r"\bPREFECT_[A-Z_]+|\bDASK_[A-Z_]+[A-Z]\b", text)) - {"PREFECT_AUTH"}:
        assert is_read(name) or "ROLE" in name.upper(), name


def test_the_readme_leads_to_a_schedule_in_six_commands_of_the_programs_there_are() -> None:
    text = (REPOSITORY / "README.md").read_text()
    block = re.search(r"## On a schedule.*?```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block.group(1).replace("\\\n", " ").splitlines()
    assert len(lines) <= 6
    ours = re.findall(r"\.venv/bin/((?:ktex|prefect) [^&#`>\n]+)", text[text.index("## On a schedule") :])
    commands = [[word for word in shlex.split(each) if word != "--no-prompt"] for each in ours]
    assert [words[:3] for words in commands if words[0] == "prefect"] == [
        ["prefect", "server", "start"], ["prefect", "deploy", "--all"], ["prefect", "worker", "start"],
        ["prefect", "deployment", "run"],
    ]  # fmt: skip
    # In the background Prefect's own way, a server dies of the first line that it logs: nobody reads its pipe.
    assert "--background" not in block.group(1)
    (log,) = re.findall(r"prefect server start > (\S+) 2>&1 & echo \$! > prefect-server\.pid", block.group(1))
    assert log in {each.lstrip("/").replace("*", "log") for each in (REPOSITORY / ".gitignore").read_text().split()}
    assert "`kill $(cat prefect-server.pid)`" in text
    for words in commands:
        if words[:2] != ["prefect", "deploy"]:  # carried out by test_prefect.py
            check_command(words)
    config = WatchConfig.read(DEPLOY / "series.yaml")
    assert (config.out, config.sources[0].path) == (DEPLOY / "maps", DEPLOY / "incoming")  # type: ignore[union-attr]
    plan = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    (cron,) = [each["schedules"][0]["cron"] for each in plan["deployments"] if "watch" in each["entrypoint"]]
    assert cron.split()[:2] == ["17", "*"]
    assert "17 minutes past" in text
