import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tune.kill import prepared_rows, write_data
from tune.search_kill import searched

from fmray.errors import SpecError
from fmray.metrics.find import find_metric
from fmray.metrics.metric import ranked
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune import train_trials
from fmray.tune.halving import rung_epochs
from fmray.tune.proposals import ListedProposals
from fmray.tune.search import MemberTrainer

TASK = Ref("classification")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    job = write_data(folder)
    return job, prepared_rows(job, folder)


@pytest.fixture
def job(rows):
    return searched(rows[0], exact=True)


@pytest.fixture(scope="module")
def search(rows, tmp_path_factory):
    """Search in one store, so that what was done is done once for all tests; another `attempt` is done anew."""
    store = Store(str(tmp_path_factory.mktemp("searches") / "store"))

    def go(job, **options):
        prepared = rows[1]
        return MemberTrainer(
            job, TASK, lambda job: prepared, find_metric("roc_auc", prepared.target), store, **options
        ).run_search()

    go.store, go.metric, go.prepare = store, find_metric("roc_auc", rows[1].target), lambda job: rows[1]
    return go


@pytest.fixture(scope="module")
def found(rows, search):
    return search(searched(rows[0], exact=True))


def with_search(job, **search):
    return replace(job, search=replace(job.search, **search))


@pytest.mark.slow
def test_every_member_is_accounted_for_once_and_has_its_own_parameters(search, found):
    assert [member.index for member in found.members] == list(range(22))
    assert len({json.dumps(member.params, sort_keys=True) for member in found.members}) == 22
    assert {member.status for member in found.members} == {"finished", "stopped"}
    assert all(
        set(m.params) >= {"model.mlp.width", "model.mlp.dropout", "train.optimizer.adamw.lr"} for m in found.members
    )


def test_members_train_as_long_as_the_rungs_let_them(search, found):
    rungs = rung_epochs(6, 2, 1)
    assert rungs == (1, 2, 4)
    assert [len(found.rungs[epoch]) for epoch in rungs] == [22, 11, 5]
    assert sorted(member.epochs for member in found.members) == [1] * 11 + [2] * 6 + [4] * 3 + [6] * 2


def test_a_member_stopped_at_a_rung_was_not_among_the_best_there(search, found):
    for epoch, scores in found.rungs.items():
        gone_on = [scores[m.index] for m in found.members if m.index in scores and m.epochs > epoch]
        stopped = [scores[m.index] for m in found.members if m.index in scores and m.epochs == epoch]
        assert min(gone_on) >= max(stopped)
        assert all(f"at epoch {epoch}" in m.reason for m in found.members if m.epochs == epoch)


def test_a_members_rungs_are_written_in_its_record(search, found):
    best = found.best(search.metric)
    assert [(rung["epoch"], rung["survived"]) for rung in best.rungs] == [(1, True), (2, True), (4, True)]


@pytest.mark.slow
def test_without_stopping_everyone_trains_to_the_end(search, job):
    found = search(with_search(job, stop="none"))
    assert {member.epochs for member in found.members} == {6}
    assert found.rungs == {}


def test_a_finished_search_is_read_back(search, job):
    first = search(job)
    again = search(job)
    assert again.reused
    assert again.members == first.members


def test_seeds_and_finalists_are_no_part_of_what_is_searched(search, job):
    search(job)
    other = with_search(replace(job, train=replace(job.train, seeds=replace(job.train.seeds, n=3))), finalists=2)
    assert search(other).reused


@pytest.mark.slow
def test_more_members_leave_those_before_as_they_were_and_are_compared_with_them(search, job):
    first, more = search(job), search(with_search(job, more=8))
    assert more.members[:22] == first.members
    assert [member.index for member in more.members] == list(range(30))
    assert len(more.rungs[1]) == 30
    assert not {json.dumps(m.params) for m in first.members} & {json.dumps(m.params) for m in more.members[22:]}


def test_what_members_say_is_kept_and_scores_as_their_records_do(search, found, rows):
    from fmray.data.lanes import Lanes

    target = Lanes(rows[1], "val").load(["target"])["target"]
    best = ranked(found.members, search.metric.higher_is_better)[:5]
    said = found.predictions_of([member.index for member in best])
    assert said.shape == (5, len(target), 2)
    scores = [search.metric.value(values.astype(np.float64), target, None) for values in said]
    assert scores == pytest.approx([member.val_score for member in best], abs=1e-6)


def test_finalists_are_the_best_members_trained_again_with_every_seed(search, job):
    job = with_search(replace(job, train=replace(job.train, seeds=replace(job.train.seeds, n=3))), finalists=2)
    found = search(job)
    again = MemberTrainer(job, TASK, search.prepare, search.metric, search.store).train_finalists(found)
    best = ranked(found.members, search.metric.higher_is_better)[:2]
    assert [member.index for member in again.members] == list(range(22, 28))
    assert [member.params["finalist of"] for member in again.members] == [best[0].index] * 3 + [best[1].index] * 3
    assert {member.role for member in again.members} == {"finalist"}
    assert {member.epochs for member in again.members} == {6}
    assert len({member.seed for member in again.members}) == 6


