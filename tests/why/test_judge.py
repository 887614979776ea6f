"""Judge made-up evidence, where what is wrong is known because it was put there."""

import pytest
from why.made import (
    NOW,
    cluster,
    driver,
    epoch,
    evidence,
    failed,
    failure,
    group,
    place,
    running,
    stack,
    stage,
    task,
)

from fmray.why import judge
from fmray.why.evidence import Line

OWN, OTHER = "01000000", "02000000"
CPUS = {"CPU": 2.0}
REDUCE = "/x/site-packages/torch/distributed/distributed_c10d.py:3019 in all_reduce"
LOOP = "/x/fmray/train/loop.py:130 in train_step"


def first(told):
    return judge(told)[0]


def test_a_run_that_goes_on_is_fine_and_says_when_it_ends():
    (found,) = judge(running())
    assert found.kind == "fine"
    assert "epoch 9 of 20" in found.cause
    assert "in 10 s" in found.cause  # 11 epochs of a second each, the first of them begun a second ago
    assert found.fix == "Nothing to do: wait"


def test_a_bundle_that_no_node_can_hold_is_infeasible_and_what_is_missing_is_said():
    told = cluster(CPUS, CPUS, groups=[group(OWN, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0})])
    found = first(running(cluster=told))
    assert found.kind == "infeasible resources"
    assert "2 GPU asked, no node has one" in found.cause
    assert "run.gpu: false" in found.fix


@pytest.mark.parametrize(
    ("bundles", "said"),
    [
        ([{"CPU": 3.0}], "3 CPU asked on one node, the largest has 2"),
        ([{"CPU": 1.0}] * 5, "5 CPU asked, 4 are there on 2 nodes"),
        ([{"CPU": 1.5}] * 3, "4.5 CPU asked, 4 are there on 2 nodes"),
        ([{"CPU": 1.2}] * 3, "no node has room for"),  # 3.6 of 4, but a node holds one only
    ],
)
def test_each_way_of_not_fitting_is_told_from_the_others(bundles, said):
    found = first(running(cluster=cluster(CPUS, CPUS, groups=[group(OWN, *bundles)])))
    assert (found.kind, said in found.cause) == ("infeasible resources", True), found.cause


def test_what_others_hold_is_taken_and_they_are_named_with_how_to_stop_them():
    held = group(OTHER, {"CPU": 2.0}, node="n0")
    found = first(running(cluster=cluster(CPUS, groups=[group(OWN, {"CPU": 1.0}), held])))
    assert found.kind == "resources taken"
    assert "all CPUs are taken by fmray-other-1 (2)" in found.cause
    assert "`fmray stop fmray-other-1`" in found.fix


def test_what_waits_for_another_run_is_no_matter_of_this_one():
    found = first(running(cluster=cluster(CPUS, groups=[group(OTHER, {"GPU": 1.0})])))
    assert found.kind == "fine"


def test_another_cluster_at_the_same_address_is_not_taken_for_the_runs_own():
    told = cluster(CPUS, groups=[group(OWN, {"GPU": 1.0})])
    told["jobs"][OWN]["pid"] = 8
    assert first(running(cluster=told)).kind == "fine"


def test_read_tasks_without_a_free_cpu_are_a_starved_ingest():
    own = group(OWN, {"CPU": 1.75}, node="n0")
    hog = task(OTHER, "Hog", "ALIVE", CPU=0.25)
    reads = [task(OWN, "ReadItems", "PENDING_NODE_ASSIGNMENT", CPU=0.25)] * 2
    found = first(running(cluster=cluster(CPUS, groups=[own], actors=[hog], tasks=reads)))
    assert found.kind == "starved ingest"
    assert "2 of 2 CPUs are taken" in found.cause


def test_rows_that_stay_away_are_told_by_the_note_until_an_epoch_ends():
    note = {"event": "note", "about": "ingest", "text": "no row has come", "time": NOW - 5}
    assert first(evidence("running", stage("train", 90), note)).kind == "starved ingest"
    assert first(evidence("running", stage("train", 90), note, epoch(1, 1))).kind == "fine"


