"""Members begin with tensors of another training: all of them or a part, and say which."""

import json
from pathlib import Path

import pytest
import torch
from promote.test_warm import TINY, facts_of, train, write_rows
from safetensors.torch import load_file, save_file

from fmray.errors import DataError, SpecError
from fmray.store import Store


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run on rows of another file."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_rows(folder / "rows", 5)
    return train(folder, Store(str(folder / "store")), epochs=2)


@pytest.fixture
def home(tmp_path):
    write_rows(tmp_path / "rows", 0, num_rows=300)
    return tmp_path, Store(str(tmp_path / "store"))


def tensors_of(run, member=0):
    return load_file(f"{run.root}/model/{member:05d}/model.safetensors")


def test_all_tensors_of_a_run_are_taken_and_named(home, pretrained):
    notes: list[str] = []
    run = train(*home, lr=TINY, epochs=1, notes=notes, train={"start": pretrained.root})
    assert any("read other files; whether rows of validation or test now stand in them" in note for note in notes)
    theirs, ours = tensors_of(pretrained), tensors_of(run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    told = facts_of(run)["start"]
    assert (told["from"], told["drawn"]) == (pretrained.root, [])
    assert any(note.startswith(f"train.start: from {pretrained.root}: hidden.0.weight_KDH") for note in notes)


def test_a_part_is_taken_and_the_rest_is_drawn_as_without_it(home, pretrained):
    notes: list[str] = []
    start = {"model": pretrained.root, "part": "hidden"}
    groups = [{"match": "hidden.*", "freeze_epochs": "all"}]
    run = train(*home, lr=TINY, epochs=1, notes=notes, train={"start": start, "groups": groups})
    plain = train(*home, lr=TINY, epochs=1)
    theirs, ours, drawn = tensors_of(pretrained), tensors_of(run), tensors_of(plain)
    assert torch.equal(ours["hidden.0.weight_KDH"], theirs["hidden.0.weight_KDH"])
    assert torch.equal(ours["output.weight_KDH"], drawn["output.weight_KDH"])
    assert any(note.endswith("drawn: output.weight_KDH, output.bias_K1H") for note in notes)
    assert facts_of(run)["start"]["drawn"] == ["output.weight_KDH", "output.bias_K1H"]


def test_a_folder_with_safetensors_alone_does_and_its_content_names_the_run(home, pretrained, tmp_path):
    folder, store = home
    for place in ("one", "moved"):
        (tmp_path / place).mkdir()
        save_file(tensors_of(pretrained), tmp_path / place / "model.safetensors")
    notes: list[str] = []
    one = train(folder, store, epochs=1, notes=notes, train={"start": "one"})
    assert any("nothing is known of the rows" in note for note in notes)
    assert not any("tokens" in note for note in notes if note.startswith("train.start"))
    assert train(folder, store, epochs=1, train={"start": "moved"}).id == one.id
    changed = {name: tensor + 1 for name, tensor in tensors_of(pretrained).items()}
    save_file(changed, tmp_path / "moved" / "model.safetensors")
    assert train(folder, store, epochs=1, train={"start": "moved"}).id != one.id


@pytest.mark.parametrize(
    ("start", "sections", "message"),
    [
        ({"part": "hiden"}, {}, r"train\.start: the model has no tensor that begins with 'hiden'. Did you mean 'hidden"),
        ({"part": ["hidden", "outptu"]}, {}, r"train\.start: the model has no tensor that begins with 'outptu'. Did you mean 'output"),
        ({}, {"model": {"mlp": {"width": 9, "depth": 1}}}, r"train\.start: the model has other tensors than member 0: hidden.0.bias_K1H \(1, 1, 8\) -> \(1, 1, 9\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(home, pretrained, start, sections, message):
    with pytest.raises(SpecError, match=message):
        train(*home, epochs=1, train={"start": {"model": pretrained.root, **start}}, **sections)


def test_a_run_that_may_have_learned_from_rows_that_are_test_now_is_refused(tmp_path):
    write_rows(tmp_path / "rows", 0, num_rows=300)
    store = Store(str(tmp_path / "store"))
    before = train(tmp_path, store, epochs=1, split={"salt": 3})
    with pytest.raises(SpecError, match=r"train\.start: rows were divided otherwise .*salt 3 -> 0"):
        train(tmp_path, store, epochs=1, train={"start": before.root}, split={"redefine": True})


def test_what_may_run_code_or_is_no_model_is_refused(home, tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(SpecError, match=r"train\.start\.model: .*pytorch_model.bin may run code by being read"):
        train(*home, train={"start": "pickled"})
    with pytest.raises(SpecError, match="holds no finished run, no model and no model.safetensors. Give a folder"):
        train(*home, train={"start": "nowhere"})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        train(*home, train={"start": "damaged"})


def test_two_starts_are_one_too_many(home):
    with pytest.raises(SpecError, match=r"train\.start: says what members begin with, and so does warm_start"):
        train(*home, train={"start": "a", "warm_start": "champion"})


def test_a_run_that_started_so_says_it_in_its_record(home, pretrained):
    run = train(*home, epochs=1, train={"start": {"model": pretrained.root, "part": "hidden."}})
    card = json.loads(Path(run.root, "card.json").read_text())
    assert card["job"]["train"]["start"] == {"model": pretrained.root, "part": "hidden."}
