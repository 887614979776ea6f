import json
import subprocess
from dataclasses import replace
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from schedule.world import JOB

from fmray.errors import SpecError
from fmray.schedule.kubernetes import LATE_SECONDS, Place, render
from fmray.spec.load import job_from, load_job

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = next((folder / "shared/schemas" for folder in ROOT.parents if (folder / "shared/schemas").is_dir()), None)
PLACE = Place("nightly", "fmray:0.1.0", 2, 4, 0, "s3://bucket/fmray-store")
KINDS = ("kubernetes", "rayjob", "raycluster")


def job(**schedule):
    return job_from({**JOB, "schedule": {"cron": "30 2 * * 1", **schedule}})


def objects(text):
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifests_of_the_repository_are_what_is_rendered(kind):
    assert (CLUSTER / f"{kind}.yaml").read_text() == render(kind, load_job(CLUSTER / "nightly.yaml"), PLACE)


def test_kubernetes_accepts_its_own_kinds():
    found = objects(render("kubernetes", job(overlap="replace"), replace(PLACE, gpus=1)))
    assert set(found) == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "CronJob"}
    for one in found.values():
        kubernetes_validate.validate(one, "1.33", strict=True)
    found["CronJob"]["spec"]["overlap"] = "skip"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found["CronJob"], "1.33", strict=True)


def closed(schema):
    """Refuse keys that a schema does not name, where it names any, as the operator's API server does with `strict`."""
    if isinstance(schema, dict):
        inner = {key: closed(value) for key, value in schema.items()}
        free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        return inner if "properties" not in schema or free else {**inner, "additionalProperties": False}
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
def test_kuberay_accepts_its_kinds(kind):
    if SCHEMAS is None:
        pytest.skip("the schemas of KubeRay are not here")
    schema = closed(json.loads((SCHEMAS / f"{kind}.v1.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    judge = jsonschema.Draft202012Validator(schema)
    place = replace(PLACE, gpus=2)
    inside = objects(render("kubernetes", job(), place))["ConfigMap"]["data"]["rayjob.yaml"]
    for text in (render(kind, job(), place), render(kind, job(), PLACE), *([inside] if kind == "rayjob" else [])):
        one = next(document for document in yaml.safe_load_all(text) if document["kind"].lower() == kind)
        judge.validate(one)
        one["spec"]["rayclusterSpec"] = {}
        assert not judge.is_valid(one)


def test_a_worker_gets_what_the_fields_say():
    cluster = objects(render("raycluster", job(), replace(PLACE, workers=3, cpus=8, gpus=2)))["RayCluster"]["spec"]
    workers = cluster["workerGroupSpecs"][0]
    assert {workers[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_job_that_pods_read_is_the_job_that_was_given(tmp_path):
    given = job_from({**JOB, "model": {"mlp": {"dropout": {"uniform": [0, 0.5]}}}, "schedule": {"cron": "0 3 * * *"}})
    (tmp_path / "job.yaml").write_text(objects(render("kubernetes", given, PLACE))["ConfigMap"]["data"]["job.yaml"])
    left_out = {"folder", "schedule"}
    read, was = load_job(tmp_path / "job.yaml").to_json(), given.to_json()
    assert {key: read[key] for key in read.keys() - left_out} == {key: was[key] for key in was.keys() - left_out}


@pytest.mark.parametrize(
    ("overlap", "policy", "deadline"),
    [("skip", "Forbid", LATE_SECONDS), ("queue", "Forbid", None), ("replace", "Replace", LATE_SECONDS)],
)
def test_overlap_becomes_a_policy(overlap, policy, deadline):
    spec = objects(render("kubernetes", job(overlap=overlap, timezone="Europe/Berlin"), PLACE))["CronJob"]["spec"]
    assert (spec["concurrencyPolicy"], spec.get("startingDeadlineSeconds")) == (policy, deadline)
    assert (spec["schedule"], spec["timeZone"]) == ("30 2 * * 1", "Europe/Berlin")


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"catch_up": True}, r"schedule\.catch_up: true is not what Kubernetes does"),
        ({"max_runs_per_month": 4}, r"schedule\.max_runs_per_month: 4: Kubernetes counts no runs"),
        ({"cron": "0 3 * * 7"}, r"schedule\.cron: '0 3 \* \* 7' holds L, # or weekday 7"),
        ({"cron": "0 3 * * 5L"}, "holds L, # or weekday 7"),
        ({"cron": "0 3 L * *"}, "holds L, # or weekday 7"),
        ({"cron": "0 3 * * 1#2"}, "holds L, # or weekday 7"),
    ],
)
def test_what_kubernetes_cannot_do_is_refused(schedule, message):
    with pytest.raises(SpecError, match=message):
        render("kubernetes", job(**schedule), PLACE)


def test_a_job_without_a_schedule_or_with_rows_of_this_machine_is_refused():
    with pytest.raises(SpecError, match="schedule: job 'job' has none"):
        render("kubernetes", job_from(JOB), PLACE)
    with pytest.raises(SpecError, match=r"data\.path: '/rows' lies on this machine"):
        render("kubernetes", job_from({**JOB, "data": {"path": "/rows", "target": "y"}}), PLACE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "My_Job"), ("name", "a" * 36), ("name", "-a"), ("store", "/store"), ("store", "file:///store")],
)
def test_fields_that_kubernetes_would_refuse_are_named(field, value):
    with pytest.raises(SpecError, match=value):
        replace(PLACE, **{field: value})


KUBECTL = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$1 $2" in
  "get rayjob")
    [ -e {folder}/created ] || exit 1
    [ $# -eq 3 ] || printf "{state}" ;;
  "create -f") cp "$3" {folder}/created ;;
esac
"""


@pytest.mark.parametrize(
    ("state", "code"), [("Complete/SUCCEEDED", 0), ("Complete/FAILED", 1), ("Failed/", 1), ("ValidationFailed/", 1)]
)
def test_the_pod_creates_one_run_per_tick_and_ends_as_it_ends(tmp_path, state, code):
    cron = objects(render("kubernetes", job(), PLACE))
    (tmp_path / "rayjob.yaml").write_text(cron["ConfigMap"]["data"]["rayjob.yaml"])
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(folder=tmp_path, state=state))
    kubectl.chmod(0o755)
    container = cron["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    script = container["command"][2].replace("/etc/fmray", str(tmp_path)).replace("/tmp/rayjob", f"{tmp_path}/made")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NAME": "nightly-29384720", "OWNER": "0b5c-11"}
    for _ in range(2):  # the second pod finds what the first created
        assert subprocess.run(["sh", "-c", script], env=environment, check=False).returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum(call.startswith("create") for call in calls) == 1
    made = yaml.safe_load((tmp_path / "created").read_text())["metadata"]
    assert made["name"] == "nightly-29384720"
    assert made["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-29384720", "uid": "0b5c-11"}
    ]


@pytest.mark.parametrize("name", ["local", "aws"])
def test_ray_up_accepts_its_clusters(name):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "workers": 2}, schema)


def test_the_image_holds_what_the_project_installs():
    copied = [
        line.split()[2:-1]
        for line in (CLUSTER / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY --chown")
    ]
    names = {name for line in copied for name in line}
    assert all((ROOT / name).exists() for name in names)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == names
