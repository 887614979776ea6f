"""Check that sampling changes training lanes by class as asked, and nothing else."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from fmray.data.class_sampling import num_copies, rates_of
from fmray.data.lanes import Lanes
from fmray.errors import DataError, SpecError
from fmray.records import SPLITS, Target
from fmray.seeding import stream
from fmray.spec.sections import Sample
from fmray.store import Store

COUNTS = {"a": 2000, "b": 500, "c": 60}
TARGET = Target(("y",), "class", classes=("a", "b", "c"), counts=(60, 20, 7))
IDS = stream(0, "ids").integers(0, 2**64, (100_000, 2), np.uint64, endpoint=False)


def rows():
    """Give rows that are all different, in three classes of very different size."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(list(COUNTS), list(COUNTS.values())))
    return pa.table(
        {"a": rng.permutation(len(y)) / 64, "b": pa.array(rng.standard_normal(len(y)), mask=rng.random(len(y)) < 0.1),
         "city": rng.choice(["Ulm", "Bonn"], len(y)), "w": rng.uniform(0.5, 2, len(y)), "y": y}
    )  # fmt: skip


def cut(table, *sizes):
    return [table.slice(a, b - a) for a, b in pairwise([0, *sizes, table.num_rows])]


def lanes(found, split):
    given = Lanes(found, split)
    return given.load(given.columns())


def by_class(found, split="train"):
    return np.bincount(lanes(found, split)["target"], minlength=len(found.target.classes))


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample(over=1.0), (1, 3, 60 / 7)),
        (Sample(over=0.5), (1, 1.5, 30 / 7)),
        (Sample(over=0.1), (1, 1, 1)),
        (Sample(under=1.0), (7 / 60, 7 / 20, 1)),
        (Sample(under=0.5), (14 / 60, 14 / 20, 1)),
        (Sample(rates={"c": 4, "a": 0.25}), (0.25, 1, 4)),
    ],
)
def test_rates_follow_from_the_counts(sample, expected):
    assert rates_of(sample, TARGET) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.2, 1.0, 1.75, 3.0, 0.999])
def test_copies_are_the_floor_of_the_rate_and_one_more_as_often_as_is_left(rate):
    copies = num_copies(IDS, np.full(len(IDS), rate), 0)
    floor = int(rate)
    assert set(copies.tolist()) <= {floor, floor + 1}
    chance = rate - floor
    assert abs((copies - floor).sum() - chance * len(IDS)) <= 4 * np.sqrt(len(IDS) * chance * (1 - chance))


def test_copies_of_a_row_depend_on_its_whole_id_and_the_salt_only():
    rates = np.full(len(IDS), 0.5)
    copies = num_copies(IDS, rates, 0)
    assert np.array_equal(num_copies(IDS[::-1], rates, 0), copies[::-1])
    for other in (num_copies(IDS, rates, 1), num_copies(IDS ^ np.array([0, 1], np.uint64), rates, 0)):
        assert abs((copies == other).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(IDS))


def test_a_larger_rate_never_takes_a_row_away():
    less, more = (num_copies(IDS, np.full(len(IDS), rate), 0) for rate in (0.3, 0.6))
    assert (less <= more).all()


@pytest.mark.parametrize("sample", [{"over": 1.0}, {"over": 0.3}, {"under": 1.0}, {"under": 0.2},
                                    {"rates": {"c": 3.5, "a": 0.4}}], ids=str)  # fmt: skip
def test_classes_have_the_rows_asked_for(write, prepared, sample):
    found = prepared(write("p.parquet", rows()), data={"sample": sample}, steps=["auto"])
    counts, held = np.array(found.target.counts), by_class(found)
    assert found.target.sampled == tuple(held)
    rates = np.array(rates_of(Sample(**sample), found.target))
    left = rates - np.floor(rates)
    assert (abs(held - rates * counts) <= 4 * np.sqrt(counts * left * (1 - left))).all()
    assert found.num_rows("train") == found.rows["sampled"] == held.sum()
    assert any("sampled" in note and f"c {counts[2]:,} -> {held[2]:,}" in note for note in found.notes)


def test_whole_rates_give_every_row_exactly_so_often(write, prepared):
    folder = write("p.parquet", rows())
    plain = lanes(prepared(folder, steps=["auto"]), "train")
    sampled = lanes(prepared(folder, data={"sample": {"rates": {"b": 2, "c": 5}}}, steps=["auto"]), "train")
    times = np.array([1, 2, 5])[plain["target"]]
    assert plain.keys() == sampled.keys()
    for name, values in plain.items():
        assert np.array_equal(np.repeat(values, times, axis=0), sampled[name]), name


