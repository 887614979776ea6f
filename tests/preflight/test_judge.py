"""Judge made-up facts, where what is wrong is known because it was put there."""

import json
from typing import Any

import pytest

from fmray.preflight import Needs, Obstacle, judge
from fmray.spec.sections import RunOptions

NODES = ("a", "b", "c")
SOURCE = "0123456789abcdef"


def needs(**changes: Any) -> Needs:
    given = {"run": RunOptions(), "searched": False, "store": "/mnt/store", "data": "/mnt/data", "seen": (2, 20)}
    return Needs(**{**given, "source": SOURCE, "free_bytes": 100, **changes})


def facts() -> dict[str, Any]:
    """Give what three sound nodes say."""
    versions = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "fmray": SOURCE, "missing": [], "meet": "h:1"}
    data = {"files": 2, "bytes": 20, "last": "b.parquet", "tail": b"PAR1".hex()}
    cpus = {"CPU": 4.0}
    answers = {
        "versions": versions, "disks": {"path": "/mnt", "free": 100}, "write": [], "read": [], "data": data,
        "load": None, "meet": 3.0,
    }  # fmt: skip
    nodes = [{"id": n, "name": f"host-{n}", "head": n == "a", "resources": cpus, "available": cpus} for n in NODES]
    told = {
        "nodes": nodes,
        "holders": [],
        "answers": {look: {n: {"value": v} for n in NODES} for look, v in answers.items()},
    }
    return json.loads(json.dumps(told))


def only(told: tuple[Obstacle, ...]) -> Obstacle:
    (failure,) = told
    return failure


def test_sound_nodes_have_no_failure():
    assert judge(facts(), needs()) == ()


@pytest.mark.parametrize("package", ["python", "ray", "torch", "fmray"])
def test_a_version_that_differs_is_named_with_its_node(package):
    told = facts()
    told["answers"]["versions"]["b"]["value"][package] = "9.9"
    failure = only(judge(told, needs()))
    assert failure.probe == "versions"
    assert f"{package} differs" in failure.found
    assert failure.found.endswith("9.9 on host-b")
    assert ("--with-fmray" in failure.fix) == (package == "fmray")


def test_fmray_that_is_missing_or_another_than_here_is_sent_along():
    told = facts()
    assert only(judge(told, needs(source="other"))).fix == "Install the same on both, or submit with --with-fmray"
    told["answers"]["versions"]["c"]["value"]["fmray"] = "missing"
    failure = only(judge(told, needs()))
    assert (failure.node, failure.found) == ("host-c", "fmray is not installed")
    assert judge(told, needs(source="")) == ()


def test_a_module_that_is_not_sent_along_has_to_be_everywhere():
    told = facts()
    told["answers"]["versions"]["b"]["value"]["missing"] = ["my_nets"]
    failure = only(judge(told, needs()))
    assert failure.node == "host-b"
    assert "'my_nets'" in failure.found


def test_a_gpu_that_no_node_has_is_infeasible():
    failure = only(judge(facts(), needs(run=RunOptions(workers=2, gpu=True))))
    assert failure.probe == "gpu"
    assert failure.found == "2 workers want a GPU each, the cluster has 0"
    assert failure.fix == "Set run.gpu: false"
    assert not failure.is_bad_input


def test_workers_beyond_all_cores_are_infeasible_and_the_number_that_fits_is_said():
    failure = only(judge(facts(), needs(run=RunOptions(workers=100))))
    assert failure.probe == "workers"
    assert "Set run.workers: 47" in failure.fix  # 12 cores less a quarter for reading, in quarters


@pytest.mark.parametrize(("free", "fits"), [(4.0, True), (2.0, False), (0.0, False)])
def test_cores_taken_by_other_work_are_told_from_cores_that_are_not_there(free, fits):
    told = facts()
    for node in told["nodes"]:
        node["available"] = {"CPU": free}
    failures = judge(told, needs(run=RunOptions(workers=3)))
    assert [failure.probe for failure in failures] == ([] if fits else ["cpus"])
    if not fits:
        assert failures[0].found.startswith(f"{12 - 3 * free:g} of 12 CPUs are taken by other work")


def test_who_holds_cores_is_named_and_the_run_may_wait_for_them():
    told = facts()
    for node in told["nodes"]:
        node["available"] = {"CPU": 4.0 if node["head"] else 0.0}
    told["holders"] = [{"who": "fmray-1f0c-2", "CPU": 7.0, "GPU": 0}, {"who": "`python x.py --token=hush`", "CPU": 1}]
    failure = only(judge(told, needs(run=RunOptions(workers=3))))
    assert failure.passes
    assert "(7 CPU by fmray-1f0c-2; 1 CPU by `python x.py" in failure.found
    assert "hush" not in failure.found
    assert failure.fix.endswith("or set run.workers: 1")


