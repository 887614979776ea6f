import pickle

import pytest

import fmray.errors
from fmray.errors import ClusterError, DataError, FmrayError, SpecError, TrainError

KINDS = (SpecError, DataError, TrainError, ClusterError)


def test_the_tree_has_one_root_and_four_branches():
    found = {kind for kind in vars(fmray.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert found == {FmrayError, *KINDS}
    assert {kind.__base__ for kind in KINDS} == {FmrayError}


def test_where_stands_before_the_message_and_both_can_be_read_apart():
    error = SpecError("unknown key 'epoch'. Did you mean 'epochs'?", "a.yaml:3 train.epoch")
    assert str(error) == "a.yaml:3 train.epoch: unknown key 'epoch'. Did you mean 'epochs'?"
    assert (error.where, error.message) == ("a.yaml:3 train.epoch", "unknown key 'epoch'. Did you mean 'epochs'?")


def test_without_a_place_the_message_stands_alone():
    assert str(DataError("no rows.")) == "no rows."


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_processes_whole(kind):
    error = pickle.loads(pickle.dumps(kind("said", "here")))
    assert (type(error), str(error), error.message, error.where) == (kind, "here: said", "said", "here")
