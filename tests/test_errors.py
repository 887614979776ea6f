import ast
import pickle
import re
from pathlib import Path

import pytest

import fmray.errors
from fmray.errors import ClusterError, DataError, FmrayError, GateError, SpecError, TrainError

KINDS = (SpecError, DataError, TrainError, ClusterError)


def test_the_tree_has_one_root_and_four_branches():
    found = {kind for kind in vars(fmray.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert found == {FmrayError, *KINDS, GateError}
    assert {kind.__base__ for kind in KINDS} == {FmrayError}
    assert GateError.__base__ is TrainError


def test_where_stands_before_the_message_and_both_can_be_read_apart():
    error = SpecError("unknown key 'epoch'. Did you mean 'epochs'?", "a.yaml:3 train.epoch")
    assert str(error) == "a.yaml:3 train.epoch: unknown key 'epoch'. Did you mean 'epochs'?"
    assert (error.where, error.message) == ("a.yaml:3 train.epoch", "unknown key 'epoch'. Did you mean 'epochs'?")


def test_without_a_place_the_message_stands_alone():
    assert str(DataError("no rows.")) == "no rows."


@pytest.mark.parametrize("kind", [*KINDS, GateError])
def test_an_error_crosses_processes_whole(kind):
    error = pickle.loads(pickle.dumps(kind("said", "here")))
    assert (type(error), str(error), error.message, error.where) == (kind, "here: said", "said", "here")


KEY = re.compile(r"[a-z_]+(\.[a-z_]+|\.\{\})*: ")


def test_a_key_stands_in_where_and_not_in_the_message():
    found = []
    for file in sorted(Path(fmray.errors.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and bool(node.args)
            if not is_call or node.func.id not in {kind.__name__ for kind in KINDS}:
                continue
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            if KEY.match(text):
                found.append(f"{file.name}:{node.lineno} {text[:60]}")
    assert found == []
