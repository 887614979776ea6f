"""Gather what models say of the same rows."""

from dataclasses import replace

import numpy as np
import pytest

from fmray.data.hashing import row_ids
from fmray.data.session import run_here
from fmray.errors import DataError
from fmray.promote.evidence import (
    _as_ours,
    _occurrences,
    _places,
    _told_by,
    compare,
    fresh_rows,
    sealed_rows,
    sealed_table,
)
from fmray.records import Target
from fmray.report.card import read_card


@pytest.mark.slow
def test_a_model_that_reads_rows_anew_says_of_each_what_it_said_in_its_run(house):
    house, runs = house
    card = read_card(runs["strong"].root, house.store)
    table = sealed_table(card, house.store)
    backwards = table.some(np.arange(len(table))[::-1])
    found = compare(card, backwards, {"itself": card}, house.store, run_here)
    assert np.array_equal(found.others["itself"].row_id, backwards.row_id)
    assert found.others["itself"].output == pytest.approx(backwards.output, abs=1e-6)
    assert np.std(backwards.output[:, 0]) > 0.1


@pytest.mark.slow
def test_rows_of_a_run_with_other_columns_are_known_by_their_files(house):
    house, runs = house
    strong, weak, other = (read_card(runs[name].root, house.store) for name in ("strong", "weak", "failed"))
    assert _told_by(strong) == ("f0", "f1", "f2", "y")
    assert _told_by(other) == ("f2", "y")
    alike = fresh_rows(strong, [weak], house.store, run_here)
    unlike = fresh_rows(strong, [other], house.store, run_here)
    assert np.array_equal(alike.row_id, unlike.row_id)  # rows of the second file
    assert 500 < len(alike) < 700
    moved = replace(other, prepared=replace(other.prepared, manifest=()))
    with pytest.raises(DataError, match=r"tells rows apart by f2, y and read other files.*data.key"):
        fresh_rows(strong, [moved], house.store, run_here)


@pytest.mark.slow
def test_sealed_rows_are_all_test_rows_while_no_row_changes_sides(house):
    house, runs = house
    weak, strong = (read_card(runs[name].root, house.store) for name in ("weak", "strong"))
    assert len(sealed_rows(strong, [weak], house.store)) == strong.prepared.num_rows("test")


def test_equal_rows_are_told_apart_by_their_order():
    hashes = np.array([[7, 1], [3, 1], [7, 1], [7, 2], [7, 1]], np.uint64)
    assert _occurrences(hashes).tolist() == [0, 0, 1, 0, 2]


def test_rows_are_found_by_item_and_row_and_lost_ones_are_named():
    hashes = np.array([[7, 1], [3, 1], [7, 1], [9, 2]], np.uint64)
    found = [(np.array([4, 6]), hashes[:2]), (np.array([0, 5]), hashes[2:])]
    ids = row_ids(hashes, np.array([0, 0, 1, 0]))
    item, row = _places(ids[[2, 0, 3]], found)
    assert (item.tolist(), row.tolist()) == ([1, 0, 1], [0, 4, 5])
    with pytest.raises(DataError, match="1 of 2 test rows are not in the data any more"):
        _places(np.array([[3, 1], [4, 1]], np.uint64), found)


def test_outputs_are_laid_out_in_the_challengers_classes():
    theirs, ours = (Target(("y",), "class", names) for names in (("a", "c"), ("a", "b", "c")))
    assert _as_ours(np.array([[0.3, 0.7]]), theirs, ours).tolist() == [[0.3, 0.0, 0.7]]
    number = Target(("y",), "number")
    assert _as_ours(np.array([[1.5], [2.0]]), number, number).tolist() == [1.5, 2.0]
