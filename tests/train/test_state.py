import json
from dataclasses import fields

import pytest
import torch

from fmray.errors import DataError
from fmray.records import Target
from fmray.schema import Column, Schema
from fmray.spec.ref import Ref
from fmray.spec.sections import Train
from fmray.store import Store
from fmray.train.pack import Pack, Plan
from fmray.train.state import Checkpoints, State

SCHEMA = Schema((Column("v", "vector", 3),))
TARGET = Target(("y",), "class", classes=("a", "b"), counts=(1, 1))


@pytest.fixture
def state():
    plans = [Plan(i, i, Ref("mlp", {"width": 4}), Ref("adam"), Ref("classification"), {}) for i in range(2)]
    pack = Pack(plans, SCHEMA, TARGET, Train(), True)
    pack.population.grad.fill_(1.0)
    pack.optimizer.step(pack.population, 1.0, epoch=0)
    state = pack.snapshot()
    state.global_step, state.epoch = 7, 2
    state.history.append({"member": 0, "epoch": 1, "metric": "roc_auc", "value": float("nan")})
    return state


def equal(one, other):
    return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(State))


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    return json.dumps(one) == json.dumps(other)


def checkpoints(store, **options):
    return Checkpoints(store, store.path("checkpoints", "k", "00000", "states"), 0.0, **options)


def test_every_field_comes_back_bit_for_bit(state):
    assert equal(State.from_files(state.to_files()), state)


@pytest.mark.parametrize("name", [f.name for f in fields(State) if f.type not in (dict[str, torch.Tensor],)])
def test_a_checkpoint_without_a_field_is_refused_by_name(state, name):
    files = state.to_files()
    plain = json.loads(files["state.json"])
    if name in plain:
        del plain[name]
        files["state.json"] = json.dumps(plain).encode()
    else:
        kept = {f.name: getattr(state, f.name) for f in fields(State)} | {name: {}}
        files["state.safetensors"] = State(**kept).to_files()["state.safetensors"]
    with pytest.raises(DataError, match=rf"checkpoint: .*{name}"):
        State.from_files(files)


def test_the_newest_is_found_and_only_two_are_kept(state, tmp_path):
    kept = checkpoints(Store(str(tmp_path)))
    for step in (1, 2, 3):
        state.global_step = step
        kept.save(state)
    assert len(kept.names()) == 2
    assert kept.latest().global_step == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no manifest"])
def test_a_damaged_newest_gives_way_to_the_one_before_with_a_notice(state, tmp_path, damage, caplog):
    store = Store(str(tmp_path))
    kept = checkpoints(store)
    for step in (1, 2):
        state.global_step = step
        kept.save(state)
    newest = tmp_path / "checkpoints/k/00000/states" / kept.names()[-1]
    tensors = next(newest.rglob("state.safetensors"))
    match damage:
        case "flip":
            data = bytearray(tensors.read_bytes())
            data[-3] ^= 1
            tensors.write_bytes(data)
        case "cut":
            tensors.write_bytes(tensors.read_bytes()[:-1])
        case "missing":
            tensors.unlink()
        case "no manifest":
            next(newest.rglob("manifest.json")).unlink()
    assert kept.latest().global_step == 1
    assert "falling back to the one before" in caplog.text


def test_nothing_to_find_is_no_state(tmp_path):
    assert checkpoints(Store(str(tmp_path))).latest() is None


def test_a_writer_who_lost_its_lease_writes_nothing(state, tmp_path):
    def lost():
        raise DataError("another process has taken over")

    kept = checkpoints(Store(str(tmp_path)), check=lost)
    with pytest.raises(DataError, match="taken over"):
        kept.save(state)
    assert kept.names() == []