@pytest.mark.parametrize(("part", "kind"), [("rows", "starved ingest"), ("checkpoints", "slow storage")])
def test_what_epochs_spend_their_time_with_is_named_with_its_share(part, kind):
    told = evidence("running", stage("train", 30), *(epoch(n, 10 - n, **{part: 0.8}) for n in range(1, 10)))
    found = first(told)
    assert (found.kind, "80%" in found.cause) == (kind, True)


def test_a_rank_that_holds_up_the_others_is_named_with_its_line():
    told = evidence(
        "running", stage("train", 100), epoch(1, 61),
        stacks=[stack(0, REDUCE, LOOP), stack(1, "/u/nets.py:19 in forward", LOOP), stack(2, REDUCE, LOOP)],
    )  # fmt: skip
    found = first(told)
    assert found.kind == "hang"
    assert found.cause == "it hangs: rank 1 stands in u/nets.py:19 in forward, and ranks 0 and 2 wait for it"


def test_the_same_stacks_are_no_hang_while_epochs_end():
    stacks = [stack(0, REDUCE, LOOP), stack(1, "/u/nets.py:19 in forward", LOOP)]
    assert first(running(stacks=stacks)).kind == "fine"


def test_long_epochs_are_no_hang_until_they_took_five_times_as_long():
    slow = [stage("train", 2000), epoch(1, 900, seconds=300)]
    assert first(evidence("running", *slow)).kind == "fine"
    assert first(evidence("running", slow[0], epoch(1, 1600, seconds=300))).kind == "hang"


def test_ranks_that_all_wait_point_to_the_network_and_one_that_is_gone_is_said():
    waits = [stack(rank, REDUCE, LOOP) for rank in (0, 1)]
    silent = (stage("train", 100), epoch(1, 61))
    assert "network" in first(evidence("running", *silent, stacks=waits)).fix
    gone = {"rank": 2, "name": "host:2", "error": "this process is gone"}
    assert (
        "rank 2 is gone, and ranks 0 and 1 wait for it"
        in first(evidence("running", *silent, stacks=[*waits, gone])).cause
    )


def test_a_node_that_is_waited_for_is_named_with_why_it_died():
    note = {"event": "note", "about": "node", "text": "training waits for a node: 2 of 3 workers fit", "time": NOW - 3}
    told = cluster(CPUS, CPUS)
    told["nodes"][1] |= {"alive": False, "why": "missed too many heartbeats", "time": NOW - 9}
    found = first(evidence("running", stage("train", 60), epoch(3, 20), note, cluster=told))
    assert found.kind == "dead node"
    assert any("missed too many heartbeats" in text for _, text in found.evidence)


def test_what_no_longer_fits_since_a_node_died_is_a_matter_of_that_node():
    told = cluster(CPUS, CPUS, groups=[group(OWN, {"CPU": 1.5}, {"CPU": 1.5})])
    told["nodes"][1] |= {"alive": False, "why": "terminated", "time": NOW - 9}
    found = first(running(cluster=told))
    assert found.kind == "dead node"
    assert "node 10.0.0.1 (n1) died, and without it 3 CPU asked, 2 are there on 1 nodes" in found.cause
    told["nodes"][1]["time"] = NOW - 5000  # before the run began
    assert first(running(cluster=told)).kind == "infeasible resources"


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"disk": {"value": {"path": "/s", "free": 0, "total": 8e9}}}, "full disk", "is full"),
        ({"disk": {"value": {"path": "/s", "free": 5e8, "total": 8e9}}}, "full disk", "nearly full: 500 MB of 8 GB"),
        ({"storage": {"error": "no answer within 15 s"}}, "storage", "no answer within 15 s"),
        ({"storage": {"value": 9.0}}, "slow storage", "9.0 s"),
    ],
)
def test_a_store_that_is_full_silent_or_slow_is_named(given, kind, said):
    found = first(running(**given))
    assert (found.kind, said in found.cause) == (kind, True), found.cause


