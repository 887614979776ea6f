"""Steps that learn nothing from a fold, against scikit-learn on the rows outside it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from fmray.data.folds import Fold, folds_of
from fmray.data.lanes import Lanes
from fmray.data.prepare import prepare
from fmray.data.scan import ITEM_BYTES, scan
from fmray.errors import DataError
from fmray.records import SPLITS
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.train.rowweights import fold_of

TASK = Ref("classification")
FOLDS = [Fold.of(number, 3, 7) for number in range(3)]


@pytest.fixture
def folder(tmp_path):
    source = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for part in range(3):
        x = source.normal(5, 30, (300, 2)) ** 3
        columns = {"id": np.arange(300) + 300 * part, "a": x[:, 0], "b": x[:, 1], "y": source.integers(0, 2, 300)}
        who = pa.array([f"g{i // 9}" for i in columns["id"]])
        side = pa.array([SPLITS[part]] * 300)
        pq.write_table(pa.table({**columns, "who": who, "side": side}), tmp_path / f"data/{part}.parquet")
    return tmp_path / "data"


@pytest.fixture
def made(folder, store):
    def make(fold, steps=("standardise",), item_bytes=ITEM_BYTES, split=None, **data):
        ignore = [name for name in ("who", "side") if name not in data.values()]
        value = {"path": str(folder), "target": "y", "key": "id", "ignore": ignore, **data}
        asked = {"steps": list(steps), "split": split or {}, "run": {"prepare": "local"}}
        job = Job.from_json({"name": "folds", "data": value, **asked})
        return prepare(scan(job.data, ".", store), job, TASK, store, item_bytes=item_bytes, fold=fold)

    return make


def raw_of(made, split, **data):
    """Give the rows of a split before any step, which fold each is in by the device's own arithmetic, and which are no copies."""
    plain = Lanes(made(None, steps=(), **data), split)
    found = plain.load([*plain.columns()])
    entity = found["group"] if "group" in found else found["row_id"][:, 0]
    fold = fold_of(torch.from_numpy(entity.view(np.int64).copy()), 3, FOLDS[0].salt).numpy()
    first = np.zeros(len(fold), bool)
    first[np.unique(found["row_id"][:, 0], return_index=True)[1]] = True
    return found["x"].astype(np.float64), fold, first


@pytest.mark.parametrize(
    "data",
    [{}, {"group": "who", "item_bytes": 1}, {"dedup": "exact", "item_bytes": 1}, {"sample": {"over": 1.0}}],
    ids=["rows", "groups", "without copies", "sampled"],
)
def test_inputs_are_those_of_scikit_learn_fitted_outside_the_fold(made, data):
    x, fold, first = raw_of(made, "train", **data)
    everything = StandardScaler().fit(x[first])
    for one in FOLDS[:2]:
        strict, scaler = made(one, **data), StandardScaler().fit(x[first & (fold != one.number)])
        for split in SPLITS:
            rows = x if split == "train" else raw_of(made, split, **data)[0]
            found = Lanes(strict, split).load(["x"])["x"]
            np.testing.assert_allclose(found, scaler.transform(rows), rtol=1e-6, atol=1e-6)
            assert np.abs(found - everything.transform(rows)).max() > 1e-3


def test_every_step_learns_from_the_same_rows(made):
    x, fold, _ = raw_of(made, "train")
    kept, found = x[fold != 1], made(FOLDS[1], steps=["standardise", "min_max"])
    expected = MinMaxScaler(clip=True).fit(kept).transform(x)
    np.testing.assert_allclose(Lanes(found, "train").load(["x"])["x"], expected, rtol=1e-6, atol=1e-6)
    means = [mean for mean, _ in found.steps[0]["state"]["shift"].values()]
    assert means == pytest.approx(kept.mean(0))


def test_all_rows_stand_in_the_lanes_of_every_fold_in_one_sequence(made):
    whole, others = made(None), [made(fold) for fold in FOLDS]
    assert len({one.fingerprint for one in (whole, *others)}) == 4
    for one in others:
        assert (one.rows, one.target, one.test_identity) == (whole.rows, whole.target, whole.test_identity)
        for split in SPLITS:
            pair = [Lanes(each, split).load(["row_id", "target"]) for each in (whole, one)]
            assert all(np.array_equal(pair[0][name], pair[1][name]) for name in pair[0])


def test_a_fold_is_prepared_once(made):
    assert made(FOLDS[0]) == made(FOLDS[0])


def test_a_fold_that_holds_every_row_leaves_steps_nothing_to_learn_from(made):
    with pytest.raises(DataError, match=r"train\.folds: fold \d of 3 holds every training row"):
        for fold in FOLDS:
            made(fold, group="side", split={"by": "given", "column": "side"})


def test_folds_are_cut_alike_on_every_device():
    ids = np.random.default_rng(1).integers(0, 2**64, (5000, 2), np.uint64)
    for num_folds, salt in ((2, 0), (5, 7), (10, 2**63 - 1)):
        there = fold_of(torch.from_numpy(ids[:, 0].view(np.int64).copy()), num_folds, salt).numpy()
        assert np.array_equal(folds_of(ids, None, num_folds, salt), there)
        assert np.array_equal(folds_of(ids[::-1], ids[:, 0], num_folds, salt), there)
