"""Show that the objective follows from types, classes from training rows, and spellings from the job alone."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from fmray.data.scan import scan
from fmray.data.target import (
    decide,
    encode_target,
    fit_target,
    labels_seen,
    learn_target,
    merge_target,
    target_frame,
    unlabelled,
)
from fmray.errors import DataError, SpecError
from fmray.spec.ref import Ref
from fmray.spec.sections import Data
from fmray.targets import classes as module


def section(**more):
    return Data(**{"path": "x", "target": "y", **more})


def learned(values, task="classification", **more):
    data = section(**more)
    return learn_target(fit_target(pa.table({"y": values}), data, task), data)


def codes(values, target, **more):
    return encode_target(pa.table({"y": values}), target, section(**more))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, False]), "classification"),
        (pa.array(["a", "b"]), "classification"),
        (pa.array(["a", "b"]).dictionary_encode(), "classification"),
        (pa.array(list(range(20)), pa.int8()), "classification"),
        (pa.array([1.0, 2.0]), "regression"),
        (pa.array([1, 2]).cast(pa.decimal128(21, 2)), "regression"),
    ],
)
def test_auto_goes_by_the_type_of_the_target(write, values, expected):
    data = section(path=str(write("a.parquet", {"y": values})))
    assert decide(scan(data, "."), data, Ref("auto")).name == expected


def test_auto_hands_on_the_parameters_that_fit_what_it_decides_and_refuses_the_others(write):
    data = section(path=str(write("a.parquet", {"y": ["a", "b"]})))
    dataset, asked = scan(data, "."), {"loss": "perceptron"}
    assert decide(dataset, data, Ref("auto", asked)) == Ref("classification", asked)
    with pytest.raises(SpecError, match=r"task\.auto: the target calls for classification, which has no 'delta'"):
        decide(dataset, data, Ref("auto", {"delta": 2.0}))
    with pytest.raises(SpecError, match=r"task\.auto\.loss: the target calls for classification\. 'huber'\. Accepted:"):
        decide(dataset, data, Ref("auto", {"loss": "huber"}))


@pytest.mark.parametrize(
    ("columns", "asked", "task", "error"),
    [
        ({"y": list(range(21))}, {}, "auto", "integer target 'y' has 21 levels in the first 21 rows"),
        ({"y": ["a"]}, {}, "regression", "regression needs numbers, column 'y' holds string"),
        ({"y": [1], "z": [2]}, {"target": ["y", "z"]}, "classification", "classification takes one target"),
        (
            {"y": [datetime.datetime(2024, 1, 1)]},
            {},
            "regression",
            r"regression needs numbers, column 'y' holds timest",
        ),
        ({"y": [datetime.time(1)]}, {}, "auto", r"column 'y' holds time64\[us\]. Accepted: numbers"),
        ({"y": pa.nulls(3)}, {}, "auto", "column 'y' holds null"),
        ({"y": [1.5]}, {"labels": {"1.5": "a"}}, "auto", "go with classification, and this is regression"),
    ],
)
def test_what_the_type_leaves_open_or_contradicts_is_refused(write, columns, asked, task, error):
    data = section(path=str(write("a.parquet", columns)), **asked)
    with pytest.raises(SpecError, match=error):
        decide(scan(data, "."), data, Ref(task))


SPAN = pa.struct([("type", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
SPANS = pa.array([[{"type": "a", "start": 0, "end": 1}], None], pa.list_(SPAN))


@pytest.mark.parametrize(
    ("columns", "asked", "task", "error"),
    [
        ({"y": SPANS}, {}, "auto", r"'y' holds spans, and this is auto\. Set task: span_extraction, and data\.text"),
        ({"y": SPANS}, {}, "tagging", r"'y' holds spans, and this is tagging\. Set task: span_extraction"),
        (
            {"y": ["a", "b"]},
            {"text": "said"},
            "span_extraction",
            r"needs spans, a list<struct> of one text and .* string",
        ),
        ({"y": SPANS}, {}, "span_extraction", r"data\.text: is missing\. Name the column of text that 'y' lies in"),
        (
            {"y": SPANS, "n": [1, 2]},
            {"text": "n"},
            "span_extraction",
            r"data\.text: column 'n' holds int64\. Accepted: te",
        ),
        (
            {"y": SPANS, "z": SPANS},
            {"target": ["y", "z"]},
            "span_extraction",
            r"takes one target, given y, z\. Name one",
        ),
    ],
)
def test_spans_call_for_their_task_and_the_text_they_lie_in(write, columns, asked, task, error):
    data = section(path=str(write("a.parquet", {**columns, "said": ["ab", "c"]})), **asked)
    with pytest.raises(SpecError, match=error):
        decide(scan(data, "."), data, Ref(task))


def test_spans_with_their_text_are_taken(write):
    data = section(path=str(write("a.parquet", {"y": SPANS, "said": ["ab", "c"]})), text="said")
    assert decide(scan(data, "."), data, Ref("span_extraction")).name == "span_extraction"


def test_several_numbers_are_a_regression_and_an_own_task_is_left_alone(write):
    data = section(path=str(write("a.parquet", {"y": [1.0], "z": [2.0]})), target=["y", "z"])
    dataset = scan(data, ".")
    assert decide(dataset, data, Ref("auto")).name == "regression"
    assert decide(dataset, data, Ref("mine:Task")).name == "mine:Task"


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([10, 9, 9, 100], ("9", "10", "100")),
        ([10.0, 9.0, 0.5], ("0.5", "9", "10")),
        (["10", "9", "100"], ("10", "100", "9")),
        ([True, False], ("False", "True")),
    ],
)
def test_classes_are_ordered_by_value(values, classes):
    assert learned(values)[0].classes == classes


def test_counts_of_parts_add_up_in_any_grouping():
    data = section()
    parts = [fit_target(pa.table({"y": part}), data, "classification") for part in (["a", "b"], ["c"], ["a", None])]
    left = merge_target(merge_target(parts[0], parts[1]), parts[2])
    right = merge_target(parts[0], merge_target(parts[1], parts[2]))
    assert learn_target(left, data) == learn_target(right, data)
    assert learn_target(left, data)[0].counts == (2, 1, 1)


def test_mean_and_scale_of_parts_are_those_of_all_rows():
    values = np.random.default_rng(0).normal(5, 2, (100, 2))
    data = section(target=["y", "z"])
    parts = [fit_target(pa.table({"y": v[:, 0], "z": v[:, 1]}), data, "regression") for v in (values[:7], values[7:])]
    target, _ = learn_target(merge_target(*parts), data)
    assert target.mean == pytest.approx(values.mean(0))
    assert target.scale == pytest.approx(values.std(0))


def test_the_positive_class_is_the_rarer_one_unless_said():
    target, notes = learned(["a"] * 3 + ["b"])
    assert (target.positive, notes) == (1, ("positive class: 'b', the rarer one; set data.positive to say otherwise",))
    assert learned(["a"] * 3 + ["b"], positive="a")[0].positive == 0
    assert learned([1, 1, 0], positive=1)[0].positive == 1
    assert learned([True, True, False], positive=True)[0].positive == 1
    assert learned(["a", "b", "c"])[0].positive == -1


@pytest.mark.parametrize(
    ("values", "asked", "error", "message"),
    [
        (["a", "b"], {"positive": "c"}, SpecError, "'c' is no class. Known: a, b."),
        (
            [True, False],
            {"positive": "yes"},
            SpecError,
            r"'yes' is no class: the label holds true .* Accepted: true, false\.",
        ),
        (["a", "b", "c"], {"positive": "a"}, SpecError, "there are 3 classes"),
        (["a", "a"], {}, DataError, r"one class in training rows: \['a'\]"),
    ],
)
def test_a_target_that_leaves_nothing_to_tell_apart_is_refused(values, asked, error, message):
    with pytest.raises(error, match=message):
        learned(values, **asked)


def test_a_number_that_never_changes_is_refused():
    with pytest.raises(DataError, match="'y' is the same number in all training rows"):
        learned([2.5, 2.5], "regression")


def test_too_many_classes_are_refused_in_one_part_and_in_all(monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 3)
    data = section()
    with pytest.raises(DataError, match="4 classes"):
        learned(list("abcd"))
    parts = [fit_target(pa.table({"y": list(part)}), data, "classification") for part in ("ab", "cd")]
    with pytest.raises(DataError, match="4 classes"):
        learn_target(merge_target(*parts), data)


def test_spellings_are_mapped_as_the_job_says_and_variants_are_only_shown():
    values = [">50K", ">50K.", "<=50K", "Yes", "yes "]
    target, notes = learned(values, labels={">50K.": ">50K"})
    assert target.classes == ("<=50K", ">50K", "Yes", "yes ")
    assert "'Yes', 'yes ' look like spellings of one" in notes[0]


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([1, 2, None], {"1": "yes", "2": "no"}, ["yes", "no", None]),
        ([1.0, 2.0], {"1": "yes"}, ["yes", "2"]),
        ([True, False], {"True": "yes"}, ["yes", "False"]),
        (pa.array([None, None], pa.string()), {"a": "b"}, [None, None]),
    ],
)
def test_labels_name_values_of_any_type_as_classes_are_named(values, labels, expected):
    frame = target_frame(pa.table({"y": values}), section(labels=labels))
    assert frame["y"].to_list() == expected


def test_what_means_missing_is_unlabelled_in_labels_and_numbers():
    table = pa.table({"y": ["a", "?", None, "n/a"]})
    data = section(null_values=["?"], labels={"n/a": "?"})
    assert unlabelled(table, data, "classification").tolist() == [False, True, True, True]
    numbers = section(null_values=[-1], labels={"1": "yes"})
    assert unlabelled(pa.table({"y": [1, -1]}), numbers, "regression").tolist() == [False, True]


def test_labels_that_occur_are_told_from_those_that_do_not():
    data = section(labels={"1": "yes", "7": "no"})
    assert labels_seen(pa.table({"y": [1, 2]}), data) == {"1"}
    assert labels_seen(pa.table({"y": [1, 2]}), section()) == set()


def test_encoding_gives_codes_and_says_which_rows_have_none():
    target, _ = learned(["b", "a", "a"])
    found, missing = codes(["a", "b", None, "z"], target)
    assert (found.tolist(), missing.tolist()) == ([0, 1, -1, -1], [False, False, True, False])
    assert found.dtype == np.int64


def test_a_class_is_the_same_in_every_type_that_holds_it():
    target, _ = learned([1, 2, 3])
    assert codes([3.0, 1.0], target)[0].tolist() == [2, 0]


def test_numbers_are_encoded_as_they_are():
    target, _ = learned([1.0, 2.0], "regression")
    found, missing = codes([4.5, float("nan"), None], target)
    assert (found.tolist(), missing.tolist()) == ([4.5, 0, 0], [False, True, True])


def test_no_rows_have_no_codes():
    target, _ = learned(["a", "b"])
    assert codes(pa.array([], pa.string()), target)[0].shape == (0,)


def test_labels_that_no_row_has_are_noted_wherever_the_others_occur(write, prepared):
    num_rows = 400
    sides = ["train"] * 250 + ["val"] * 50 + ["test"] * 100
    spelled = [("no" if i % 3 else "yes") + "." * (side == "test") for i, side in enumerate(sides)]
    folder = write("a.parquet", {"x": np.arange(num_rows) / 7, "side": sides, "y": spelled})
    labels = {"yes.": "yes", "no.": "no", "Yes": "yes"}
    found = prepared(folder, data={"labels": labels}, split={"by": "given", "column": "side"}, steps=["standardise"])
    assert [note for note in found.notes if "data.labels" in note] == ["data.labels maps 'Yes', which no row has"]
    assert found.target.counts == (166, 84)


def test_few_numbers_with_fractions_are_said_to_be_predicted_as_numbers():
    told = "'y' holds 2 numbers (0.5, 1.5), predicted as numbers; task: classification as classes"
    parts = [pa.table({"y": values}) for values in ([0.5, None], [1.5, 0.5], [float("nan")])]
    one, *others = (fit_target(part, section(), "regression") for part in parts)
    for other in others:
        one = merge_target(one, other)
    assert learn_target(one, section())[1] == (told,)
    assert learned([1.0, 2.0, 3.0], "regression")[1] == ()
    assert learned([n / 7 for n in range(50)], "regression")[1] == ()


@pytest.mark.parametrize("word", ["", "NA", "null", " - "])
def test_classes_that_may_mean_missing_are_said_with_the_way_to_make_them_so(word):
    said = learned(["yes", "no", "no", word, word])[1]
    assert f"class '{word}' (2 training rows) may mean that there is no label; data.null_values: " in said[0]
    assert learned(["yes", "no", "no", word], null_values=(word,))[0].classes == ("no", "yes")


def test_of_many_classes_that_no_training_row_has_the_first_are_named(write, prepared):
    folder = write("a.parquet", {"x": [n / 7 for n in range(200)], "y": [f"id{n}" for n in range(200)]})
    with pytest.raises(
        DataError, match=r"'id\d+': 1 row, the first in a.parquet row \d+; and \d+ more classes"
    ) as error:
        prepared(folder)
    assert str(error.value).count("the first in") == module.SHOWN