def test_versions_that_differ_between_workers_are_named_with_their_hosts():
    workers = {"event": "workers", "places": [place(0), place(1, fmray="ffff")], "time": NOW - 40}
    found = next(
        one for one in judge(evidence("running", workers, stage("train", 9), epoch(1, 1))) if one.kind == "versions"
    )
    assert "ffff on host1" in found.cause


OOM = "rank 1: 1 worker(s) were killed due to the node running low on memory. Memory was 2.1GB used / 2.3GB limit"
HEDGE = (
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process "
    "was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) it crashed."
)
LAST = "the workers failed more than 3 times, the last time with: {}. What they finished is kept; run the job again."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (LAST.format(OOM), "memory"),
        (LAST.format(HEDGE), "killed worker"),  # that Ray guesses at memory is no evidence of it
        (LAST.format("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GB"), "device memory"),
        (LAST.format("ValueError: shapes do not match: 3 and 4"), "bug"),
        (LAST.format("AttributeError: Can't get attribute 'Rows' on <module 'fmray.train.ingest'>"), "versions"),
        (LAST.format("FileNotFoundError: [Errno 2] No such file or directory: '/store/prepared/x'"), "data"),
        (LAST.format("OSError: [Errno 28] No space left on device"), "full disk"),
        (LAST.format("OSError: [Errno 5] Input/output error: '/store/x'"), "storage"),
        (LAST.format("ray.exceptions.NodeDiedError: the node died"), "dead node"),
        ("run.gpu: 2 workers want a GPU each, the cluster has 0. Set run.gpu: false.", "infeasible resources"),
        ("/s/runs/a/b is held by far:9 (fmray), last sign of life 4 s ago. Wait until it ends, or stop it.", "lease"),
        ("it refuses the token. Put the cluster's into RAY_AUTH_TOKEN or ~/.ray/auth_token.", "token"),
    ],
)
def test_the_words_of_an_error_tell_its_kind(text, kind):
    assert first(evidence("failed", stage("train", 9), failed(text))).kind == kind


def test_a_mistake_in_the_job_is_said_as_it_was_raised_with_its_own_remedy():
    text = "job.yaml:3 data.target: column 'tarket' is not in any of 4 files. Did you mean 'target'?"
    found = first(evidence("failed", failed(text, "DataError")))
    assert found.kind == "user error"
    assert found.cause.startswith("job.yaml:3 data.target: column 'tarket'")
    assert found.fix.startswith("Did you mean 'target'?")


def test_a_bug_is_named_with_the_users_line_not_the_librarys():
    frames = (
        "/x/fmray/train/loop.py:9 in fit",
        "/u/nets.py:11 in forward",
        "/x/site-packages/torch/nn/m.py:1 in _call",
    )
    found = first(evidence("failed", failed("ValueError: shapes", "ValueError", frames)))
    assert (found.kind, "u/nets.py:11 in forward" in found.cause) == ("bug", True)


def test_the_traceback_that_a_worker_left_names_the_line():
    text = 'Traceback:\n  File "/x/fmray/train/loop.py", line 9, in fit\n  File "/u/nets.py", line 4, in forward\nValueError: 3\n'
    told = failure("user", "ValueError: 3", "stopped", "stacks/error-0-1.txt")
    found = first(
        evidence(
            "failed", told, failed("ValueError: 3. It would again", "TrainError"), traces={"stacks/error-0-1.txt": text}
        )
    )
    assert (found.kind, "u/nets.py:4 in forward" in found.cause) == ("bug", True)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("memory", "memory"),
        ("device memory", "device memory"),
        ("node", "dead node"),
        ("hang", "hang"),
        ("storage", "storage"),
    ],
)
def test_the_class_of_the_failure_that_ended_a_run_counts(kind, found):
    told = evidence("failed", failure(kind, "words that say nothing", "stopped"), failed(LAST.format("nothing")))
    assert first(told).kind == found


