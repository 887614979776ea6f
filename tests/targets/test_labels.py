"""The codec of labels: what lists mean, which thresholds are chosen, and what predictions look like."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from fmray.data.target import target_frame
from fmray.errors import DataError
from fmray.spec.sections import Data
from fmray.targets.codec import codec_of
from fmray.targets.labels import THRESHOLDS, Labels, best_threshold

DATA = Data(path="x", target="y")


def frame(lists):
    return pl.DataFrame({"y": pl.Series(lists, dtype=pl.List(pl.String))})


def codec(lists=(["b", "a"], [], ["b", "b"], ["c"])):
    target, _ = Labels.learn(Labels.summarise(frame(list(lists)), DATA), DATA)
    return codec_of(target)


def test_labels_are_ordered_and_counted_once_per_row():
    found = codec()
    assert found.target.classes == ("a", "b", "c")
    assert found.target.counts == (1, 2, 1)
    assert found.constant().tolist() == [0.25, 0.5, 0.25]


def test_lists_become_a_zero_or_one_per_label_and_unknown_labels_are_seen():
    lists = frame([["c", "a"], [], None, ["a", "z"]])
    encoded = codec().encode(lists)
    assert encoded[:3].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert codec().unknown(encoded).tolist() == [False, False, False, True]


def test_parts_are_learned_in_any_order():
    parts = [Labels.summarise(frame(lists), DATA) for lists in ([["b", "a"]], [[], ["b"]], [["c"]])]
    one = Labels.learn(Labels.merge(Labels.merge(parts[0], parts[1]), parts[2]), DATA)
    assert one == Labels.learn(Labels.merge(parts[2], Labels.merge(parts[1], parts[0])), DATA)
    assert one[0].rows == 4


def test_one_label_is_a_class():
    with pytest.raises(DataError, match=r"has one label in training rows, 'a'\..*column of true and false"):
        codec([["a"], []])
    with pytest.raises(DataError, match=r"has no label at all\."):
        codec([[], []])


def test_nulls_in_lists_and_labels_listed_twice_are_said():
    lists = [["a", None], ["b", "b"], ["a", "b"], [None]]
    target, notes = Labels.learn(Labels.summarise(frame(lists), DATA), DATA)
    assert "2 training rows list a null as a label, which is no label" in notes
    assert "1 training rows list a label more than once, which counts once" in notes
    assert codec_of(target).encode(frame(lists)).tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("word", ["", "?", "NA"])
def test_a_label_that_may_mean_none_is_said_with_the_way_to_make_it_so(word):
    lists = [["a"], ["b", word], [word]]
    _, notes = Labels.learn(Labels.summarise(frame(lists), DATA), DATA)
    assert f"label '{word}' (2 training rows) may mean that there is no label; data.null_values: " in notes[-1]
    data = Data(path="x", target="y", null_values=(word,))
    meant = target_frame(pa.table({"y": pa.array(lists, pa.list_(pa.string()))}), data)
    assert meant["y"].to_list() == [["a"], ["b", None], [None]]
    target, notes = Labels.learn(Labels.summarise(meant, data), data)
    assert target.classes == ("a", "b")
    assert "2 training rows list a null as a label, which is no label" in notes


@pytest.mark.parametrize(
    ("values", "kind", "given", "expected"),
    [
        ([[1, 2], [3]], pa.list_(pa.int32()), {"null_values": (3,)}, [[1, 2], [None]]),
        ([[1, 2], [3]], pa.list_(pa.int32()), {"labels": {"1": "one"}, "null_values": (3,)}, [["one", "2"], [None]]),
        ([["a", "?"], ["b"]], pa.list_(pa.string()), {"labels": {"b": "?"}, "null_values": ("?",)}, [["a", None], [None]]),
        ([["a", "?"], None], pa.list_(pa.dictionary(pa.int32(), pa.string())), {"null_values": ("?",)}, [["a", None], None]),
        ([["a"], []], pa.list_(pa.string()), {"null_values": ("?",)}, [["a"], []]),
        ([None, None], pa.list_(pa.string()), {"null_values": ("?",)}, [None, None]),
    ],
)  # fmt: skip
def test_what_means_missing_is_a_null_in_its_list(values, kind, given, expected):
    frame = target_frame(pa.table({"y": pa.array(values, kind)}), Data(path="x", target="y", **given))
    assert frame["y"].to_list() == expected


def test_labels_that_look_alike_are_said_and_told_apart():
    lists = [["caf\u00e9"], ["cafe\u0301", "b"], ["B"]]
    _, notes = Labels.learn(Labels.summarise(frame(lists), DATA), DATA)
    assert "classes 'B', 'b' look like spellings of one; data.labels can map them" in notes
    assert r"classes 'cafe\u0301', 'caf\xe9' look like spellings of one; data.labels can map them" in notes


def test_thresholds_are_said_by_quoted_names_so_that_spaces_and_empty_ones_are_seen():
    said = codec([["", "a "], ["b"]]).about_settings({THRESHOLDS: [0.25, 0.5, 0.125]})
    assert said.startswith("a label is predicted above a probability of '' 0.25, 'a ' 0.5, 'b' 0.125; ")


def test_the_threshold_has_the_highest_f1_of_all():
    rng = np.random.default_rng(1)
    truth = (rng.random(300) < 0.2).astype(np.uint8)
    p = (0.3 * truth + 0.7 * rng.random(300)).round(2)
    found = best_threshold(p, truth, np.ones(300))
    tried = [f1_score(truth, p > t) for t in np.linspace(0, 1, 401)]
    assert f1_score(truth, p > found) == pytest.approx(max(tried), abs=1e-12)


@pytest.mark.parametrize("rule", ["shared", "per_label", 0.3])
def test_thresholds_follow_the_rule(rule):
    rng = np.random.default_rng(2)
    target = (rng.random((200, 3)) < [0.5, 0.2, 0.1]).astype(np.uint8)
    output = np.clip(0.4 * target + 0.5 * rng.random((200, 3)), 0, 1)
    thresholds = codec().settle(output, target, None, {"thresholds": rule})[THRESHOLDS]
    if rule == "shared":
        assert len(set(thresholds)) == 1
        tried = [f1_score(target, output > t, average="micro") for t in np.linspace(0, 1, 200)]
        assert f1_score(target, output > thresholds[0], average="micro") >= max(tried)
    elif rule == "per_label":
        assert thresholds == [best_threshold(output[:, c], target[:, c], np.ones(200)) for c in range(3)]
    else:
        assert thresholds == [0.3] * 3


def test_predictions_are_lists_of_labels_and_stand_in_tables_beside_their_probabilities():
    found = codec()
    output = np.array([[0.9, 0.1, 0.6], [0.2, 0.2, 0.2], [0.0, 1.0, 0.0]])
    settings = {THRESHOLDS: [0.5, 0.5, 0.55]}
    columns = found.columns_for_people(output, np.array([False, False, True]), pa.array(["a", "b", "c"]), settings)
    assert columns[0].to_pylist() == [["a", "c"], [], None]
    held = found.as_in_tables(output, settings)
    assert held[:2].tolist() == [[0.9, 0.1, 0.6, 1, 0, 1], [0.2, 0.2, 0.2, 0, 0, 0]]
    assert found.as_ours(held, found.target).tolist() == held.tolist()


def test_a_side_is_tried_with_what_it_holds():
    output, truth = codec().made_up({"rows": 10, "counts": {"a": 3, "c": 2}})
    assert truth.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert output.shape == truth.shape
