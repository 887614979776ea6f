"""Write a job and its schedule for Kubernetes: a CronJob whose pod creates a RayJob of KubeRay and waits for it.

The RayJob is named after the Kubernetes Job, which is named after the tick, so a pod that is started again finds the
RayJob it created instead of creating a second one. It belongs to that Job, and goes when Kubernetes removes it.
"""

import io
import re
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from fmray.errors import SpecError
from fmray.records import Json
from fmray.spec.job import Job
from fmray.spec.schedule import Schedule

FOLDER = "/etc/fmray"
NAMED = "TICK"
"""Stands for the name of the RayJob until its tick is known."""
LONGEST_NAME = 35  # KubeRay allows 47, and Kubernetes adds 12 for the tick
MEMORY_PER_CPU = 4  # GiB
HEAD_CPUS = 2
IDLE_SECONDS = 60
"""What a cluster is kept for once its run has ended."""
LATE_SECONDS = 300
"""After how long a tick that met a run is left out."""
SCRIPT = rf"""sed -e "s/\(name: \){NAMED}$/\1$NAME/" -e "s/\(uid: \){NAMED}$/\1$OWNER/" \
  {FOLDER}/rayjob.yaml > /tmp/rayjob.yaml
kubectl get rayjob "$NAME" > /dev/null 2>&1 || kubectl create -f /tmp/rayjob.yaml || exit 1
while true; do
  case $(kubectl get rayjob "$NAME" -o 'jsonpath={{.status.jobDeploymentStatus}}/{{.status.jobStatus}}') in
    Complete/SUCCEEDED) exit 0 ;;
    Complete/* | Failed/* | ValidationFailed/*) exit 1 ;;
  esac
  sleep 15
done
"""


@dataclass(frozen=True)
class Place:
    """Say where a job runs on Kubernetes, in five fields.

    Args:
        name: Of the job; becomes the name of every object.
        image: With fmray and kubectl; cluster/Dockerfile makes one.
        workers: Pods beside the head.
        cpus, gpus: Of each worker.
        store: URI of the store.
    """

    name: str
    image: str
    workers: int
    cpus: int
    gpus: int
    store: str

    def __post_init__(self) -> None:
        """Refuse what Kubernetes would refuse, or what its pods could not reach.

        Raises:
            SpecError: Naming the option.
        """
        if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", self.name) or len(self.name) > LONGEST_NAME:
            raise SpecError(
                f"'{self.name}' is no name for Kubernetes. Accepted: small letters, digits and '-', "
                f"the first a letter, {LONGEST_NAME} at most.",
                "name",
            )
        if "://" not in self.store or self.store.startswith("file:"):
            raise SpecError(f"'{self.store}' lies on one machine. Give a URI, e.g. s3://bucket/prefix.", "--store")


def render(kind: str, job: Job, place: Place) -> str:
    """Give manifests as YAML.

    Args:
        kind: "raycluster": a cluster that stays, to submit to; "rayjob": one run; "kubernetes": all that runs the job
            by its schedule.

    Raises:
        SpecError: If the job reads data that only this machine has, or Kubernetes cannot do what its schedule asks.
    """
    match kind:
        case "raycluster":
            return _yaml(ray_cluster(place))
        case "rayjob":
            return _yaml(_job_files(job, place, {}), ray_job(place))
        case _:
            files = _job_files(job, place, {"rayjob.yaml": _yaml(ray_job(place, NAMED))})
            return _yaml(*_rights(place), files, cron_job(job, place))


def ray_cluster(place: Place) -> Json:
    """Give a cluster of KubeRay that stays."""
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": _named(place.name), "spec": _cluster(place)}


def ray_job(place: Place, name: str = "") -> Json:
    """Give one run: a cluster of its own, which goes with it; a run that failed is continued once in another.

    Args:
        name: Of the Kubernetes Job it belongs to, if it belongs to one.
    """
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": name}
    metadata = {**_named(place.name), "name": name, "ownerReferences": [owner]} if name else _named(place.name)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": f"fmray run {FOLDER}/job.yaml --store {place.store} --json",
            "backoffLimit": 1,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": IDLE_SECONDS,
            "rayClusterSpec": _cluster(place, _mounted(place)),
        },
    }