def test_what_never_passes_is_no_matter_of_waiting():
    assert not only(judge(facts(), needs(run=RunOptions(workers=100)))).passes


def test_a_run_in_the_driver_and_a_search_do_not_wait_for_all_cores():
    told = facts()
    told["nodes"][0]["available"] = {}
    assert judge(told, needs(run=RunOptions(workers=0))) == ()
    assert judge(told, needs(searched=True)) == ()
    for node in told["nodes"]:
        node["available"] = {}
    assert [failure.probe for failure in judge(told, needs(searched=True))] == ["cpus"]


def test_gpus_taken_by_other_work_are_counted():
    told = facts()
    for node in told["nodes"]:
        node["resources"] = {"CPU": 4.0, "GPU": 1.0}
        node["available"] = {"CPU": 4.0}
    failure = only(judge(told, needs()))
    assert (failure.probe, "and 3 of 3 GPUs are taken" in failure.found) == ("cpus", True)


def test_a_store_on_the_disk_of_each_node_is_refused_as_bad_input():
    told = facts()
    told["answers"]["read"]["b"]["value"] = ["a", "c"]
    failure = only(judge(told, needs()))
    assert (failure.probe, failure.node, failure.is_bad_input) == ("storage", "host-b", True)
    assert failure.found == "it does not see what host-a, host-c wrote to the store"


def test_a_store_that_one_node_cannot_write_is_said_once():
    told = facts()
    told["answers"]["write"]["c"] = {"error": "PermissionError: no"}
    for node in NODES:
        told["answers"]["read"][node]["value"] = ["c"]
    failure = only(judge(told, needs()))
    assert (failure.node, "PermissionError" in failure.found) == ("host-c", True)


def test_a_disk_with_a_byte_too_few_is_full():
    told = facts()
    told["answers"]["disks"]["a"]["value"]["free"] = 99
    failure = only(judge(told, needs()))
    assert (failure.probe, failure.node) == ("disk", "host-a")
    assert "99 bytes are free at /mnt, the run needs 100" in failure.found


def test_data_that_one_node_lacks_or_sees_otherwise_are_named():
    told = facts()
    told["answers"]["data"]["b"] = {"error": "FileNotFoundError: no Parquet file lies at /mnt/data"}
    assert only(judge(told, needs())).node == "host-b"
    told["answers"]["data"]["b"] = {"value": {**told["answers"]["data"]["a"]["value"], "files": 1}}
    assert "1 files with 20 bytes on host-b" in only(judge(told, needs())).found
    told["answers"]["data"]["b"] = {"value": {**told["answers"]["data"]["a"]["value"], "tail": "00"}}
    assert "no whole Parquet file" in only(judge(told, needs())).found


def test_data_that_differ_from_those_seen_here_are_named():
    assert "this machine sees 3 files with 20 bytes" in only(judge(facts(), needs(seen=(3, 20)))).found
    assert judge(facts(), needs(seen=None)) == ()


def test_nodes_that_do_not_meet_are_named_with_what_they_said():
    told = facts()
    told["answers"]["meet"]["b"] = {"error": "no answer within 19 s"}
    failure = only(judge(told, needs()))
    assert (failure.probe, failure.node) == ("collective", "host-b")
    told["answers"]["load"]["c"] = {"error": "ImportError: libcudart.so.13"}
    del told["answers"]["meet"]["c"]
    told["answers"]["meet"]["a"] = told["answers"]["meet"]["b"] = {"value": 2.0}
    assert "torch cannot be imported" in only(judge(told, needs())).found


def test_a_node_that_gives_no_answer_is_the_only_failure_it_causes():
    told = facts()
    for look, answers in told["answers"].items():
        answers.pop("b")
        if look == "versions":
            answers["b"] = {"error": "no answer within 8 s"}
    for node in ("a", "c"):
        told["answers"]["meet"][node]["value"] = 2.0
    failure = only(judge(told, needs()))
    assert (failure.probe, failure.node) == ("node", "host-b")


def test_a_secret_in_an_address_is_not_repeated():
    told = facts()
    told["answers"]["data"]["b"] = {"error": "OSError: no"}
    failure = only(judge(told, needs(data="s3://user:hush@bucket/data")))
    assert "hush" not in str(failure.to_json())
