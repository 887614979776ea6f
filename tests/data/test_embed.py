"""Texts become what the encoder itself says of them, whatever stands beside them, and a model folder stands alone."""

import json
import shutil
import warnings

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from tiny_bert import WORDS, write

from fmray.catalogue import STEPS
from fmray.data import weights
from fmray.data.embed import Embed, Encoder
from fmray.data.prepare import prepare
from fmray.data.preview import preview
from fmray.data.scan import scan
from fmray.errors import DataError, SpecError
from fmray.events import Stage
from fmray.inference.model import open_model
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.spec.load import job_from
from fmray.spec.pretrained import with_pretrained
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.workflow import run

pytestmark = pytest.mark.slow  # transformers alone takes seconds to import

WIDTH, PLACES = 32, 32
SCHEMA = Schema((Column("text", "text"),))
TEXTS = [
    "the cat sat on a mat",
    "dogs",
    "red green blue " * 6,
    "the",
    "unknown words",
    "a dog ran",
    "sat on the red mat",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("encoder"), max_position_embeddings=PLACES)


def step(folder, **params):
    return Embed(
        str(folder), declared.Embed(columns="text", folder=str(folder), content="00ff", max_tokens=24, **params)
    )


def frame(texts):
    return pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})


def applied(made, texts):
    state = made.learn(made.fit(frame(["red card"]), SCHEMA), SCHEMA).state
    return made.apply(frame(texts), state)["text"].to_numpy()


