"""What objects of Kubernetes may hold, as far as deploy/kubernetes uses it; strict, so that a slip is found."""

# ruff: noqa: N815  (the names are those of Kubernetes)

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Quantity = str | int


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Metadata(Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    namespace: str | None = None
    labels: dict[str, str] = {}


class Selector(Strict):
    matchLabels: dict[str, str] = {}


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: bool
    runAsUser: int = Field(gt=0)
    fsGroup: int = Field(gt=0)
    seccompProfile: Seccomp


class Capabilities(Strict):
    drop: list[str]


class Security(Strict):
    allowPrivilegeEscalation: bool
    capabilities: Capabilities


class Variable(Strict):
    name: str
    value: str


class ContainerPort(Strict):
    name: str = Field(max_length=15)
    containerPort: int = Field(ge=1, le=65535)
    protocol: Literal["TCP"]


class HttpGet(Strict):
    path: str
    port: str | int


class Probe(Strict):
    httpGet: HttpGet
    initialDelaySeconds: int = 0
    periodSeconds: int = Field(ge=1)


class Resources(Strict):
    requests: dict[Literal["cpu", "memory"], Quantity] = {}
    limits: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity] = {}


class Mount(Strict):
    name: str
    mountPath: str = Field(pattern="^/")
    readOnly: bool = False


class Container(Strict):
    name: str
    image: str
    imagePullPolicy: Literal["IfNotPresent"]
    args: list[str]
    env: list[Variable] = []
    ports: list[ContainerPort] = []
    readinessProbe: Probe | None = None
    livenessProbe: Probe | None = None
    resources: Resources
    securityContext: Security | None = None
    volumeMounts: list[Mount] = []


class SecretVolume(Strict):
    secretName: str
    defaultMode: int = Field(ge=0, le=0o777)


class ClaimVolume(Strict):
    claimName: str


class EmptyVolume(Strict):
    sizeLimit: Quantity


class Volume(Strict):
    name: str
    secret: SecretVolume | None = None
    persistentVolumeClaim: ClaimVolume | None = None
    emptyDir: EmptyVolume | None = None

    @model_validator(mode="after")
    def _one(self) -> Volume:
        assert sum(each is not None for each in (self.secret, self.persistentVolumeClaim, self.emptyDir)) == 1
        return self


class Toleration(Strict):
    key: str
    operator: Literal["Exists"]
    effect: Literal["NoSchedule"]


class PodSpec(Strict):
    automountServiceAccountToken: bool
    securityContext: PodSecurity | None = None
    terminationGracePeriodSeconds: int = 30
    tolerations: list[Toleration] = []
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume] = []


class ServicePort(Strict):
    name: str
    protocol: Literal["TCP"]
    port: int
    targetPort: str | int


class ServiceSpec(Strict):
    type: Literal["ClusterIP"]
    selector: dict[str, str]
    ports: list[ServicePort]


class DaskScheduler(Strict):
    spec: PodSpec
    service: ServiceSpec


class DaskWorkers(Strict):
    replicas: int = Field(ge=0)
    spec: PodSpec


class DaskClusterSpec(Strict):
    scheduler: DaskScheduler
    worker: DaskWorkers
    idleTimeout: int = 0


class Object(Strict):
    apiVersion: str
    kind: str
    metadata: Metadata


class DaskCluster(Object):
    spec: DaskClusterSpec


class ServiceAccount(Object):
    automountServiceAccountToken: bool = True


class Rule(Strict):
    apiGroups: list[str]
    resources: list[str]
    verbs: list[Literal["get", "list", "watch", "create", "update", "patch", "delete"]]


class Role(Object):
    rules: list[Rule]


class Reference(Strict):
    apiGroup: Literal["rbac.authorization.k8s.io"]
    kind: Literal["Role"]
    name: str


class Subject(Strict):
    kind: Literal["ServiceAccount"]
    name: str
    namespace: str


class RoleBinding(Object):
    roleRef: Reference
    subjects: list[Subject]


class Peer(Strict):
    podSelector: Selector | None = None
    namespaceSelector: Selector | None = None


class PolicyPort(Strict):
    protocol: Literal["TCP"]
    port: int


class Ingress(Strict):
    from_: list[Peer] = Field(alias="from")
    ports: list[PolicyPort] = []


class PolicySpec(Strict):
    podSelector: Selector
    policyTypes: list[Literal["Ingress", "Egress"]]
    ingress: list[Ingress] = []


class NetworkPolicy(Object):
    spec: PolicySpec


class ClaimResources(Strict):
    requests: dict[Literal["storage"], Quantity]


class ClaimSpec(Strict):
    accessModes: list[Literal["ReadWriteMany"]]
    resources: ClaimResources


class Claim(Object):
    spec: ClaimSpec


KINDS: dict[tuple[Any, Any], type[Object]] = {
    ("v1", "Namespace"): Object,
    ("v1", "PersistentVolumeClaim"): Claim,
    ("v1", "ServiceAccount"): ServiceAccount,
    ("rbac.authorization.k8s.io/v1", "Role"): Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): RoleBinding,
    ("networking.k8s.io/v1", "NetworkPolicy"): NetworkPolicy,
    ("kubernetes.dask.org/v1", "DaskCluster"): DaskCluster,
}