def test_a_hang_that_ended_a_run_is_told_from_the_stacks_it_left():
    told = evidence(
        "failed", failure("hang", "no step was made for 300 s", "stopped", "stacks/7"), failed(LAST.format("hang")),
        stacks=[stack(0, REDUCE, LOOP), stack(1, "/u/nets.py:19 in forward", LOOP)],
    )  # fmt: skip
    assert first(told).cause.startswith("it hung: rank 1 stands in u/nets.py:19 in forward, and rank 0 waits for it")


def test_failures_that_were_got_over_do_not_hide_that_a_run_is_fine():
    told = evidence("running", failure("node", "node ab was lost", "restarted"), stage("train", 9), epoch(2, 1))
    assert [found.kind for found in judge(told)] == ["fine", "got over"]


def test_a_kill_for_memory_that_the_cluster_saw_is_told_by_the_process_id():
    workers = {"event": "workers", "places": [place(0, 70, "n0"), place(1, 71, "n0")], "time": NOW - 40}
    deaths = [
        {"kind": "NODE_OUT_OF_MEMORY", "text": "low on memory", "node": "n0", "pid": pid, "time": NOW - 9}
        for pid in (71, 99)
    ]
    told = evidence("failed", workers, failed(LAST.format("a guess")), cluster=cluster(CPUS, deaths=deaths))
    assert first(told).kind == "memory"
    strange = cluster(CPUS, deaths=deaths[1:])
    assert first(evidence("failed", workers, failed(LAST.format("a guess")), cluster=strange)).kind != "memory"


@pytest.mark.parametrize(
    ("holder", "kind", "said"),
    [
        ({"released": True}, "stopped", "Ctrl-C"),
        ({"gone": True}, "killed", "gone without a word"),
        ({"age": 4000.0}, "dead node", "no sign of life for 67 min"),
    ],
)
def test_an_interrupted_run_says_what_became_of_its_process(holder, kind, said):
    base = {"name": "host:7", "age": 50.0, "released": False, "gone": False, "here": True}
    found = first(evidence("interrupted", stage("train", 90), epoch(4, 60), holder={**base, **holder}))
    assert (found.kind, said in found.cause) == (kind, True)
    assert "Run the same command again" in found.fix
    assert "epoch 4" in found.fix


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("PENDING", "Job has not started yet.", "not begun"),
        ("RUNNING", "", "fine"),
        ("STOPPED", "", "stopped"),
        ("FAILED", "runtime_env setup failed: No module named 'fmray'", "versions"),
    ],
)
def test_a_submission_without_a_run_is_told_by_what_the_cluster_says(status, message, kind):
    attempt = {"submission_id": "fmray-abc-1", "status": status, "message": message, "started": NOW - 30, "seconds": 30}
    assert first(evidence("unknown", root="", run={}, attempt=attempt)).kind == kind


@pytest.mark.parametrize(("status", "said"), [("RUNNING", "it runs"), ("SUCCEEDED", "it has finished")])
def test_a_store_that_is_not_seen_from_here_is_said(status, said):
    told = {"submission_id": "fmray-abc-1", "status": status, "message": "", "started": NOW - 900, "seconds": 900}
    found = first(evidence("unknown", root="", run={}, attempt={**told, "store": "/far/store"}))
    assert found.cause == f"{said}, and its store /far/store is not seen from here"
    waiting = cluster(CPUS, groups=[group(OWN, {"GPU": 1.0})])
    found = first(evidence("unknown", root="", run={}, attempt={**told, "store": "/far"}, cluster=waiting))
    assert found.kind == "infeasible resources"


def test_a_hang_that_the_run_itself_found_is_told_until_it_gets_on():
    told = failure("hang", "no step was made for 60 s; this process waits on", "waited", "stacks/7")
    stacks = [stack(0, "/u/nets.py:19 in forward", LOOP)]
    found = first(evidence("running", stage("train", 90), told, stacks=stacks))
    assert (found.kind, "u/nets.py:19 in forward" in found.cause) == ("hang", True)
    assert first(evidence("running", stage("train", 90), told, epoch(1, 1), stacks=stacks)).kind == "fine"