def test_a_structure_that_turns_out_impossible_is_recorded_with_its_reason(search, job, monkeypatch):
    real = train_trials.choose_layout

    def refuse(plans, *rest, single_worker):
        if plans[0].model.params["width"] == 8:
            raise SpecError("width 8 is not to be had", "model.mlp.width")
        return real(plans, *rest, single_worker=single_worker)

    monkeypatch.setattr(train_trials, "choose_layout", refuse)
    found = search(job, attempt="impossible")
    failed = [member for member in found.members if member.status == "failed"]
    assert {member.params["model.mlp.width"] for member in failed} == {8}
    assert {member.reason for member in failed} == {"model.mlp.width: width 8 is not to be had"}
    assert len(found.members) == 22


def test_a_spent_budget_ends_the_search_and_leaves_no_member_out(search, job):
    job = replace(with_search(job, epochs=12), run=replace(job.run, deterministic=False))
    found = search(job)
    assert len(found.members) == 22
    assert sum(member.epochs for member in found.members) < 12 + 22
    assert any("search.epochs: " in member.reason for member in found.members)


def test_the_place_of_a_grid_search_is_chosen_by_the_members_that_the_grid_has(search, job, monkeypatch):
    value = with_search(job, by="grid").to_json()
    value["model"] = {"mlp": {"width": {"choice": [3, 5]}, "dropout": {"choice": [0.0, 0.2]}}}
    value["train"]["optimizer"] = {"adamw": {"lr": 0.01}}
    asked = []
    monkeypatch.setattr(MemberTrainer, "choose_slots", lambda self, members: asked.append(members) or 0)
    assert len(search(Job.from_json(value)).members) == 4
    assert asked == [4]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_spent_budget_leaves_members_what_they_have_learned(search, job, deterministic):
    """Members that wait at a rung when the last epoch is spent stop there, with their weights and scores."""
    found = search(replace(with_search(job, epochs=26), run=replace(job.run, deterministic=deterministic)))
    reached = {member: epoch for epoch, scores in found.rungs.items() for member in scores}
    assert len(reached) == 22
    assert all(found.members[member].epochs >= epoch for member, epoch in reached.items())
    assert all(found.members[member].val_score is not None for member in reached)
    stopped = [member.reason for member in found.members if member.reason.startswith("search.epochs: ")]
    assert stopped
    assert not any("before it began" in reason for reason in stopped)


@pytest.mark.slow
def test_structures_proposed_by_optuna_are_shared_and_counted_alike(search, job):
    found = search(with_search(job, by="optuna", structures=5))
    assert [member.index for member in found.members] == list(range(22))
    assert len({(m.params["model.mlp.width"], m.params["model.mlp.depth"]) for m in found.members}) >= 2


@pytest.mark.slow
def test_a_search_that_goes_on_with_other_workers_loses_nobody(search, rows, monkeypatch):
    """Two trials of eleven are begun for two workers, and finished in one process, which would have cut one."""
    value = searched(rows[0], exact=False).to_json()
    value["model"] = {"mlp": {"width": 4, "dropout": {"uniform": [0, 0.5]}}}
    job = Job.from_json(value)
    make_executor = MemberTrainer.make_executor

    def interrupted(self, context, rules, earlier_scores, slots, name):
        def place(proposals):
            make_executor(self, context, rules, earlier_scores, 0, name)(ListedProposals([proposals.ask()]))
            raise KeyboardInterrupt

        return place

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(MemberTrainer, "choose_slots", lambda self, members: 2)
        patched.setattr(MemberTrainer, "make_executor", interrupted)
        search(job)
    found = search(job)
    assert [member.index for member in found.members] == list(range(22))
    assert sum(found.widths) == 22


@pytest.mark.slow
@pytest.mark.parametrize("way", ["deterministic", "async"])
def test_a_search_killed_at_any_instant_ends_as_if_nobody_had(tmp_path, way, num_kills):
    """SIGKILL of the driver at ten instants, or a sample of them, some twice in a row: the same members, none twice, none lost."""
    script = Path(__file__).with_name("search_kill.py")
    kills = num_kills(10)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "kills"), str(kills), way],
        capture_output=True, text=True, timeout=900, env={**__import__("os").environ, "PYTHONPATH": str(script.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(result["same members"] and result["best"] for result in found["results"]), found["results"]
    assert sum(not kill["ended"] for result in found["results"] for kill in result["kills"]) >= 0.8 * kills