def drawn(number, seed=0):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS[:-2], length)) for length in random.integers(1, 22, number)]


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_the_numbers_are_those_of_transformers_for_each_text_alone(folder, pool):
    import torch

    with warnings.catch_warnings(action="ignore"):
        from transformers import AutoModel, PreTrainedTokenizerFast
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    found = applied(step(folder, pool=pool), TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        ids = tokenizer(text, truncation=True, max_length=24, padding=False)["input_ids"]
        with torch.inference_mode():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        theirs = (states.mean(0) if pool == "mean" else states[0]).numpy()
        np.testing.assert_allclose(row, theirs / np.sqrt((theirs**2).mean()), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.5  # texts differ, or the comparison shows nothing


def test_what_stands_beside_a_text_changes_no_bit_of_it_but_where_matrices_are_tiny(folder):
    made = step(folder)
    texts = drawn(400)
    whole = applied(made, texts)
    for size in (1, 3, 8, 64):
        parts = np.concatenate([applied(made, texts[start : start + size]) for start in range(0, 192, size)])[:192]
        np.testing.assert_allclose(parts, whole[:192], atol=2e-6)
        assert size < 8 or np.array_equal(parts, whole[:192])
    order = np.random.default_rng(1).permutation(len(texts))
    assert np.array_equal(applied(made, [texts[i] for i in order]), whole[order])


def test_no_text_is_zeros_and_what_is_cut_is_said(folder):
    made = step(folder)
    one = made.fit(frame(["red card", None, "red " * 40]), SCHEMA)
    other = made.fit(frame(["", "grey card"]), SCHEMA)
    fitted = made.learn(made.merge(one, other), SCHEMA)
    assert made.merge(one, other) == made.merge(other, one)
    (note,) = fitted.notes
    assert f"{WIDTH} numbers of 'text'" in note
    assert "1 of 3 training texts are cut after 24 tokens" in note
    assert "2 of 5 training rows have none and are all zeros" in note
    assert f"{(4 + 24 + 4) / 3:.1f} tokens per text" in note
    found = made.apply(frame([None, "", "red"]), fitted.state)["text"].to_numpy()
    assert not found[:2].any()
    assert np.square(found[2]).mean() == pytest.approx(1)
    assert fitted.schema.columns == (Column("text", "vector", WIDTH),)
    with pytest.raises(DataError, match="no training row has any text in column 'text'"):
        made.learn(made.fit(frame([None, ""]), SCHEMA), SCHEMA)


def test_more_tokens_than_the_encoder_has_places_for_are_refused(folder):
    assert len(Encoder(str(folder), "mean", PLACES)(["red " * 50])[0]) == WIDTH
    with pytest.raises(SpecError, match=r"33, and the encoder has places for 32"):
        Encoder(str(folder), "mean", PLACES + 1)


def spoiled(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "model.safetensors"
    if name == "tensors":
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "no tokenizer":
        (copy / "tokenizer.json").write_text("{}")
    elif name in ("int8", "nan"):
        tensors = load_file(path)
        key = next(key for key in tensors if key.endswith("query.weight"))
        tensors[key] = np.int8(tensors[key] * 100) if name == "int8" else tensors[key] * np.float32("nan")
        save_file(tensors, path)
    else:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **name}))
    return copy


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensors", "cannot be read as safetensors"),
        ("int8", r"holds '.*query.weight' as I8. Accepted: F16, BF16, F32, F64"),
        ("nan", "holds numbers in '.*' that are not finite"),
        ("no tokenizer", "cannot be read as a tokenizer"),
        ({"num_hidden_layers": 3}, "lacks 16 tensors of its model"),
        ({"num_hidden_layers": 1}, "has 16 tensors of further layers"),
        ({"num_attention_heads": 0}, "cannot be read as a model of transformers"),
        ({"hidden_size": "32"}, "cannot be read as a model of transformers"),
        ({"model_type": "made_up"}, "cannot be read as a model of transformers"),
        ({"hidden_size": 48}, "cannot be read as a model of transformers"),
    ],
    ids=["tensors", "int8", "nan", "tokenizer", "more layers", "fewer layers", "heads", "text", "type", "width"],
)
def test_tensors_that_do_not_fit_are_refused_rather_than_drawn(folder, tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        Encoder(str(spoiled(folder, tmp_path, name)), "mean", 24)


def test_what_lies_beside_weights_and_would_change_them_is_refused(folder, tmp_path):
    copy = spoiled(folder, tmp_path, {})
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(SpecError, match="holds an adapter"):
        Encoder(str(copy), "mean", 24)
    copy = spoiled(folder, tmp_path / "other", {"attn_implementation": "some-user/some-kernel"})
    assert np.array_equal(Encoder(str(copy), "mean", 24)(TEXTS), Encoder(str(folder), "mean", 24)(TEXTS))


def test_code_in_a_folder_of_weights_is_not_run(folder, tmp_path):
    copy = spoiled(folder, tmp_path, {"auto_map": {"AutoModel": "evil.Model"}, "model_type": "evil"})
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError):
        Encoder(str(copy), "mean", 24)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def made(folder, tmp_path):
    """Rows whose class is in their words, beside a copy of the encoder, and a job that reads them."""
    shutil.copytree(folder, tmp_path / "encoder")
    random = np.random.default_rng(0)
    texts = drawn(300)
    labels = ["card" if "card" in text or "red" in text else "other" for text in texts]
    numbers = random.normal(size=len(texts))
    (tmp_path / "data").mkdir()
    for part in range(2):
        rows = slice(part * 150, part * 150 + 150)
        table = pa.table({"text": texts[rows], "number": numbers[rows], "y": labels[rows]})
        pq.write_table(table, tmp_path / "data" / f"{part}.parquet")
    return {
        "name": "embedded",
        "data": {"path": "data", "target": "y"},
        "steps": [{"embed": {"columns": "text", "folder": "encoder", "max_tokens": 24}}],
        "model": "linear",
        "train": {"epochs": 3, "batch_rows": 32},
    }


