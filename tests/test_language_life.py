"""A language model goes through the whole life of a job: run, report, killed and continued, predicted, on workers."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from life import kill_after, members_of, same_bits, served_by_mlflow
from plain_decoder import logits
from safetensors.torch import load_file

from fmray.errors import DataError, SpecError
from fmray.evaluate.table import read
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.promote import promote
from fmray.records import Predictions, Run
from fmray.report.card import Card, read_card
from fmray.spec.job import Job
from fmray.spec.promotion import Promote
from fmray.store import Store
from fmray.workflow import execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("language_life")]
PATTERN = "abacabadab"
CONTEXT = 16


def texts(num_rows: int, seed: int) -> pa.Table:
    """Draw texts of 0 to 60 letters that repeat a pattern from anywhere in it, and err at times; some are null."""
    source = np.random.default_rng(seed)
    lines: list[str | None] = []
    for length, start in zip(source.integers(0, 61, num_rows), source.integers(0, len(PATTERN), num_rows), strict=True):
        letters = [PATTERN[(start + place) % len(PATTERN)] for place in range(length)]
        lines.append("".join(one if source.random() > 0.05 else str(source.choice(list("abcd"))) for one in letters))
    lines[7] = None
    lines[8] = ""
    beside = {"kind": source.choice(["mail", "news"], num_rows), "id": np.arange(num_rows)}
    return pa.table({"text": pa.array(lines, pa.string()), **beside})


def job_of(folder: Path, **changes: object) -> Job:
    changed = {"data": {}, "train": {}, "run": {}, **changes}
    data = {"path": str(folder), "target": "text", "key": "id"}
    train = {"steps": 150, "validate_every": 25, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.01}}, "seeds": 2}
    options = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0}
    tokenize = {"columns": "text", "kind": "characters", "max_tokens": 1000}
    asked = {
        "name": "language",
        "task": {"language_model": {"context": CONTEXT}},
        "steps": [{"tokenize": tokenize}, {"drop": {"columns": "kind"}}],
        "model": {"decoder": {"width": 32, "depth": 1, "heads": 2, "dropout": 0.1}},
        "ensemble": {"average": {"keep": "always"}},
        "evaluate": {"slices": ["kind"]},
        "rigour": {"profile": "draft"},
    }
    return Job.from_json(
        {
            **asked,
            **changed,
            **{"data": data | changed["data"], "train": train | changed["train"], "run": options | changed["run"]},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("texts") / "data"
    made.mkdir()
    pq.write_table(texts(300, 3), made / "a.parquet", row_group_size=100)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("language") / "store"))


@pytest.fixture(scope="module")
def done(folder, store) -> Run:
    return execute(job_of(folder), store)


def card_of(run: Run) -> Card:
    return read_card(run.root, Store(run.root.rpartition("/runs/")[0]))


def sealed(run: Run) -> Predictions:
    path = f"{run.root}/sealed/test.parquet"
    return Predictions(path, "test", ("p",), pq.read_metadata(path).num_rows)


def ids_of(run: Run, text: str) -> list[int]:
    """Give the ids of letters by the vocabulary that the run has learned."""
    vocabulary = json.loads(card_of(run).prepared.steps[0]["state"]["tokenizer"])["model"]["vocab"]
    return [vocabulary.get(letter, 1) for letter in text]


def by_hand(run: Run, text: str) -> list[np.ndarray]:
    """Give what each member says of each letter of a text, from its tensors, window by window."""
    ids = ids_of(run, text)
    found = []
    for member in members_of(run):
        tensors = load_file(f"{run.root}/model/{member.index:05d}/model.safetensors")
        said = []
        for start in range(0, len(ids), CONTEXT):
            target = torch.tensor(ids[start : start + CONTEXT])
            before = torch.tensor([0, *ids][start : start + len(target)])
            p = logits(tensors, before, heads=2).softmax(-1)
            said.append(p.gather(1, target[:, None])[:, 0].numpy())
        found.append(np.concatenate(said) if said else np.zeros(0))
    return found


def test_it_learns_more_than_letters_tell_of_the_next_one(done):
    assert done.scores.primary == "nats_per_token"
    found = done.scores.test["nats_per_token"]
    linear, dummy = (done.scores.baselines[name]["nats_per_token"].value for name in ("linear", "dummy"))
    assert found.low < found.value < found.high < linear < dummy
    assert done.scores.paired["linear"].low > 0
    report = Path(done.report).read_text(encoding="utf-8")
    assert "nats_per_token" in report
    assert "texts are cut into" in report


def test_nats_are_those_of_the_table_of_predictions_and_texts_are_what_is_independent(done):
    lists = pq.read_table(sealed(done).path)
    p = np.concatenate([np.array(row) for row in lists["p"].to_pylist()])
    found = done.scores.test["nats_per_token"]
    assert found.value == pytest.approx(-np.log(p).mean(), rel=1e-12)
    assert found.n == len(set(lists["group"].to_pylist())) < len(lists)
    assert [len(row) for row in lists["target"].to_pylist()] == [len(row) for row in lists["p"].to_pylist()]
    table = read(sealed(done))
    for code, level in enumerate(card_of(done).prepared.slices["kind"]):
        rows = table.slices["kind"] == code
        if rows.any():
            own = done.scores.slices[f"kind={level}"]["nats_per_token"].value
            assert own == pytest.approx(-np.log(table.output[rows]).mean(), rel=1e-12)


def test_the_dummy_is_the_share_of_letters_in_training_texts(done):
    prepared = card_of(done).prepared
    shares = (np.array(prepared.target.counts) + 1) / (sum(prepared.target.counts) + len(prepared.target.counts))
    target = read(sealed(done)).target[:, 0]
    expected = -np.log(shares[target]).mean()
    assert done.scores.baselines["dummy"]["nats_per_token"].value == pytest.approx(expected, rel=1e-12)


def new_rows() -> pa.Table:
    return pa.table({"text": pa.array(NEW, pa.string()), "kind": ["mail"] * len(NEW), "id": np.arange(len(NEW))})


NEW = [None, "", PATTERN, PATTERN * 9, "a", "zébra abacabadab", "abacabadababacab", "b" * 33]


@pytest.fixture(scope="module")
def told(done) -> list[dict[str, object]]:
    return open_model(done.root).predict(new_rows()).to_pylist()


def test_a_new_text_is_worth_what_the_tensors_say_in_plain_torch(done, told):
    for text, row in zip(NEW, told, strict=True):
        p = np.mean(by_hand(done, text or ""), axis=0)
        assert row["p"] == pytest.approx(p, rel=1e-4)
        assert row["tokens"] == len(text or "")
        if text:
            assert row["nats_per_token"] == pytest.approx(-np.log(p).mean(), rel=1e-4)
        else:
            assert row["nats_per_token"] is None
    usual, strange = told[3]["nats_per_token"], told[7]["nats_per_token"]
    assert usual < strange


def test_test_scores_are_those_of_the_tensors_in_plain_torch(done):
    lines = texts(300, 3)["text"].to_pylist()
    lists = pq.read_table(sealed(done).path)
    held: dict[int, list[int]] = {}
    for text, target in zip(lists["group"].to_pylist(), lists["target"].to_pylist(), strict=True):
        held.setdefault(text, []).extend(target)
    known = {tuple(ids_of(done, line)): line for line in lines if line}
    chosen = [known[tuple(ids)] for ids in held.values()]
    p = np.concatenate([np.mean(by_hand(done, line), axis=0) for line in chosen])
    assert done.scores.test["nats_per_token"].value == pytest.approx(-np.log(p).mean(), rel=1e-5)


def test_predictions_of_new_files_are_those_of_the_open_model(done, told, tmp_path):
    pq.write_table(new_rows(), tmp_path / "new.parquet", row_group_size=3)
    predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet").to_pylist()
    for row, other in zip(written, told, strict=True):
        assert row["p"] == pytest.approx(other["p"], rel=1e-5)
        assert row["tokens"] == other["tokens"]
        assert (row["nats_per_token"] is None) == (other["nats_per_token"] is None)
        assert (row["nats_per_token"] or 0) == pytest.approx(other["nats_per_token"] or 0, rel=1e-5)


def test_rows_that_are_all_empty_are_answered(done):
    table = pa.table({"text": pa.array([None, ""], pa.string()), "kind": ["mail", None]})
    assert open_model(done.root).predict(table)["tokens"].to_pylist() == [0, 0]
    assert open_model(done.root).predict(table.slice(0, 0)).num_rows == 0


def test_the_saved_model_says_of_its_rows_what_the_run_said(done):
    model = open_model(done.root)
    said = [row for row in model.predict(model.example)["p"].to_pylist() if row]
    lists = pq.read_table(f"{done.root}/predictions/val.parquet")
    ours: dict[int, list[float]] = {}
    for text, p in zip(lists["group"].to_pylist(), lists["p"].to_pylist(), strict=True):
        ours.setdefault(text, []).extend(np.ravel(p))
    assert said
    for row in said:
        assert any(len(row) == len(other) and np.allclose(row, other, rtol=1e-4) for other in ours.values())


def test_two_members_are_the_mean_of_their_probabilities(done):
    model = open_model(done.root)
    table = texts(30, 8).select(["text", "kind"])
    together = model.predict(table)["p"].to_pylist()
    for text, p in zip(table["text"].to_pylist(), together, strict=True):
        one, other = by_hand(done, text or "")
        assert p == pytest.approx((one + other) / 2, rel=1e-4)


@pytest.mark.parametrize("format_", ["torch", "onnx"])
def test_export_is_refused_by_name(done, format_, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, format_, str(tmp_path / "out"))


@pytest.mark.filterwarnings("ignore")  # MLflow's own, which fmray keeps quiet as well
def test_mlflow_serves_what_the_model_says(done, tmp_path):
    said, table = served_by_mlflow(done, texts(40, 6).slice(9), tmp_path)
    told = open_model(done.root).predict(table)
    for name in ("nats_per_token", "tokens"):
        assert said[name].to_numpy(float) == pytest.approx(told[name].to_numpy().astype(float), nan_ok=True)
    assert [list(row) for row in said["p"]] == told["p"].to_pylist()


def test_killed_and_run_again_it_ends_in_the_same_bits(done, folder, tmp_path):
    store = str(tmp_path / "store")
    for epochs in (2, 1):
        kill_after(epochs, "test_language_life", "job_of", folder=folder, store=store)
    again = execute(job_of(folder), Store(store))
    same_bits(done, again)


def test_the_context_is_what_a_model_may_look_back_on(folder, store, done):
    task = {"language_model": {"context": 4}}
    short = execute(job_of(folder, task=task, train={"seeds": 1}, evaluate={"baselines": ["dummy"]}), store)
    assert max(map(len, pq.read_table(sealed(short).path)["p"].to_pylist())) == 4
    dummy = done.scores.baselines["dummy"]["nats_per_token"].value
    assert short.scores.baselines["dummy"]["nats_per_token"].value == pytest.approx(dummy, rel=1e-12)
    assert short.scores.test["nats_per_token"].value > done.scores.test["nats_per_token"].value


def test_a_decoder_is_refused_where_tags_are_asked_for(tmp_path):
    words = pa.array([["a", "b"], ["b"]] * 60, pa.list_(pa.string()))
    tags = pa.array([["x", "y"], ["y"]] * 60, pa.list_(pa.string()))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"words": words, "tags": tags, "id": np.arange(120)}), tmp_path / "data/a.parquet")
    steps = [{"tokenize_words": {"columns": "words", "vocabulary": 50}}]
    asked = job_of(
        tmp_path / "data", data={"target": "tags"}, task="tagging", steps=steps, evaluate={}, model="decoder"
    )
    with pytest.raises(SpecError, match="decoder gives an output for each of"):
        execute(asked, Store(str(tmp_path / "store")))


def test_a_model_of_rows_is_refused_where_tokens_are_foretold(folder, tmp_path):
    with pytest.raises(SpecError, match="reads"):
        execute(job_of(folder, model="mlp"), Store(str(tmp_path)))


def test_a_row_with_an_infinite_number_has_no_prediction_and_gives_none_to_its_neighbour(tmp_path, store):
    table = texts(150, 4)
    table = table.append_column("n", pa.array(np.linspace(-1, 1, 150)))
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data/a.parquet")
    steps = [*job_of(tmp_path).to_json()["steps"], "standardise"]
    train = {"steps": 10, "validate_every": 10, "seeds": 1}
    run = execute(job_of(tmp_path / "data", name="numbers", steps=steps, train=train), store)
    model = open_model(run.root)
    sound = model.predict(table).to_pylist()
    n = np.linspace(-1, 1, 150)
    n[20:40:3] = np.inf
    found = model.predict(table.set_column(3, "n", pa.array(n))).to_pylist()
    for place, (row, other) in enumerate(zip(found, sound, strict=True)):
        if np.isinf(n[place]):
            assert row == {"nats_per_token": None, "tokens": None, "p": None}
        else:
            assert row["tokens"] == len(row["p"]) == other["tokens"]
            assert row["p"] == pytest.approx(other["p"], rel=1e-5)


ENSEMBLES = {
    "greedy": {"greedy": {"bags": 2, "keep": "always"}},
    "mean": {"stacking": {"keep": "always"}},
    "soup": {"soup": {"greedy": False, "keep": "always"}},
    "bagging": {"bagging": {"members": 2, "keep": "always"}},
}


@pytest.mark.parametrize("name", list(ENSEMBLES))
def test_members_are_combined_by_ensembles_of_probabilities(folder, store, name):
    train = {"steps": 40, "validate_every": 20, **({"seeds": 1} if name == "bagging" else {})}
    job = job_of(folder, ensemble=ENSEMBLES[name], train=train, evaluate={"baselines": ["dummy"]})
    run = execute(job, store)
    table = read(sealed(run))
    assert (table.output > 0).all()
    assert (table.output < 1).all()
    assert run.scores.test["nats_per_token"].value < run.scores.baselines["dummy"]["nats_per_token"].value


@pytest.mark.parametrize(
    "ensemble", [{"vote": {}}, {"stacking": {"kind": "logistic"}}, {"adaboost": {"rounds": 2}}], ids=str
)
def test_ensembles_of_classes_are_refused_by_name(folder, tmp_path, ensemble):
    train = {"seeds": 1} if "adaboost" in ensemble else {}
    with pytest.raises((SpecError, DataError), match=next(iter(ensemble))):
        execute(job_of(folder, ensemble=ensemble, train=train), Store(str(tmp_path)))


def test_promotion_is_refused_by_name(folder, tmp_path):
    store = Store(str(tmp_path / "store"))
    profile = {"rigour": {"profile": "standard"}, "evaluate": {"baselines": ["dummy"]}}
    train = {"seeds": 1, "steps": 60, "validate_every": 20}
    weak, strong = (execute(job_of(folder, train={**train, "steps": steps}, **profile), store) for steps in (60, 100))
    rule = Promote(evidence="sealed", horizon=2)
    assert promote(weak, store, rule).verdict == "promoted"
    with pytest.raises(DataError, match="rows were cut into windows, which rivals cannot be asked about yet"):
        promote(strong, store, rule)


def test_a_search_over_a_packable_parameter_ends_in_a_report_with_its_selection(folder, store):
    task = {"language_model": {"context": CONTEXT, "label_smoothing": {"uniform": [0, 0.3]}}}
    train = {"steps": 40, "validate_every": 20, "seeds": 1}
    search = {"members": 4, "finalists": 1}
    run = execute(job_of(folder, task=task, search=search, train=train, ensemble="single"), store)
    account = card_of(run).search
    assert account.num_members == 4
    assert account.selection["winner"] == account.leaderboard[0]["member"]


def test_buckets_change_the_order_and_nothing_else(folder, store, done):
    run = execute(job_of(folder, train={"order": {"bucket": 16}}), store)
    assert sealed(run).num_rows == sealed(done).num_rows
    ours, theirs = (read(sealed(one)) for one in (run, done))
    assert np.array_equal(ours.row_id, theirs.row_id)
    assert run.scores.test["nats_per_token"].value < run.scores.baselines["linear"]["nats_per_token"].value


@pytest.mark.cluster
def test_two_workers_with_buckets_end_where_one_process_does(folder, store, tmp_path):
    train = {"order": {"bucket": 16}, "steps": 60, "validate_every": 20}
    one = execute(job_of(folder, train=train), store)
    two = execute(job_of(folder, train=train, run={"workers": 2}), Store(str(tmp_path / "store")))
    for mine, other in zip(members_of(one), members_of(two), strict=True):
        assert mine.best_epoch == other.best_epoch
        ours, theirs = (
            load_file(f"{run.root}/model/{member.index:05d}/model.safetensors")
            for run, member in ((one, mine), (two, other))
        )
        for name, tensor in ours.items():
            assert float((tensor - theirs[name]).abs().max()) < 1e-3 * max(1.0, float(tensor.abs().max()))
