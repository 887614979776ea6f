"""Carry jobs with strict folds, and follow what each member may know of the rows it is kept from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import softmax
from sklearn.preprocessing import StandardScaler

from fmray import workflow
from fmray.data.hashing import row_hash
from fmray.data.lanes import Lanes
from fmray.ensemble.folds import configurations, oof_outputs
from fmray.events import Epoch
from fmray.report.card import read_card
from fmray.seeding import derive
from fmray.spec.load import job_from
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.rowweights import fold_of

pytestmark = pytest.mark.slow

NUM_ROWS, COLUMNS = 900, ["f0", "f1", "f2"]


def table_of(shifted_fold=None):
    """Give rows of which those of one fold are far from all others, or none."""
    source = np.random.default_rng(0)
    x = source.normal(3, 5, (NUM_ROWS, 3))
    y = np.digitize(x[:, 0] + x[:, 1] + 3 * source.normal(size=NUM_ROWS), [3, 9]).astype(str)
    side = np.repeat(["train", "val", "test"], [500, 100, 300])
    table = pa.table({"id": np.arange(NUM_ROWS), "y": y, "side": side})
    if shifted_fold is not None:
        x[(folds_by_hand(table) == shifted_fold) & (side == "train")] *= 40
    for place, name in enumerate(COLUMNS):
        table = table.append_column(name, pa.array(x[:, place]))
    return table


def folds_by_hand(table):
    entity = row_hash(table, ["id"])[:, 0]
    return fold_of(torch.from_numpy(entity.view(np.int64).copy()), 3, derive(0, "folds")).numpy()


def job_of(folder, table, strict, **changes):
    if not (folder / "data").exists():
        (folder / "data").mkdir(parents=True)
        pq.write_table(table, folder / "data/a.parquet")
    value = {
        "name": "flow",
        "data": {"path": "data", "target": "y", "key": "id"},
        "split": {"by": "given", "column": "side"},
        "steps": ["standardise"],
        "model": "linear",
        "train": {
            "epochs": 3,
            "batch_rows": 64,
            "optimizer": {"adam": {"lr": 0.05}},
            "folds": {"n": 3, "strict": strict},
        },
        "ensemble": {"stacking": {"keep": "always"}},
        "evaluate": {"baselines": []},
        "rigour": {"profile": "draft"},
        "run": {"threads": 1, "workers": 0, "prepare": "local"},
    }
    return job_from({**value, **changes}, folder)


def carried(folder: Path, table, strict, report=lambda event: None, **changes):
    store = Store(str(folder / "store"))
    done = workflow.execute(job_of(folder, table, strict, **changes), store, report=report)
    return done, read_card(done.root, store)


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    return carried(tmp_path_factory.mktemp("strict"), table_of(), True)


def said_by_hand(member, scaler, x):
    tensors = load_file(f"{member.root}/model.safetensors")
    weight, bias = tensors["output.weight_KDH"][0].astype(np.float64), tensors["output.bias_K1H"][0]
    return softmax(scaler.transform(x) @ weight + bias, axis=1)


def test_out_of_fold_predictions_are_those_of_a_scaler_fitted_outside_the_fold(strict, tmp_path):
    _, card = strict
    rows, task = np.arange(500), Ref("classification")
    (whole,) = configurations(card.members, 3)
    found = oof_outputs(whole, 0, card.prepared, rows, task)
    table = table_of()
    x, fold = np.stack([table.column(name).to_numpy() for name in COLUMNS], 1), folds_by_hand(table)
    place = {key.tobytes(): place for place, key in enumerate(row_hash(table, ["id"]))}
    order = [place[key.tobytes()] for key in Lanes(card.prepared, "train").load(["row_id"])["row_id"]]
    learned = np.arange(NUM_ROWS) < 500
    expected = np.empty((NUM_ROWS, 3))
    for number, member in enumerate(whole):
        scaler = StandardScaler().fit(x[learned & (fold != number)])
        expected[fold == number] = said_by_hand(member, scaler, x[fold == number])
    np.testing.assert_allclose(found, expected[order], atol=1e-6)
    _, loose = carried(tmp_path, table, False)
    assert np.abs(oof_outputs(configurations(loose.members, 3)[0], 0, loose.prepared, rows, task) - found).max() > 1e-3


def test_on_new_rows_each_member_speaks_of_its_own_inputs(strict):
    done, card = strict
    assert len({member.prepared for member in card.members}) == 3
    assert sorted(card.ensemble.members) == [0, 1, 2]
    said = pq.read_table(f"{done.root}/sealed/test.parquet").to_pandas()
    table = table_of()
    x, fold = np.stack([table.column(name).to_numpy() for name in COLUMNS], 1), folds_by_hand(table)
    test = [
        said_by_hand(member, StandardScaler().fit(x[:500][fold[:500] != number]), x[600:])
        for number, member in enumerate(card.members)
    ]
    by_id = {key.tobytes(): row for key, row in zip(row_hash(table, ["id"])[600:], np.mean(test, 0), strict=True)}
    expected = np.stack([by_id[key] for key in said["row_id"]])
    np.testing.assert_allclose(said[["p_0", "p_1", "p_2"]].to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("is_strict", [True, False], ids=["strict", "not strict"])
def test_only_with_strict_folds_a_member_knows_nothing_of_the_rows_it_is_kept_from(is_strict, strict, tmp_path):
    """The rows of a fold are moved far away; the member kept from them ends where it ended."""
    before = strict[1] if is_strict else carried(tmp_path / "a", table_of(), is_strict)[1]
    after = carried(tmp_path / "b", table_of(shifted_fold=1), is_strict)[1]
    same = [one.tensor_hash == other.tensor_hash for one, other in zip(before.members, after.members, strict=True)]
    assert same == [False, is_strict, False]


def test_an_interrupted_training_goes_on_with_the_fold_it_was_in(strict, tmp_path):
    seen = []

    def report(event):
        if isinstance(event, Epoch):
            seen.append(event.place.trial)
            if seen == [0, 0, 0, 1]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carried(tmp_path, table_of(), True, report)
    _, card = carried(tmp_path, table_of(), True, report)
    assert seen.count(0) == 3
    assert [m.tensor_hash for m in card.members] == [m.tensor_hash for m in strict[1].members]


def test_finalists_of_a_search_are_trained_on_every_fold_as_its_steps_prepare_it(tmp_path):
    train = {"epochs": 3, "batch_rows": 64, "early_stop": None, "folds": {"n": 2, "strict": True}, "seeds": 2}
    train["optimizer"] = {"adam": {"lr": {"log_uniform": [0.01, 0.1]}}}
    steps = [{"clip": {"quantile": {"choice": [0.8, 0.9]}}}, "standardise"]
    search = {"members": 4, "finalists": 2, "structures": 2}
    done, card = carried(tmp_path, table_of(), True, train=train, steps=steps, search=search)
    again = [member for member in card.members if member.role == "finalist"]
    assert len(again) == 2 * 2 * 2
    for one in configurations(again, 2):
        assert len({member.prepared for member in one}) == 2
    assert not {m.prepared for m in again} & {m.prepared for m in card.members if m.role == "member"}
    assert len({member.index for member in card.members}) == len(card.members) == 12
    assert done.scores.test["accuracy"].n == 300
