"""Read the study back with Optuna itself."""

import os

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from fmray.errors import ClusterError
from fmray.records import Member
from fmray.track.optuna import distribution_of, trial_of, write_study

SPACE = {
    "train.optimizer.adamw.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1, "packable": True},
    "model.mlp.depth": {"kind": "int", "low": 1, "high": 4, "packable": False},
    "model.mlp.widths": {"kind": "choice", "options": [[64], [64, 64]], "packable": False},
}


def sweep(num=60):
    """Make members of random scores: a third stopped at epoch 2, every 20th failed."""
    random = np.random.default_rng(0)
    members = []
    for index in range(num):
        stopped, failed = index % 3 == 0, index % 20 == 19
        epochs = 2 if stopped else 4
        params = {"train.optimizer.adamw.lr": float(10 ** random.uniform(-4, -1)), "model.mlp.depth": int(random.integers(1, 5)),
                  "model.mlp.widths": [64] if index % 2 else [64, 64], "train.seeds": index}  # fmt: skip
        scores = random.uniform(0.5, 0.9, epochs).tolist()
        history = [
            {"epoch": e, "metric": m, "value": v} for e, v in enumerate(scores, 1) for m in ("roc_auc", "val_loss")
        ]
        members.append(Member(
            index=index, model={"name": "mlp", "params": {}}, params=params, seed=index, root="", best_epoch=1,
            status="failed" if failed else "stopped" if stopped else "finished", epochs=0 if failed else epochs,
            val_score=None if failed else max(scores), tensor_hash="", history=() if failed else tuple(history),
            reason="not finite" if failed else "", rungs=({"epoch": 2, "score": scores[1], "survived": not stopped},),
        ))  # fmt: skip
    return members


def load(path, name="adult"):
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))


@pytest.mark.parametrize("higher", [True, False])
def test_optuna_reads_every_member_as_a_trial(tmp_path, higher):
    members, path = sweep(), tmp_path / "run" / "optuna.log"
    write_study(str(path), "adult", "roc_auc", SPACE, members, higher)
    study = load(path)
    assert len(study.trials) == 60
    for member, trial in zip(members, study.trials, strict=True):
        lists = {"model.mlp.widths": str(member.params["model.mlp.widths"])}
        assert trial.params == {**{k: v for k, v in member.params.items() if k in SPACE}, **lists}
        assert trial.distributions == {name: distribution_of(SPACE[name]) for name in SPACE}
        curve = {e["epoch"]: e["value"] for e in member.history if e["metric"] == "roc_auc"}
        assert trial.intermediate_values == curve
        assert trial.user_attrs["member"] == member.index
        assert trial.user_attrs["train.seeds"] == member.params["train.seeds"]
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.FAIL), states.count(TrialState.PRUNED)) == (3, 19)
    assert states.count(TrialState.COMPLETE) == 38
    kept = [m for m in members if m.status == "finished"]
    best = (max if higher else min)(kept, key=lambda m: m.val_score)
    assert (study.best_value, study.best_trial.number) == (best.val_score, best.index)


def test_early_stopping_of_its_own_is_no_pruning():
    member = sweep()[0]
    patient = Member(**{**vars(member), "rungs": ({"epoch": 2, "score": 0.5, "survived": True},)})
    assert patient.status == "stopped"
    assert trial_of(patient, "roc_auc", SPACE).state == TrialState.COMPLETE


def test_writing_again_leaves_what_is_said_now_and_nothing_beside(tmp_path):
    path = tmp_path / "optuna.log"
    for num in (9, 4):
        write_study(str(path), "adult", "roc_auc", SPACE, sweep(num), True)
    assert os.listdir(tmp_path) == ["optuna.log"]
    assert len(load(path).trials) == 4


@pytest.mark.parametrize(
    ("kind", "low", "high", "log", "integer"),
    [("uniform", 0.0, 0.5, False, False), ("log_uniform", 1e-4, 1.0, True, False), ("int", 1, 9, False, True),
     ("log_int", 8, 512, True, True)],
)  # fmt: skip
def test_ranges_are_those_of_the_job(kind, low, high, log, integer):
    found = distribution_of({"kind": kind, "low": low, "high": high, "packable": True})
    assert (found.low, found.high, found.log) == (low, high, log)
    assert isinstance(found, optuna.distributions.IntDistribution) == integer


def test_a_value_that_rounding_put_outside_is_put_onto_the_edge_and_one_far_outside_is_refused():
    member, path = sweep()[1], "train.optimizer.adamw.lr"
    low = float(np.float32(1e-4) - np.float32(1e-11))
    trial = trial_of(Member(**{**vars(member), "params": {path: low}}), "roc_auc", SPACE)
    assert trial.params == {path: 1e-4}
    with pytest.raises(ValueError, match=r"5\.0"):
        trial_of(Member(**{**vars(member), "params": {path: 5.0}}), "roc_auc", SPACE)


def test_what_the_filesystem_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ClusterError, match=r"optuna\.log: the filesystem refused"):
        write_study(str(tmp_path / "file" / "optuna.log"), "a", "roc_auc", SPACE, [], True)
