"""What a Prefect server needs before deployments: work pools, automations that see dead runs, a notice of failure.

Everything is created or brought up to date by name, so that it can be carried out again after each upgrade.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from flows.prefect_settings import stay_private

stay_private()

from httpx import TransportError  # noqa: E402
from prefect.automations import Automation  # noqa: E402
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail  # noqa: E402
from prefect.client.orchestration import PrefectClient, get_client  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate  # noqa: E402
from prefect.client.schemas.objects import StateType  # noqa: E402
from prefect.events.actions import ChangeFlowRunState, SendNotification  # noqa: E402
from prefect.events.schemas.automations import EventTrigger, Posture  # noqa: E402
from prefect.events.schemas.events import ResourceSpecification  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from prefect.types import SecretDict  # noqa: E402
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type  # noqa: E402

from pipeline.errors import InputError  # noqa: E402

PoolType = Literal["process", "docker", "kubernetes"]

HEARTBEAT_S = 60
"""How often a run says that it lives; ``deploy/prefect.yaml`` sets the same."""

SILENCE_S = 10 * HEARTBEAT_S
"""A run that has said nothing for so long is dead. Long, because a blocked process says nothing either."""

WAIT_S, WAIT_STEP_S = 180.0, 1.0
"""How long a server that does not answer yet is waited for: one that starts in the background takes a while."""

NOTICE = "ktextures-notice"
"""Name of the block that notices go through."""

_TERMINAL = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
# Names of states of ours that are Completed to Prefect, and need a person all the same.
_WORRYING = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "Incomplete", "Quarantined", "Damaged")}
_BODY = """Flow run {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}
{{ flow_run | ui_url }}"""


@dataclass(frozen=True)
class Notice:
    """Where to say that a run failed; secrets come from the environment and go into a block, never into a log.

    Attributes
    ----------
    webhook
        Address that a JSON object of ``subject`` and ``text`` is posted to.
    email, sender, api_key
        Addresses of a mail through SendGrid, and its key.
    """

    webhook: str | None = None
    email: str | None = None
    sender: str | None = None
    api_key: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notice | None:
        """Read ``KTEX_NOTICE_WEBHOOK``, or ``_EMAIL``, ``_SENDER`` and ``_SENDGRID_KEY``; None where none is set."""
        names = {"webhook": "WEBHOOK", "email": "EMAIL", "sender": "SENDER", "api_key": "SENDGRID_KEY"}
        found = {field: environment.get(f"KTEX_NOTICE_{name}") or None for field, name in names.items()}
        if not any(found.values()):
            return None
        mail = [found["email"], found["sender"], found["api_key"]]
        if any(mail) != all(mail) or any(mail) == (found["webhook"] is not None):
            raise InputError(
                "notices need KTEX_NOTICE_WEBHOOK, or all of KTEX_NOTICE_EMAIL, KTEX_NOTICE_SENDER and "
                "KTEX_NOTICE_SENDGRID_KEY, and not both"
            )
        return cls(**found)

    def to_block(self) -> CustomWebhookNotificationBlock | SendgridEmail:
        """Return the block that sends it."""
        if self.webhook is not None:
            return CustomWebhookNotificationBlock(
                name=NOTICE,
                url="{{url}}",  # filled in from the secrets when it is sent, so that nobody reads it in the page
                json_data={"subject": "{{subject}}", "text": "{{body}}"},
                headers=None,
                cookies=None,
                secrets=SecretDict({"url": self.webhook}),
            )
        try:
            return SendgridEmail(api_key=self.api_key, sender_email=self.sender, to_emails=[self.email])  # type: ignore[arg-type, list-item]
        except TypeError as error:
            raise InputError(f"KTEX_NOTICE_EMAIL, KTEX_NOTICE_SENDER: {error}; give addresses of mail") from error


def make_automations(notice: UUID | None, *, silence_s: float = SILENCE_S) -> list[Automation]:
    """Return the automations: runs without a heartbeat become Crashed, and, with a block for it, notices are sent."""
    any_run = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    lost = Automation(
        name="ktextures: lost runs",
        description=f"A run that has sent no heartbeat for {silence_s:.0f} s is Crashed, and gives its slots free.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *_TERMINAL, *_WORRYING},
            match=any_run,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=f"no heartbeat for {silence_s:.0f} s", force=False
            )
        ],
    )
    if notice is None:
        return [lost]
    told = Automation(
        name="ktextures: notices",
        description="A run that failed, crashed, or ended with something missing is told of.",
        trigger=EventTrigger(
            expect=_WORRYING, match=any_run, for_each={"prefect.resource.id"}, posture=Posture.Reactive, threshold=1
        ),
        actions=[SendNotification(block_document_id=notice, subject="ktextures: a run needs you", body=_BODY)],
    )
    return [lost, told]


def fit_template(kind: PoolType, template: Mapping[str, Any]) -> dict[str, Any]:
    """Return Prefect's template of a job, fitted to ours.

    On Kubernetes: data, certificates and credentials are given, the pod is not root and may gain nothing, and no pod is
    started again behind the back of Prefect, which knows what to do with a run that died.
    """
    fitted = deepcopy(dict(template))
    if kind != "kubernetes":
        return fitted
    job = fitted["job_configuration"]["job_manifest"]["spec"]
    job["backoffLimit"] = 0
    # The network policies know the pods of runs by this.
    job["template"]["metadata"] = {"labels": {"app.kubernetes.io/part-of": "ktextures-runs"}}
    pod = job["template"]["spec"]
    pod |= {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "ktextures-data"}},
            {"name": "tls", "secret": {"secretName": "ktextures-dask-tls", "defaultMode": 0o440}},
        ],
    }
    (container,) = pod["containers"]
    container["volumeMounts"] = [
        {"name": "data", "mountPath": "/data"},
        {"name": "tls", "mountPath": "/etc/ktextures/tls", "readOnly": True},
    ]
    # Keys of the sources and the password of the ledger are Kubernetes' to keep, and no server's of Prefect.
    container["envFrom"] = [{"secretRef": {"name": "ktextures-credentials", "optional": True}}]
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return fitted


async def provision(
    pools: Mapping[str, PoolType], notice: Notice | None, *, silence_s: float = SILENCE_S, wait_s: float = WAIT_S
) -> list[str]:
    """Create or update work pools, the block of the notice, and the automations; returns what was done, in lines.

    A server that was started a moment ago is waited for, `wait_s` at most.
    """
    if not PREFECT_API_URL.value():
        raise InputError("PREFECT_API_URL: is not set; give the address of the server, http://127.0.0.1:4200/api")
    done: list[str] = []
    async with get_client() as client:
        await _wait_for_server(client, wait_s)
        for name, kind in pools.items():
            done.append(await _provide_pool(client, name, kind))
    block: UUID | None = None
    if notice is not None:
        block = await notice.to_block().asave(NOTICE, overwrite=True)
        done.append(f"block {NOTICE}: saved")
    return done + [await _provide_automation(each) for each in make_automations(block, silence_s=silence_s)]


async def _wait_for_server(client: PrefectClient, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while (error := await client.api_healthcheck()) is not None:
        if isinstance(error, TransportError) and time.monotonic() < until:
            await asyncio.sleep(WAIT_STEP_S)
            continue
        raise InputError(
            f"PREFECT_API_URL: no Prefect server answers at {PREFECT_API_URL.value()} "
            f"({' '.join(str(error).split()) or type(error).__name__}); start one with prefect server start"
        ) from error


async def _provide_pool(client: PrefectClient, name: str, kind: PoolType) -> str:
    base = await get_default_base_job_template_for_infrastructure_type(kind)
    if base is None:
        raise InputError(f"--pool {kind}: the Prefect server has no template for it; upgrade the server to 3.8")
    template = fit_template(kind, base)
    try:
        found = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        return f"work pool {name}: created"
    if found.type != kind:
        raise InputError(f"work pool {name}: is of type {found.type}, not {kind}; delete it first")
    await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return f"work pool {name}: up to date"


async def _provide_automation(automation: Automation) -> str:
    try:
        found = await Automation.aread(name=automation.name)
    except ValueError:
        await automation.acreate()
        return f"automation {automation.name}: created"
    automation.id = found.id
    await automation.aupdate()
    return f"automation {automation.name}: up to date"