def test_a_model_folder_stands_alone_and_notices_other_weights(made, tmp_path):
    store = Store(str(tmp_path / "store"))
    job = job_from(made, tmp_path)
    done = run(job, store)
    moved = tmp_path / "elsewhere" / "model"
    shutil.move(f"{done.root}/model", moved)
    theirs = pq.read_table(f"{done.root}/predictions/val.parquet")["p_0"].to_numpy()
    shutil.rmtree(tmp_path / "encoder")
    shutil.rmtree(tmp_path / "store")
    model = open_model(moved)
    table = pq.read_table(tmp_path / "data")
    found = model.predict(table.append_column("more", table["number"]))
    assert found.num_rows == 300
    ours = found["p_card"].to_numpy()
    assert len(np.unique(theirs.round(4))) > 20
    assert np.abs(theirs[:, None] - ours).min(1).max() < 1e-6
    (file,) = moved.glob("weights/*/model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="lacks tokenizer.json|is damaged. Copy the model folder again"):
        open_model(moved)


def test_other_weights_under_the_same_name_train_anew(made, tmp_path):
    store = Store(str(tmp_path / "store"))
    job = job_from(made, tmp_path)
    first = run(job, store)
    assert run(job, store).id == first.id
    write(tmp_path / "encoder", seed=1, max_position_embeddings=PLACES)
    second = run(job, store)
    assert second.id != first.id
    assert len(store.list("prepared")) == len(store.list("weights")) == 2
    removed = store.gc(dry_run=False)
    assert not [path for path in removed if "/weights/" in path or "/prepared/" in path]
    store.remove(second.root)
    store.gc(dry_run=False)
    assert len(store.list("weights")) == 1
    assert run(job_from({**made, "train": {"epochs": 4, "batch_rows": 32}}, tmp_path), store).status == "finished"


def test_weights_that_are_changed_while_a_run_goes_on_are_refused(made, tmp_path):
    job = job_from(made, tmp_path)

    def change(event):
        if isinstance(event, Stage) and event.name == "prepare":
            write(tmp_path / "encoder", seed=1, max_position_embeddings=PLACES)

    with pytest.raises(SpecError, match="It was changed since the run began|it was changed since the run began"):
        run(job, Store(str(tmp_path / "store")), report=change)


def test_damaged_weights_in_a_store_are_made_anew(made, tmp_path):
    store = Store(str(tmp_path / "store"))
    first = run(job_from(made, tmp_path), store)
    (file,) = (tmp_path / "store/weights").glob("*/*/model.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-4] + bytes(4))
    second = run(job_from({**made, "train": {"epochs": 4, "batch_rows": 32}}, tmp_path), store)
    assert open_model(second.root).predict(pq.read_table(tmp_path / "data")).num_rows == 300
    assert [path.read_bytes() for path in (tmp_path / "store/weights").glob("*/*/model.safetensors")] == [content]
    assert open_model(first.root).identity


def test_a_range_over_folders_is_refused(made, tmp_path):
    made["steps"][0]["embed"]["folder"] = {"choice": ["encoder", "other"]}
    with pytest.raises(SpecError, match="folders are not searched") as error:
        with_pretrained(job_from(made, tmp_path))
    assert error.value.where == "steps.0.embed.folder"


def test_a_step_of_the_users_own_may_keep_what_it_likes(made):
    steps = [{"name": "mine:Scale", "params": {}, "state": {"weights": [0.5, 2.0]}}]
    weights.write_weights(steps, None, "/nowhere")  # asks no store and writes nothing
    assert weights.beside_model(steps, "/nowhere") == {}


def test_a_look_at_a_job_encodes_a_few_rows(made, tmp_path, monkeypatch):
    encoded = []
    call = Encoder.__call__
    monkeypatch.setattr(Encoder, "__call__", lambda self, texts: (encoded.append(len(texts)), call(self, texts))[1])
    shown = preview(job_from(made, tmp_path))
    assert shown.inputs is not None
    assert shown.inputs.width == WIDTH + 1
    assert sum(encoded) <= 64
    assert any("judged by 64 of 300 rows: embed makes" in note for note in shown.notes)


@pytest.mark.cluster
def test_over_ray_the_lanes_hold_the_same_bytes(made, tmp_path):
    contents = []
    for where in ("local", "ray"):
        store = Store(str(tmp_path / where))
        job = with_pretrained(job_from({**made, "run": {"prepare": where}}, tmp_path))
        prepared = prepare(scan(job.data, job.folder, store), job, Ref("classification"), store, item_bytes=1)
        files = store.sizes(prepared.root)
        contents.append({name: store.read_bytes(f"{prepared.root}/{name}") for name in files if "arrow" in name})
    assert contents[0].keys() == contents[1].keys()
    assert len(contents[0]) > 3
    assert contents[0] == contents[1]


def test_the_step_is_the_one_that_keeps_weights():
    assert [name for name in STEPS if STEPS.params(name).keeps_weights] == ["embed"]
