"""Tags go through the whole life of a job: run, report, killed and continued, predicted, compared, on workers."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from life import close_members, kill_after, same_bits, served_by_mlflow
from sklearn.metrics import accuracy_score, f1_score, log_loss

from fmray.data.session import run_here
from fmray.errors import DataError, SpecError
from fmray.evaluate.table import read
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.promote import promote
from fmray.promote.evidence import compare, sealed_table
from fmray.records import Predictions, Run
from fmray.report.card import Card, read_card
from fmray.spec.job import Job
from fmray.spec.promotion import Promote
from fmray.store import Store
from fmray.workflow import execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tagging_life")]
PLAIN = ["the", "old", "saw", "walks", "and", "a", "to"]
NAMES = ["Kim", "Lee", "Ada", "Max", "Rio"]
TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
LISTS = pa.list_(pa.string())


def tags_of(words: list[str], source: np.random.Generator) -> list[str]:
    """Tag names behind `mr` as a person and behind `in` as a place, and a second name as more of it; err at times."""
    tags: list[str] = []
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        told = tags[-1][2:] if place and tags[-1] != "O" and before in NAMES else {"mr": "PER", "in": "LOC"}.get(before)
        tags.append("O" if word not in NAMES or not told else f"{'I' if before in NAMES else 'B'}-{told}")
    return [tag if source.random() > 0.03 else str(source.choice(TAGS)) for tag in tags]


def sentences(num_rows: int, seed: int) -> pa.Table:
    """Draw sentences of 1 to 12 words: some have no list of words, and none of tags."""
    source = np.random.default_rng(seed)
    words = [source.choice([*PLAIN, *NAMES, "mr", "in", "mr", "in"], source.integers(1, 13)) for _ in range(num_rows)]
    lists = [row.tolist() for row in words]
    tags = [tags_of(row, source) for row in lists]
    lists[7] = tags[7] = None
    columns = {"words": pa.array(lists, LISTS), "tags": pa.array(tags, LISTS), "id": np.arange(num_rows)}
    beside = {"kind": source.choice(["mail", "news"], num_rows), "doc": np.arange(num_rows) // 3}
    return pa.table(columns | beside | {"weight": source.integers(1, 4, num_rows).astype(float)})


def job_of(folder: Path, **changes: object) -> Job:
    changed = {"data": {}, "train": {}, "run": {}, **changes}
    ignored = [name for name in ("doc", "weight") if name not in changed["data"].values()]
    data = {"path": str(folder), "target": "tags", "key": "id", "ignore": ignored}
    train = {"epochs": 8, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.02}}, "seeds": 2}
    options = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0}
    asked = {
        "name": "tags",
        "task": "tagging",
        "steps": [{"tokenize_words": {"columns": "words", "parts": ["whole", "shape"]}}, {"drop": {"columns": "kind"}}],
        "model": {"tagger": {"embedding": 8, "width": 24, "dropout": 0.1}},
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
    made = tmp_path_factory.mktemp("sentences") / "data"
    made.mkdir()
    pq.write_table(sentences(600, 3), made / "a.parquet", row_group_size=100)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("tagging") / "store"))


@pytest.fixture(scope="module")
def done(folder, store) -> Run:
    return execute(job_of(folder), store)


def card_of(run: Run) -> Card:
    return read_card(run.root, Store(run.root.rpartition("/runs/")[0]))


def sealed(run: Run) -> Predictions:
    path = f"{run.root}/sealed/test.parquet"
    return Predictions(path, "test", ("p",), pq.read_metadata(path).num_rows)


def named(lists: list[list[int]]) -> list[list[str]]:
    return [[TAGS[tag] for tag in row] for row in lists]


def test_it_learns_from_neighbours_what_the_baseline_cannot(done):
    assert done.scores.primary == "entity_f1"
    assert done.scores.test["entity_f1"].value > done.scores.baselines["linear"]["entity_f1"].value + 0.2
    assert done.scores.paired["linear"].low > 0
    report = Path(done.report).read_text(encoding="utf-8")
    assert "entity_f1" in report
    assert "tokenize_words makes block" in report
    assert "F1 per type of entity" in report
    assert "evenly spaced" not in report  # all rows are drawn


def test_scores_are_those_of_scikit_learn_and_seqeval_on_the_table_of_predictions(done):
    theirs = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    table, lists = read(sealed(done)), pq.read_table(sealed(done).path)
    said, true = table.output.argmax(1), table.target[:, 0]
    best = [[int(np.argmax(p)) for p in row] for row in lists["p"].to_pylist()]
    expected = {
        "entity_f1": theirs.f1_score(named(lists["target"].to_pylist()), named(best)),
        "token_accuracy": accuracy_score(true, said),
        "token_log_loss": log_loss(true, table.output, labels=range(len(TAGS))),
    }
    found = done.scores.test
    assert {name: found[name].value for name in expected} == pytest.approx(expected, rel=1e-12)
    assert list(found) == list(expected)
    assert {i.n for i in found.values()} == {sealed(done).num_rows}  # rows are what is independent
    assert all(i.low < i.value < i.high for i in found.values())


def test_each_slice_is_scored_by_its_own_rows(done):
    table = read(sealed(done))
    levels = card_of(done).prepared.slices["kind"]
    for code, level in enumerate(levels):
        rows = table.slices["kind"] == code
        if rows.any():
            own = accuracy_score(table.target[rows, 0], table.output[rows].argmax(1))
            assert done.scores.slices[f"kind={level}"]["token_accuracy"].value == pytest.approx(own, rel=1e-12)
    assert {"kind=mail", "kind=news"} <= set(done.scores.slices)


def test_predictions_of_new_files_are_lists_of_tags_as_long_as_the_words(done, tmp_path):
    new = sentences(120, 5)
    strange = [None, ["zebra", "mr", "Kim"], [], ["in", None]]
    words = pa.chunked_array([pa.array([*strange, *new["words"].to_pylist()[4:]], LISTS)])
    new = new.set_column(0, "words", words).drop(["tags"])
    pq.write_table(new, tmp_path / "new.parquet", row_group_size=50)
    predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet")
    told = open_model(done.root).predict(new)
    assert written["prediction"].type == told["prediction"].type == LISTS
    assert written["prediction"].to_pylist() == told["prediction"].to_pylist()
    flat = [np.array(table["p"].combine_chunks().flatten().flatten()) for table in (written, told)]
    assert flat[0] == pytest.approx(flat[1], abs=1e-6)
    lengths = [len(row or []) for row in words.to_pylist()]
    assert [len(row or []) for row in told["prediction"].to_pylist()] == lengths
    assert told["prediction"].to_pylist()[:3] == [[], ["O", "O", "B-PER"], []]
    assert told["p"].type == pa.list_(pa.list_(pa.float64(), len(TAGS)))
    right = [
        tag == true
        for row, tags in zip(told["prediction"].to_pylist()[8:], sentences(120, 5)["tags"].to_pylist()[8:], strict=True)
        for tag, true in zip(row, tags, strict=True)
    ]
    assert np.mean(right) > 0.9


def test_the_saved_model_says_of_its_rows_what_the_run_said(done):
    model = open_model(done.root)
    ours = model.predict(model.example)["p"].to_pylist()
    theirs = pq.read_table(f"{done.root}/predictions/val.parquet")["p"].to_pylist()
    for row in ours:
        assert any(len(row) == len(other) and np.allclose(row, other, atol=1e-6) for other in theirs)


@pytest.mark.parametrize("format_", ["torch", "onnx"])
def test_export_is_refused_by_name(done, format_, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, format_, str(tmp_path / "out"))


@pytest.mark.filterwarnings("ignore")  # MLflow's own, which fmray keeps quiet as well
def test_mlflow_serves_what_the_model_says(done, tmp_path):
    said, table = served_by_mlflow(done, sentences(40, 6).slice(8), tmp_path)
    told = open_model(done.root).predict(table)
    assert [list(row) for row in said["prediction"]] == told["prediction"].to_pylist()


def test_killed_and_run_again_it_ends_in_the_same_bits(done, folder, tmp_path):
    store = str(tmp_path / "store")
    for epochs in (2, 1):
        kill_after(epochs, "test_tagging_life", "job_of", folder=folder, store=store)
    again = execute(job_of(folder), Store(store))
    same_bits(done, again)


def test_groups_and_weights_of_rows_are_those_of_their_tokens(folder, store):
    data = {"group": "doc", "weight": "weight"}
    run = execute(job_of(folder, name="by_doc", data=data, train={"epochs": 2, "seeds": 1}), store)
    table = read(sealed(run))
    said, true = table.output.argmax(1), table.target[:, 0]
    found = run.scores.test
    expected = accuracy_score(true, said, sample_weight=table.weight)
    assert found["token_accuracy"].value == pytest.approx(expected, rel=1e-12)
    assert found["token_accuracy"].value != accuracy_score(true, said)
    assert found["entity_f1"].n == len(np.unique(table.group)) < sealed(run).num_rows
    expected = f1_score(true == 4, said == 4, sample_weight=table.weight)
    from fmray.metrics.find import find_metric

    metric = find_metric("f1[O]", card_of(run).prepared.target)
    assert metric.value(table.output, table.target, table.weight) == pytest.approx(expected, rel=1e-12)


def test_a_row_of_three_words_and_two_tags_is_named(tmp_path):
    table = sentences(80, 1)
    lists = table["tags"].to_pylist()
    words = table["words"].to_pylist()
    lists[11], words[11] = ["O", "O"], ["the", "old", "saw"]
    table = table.set_column(1, "tags", pa.array(lists, LISTS)).set_column(0, "words", pa.array(words, LISTS))
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data/a.parquet")
    named = r"a\.parquet row 11 has 3 tokens in block 'tokens' and 2 tags in 'tags', and 1 rows here differ"
    with pytest.raises(DataError, match=named):
        execute(job_of(tmp_path / "data"), Store(str(tmp_path / "store")))


def test_tags_without_a_step_that_makes_tokens_are_refused(folder, tmp_path):
    with pytest.raises(SpecError, match="no step makes"):
        execute(job_of(folder, steps=["auto"], data={"ignore": ["words"]}, model="linear"), Store(str(tmp_path)))


def test_a_model_of_rows_is_refused_where_tokens_have_tags(folder, tmp_path):
    with pytest.raises(SpecError, match="reads"):
        execute(job_of(folder, model="mlp"), Store(str(tmp_path)))


ENSEMBLES = {
    "greedy": {"greedy": {"bags": 2, "keep": "always"}},
    "mean": {"stacking": {"keep": "always"}},
    "logistic": {"stacking": {"kind": "logistic", "keep": "always"}},
    "vote": {"vote": {"keep": "always"}},
    "soup": {"soup": {"greedy": False, "keep": "always"}},
    "bagging": {"bagging": {"members": 2, "keep": "always"}},
}


@pytest.mark.parametrize("name", list(ENSEMBLES))
def test_members_are_combined_by_every_ensemble(folder, store, name):
    train = {"epochs": 3, **({"seeds": 1} if name == "bagging" else {})}
    job = job_of(folder, ensemble=ENSEMBLES[name], train=train, evaluate={"baselines": ["dummy"]})
    run = execute(job, store)
    record = json.loads(Path(run.root, "model/model.json").read_text())["ensemble"]
    assert record["name"] in (next(iter(ENSEMBLES[name])), "single")  # one member may have all weight
    table = read(sealed(run))
    assert table.output.sum(1) == pytest.approx(1)
    assert run.scores.test["token_accuracy"].value > run.scores.baselines["dummy"]["token_accuracy"].value
    told = open_model(run.root).predict(sentences(20, 9))["prediction"].to_pylist()
    assert [len(row or []) for row in told] == [len(row or []) for row in sentences(20, 9)["words"].to_pylist()]


@pytest.mark.parametrize("kind", ["mean", "logistic"])
def test_members_of_folds_are_stacked_by_rows_that_they_did_not_learn_from(folder, store, kind):
    ensemble = (
        {"stacking": {"kind": kind, "keep": "always"}} if kind == "logistic" else {"stacking": {"keep": "always"}}
    )
    train = {"epochs": 2, "seeds": 1, "folds": 2}
    run = execute(job_of(folder, train=train, ensemble=ensemble, evaluate={"baselines": []}), store)
    assert run.scores.test["token_accuracy"].value > 0.6


def test_adaboost_is_refused_before_anything_is_trained(folder, tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(SpecError, match=r"ensemble: adaboost needs a class per row, and rows have several tags\."):
        execute(job_of(folder, ensemble={"adaboost": {"rounds": 2}}, train={"seeds": 1}), store)
    assert not store.list("members")


def test_a_search_over_a_packable_parameter_ends_in_a_report_with_its_selection(folder, store):
    model = {"tagger": {"embedding": 8, "width": 24, "dropout": {"uniform": [0, 0.4]}}}
    search = {"members": 4, "finalists": 1}
    run = execute(job_of(folder, model=model, search=search, train={"epochs": 4, "seeds": 1}, ensemble="single"), store)
    account = card_of(run).search
    assert account.num_members == 4
    assert account.selection["winner"] == account.leaderboard[0]["member"]
    assert 0 < account.selection["corrected"] < 1
    assert ">The sweep<" in Path(run.report).read_text()


def test_two_runs_are_compared_token_by_token(done, folder, store):
    other = execute(job_of(folder, train={"epochs": 1, "seeds": 1}, evaluate={"baselines": ["dummy"]}), store)
    card, rival = card_of(done), card_of(other)
    table = sealed_table(card, store)
    rows = np.random.default_rng(0).permutation(len(np.unique(table.row_id, axis=0)))
    starts = np.append(np.flatnonzero(table.target[:, 1] == 0), len(table))
    shuffled = table.some(np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows]))
    found = compare(card, shuffled, {"itself": card, "rival": rival}, store, run_here)
    assert found.others["itself"].output == pytest.approx(shuffled.output, abs=1e-6)
    assert np.array_equal(found.others["rival"].target, shuffled.target)
    alone = read(sealed(other))
    assert sorted(found.others["rival"].output[:, 0].round(6)) == pytest.approx(sorted(alone.output[:, 0]), abs=2e-6)


def test_a_better_run_is_promoted_by_the_rows_of_its_test_set(folder, tmp_path):
    store = Store(str(tmp_path / "store"))
    profile = {"rigour": {"profile": "standard"}, "evaluate": {"baselines": ["dummy"]}}
    weak, strong = (
        execute(job_of(folder, train={"epochs": epochs, "seeds": 1}, **profile), store) for epochs in (3, 10)
    )
    rule = Promote(evidence="sealed", horizon=2)
    assert promote(weak, store, rule).verdict == "promoted"
    assert promote(strong, store, rule).verdict == "promoted"
    (path,) = (tmp_path / "store").rglob("sealed/0*.json")
    judged = json.loads(path.read_text())
    assert judged["num_rows"] == sealed(strong).num_rows
    assert judged["champion"]["p"] < 0.05


@pytest.mark.cluster
def test_two_workers_end_where_one_process_does(done, folder, tmp_path):
    two = execute(job_of(folder, run={"workers": 2}), Store(str(tmp_path / "store")))
    close_members(done, two, share=1e-3)