def cron_job(job: Job, place: Place) -> Json:
    """Give what creates a RayJob at every tick, and waits for it, so that Kubernetes knows that it goes on.

    Raises:
        SpecError: If Kubernetes cannot do what the schedule asks.
    """
    schedule = _possible(job)
    policy = {"skip": "Forbid", "queue": "Forbid", "replace": "Replace"}[schedule.overlap]
    container = {
        "name": "tick",
        "image": place.image,
        "command": ["sh", "-c", LiteralScalarString(SCRIPT)],
        "env": [_label("NAME", "job-name"), _label("OWNER", "controller-uid")],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": _mounted(place)["mounts"],
    }
    pod = {
        "serviceAccountName": place.name,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": _mounted(place)["volumes"],
    }
    # without a deadline Kubernetes lets the newest tick that met a run start once it has ended
    deadline = {} if schedule.overlap == "queue" else {"startingDeadlineSeconds": LATE_SECONDS}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _named(place.name),
        "spec": {
            "schedule": schedule.cron,
            "timeZone": "Etc/UTC" if schedule.timezone == "UTC" else schedule.timezone,
            "concurrencyPolicy": policy,
            **deadline,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": {"backoffLimit": 3, "template": {"spec": pod}}},
        },
    }


def _possible(job: Job) -> Schedule:
    schedule = job.schedule
    if schedule is None:
        raise SpecError(f"job '{job.name}' has none. Give one, e.g. schedule: {{cron: '0 3 * * 1'}}.", "schedule")
    if re.search(r"[L#]|7", schedule.cron.split()[4]) or "L" in schedule.cron.upper().split()[2]:
        text = f"'{schedule.cron}' holds L, # or weekday 7, which Kubernetes does not know. Write it without"
        raise SpecError(f"{text}; Sunday is 0.", "schedule.cron")
    if schedule.catch_up:
        text = "true is not what Kubernetes does: of ticks that were missed it runs the newest"
        raise SpecError(f"{text}. Leave it out, or use `fmray schedule run`.", "schedule.catch_up")
    if schedule.max_runs_per_month is not None:
        text = f"{schedule.max_runs_per_month}: Kubernetes counts no runs. Leave it out, or use `fmray schedule run`."
        raise SpecError(text, "schedule.max_runs_per_month")
    return schedule


def _cluster(place: Place, mounted: Json | None = None) -> Json:
    mounted = mounted or {"mounts": [], "volumes": []}
    worker = _pod("ray-worker", place.image, cpus=place.cpus, gpus=place.gpus, mounted=mounted)
    head = _pod("ray-head", place.image, cpus=HEAD_CPUS, gpus=0, mounted=mounted)
    return {
        "authOptions": {"mode": "token"},
        # the head drives and takes no tasks, so that it is never the node that runs out of memory
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": place.workers,
                "minReplicas": place.workers,
                "maxReplicas": place.workers,
                "rayStartParams": {},
                "template": worker,
            }
        ],
    }


def _pod(name: str, image: str, cpus: int, gpus: int, mounted: Json) -> Json:
    amounts: Json = {"cpu": str(cpus), "memory": f"{MEMORY_PER_CPU * cpus}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    container: Json = {"name": name, "image": image, "resources": {"requests": amounts, "limits": dict(amounts)}}
    if not mounted["mounts"]:
        return {"spec": {"containers": [container]}}
    container["volumeMounts"] = mounted["mounts"]
    return {"spec": {"containers": [container], "volumes": mounted["volumes"]}}


def _job_files(job: Job, place: Place, more: dict[str, str]) -> Json:
    """Give the resolved job as a file that pods can mount."""
    if "://" not in job.data.path and not job.data.path.startswith("sample:"):
        raise SpecError(f"'{job.data.path}' lies on this machine. Give a URI, e.g. s3://bucket/rows.", "data.path")
    asked = {key: value for key, value in job.to_json().items() if key not in ("folder", "schedule")}
    data = {name: LiteralScalarString(text) for name, text in {"job.yaml": _yaml(asked), **more}.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named(place.name), "data": data}


def _rights(place: Place) -> tuple[Json, Json, Json]:
    """Give the account of the pod that waits, which may do no more than create and see RayJobs."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(place.name)}
    rule = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": _named(place.name),
        "rules": [rule],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _named(place.name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": place.name},
        "subjects": [{"kind": "ServiceAccount", "name": place.name}],
    }
    return account, role, binding


def _label(name: str, label: str) -> Json:
    path = f"metadata.labels['batch.kubernetes.io/{label}']"
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _mounted(place: Place) -> Json:
    return {
        "mounts": [{"name": "job", "mountPath": FOLDER}],
        "volumes": [{"name": "job", "configMap": {"name": place.name}}],
    }


def _named(name: str) -> Json:
    return {"name": name, "labels": {"app": name}}


def _yaml(*documents: Any) -> str:
    yaml = YAML()
    text = io.StringIO()
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump_all(documents, text)
    return text.getvalue()
