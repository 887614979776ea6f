"""The codec of generated texts: what stands in tables of predictions, and what people get."""

import numpy as np
import pyarrow as pa
import pytest

from fmray.evaluate.sides import is_defined
from fmray.metrics.find import defaults, find_metric
from fmray.ragged import Ragged
from fmray.records import Target
from fmray.targets.codec import codec_for, codec_of
from fmray.targets.sequence import Sequence

TARGET = Target(("y",), "sequence", counts=(2, 1, 3), rows=2)


def test_a_task_that_generates_has_it():
    assert codec_for("sequence_to_sequence") is Sequence
    assert Sequence.generates
    assert Sequence.from_inputs


def test_rows_open_where_their_first_token_stands():
    target = np.array([[2, 5, 0], [0, 0, 1], [0, 3, 0]])
    assert Sequence.opens_row(target).tolist() == [True, False, True]


def test_batches_carry_ids_alone():
    lanes = Ragged.of_lengths(np.array([[2, 5], [0, 0], [0, 3]]), np.array([2, 1]))
    made = codec_of(TARGET).for_training(lanes)
    assert made.values.tolist() == [2, 0, 0]
    assert made.lengths.tolist() == [2, 1]


def test_the_dummy_knows_how_frequent_each_token_is():
    said = codec_of(TARGET).constant_for(np.array([[2, 5, 0], [0, 0, 1]]))
    assert said.tolist() == [[4 / 9], [3 / 9]]


def test_people_get_the_text_and_nothing_where_a_row_has_none():
    codec = codec_of(TARGET)
    said = Ragged.from_texts(pa.array(["über", "", "你好"]))
    (column,) = codec.columns_for_people(said[np.array([2, 0, 1])], np.array([False, True, False]), pa.array([]), {})
    assert codec.names_for_people() == ("prediction",)
    assert column.to_pylist() == ["你好", None, ""]


@pytest.mark.parametrize("name", defaults(TARGET)[1])
def test_each_of_its_metrics_is_defined_on_what_is_made_up(name):
    assert is_defined(find_metric(name, TARGET), {}, TARGET)
    assert not np.isnan(find_metric(name, TARGET).value(*codec_of(TARGET).made_up({}), None))
