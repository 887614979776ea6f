"""Check boosted trees against LightGBM itself, scikit-learn, and the training that nobody interrupted."""

import lightgbm
import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_squared_error

from fmray.errors import DataError, SpecError
from fmray.models.boosting import LightGBM
from fmray.models.estimator import Table
from fmray.spec.components.models import Lightgbm

PLAIN = {"feature_fraction": 1.0, "bagging_fraction": 1.0}
OBJECTIVES = {
    "binary": {"loss": "cross_entropy", "classes": 2},
    "classes": {"loss": "cross_entropy", "classes": 3},
    "number": {"loss": "mse"},
    "huber": {"loss": "huber", "delta": 0.7},
}
ROUNDS = 9


def table(kind="binary", num_rows=600, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((num_rows, 6)).astype(np.float32)
    signal = x[:, 0] * 2 - x[:, 1] + x[:, 2] * x[:, 3] + random.standard_normal(num_rows)
    target = {"binary": signal > 0, "classes": np.digitize(signal, [-1, 1])}.get(kind, signal.astype(np.float32))
    target = target.astype(np.int64) if kind in ("binary", "classes") else target
    return Table(x, target, random.integers(1, 4, num_rows).astype(np.float32))


def made(kind="binary", seed=5, **params):
    return LightGBM(Lightgbm(num_leaves=7, learning_rate=0.2, **params), OBJECTIVES[kind], seed)


def grown(rows, kind="binary", rounds=ROUNDS, **params):
    estimator = made(kind, **params)
    estimator.start(rows, 1, {})
    for number in range(rounds):
        estimator.grow(number)
    return estimator


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_without_draws_the_trees_are_those_of_lightgbm_itself(kind):
    rows = table(kind)
    objective = {"binary": "binary", "classes": "multiclass", "number": "regression", "huber": "huber"}[kind]
    params = {"objective": objective, "num_leaves": 7, "learning_rate": 0.2, "num_threads": 1, "verbosity": -1}
    params |= {"deterministic": True, "force_row_wise": True, "seed": 5} | PLAIN
    params |= {"classes": {"num_class": 3}, "huber": {"alpha": 0.7}}.get(kind, {})
    reference = lightgbm.train(params, lightgbm.Dataset(rows.x, rows.target, weight=rows.weight), ROUNDS)
    found = grown(rows, kind, **PLAIN).outputs(rows.x)
    expected = reference.predict(rows.x, raw_score=True)
    if kind == "binary":
        assert not found[:, 0].any()
        found = found[:, 1]
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
@pytest.mark.parametrize(
    "params",
    [
        PLAIN,
        {"feature_fraction": 0.5, "bagging_fraction": 1.0},
        {"feature_fraction": 1.0, "bagging_fraction": 0.6},
        {"feature_fraction": 0.5, "bagging_fraction": 0.6},
        {**PLAIN, "extra_trees": True},
    ],
    ids=["nothing", "columns", "rows", "both", "thresholds"],
)
def test_what_was_saved_after_any_round_grows_on_to_the_same_bits(kind, params):
    rows = table(kind)
    whole = grown(rows, kind, **params)
    for after in range(1, ROUNDS):
        resumed = made(kind, **params)
        resumed.load(whole.save(after), rows.x.shape[1])
        resumed.start(rows, 1, {})
        for number in range(after, ROUNDS):
            resumed.grow(number)
        assert resumed.save() == whole.save()
        assert resumed.train_loss() == whole.train_loss()


def test_each_round_draws_anew_and_seeds_differ():
    rows = table()
    drawn = {"feature_fraction": 0.5, "bagging_fraction": 0.5}
    trees = grown(rows, **drawn)
    first = [tree["tree_structure"]["split_feature"] for tree in trees._fitted.dump_model()["tree_info"]]
    assert len(set(first)) > 1
    assert grown(rows, **drawn).save() == trees.save()
    assert grown(rows, seed=6, **drawn).save() != trees.save()


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
def test_the_training_loss_is_that_of_the_outputs(kind):
    rows = table(kind)
    estimator = grown(rows, kind)
    outputs = estimator.outputs(rows.x)
    if kind == "number":
        expected = mean_squared_error(rows.target, outputs[:, 0], sample_weight=rows.weight)
    else:
        share = np.exp(outputs - outputs.max(1, keepdims=True))
        expected = log_loss(rows.target, share / share.sum(1, keepdims=True), sample_weight=rows.weight)
    assert estimator.train_loss() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_a_saved_model_predicts_the_same_and_names_no_machine(kind):
    rows = table(kind)
    estimator = grown(rows, kind)
    read = made(kind)
    read.load(estimator.save(), rows.x.shape[1])
    assert np.array_equal(read.outputs(rows.x), estimator.outputs(rows.x))
    assert read.save() == estimator.save()
    assert b"machines" not in estimator.save()
    assert read.rounds == ROUNDS


def test_the_first_rounds_alone_are_the_model_that_had_no_more():
    rows = table()
    estimator = grown(rows)
    short = grown(rows, rounds=5)
    assert estimator.save(5) == short.save()
    assert np.array_equal(estimator.outputs(rows.x, 5), short.outputs(rows.x))


def test_a_target_without_signal_gives_one_leaf_and_still_predicts():
    rows = Table(np.zeros((50, 6), np.float32), np.arange(50) % 2, None)
    estimator = grown(rows)
    read = made()
    read.load(estimator.save(), 6)
    assert np.ptp(read.outputs(rows.x)[:, 1]) == 0


DAMAGE = {
    "an input that is none": (b"split_feature=", b"split_feature=7"),
    "a child that is its own parent": (b"left_child=", b"left_child=0 "),
    "a tree that is left out": (b"Tree=3", b"Tree=9"),
    "leaves that are missing": (b"leaf_value=", b"leaf_value=nan "),
    "nodes of another kind": (b"num_cat=0", b"num_cat=1"),
    "other sizes": (b"tree_sizes=", b"tree_sizes=9"),
    "parameters": (b"end of trees\n", b"end of trees\nparameters:\n"),
    "no end": (b"end of trees", b"end"),
    "another number of inputs": (b"max_feature_idx=5", b"max_feature_idx=4"),
    "more leaves": (b"num_leaves=7", b"num_leaves=8"),
    "text of another kind": (b"tree\n", b"rule\n"),
    "bytes": (b"tree", b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_text_is_refused_before_lightgbm_reads_it(damage):
    rows = table()
    sound = grown(rows).save()
    old, new = DAMAGE[damage]
    assert old in sound
    with pytest.raises(DataError, match="is no model of LightGBM as fmray writes it"):
        made().load(sound.replace(old, new, 1), 6)


def test_every_line_of_a_tree_that_is_changed_is_refused_or_predicts():
    """A stranger's file must not crash the process: whatever is let through is safe to predict with."""
    rows = table()
    sound = grown(rows, rounds=3).save().decode().splitlines()
    random = np.random.default_rng(1)
    for _ in range(300):
        lines = list(sound)
        place = random.integers(len(lines))
        words = lines[place].split("=", 1)
        if len(words) < 2:
            continue
        values = words[1].split()
        if values:
            values[random.integers(len(values))] = str(random.integers(-9, 99))
        lines[place] = f"{words[0]}={' '.join(values)}"
        try:
            read = made()
            read.load("\n".join([*lines, ""]).encode(), 6)
        except DataError:
            continue
        assert read.outputs(rows.x).shape == (600, 2)


def test_losses_that_trees_cannot_minimise_are_refused():
    for objective in ({"loss": "perceptron", "classes": 2}, {**OBJECTIVES["binary"], "label_smoothing": 0.1}):
        with pytest.raises(SpecError, match="task"):
            LightGBM(Lightgbm(), objective, 0)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(SpecError, match=r"Install fmray\[trees\]"):
        made()