@pytest.mark.parametrize("sample", [{"over": 1.0}, {"under": 1.0}])
def test_validation_test_steps_counts_and_accounting_stay_as_they_are(write, prepared, sample):
    folder, beside = write("p.parquet", rows()), {"weight": "w"}
    plain, sampled = (
        prepared(folder, data={**beside, **more}, steps=["auto"], evaluate={"slices": ["city"]})
        for more in ({}, {"sample": sample})
    )
    assert sampled.target.counts == plain.target.counts
    assert sampled.steps == plain.steps
    assert sampled.test_identity == plain.test_identity
    assert {**sampled.rows, "sampled": 0} == {**plain.rows, "sampled": 0}
    assert sampled.rows["sampled"] == sampled.num_rows("train") != plain.num_rows("train")
    assert "sampled" not in plain.rows
    assert plain.target.sampled == ()
    for split in ("val", "test"):
        one, other = lanes(plain, split), lanes(sampled, split)
        assert one.keys() == other.keys() > {"weight", "slice_city"}
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("sample", [{"over": 1.0}, {"under": 0.7, "salt": 4}])
@pytest.mark.parametrize("dedup", ["report", "exact"])
def test_lanes_do_not_depend_on_files_and_work_items(tmp_path, write, prepared, sample, dedup):
    table = pa.concat_tables([rows(), rows().slice(100, 300), rows().slice(0, 150)])  # with copies of rows, too
    whole = prepared(write("whole/p.parquet", table) / "whole", data={"sample": sample, "dedup": dedup}, steps=["auto"])
    for number, part in enumerate(cut(table, 1, 900, 1300, 2500)):
        folder = write(f"cut/{number}.parquet", part, row_group_size=170) / "cut"
    store = Store(str(tmp_path / "other"))
    pieces = prepared(folder, data={"sample": sample, "dedup": dedup}, steps=["auto"], store=store, item_bytes=1)
    assert len(pieces.parts["train"]) > 10
    assert (whole.target, whole.rows, whole.notes) == (pieces.target, pieces.rows, pieces.notes)
    for split in SPLITS:
        one, other = lanes(whole, split), lanes(pieces, split)
        assert all(np.array_equal(one[name], other[name]) for name in ("row_id", "target"))
        np.testing.assert_allclose(one["x"], other["x"], atol=1e-5)
    starts = [(part.start, part.num_rows) for part in pieces.parts["train"]]
    assert all(start + size == following for (start, size), (following, _) in pairwise(starts))


def test_steps_that_apply_in_slices_copy_rows_alike(write, prepared, monkeypatch):
    folder = write("p.parquet", rows())
    whole = lanes(prepared(folder, data={"sample": {"over": 1.0}}, steps=["auto"]), "train")
    monkeypatch.setattr("fmray.data.apply.LEAST_ROWS", 7)
    monkeypatch.setattr("fmray.data.apply.SLICE_BYTES", 1)
    pieces = lanes(
        prepared(folder, data={"sample": {"over": 1.0, "salt": 0}, "max_quarantine": 0.02}, steps=["auto"]), "train"
    )
    assert all(np.array_equal(whole[name], pieces[name]) for name in whole)


def test_a_class_that_is_unknown_is_answered_with_the_nearest_one(write, prepared):
    with pytest.raises(SpecError, match=r"data\.sample\.rates: 'aa' is no class\. Did you mean 'a'\?"):
        prepared(write("p.parquet", rows()), data={"sample": {"rates": {"aa": 2}}})


def test_a_rate_that_leaves_no_row_of_a_class_is_refused(write, prepared):
    message = r"data\.sample: a rate of 1e-09 leaves none of the \d+ training rows of class 'b'\."
    with pytest.raises(DataError, match=message):
        prepared(write("p.parquet", rows()), data={"sample": {"rates": {"b": 1e-9}}})


def test_a_target_that_turns_out_a_number_is_refused(write, prepared):
    table = rows().drop(["y"]).rename_columns(["a", "b", "city", "y"])
    with pytest.raises(SpecError, match=r"data\.sample: rows are sampled by class, and this is regression"):
        prepared(write("p.parquet", table), data={"sample": {"over": 1.0}})


def test_a_share_keeps_so_many_rows_of_each_class_and_one_at_least(write, prepared):
    folder = write("a.parquet", rows())
    plain = prepared(folder, steps=["auto"])
    tenth, half = (prepared(folder, data={"sample": {"share": share}}, steps=["auto"]) for share in (0.1, 0.5))
    least = prepared(folder, data={"sample": {"share": 0.0001}}, steps=["auto"])
    assert by_class(least).tolist() == [1, 1, 1]
    for found, share in ((tenth, 0.1), (half, 0.5)):
        for count, left in zip(plain.target.counts, found.target.counts, strict=True):
            assert left == pytest.approx(share * count, abs=max(1, 4 * (count * share * (1 - share)) ** 0.5))
        assert found.target.sampled == ()  # probabilities stay as they are
        assert found.num_rows("train") == found.rows["sampled"] == sum(found.target.counts)
        assert found.test_identity == plain.test_identity
        assert any(note.startswith(f"data.sample.share {share}: ") for note in found.notes)
    ids = [{row.tobytes() for row in lanes(found, "train")["row_id"]} for found in (least, tenth, half, plain)]
    assert ids[0] < ids[1] < ids[2] < ids[3]


def test_the_order_of_rows_with_equal_inputs_and_other_labels_does_not_decide_which_are_kept(write, prepared):
    table = pa.table({"a": np.repeat(np.arange(400.0), 2), "y": np.tile(["no", "yes"], 400)})
    turned = table.take(np.arange(800)[::-1])
    data = {"sample": {"share": 0.3}}
    kept = []
    for one in (table, turned):
        found = lanes(prepared(write("p.parquet", one), data=data, steps=["standardise"]), "train")
        kept.append(sorted(zip(found["x"][:, 0].round(4).tolist(), found["target"].tolist(), strict=True)))
    assert kept[0] == kept[1]
    assert len({x for x, _ in kept[0]}) < len(kept[0]) < 400  # some inputs are kept with both labels, most are not