def test_a_record_that_another_process_makes_is_waited_for():
    text = "2026-01-01 10:00:00,000 INFO waiting for /store/prepared/ab, held by far:9 (fmray)"
    found = first(evidence("running", stage("prepare", 90), log=[Line("driver.log:3", text)]))
    assert found.kind == "lease"
    assert found.cause == "it waits for another process: /store/prepared/ab, held by far:9 (fmray)"


def test_words_of_the_users_exception_do_not_speak_of_the_cluster():
    text = "ValueError: the workers hung, the node died, and 127.0.0.1 does not answer"
    assert first(evidence("failed", failed(text, "ValueError", ("/u/nets.py:1 in f",)))).kind == "bug"
    assert first(evidence("failed", failure("user", text, "stopped"), failed(text, "TrainError"))).kind == "user error"


def test_a_bug_that_ended_a_run_stands_before_a_kill_that_it_got_over():
    workers = {"event": "workers", "places": [place(0, 70, "n0")], "time": NOW - 40}
    kill = {"kind": "NODE_OUT_OF_MEMORY", "text": "low on memory", "node": "n0", "pid": 70, "time": NOW - 30}
    told = (workers, failure("memory", "low on memory", "restarted"), failure("user", "ValueError: 3", "stopped"))
    found = judge(
        evidence("failed", *told, failed("ValueError: 3. Mend", "TrainError"), cluster=cluster(CPUS, deaths=[kill]))
    )
    assert [one.kind for one in found] == ["user error", "memory"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [("it refuses the token. Put it", "token"), ("it does not answer (ConnectionError). Give the URL", "address")],
)
def test_a_cluster_that_refuses_is_told_from_one_that_is_gone(error, kind):
    told = evidence("unknown", root="", run={}, cluster={"address": "http://head:8265", "error": error})
    assert first(told).kind == kind
    beside = running(cluster={"address": "http://head:8265", "error": error})
    assert [found.kind for found in judge(beside)] == ["fine", kind]


def test_gates_that_failed_are_the_cause_and_the_others_are_not():
    gates = [
        {"gate": "G14", "name": "calibration", "status": "fail", "text": "off by 0.2"},
        {"gate": "G15", "name": "other", "status": "pass", "text": "fine"},
    ]
    run = {
        "run_id": "abc",
        "job": "test",
        "failed_gates": ["G14"],
        "time": NOW,
        "primary": {"metric": "auc", "value": 0.9},
    }
    found = first(evidence("finished", run=run, gates=gates))
    assert (found.kind, "off by 0.2" in found.cause) == ("gate", True)
    assert "waive it under rigour" in found.fix
    assert "waive" not in first(evidence("finished", run={**run, "failed_gates": ["G31"]}, gates=gates)).fix
    assert first(evidence("finished", run={**run, "failed_gates": []})).kind == "finished"


def test_a_gate_that_stopped_a_run_before_training_is_the_cause():
    text = "rigour: G03 content duplicate: 60 of 300 test rows have the inputs of a training row. Mend the data."
    found = first(evidence("failed", failed(text, "GateError")))
    assert (found.kind, "60 of 300" in found.cause) == ("gate", True)


def test_only_the_process_that_carried_the_run_last_counts():
    told = evidence("running", failure("memory", "low on memory", "stopped"), driver(), stage("train", 9), epoch(1, 1))
    assert [found.kind for found in judge(told)] == ["fine"]


def test_a_secret_reaches_no_finding():
    found = first(evidence("failed", failed("s3://user:hush@bucket/data: no. Mend it.", "DataError")))
    assert "hush" not in str(found.to_json())


def test_every_finding_ends_in_a_fix_and_begins_in_lower_case_words():
    told = [running(), evidence("interrupted"), evidence("failed", failed("x")), evidence("unknown", root="", run={})]
    for found in [one for each in told for one in judge(each)]:
        assert found.fix
        assert found.cause
        assert not found.fix.endswith(".")
