"""The Kubernetes manifests: Deployments for each read and write head and for the gateway, and what goes with them."""

from __future__ import annotations

from typing import Any, NamedTuple

from chimera_deploy.engines import ENGINES
from chimera_deploy.fleet import (
    FLEET_KEYS,
    GATEWAY,
    GATEWAY_COMMAND,
    GATEWAY_HEALTH,
    OPERATORS_KEYS,
    PORT,
    Member,
    PlannedFleet,
    urls,
)
from chimera_deploy.writing import header, to_yaml

Manifest = dict[str, Any]

SECRET = "chimera-engines"  # noqa: S105 - its name
USER = 10001
REPLICAS = (2, 6)
CPU_PERCENT = 70
LEAVE_S = 5
"""Seconds that a pod which ends still answers, so that nobody sends it requests any more when it closes its port."""
GRACE_S = 30
CHECK_S = 6
"""Seconds that a probe waits: longer than readiness waits for the engines."""

_ADVICE = (
    "Change that file, or the command's options, and run it again;\n# what is of one cluster belongs in an overlay."
)
_FILL_IN = "Copy it, fill in what is in capitals, apply the copy and\n# keep it out of the repository."


class Part(NamedTuple):
    """A kind of pod: a read or write head, or the gateway. `replicas` is None where a HorizontalPodAutoscaler says."""

    name: str
    app: str
    component: str
    command: list[str]
    environment: dict[str, str]
    probes: dict[str, Manifest]
    replicas: int | None
    scraped: bool
    engines: bool


def kubernetes_files(fleet: PlannedFleet) -> dict[str, str]:
    """The texts of the files, by path."""
    written = {
        **{f"services/{member.name}.yaml": _service(fleet, member) for member in fleet.members},
        "gateway.yaml": [*_answering(fleet, _gateway(fleet), GATEWAY), _ingress(fleet)],
    }
    files = {**written, "kustomization.yaml": [_kustomization(fleet, list(written))]}
    texts = {name: header(fleet.command, _ADVICE) + to_yaml(documents) for name, documents in files.items()}
    texts["secret.example.yaml"] = header(fleet.command, _FILL_IN) + to_yaml([_secret(fleet)])
    return {f"kubernetes/{name}": text for name, text in texts.items()}


def _service(fleet: PlannedFleet, member: Member) -> list[Manifest]:
    read = Part(
        f"{member.name}-read",
        member.name,
        "read-head",
        member.command("read"),
        urls(member.owners),
        # A read head that is ready once stays in service: without one of its engines it still answers what it can.
        {
            "startupProbe": _probe(member.health("ready"), period=2, failures=60),
            "readinessProbe": _probe(member.health("live"), period=5, failures=2),
            "livenessProbe": _probe(member.health("live"), period=10, failures=6),
        },
        replicas=None,
        scraped=True,
        engines=True,
    )
    write = read._replace(
        name=f"{member.name}-write",
        component="write-head",
        command=member.command("write"),
        probes=read.probes | {"readinessProbe": _probe(member.health("ready"), period=10, failures=3)},
        replicas=min(fleet.workers, member.partitions),
    )
    return [*_answering(fleet, read, member.name), _deployment(fleet, write)]


def _gateway(fleet: PlannedFleet) -> Part:
    return Part(
        GATEWAY,
        GATEWAY,
        GATEWAY,
        GATEWAY_COMMAND,
        urls([member.name for member in fleet.members]),
        {
            "startupProbe": _probe(GATEWAY_HEALTH, period=2, failures=30),
            "readinessProbe": _probe(GATEWAY_HEALTH, period=5, failures=2),
            "livenessProbe": _probe(GATEWAY_HEALTH, period=10, failures=6),
        },
        replicas=None,
        scraped=False,
        engines=False,
    )


