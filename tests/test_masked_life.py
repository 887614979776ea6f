"""A masked language model goes through the whole life of a job, and a classifier starts from it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from life import kill_after, members_of, same_bits
from safetensors.torch import load_file

from fmray.errors import SpecError
from fmray.evaluate.table import read
from fmray.events import Note
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.records import Predictions, Run
from fmray.report.card import Card, read_card
from fmray.spec.job import Job
from fmray.store import Store
from fmray.workflow import execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("masked_life")]
PATTERNS = {"up": "abcdefgh", "down": "hgfedcba"}
CONTEXT = 16


def texts(num_rows: int, seed: int) -> pa.Table:
    """Draw texts of 0 to 40 letters that go up or down the alphabet from anywhere in it, and err at times."""
    source = np.random.default_rng(seed)
    ways = source.choice(list(PATTERNS), num_rows)
    lines: list[str | None] = []
    for way, length, start in zip(ways, source.integers(0, 41, num_rows), source.integers(0, 8, num_rows), strict=True):
        letters = [PATTERNS[way][(start + place) % 8] for place in range(length)]
        lines.append("".join(one if source.random() > 0.05 else str(source.choice(list("abcd"))) for one in letters))
    lines[7] = None
    lines[8] = ""
    return pa.table({"text": pa.array(lines, pa.string()), "way": ways, "id": np.arange(num_rows)})


def job_of(folder: Path, **changes: object) -> Job:
    changed = {"data": {}, "train": {}, "run": {}, **changes}
    data = {"path": str(folder), "target": "text", "key": "id", "ignore": ["way"]}
    train = {"steps": 240, "validate_every": 60, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.01}}}
    options = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0}
    asked = {
        "name": "masked",
        "task": {"masked_language_model": {"context": CONTEXT}},
        "steps": [{"tokenize": {"columns": "text", "kind": "characters", "max_tokens": 1000}}],
        "model": {"encoder": {"width": 32, "depth": 1, "heads": 2, "dropout": 0.1}},
        "evaluate": {"baselines": ["dummy"]},
        "rigour": {"profile": "draft"},
    }
    told = {"data": data | changed["data"], "train": train | changed["train"], "run": options | changed["run"]}
    return Job.from_json({**asked, **changed, **told})


def tuned(folder: Path, start: object, tokenize: dict[str, object], **changes: object) -> Job:
    """Give a job that tells ways apart."""
    return job_of(
        folder,
        name="tuned",
        data={"target": "way", "ignore": []},
        task="classification",
        steps=[{"tokenize": {"columns": "text", "max_tokens": CONTEXT, **tokenize}}],
        **{"train": {"steps": 20, "validate_every": 20, "start": start}, **changes},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("texts") / "data"
    made.mkdir()
    pq.write_table(texts(400, 3), made / "a.parquet", row_group_size=100)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("masked") / "store"))


@pytest.fixture(scope="module")
def done(folder, store) -> Run:
    return execute(job_of(folder), store)


def card_of(run: Run) -> Card:
    return read_card(run.root, Store(run.root.rpartition("/runs/")[0]))


def tensors_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(f"{run.root}/model/00000/model.safetensors")


def sealed(run: Run) -> Predictions:
    path = f"{run.root}/sealed/test.parquet"
    return Predictions(path, "test", ("p",), pq.read_metadata(path).num_rows)


def test_it_learns_more_than_the_shares_of_letters_tell(done):
    assert done.scores.primary == "nats_per_masked_token"
    found = done.scores.test["nats_per_masked_token"]
    dummy = done.scores.baselines["dummy"]["nats_per_masked_token"].value
    assert found.low < found.value < found.high < 0.8 * dummy
    assert {gate["gate"]: gate["status"] for gate in card_of(done).gates}["G22"] == "pass"
    report = Path(done.report).read_text(encoding="utf-8")
    assert "nats_per_masked_token" in report
    assert "learned from context" in report


def test_scores_are_those_of_the_tokens_asked_for_in_the_table_of_predictions(done):
    table = read(sealed(done))
    asked = table.target[:, 0] >= 0
    lists = pq.read_table(sealed(done).path)["target"].to_pylist()
    assert [sum(id_ >= 0 for id_ in row) for row in lists] == [max(1, int(len(row) * 0.15 + 0.5)) for row in lists]
    nats = -np.log(table.output[asked, 0])
    assert done.scores.test["nats_per_masked_token"].value == pytest.approx(nats.mean(), rel=1e-12)
    assert done.scores.test["masked_token_accuracy"].value == pytest.approx(table.output[asked, 1].mean(), rel=1e-12)
    prepared = card_of(done).prepared
    shares = (np.array(prepared.target.counts) + 1) / (sum(prepared.target.counts) + len(prepared.target.counts))
    expected = -np.log(shares[table.target[asked, 0]]).mean()
    dummy = done.scores.baselines["dummy"]["nats_per_masked_token"].value
    assert dummy == pytest.approx(expected, rel=1e-12)


def test_the_output_table_is_that_of_the_embeddings(done):
    tensors = tensors_of(done)
    assert tensors["head.bias"].shape == tensors["embedding.weight"].shape[:1]
    assert not [name for name, tensor in tensors.items() if name.startswith("head") and len(tensor) > 32]


def test_a_new_text_is_asked_for_tokens_that_follow_from_it_alone(done, tmp_path):
    rows = [None, "", "abcdefgh", "abcdefghabcdefghabcdefgh", "aaaaaaaa", "abcdefgh"]
    table = pa.table({"text": pa.array(rows, pa.string()), "id": np.arange(len(rows))})
    told = open_model(done.root).predict(table).to_pylist()
    assert [row["masked_tokens"] for row in told] == [0, 0, 1, 3, 1, 1]
    assert told[2] == told[5]
    assert told[3]["nats_per_masked_token"] < told[4]["nats_per_masked_token"]
    for row, text in zip(told, rows, strict=True):
        p = [one for one in row["p"] if one is not None]
        assert (len(row["p"]), len(p)) == (len(text or ""), row["masked_tokens"])
        if p:
            assert row["nats_per_masked_token"] == pytest.approx(-np.log(p).mean())
        else:
            assert row["nats_per_masked_token"] is None
    pq.write_table(table, tmp_path / "new.parquet", row_group_size=2)
    predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet").to_pylist()
    for row, other in zip(written, told, strict=True):
        assert [one or 0 for one in row["p"]] == pytest.approx([one or 0 for one in other["p"]], rel=1e-5)


def test_the_saved_model_says_of_its_rows_what_the_run_said(done):
    model = open_model(done.root)
    said = [row for row in model.predict(model.example)["p"].to_pylist() if row]
    lists = pq.read_table(f"{done.root}/predictions/val.parquet")
    ours: dict[int, list[float]] = {}
    for text, p in zip(lists["group"].to_pylist(), lists["p"].to_pylist(), strict=True):
        ours.setdefault(text, []).extend(one[0] for one in p)
    assert said
    for row in said:
        filled = [0.0 if one is None else one for one in row]
        assert any(len(filled) == len(other) and np.allclose(filled, other, rtol=1e-4) for other in ours.values())


def test_it_is_not_exported_and_writes_no_text_and_says_so(done, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, "torch", str(tmp_path / "out"))
    with pytest.raises(SpecError, match="a model of task masked_language_model generates no text"):
        open_model(done.root).generate("abc")


def test_killed_and_run_again_it_ends_in_the_same_bits(done, folder, tmp_path):
    store = str(tmp_path / "store")
    kill_after(2, "test_masked_life", "job_of", folder=folder, store=store)
    again = execute(job_of(folder), Store(store))
    same_bits(done, again)


@pytest.mark.cluster
def test_two_workers_hide_the_same_tokens_as_this_process(folder, store, tmp_path):
    short = {"steps": 8, "validate_every": 8}
    one = execute(job_of(folder, train=short), store)
    two = execute(job_of(folder, train=short, run={"workers": 2}), Store(str(tmp_path / "store")))
    ours, theirs = (members_of(run)[0] for run in (one, two))
    assert ours.val_score == pytest.approx(theirs.val_score, rel=1e-4)
    pairs = zip(tensors_of(one).values(), tensors_of(two).values(), strict=True)
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in pairs)


def test_a_run_that_has_not_learned_says_so_and_its_honest_twin_does_not(folder, store, done):
    notes: list[str] = []
    stuck = job_of(folder, train={"steps": 10, "validate_every": 10, "optimizer": {"adamw": {"lr": 1e-8}}})
    run = execute(stuck, store, report=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    said = [note for note in notes if "has not learned from context" in note]
    assert len(said) == 1
    assert "has not learned from context" in Path(run.report).read_text(encoding="utf-8")
    assert {gate["gate"]: gate["status"] for gate in card_of(run).gates}["G22"] != "pass"
    assert not [note for note in card_of(done).notes if "has not learned" in note]


def test_a_classifier_starts_from_its_trunk_and_reads_by_its_vocabulary(folder, store, done):
    notes: list[str] = []
    train = {"steps": 1, "validate_every": 1, "start": done.root, "optimizer": {"sgd": {"lr": 1e-30}}}
    model = {"encoder": {"width": 32, "depth": 1, "heads": 2, "dropout": 0.3}}
    job = tuned(folder, done.root, {"pretrained": done.root}, train=train, model=model)
    run = execute(job, store, report=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    ours, theirs = tensors_of(run), tensors_of(done)
    shared = [name for name in ours if not name.startswith("head") and not name.endswith("rate_K11")]
    rates = [float(tensor) for name, tensor in ours.items() if name.endswith("rate_K11")]
    assert rates == pytest.approx([0.3] * 4)  # what is dropped is said by the job
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert ours["head.weight"].shape == (2, 32)
    told = json.loads(Path(run.root, "run.json").read_text())["start"]
    assert (sorted(told["taken"]), sorted(told["drawn"])) == (sorted(shared), ["head.bias", "head.weight"])
    assert any(note.startswith(f"train.start: from {done.root}: embedding.weight") for note in notes)
    assert any(note.startswith("train.start: ") for note in card_of(run).notes)
    mine, its = (json.loads(card_of(one).prepared.steps[0]["state"]["tokenizer"])["model"] for one in (run, done))
    assert mine == its
    assert job.to_json()["steps"][0]["tokenize"].keys() == {"columns", "max_tokens", "pretrained"}


def test_tensors_of_another_width_or_vocabulary_are_refused_by_name(folder, store, done):
    wide = {"encoder": {"width": 64, "depth": 1, "heads": 2}}
    with pytest.raises(SpecError, match=r"train.start: .*embedding.weight \(\d+, 32\) -> \(\d+, 64\)"):
        execute(tuned(folder, done.root, {"pretrained": done.root}, model=wide), store)
    with pytest.raises(
        SpecError,
        match=r"train.start: .* has embeddings of another vocabulary than that of the rows \(ids: \d+ -> \d+\)",
    ):
        execute(tuned(folder, done.root, {"kind": "words"}), store)
