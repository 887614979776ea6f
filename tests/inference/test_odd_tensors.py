"""Check that models with tied, frozen and mixed tensors predict the same once saved, read back and exported."""

import importlib

import numpy as np
import pytest
import torch
from inference.made import mean, rows, train, write_data

from fmray.data.lanes import Lanes
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.records import Ensemble
from fmray.train.population import Blueprint
from fmray.train.predict import TENSORS, read_tensors
from fmray.train.warm import Start

SINGLE = Ensemble("single", (0,), (1.0,))
SOUP = Ensemble("soup", (0, 1), (0.5, 0.5), combine="soup")
DATA = {"path": "data", "target": "y", "key": "id", "ignore": ["z", "w"]}


@pytest.fixture(scope="module", params=["Tied", "Frozen", "Double", "Mixed"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_data(folder / "data", rows())
    return train(folder, data=DATA, model=f"train.odd_nets:{request.param}")


def net_of(trained):
    module, _, name = trained.job.model.name.partition(":")
    return getattr(importlib.import_module(module), name)


def tensors_of(member):
    return read_tensors(f"{member.root}/{TENSORS}", member.tensor_hash, member.index)


@pytest.mark.parametrize("ensemble", [mean(0.25, 0.75), SOUP], ids=lambda e: e.combine)
def test_a_model_that_was_saved_predicts_as_its_run_did(trained, tmp_path, ensemble):
    expected = trained.said(ensemble, tmp_path).output
    model = open_model(str(trained.write(ensemble, tmp_path / "model")), trust_code=True)
    assert np.array_equal(model.predictor(Lanes(trained.prepared, "val").load(["x"])["x"]), expected)


def test_the_file_of_a_member_is_what_torch_alone_predicts_with(trained, tmp_path):
    expected = trained.said(SINGLE, tmp_path).output
    kept, module = tensors_of(trained.members[0]), net_of(trained)(trained.prepared.schema, 2)
    left_out = module.load_state_dict(kept, strict=False)
    assert not left_out.unexpected_keys
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    assert kept.keys() == named.keys() - {"unkept"}  # a tied tensor is kept by its first name alone
    assert {name: value.dtype for name, value in kept.items()} == {name: named[name].dtype for name in kept}
    with torch.no_grad():
        own = module.eval()(torch.from_numpy(Lanes(trained.prepared, "val").load(["x"])["x"])).double().softmax(1)
    if "unkept" not in named:
        assert np.abs(own.numpy() - expected).max() < 1e-6


def test_a_member_begins_with_the_tensors_of_another(trained):
    first, other = trained.members
    start = Start(other.index, other.tensor_hash, other.root)
    module = start.module(Blueprint(net_of(trained), {}, first.seed), trained.prepared.schema, 2)
    for name, value in tensors_of(other).items():
        assert torch.equal(module.state_dict()[name], value)


@pytest.mark.slow
def test_a_model_is_exported_with_its_tensors(trained, tmp_path):
    trained.write(mean(0.5, 0.5), tmp_path / "model")
    summary = export(str(tmp_path / "model"), "torch", str(tmp_path / "out"), trust_code=True)
    assert summary["golden"]["difference"] <= summary["golden"]["tolerance"]