def _answering(fleet: PlannedFleet, part: Part, name: str) -> list[Manifest]:
    """A Deployment that is asked over HTTP by `name`, as many pods of it as there is work, and never none."""
    port = {"name": "http", "port": PORT, "targetPort": "http", "appProtocol": "http"}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": part.name}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}
    scaling = {
        "scaleTargetRef": target,
        "minReplicas": REPLICAS[0],
        "maxReplicas": REPLICAS[1],
        "metrics": [{"type": "Resource", "resource": cpu}],
    }
    disruption = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(part)}}
    return [
        _deployment(fleet, part),
        _manifest(fleet, part, "v1", "Service", name, {"selector": _selector(part), "ports": [port]}),
        _manifest(fleet, part, "autoscaling/v2", "HorizontalPodAutoscaler", part.name, scaling),
        _manifest(fleet, part, "policy/v1", "PodDisruptionBudget", part.name, disruption),
    ]


def _deployment(fleet: PlannedFleet, part: Part) -> Manifest:
    scraping = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    metadata = {"labels": _labels(fleet, part)} | ({"annotations": scraping} if part.scraped else {})
    spec = {
        **({} if part.replicas is None else {"replicas": part.replicas}),
        "selector": {"matchLabels": _selector(part)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": metadata, "spec": _pod(fleet, part)},
    }
    return _manifest(fleet, part, "apps/v1", "Deployment", part.name, spec)


def _pod(fleet: PlannedFleet, part: Part) -> Manifest:
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _selector(part)},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service called chimera-… would add variables that read as our settings
        "terminationGracePeriodSeconds": GRACE_S,
        "topologySpreadConstraints": [spread],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(fleet, part)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _container(fleet: PlannedFleet, part: Part) -> Manifest:
    environment = {"CHIMERA_HOST": "0.0.0.0", **part.environment}  # noqa: S104 - the pod's own network
    leaving = {"lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_S}}}}
    return {
        "name": part.component,
        "image": fleet.image,
        "command": part.command[:1],
        "args": part.command[1:],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        **({"envFrom": [{"secretRef": {"name": SECRET}}]} if part.engines else {}),
        "ports": [{"name": "http", "containerPort": PORT}],
        **part.probes,
        **(leaving if part.replicas is None else {}),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the container
    }


def _ingress(fleet: PlannedFleet) -> Manifest:
    backend = {"service": {"name": GATEWAY, "port": {"name": "http"}}}
    rule = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    return _manifest(fleet, _gateway(fleet), "networking.k8s.io/v1", "Ingress", fleet.name, {"rules": [rule]})


def _secret(fleet: PlannedFleet) -> Manifest:
    namespace = {"namespace": fleet.namespace} if fleet.namespace else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, **namespace},
        "type": "Opaque",
        "stringData": {
            **{name: ENGINES[need.engine].example(need.kind) for name, need in fleet.needs.items()},
            FLEET_KEYS: "KEY-OF-THE-FLEET-OF-32-CHARACTERS-OR-MORE",
            OPERATORS_KEYS: "KEY-OF-OPERATORS-OF-32-CHARACTERS-OR-MORE",
        },
    }


def _kustomization(fleet: PlannedFleet, files: list[str]) -> Manifest:
    namespace = {"namespace": fleet.namespace} if fleet.namespace else {}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **namespace,
        "resources": files,
    }


def _manifest(fleet: PlannedFleet, part: Part, version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "labels": _labels(fleet, part)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(fleet: PlannedFleet, part: Part) -> dict[str, str]:
    more = {"app.kubernetes.io/part-of": fleet.name, "app.kubernetes.io/managed-by": "chimera-deploy"}
    return {**_selector(part), **more}


def _selector(part: Part) -> dict[str, str]:
    """The labels that tell these pods from all others; a Deployment's can't change later."""
    return {"app.kubernetes.io/name": part.app, "app.kubernetes.io/component": part.component}


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    asked = {"path": path, "port": "http"}
    return {"httpGet": asked, "periodSeconds": period, "timeoutSeconds": CHECK_S, "failureThreshold": failures}
