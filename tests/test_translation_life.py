"""A model that generates texts from others goes through the whole life of a job: run, report, killed, predicted, on workers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from life import kill_after, same_bits, served_by_mlflow
from safetensors.torch import load_file

from fmray.errors import DataError, SpecError
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import generate, predict
from fmray.promote import promote
from fmray.records import Run
from fmray.report.card import read_card
from fmray.spec.job import Job
from fmray.spec.promotion import Promote
from fmray.store import Store
from fmray.workflow import execute

sacrebleu = pytest.importorskip("sacrebleu", reason="the extra `text` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("translation_life")]
WORDS = {"ein": "one", "zwei": "two", "drei": "three", "rot": "red", "blau": "blue", "Haus": "house", "Über": "over"}


def pairs(num_rows: int, seed: int) -> pa.Table:
    """Draw sentences of 1 to 6 words, and the same words in another language, from the last to the first."""
    source = np.random.default_rng(seed)
    german = [source.choice(list(WORDS), size).tolist() for size in source.integers(1, 7, num_rows)]
    english = [" ".join(WORDS[word] for word in words[::-1]) for words in german]
    references = [[text, f"{text} !"] for text in english]
    table = {"de": [" ".join(words) for words in german], "en": english, "others": references}
    return pa.table({**table, "kind": source.choice(["mail", "news"], num_rows), "id": np.arange(num_rows)})


def job_of(folder: Path, **changes: object) -> Job:
    given = {"task": {}, "train": {}, "run": {}, "data": {}, **changes}
    train = {"steps": 90, "validate_every": 30, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.01}}, "seeds": 2}
    options = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0}
    asked = {
        "name": "translation",
        "steps": [
            {"tokenize": {"columns": ["de", "en"], "kind": "words", "lowercase": False}},
            {"drop": {"columns": ["kind", "others"]}},
        ],
        "model": {"encoder_decoder": {"width": 32, "depth": 1, "heads": 2, "dropout": 0.05, "shared_embeddings": True}},
        "ensemble": {"average": {"keep": "always"}},
        "evaluate": {"slices": ["kind"]},
        "rigour": {"profile": "draft"},
        **{name: value for name, value in given.items() if name not in ("task", "train", "run", "data")},
    }
    return Job.from_json(
        {
            **asked,
            "data": {"path": str(folder), "target": "en", "key": "id", "ignore": ["others"], **given["data"]},
            "task": {"sequence_to_sequence": {"max_new_tokens": 12, **given["task"]}},
            "train": train | given["train"],
            "run": options | given["run"],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("pairs") / "data"
    made.mkdir()
    pq.write_table(pairs(500, 3), made / "a.parquet", row_group_size=150)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("translation") / "store"))


def plain(folder: Path, **changes: object) -> Job:
    """Give a job without the column that no step reads."""
    steps = job_of(folder).to_json()["steps"]
    return job_of(folder, **{"steps": [steps[0], {"drop": {"columns": "kind"}}], **changes})


@pytest.fixture(scope="module")
def done(folder, store) -> Run:
    return execute(plain(folder), store)


def sealed(run: Run) -> pa.Table:
    return pq.read_table(f"{run.root}/sealed/test.parquet")


def members_of(run: Run):
    return read_card(run.root, Store(run.root.rpartition("/runs/")[0])).members


def test_it_learns_more_than_words_tell_of_the_next_one_and_shows_texts(done):
    assert done.scores.primary == "nats_per_token"
    found = done.scores.test["nats_per_token"]
    linear, dummy = (done.scores.baselines[name]["nats_per_token"].value for name in ("linear", "dummy"))
    assert found.low < found.value < found.high < linear < dummy
    bleu = done.scores.test["bleu"]
    assert 0 < bleu.low < bleu.value < bleu.high < 100
    report = Path(done.report).read_text(encoding="utf-8")
    shown = next(row for row in sealed(done).to_pylist() if row["generated"])
    assert shown["generated"] in report
    assert shown["reference"] in report


def test_scores_are_those_of_sacrebleu_on_the_texts_of_the_table(done):
    rows = sealed(done).to_pylist()
    said, true = ([row[name] for row in rows] for name in ("generated", "reference"))
    assert done.scores.test["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score, rel=1e-12)
    assert done.scores.test["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(said, [true]).score, rel=1e-12)
    nats = -np.log([token[0] for row in rows for token in row["scored"]]).sum()
    assert done.scores.test["nats_per_character"].value == pytest.approx(nats / sum(map(len, true)), rel=1e-12)
    assert done.scores.test["bleu"].n == len(rows)
    for level in ("mail", "news"):
        assert done.scores.slices[f"kind={level}"]["bleu"].value > 0


def test_the_texts_of_the_table_are_those_of_the_open_model(done):
    table = pairs(500, 3)
    told = open_model(done.root).predict(table)["prediction"].to_pylist()
    known = dict(zip(table["en"].to_pylist(), told, strict=True))
    rows = sealed(done).to_pylist()
    assert [known[row["reference"]] for row in rows] == [row["generated"] for row in rows]


NEW = ["ein rotes Haus", None, "", "drei blau", "ein ein ein ein ein ein ein ein", "???"]


def test_new_rows_need_no_target_and_no_company(done, tmp_path):
    model = open_model(done.root)
    assert model.input_types.names == ["de", "kind"]
    assert model.output_names == ("prediction",)
    rows = pa.table({"de": pa.array(NEW, pa.string()), "kind": ["mail"] * len(NEW), "id": np.arange(len(NEW))})
    told = model.predict(rows)["prediction"].to_pylist()
    assert told[1] == told[2] == ""
    assert [model.predict(rows.slice(row, 1))["prediction"][0].as_py() for row in range(len(NEW))] == told
    assert model.predict(rows.append_column("en", pa.array(["x"] * len(NEW))))["prediction"].to_pylist() == told
    assert model.predict(rows.slice(0, 0)).num_rows == 0
    pq.write_table(rows, tmp_path / "new.parquet", row_group_size=2)
    summary = predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet")
    assert written["prediction"].to_pylist() == told
    assert "en" not in summary["nulls"]


def test_what_it_cannot_do_is_refused_by_name(done, folder, store, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, "torch", str(tmp_path / "out"))
    with pytest.raises(SpecError, match="goes on with no prompt: it generates the text of rows. Take fmray predict"):
        open_model(done.root).generate("ein")
    with pytest.raises(SpecError, match="goes on with no prompt"):
        generate(done.root, str(folder), str(tmp_path / "texts"))


@pytest.mark.filterwarnings("ignore")  # MLflow's own, which fmray keeps quiet as well
def test_mlflow_serves_what_the_model_says(done, tmp_path):
    said, table = served_by_mlflow(done, pairs(20, 6), tmp_path)
    assert said["prediction"].tolist() == open_model(done.root).predict(table)["prediction"].to_pylist()


def test_killed_and_run_again_it_ends_in_the_same_bits(done, folder, tmp_path):
    store = str(tmp_path / "store")
    kill_after(2, "test_translation_life", "plain", folder=folder, store=store)
    again = execute(plain(folder), Store(store))
    same_bits(done, again)
    assert sealed(again).equals(sealed(done))


def test_vocabularies_of_their_own_buckets_beams_and_several_references(folder, store):
    steps = [
        {"tokenize": {"columns": "de", "kind": "characters", "block": "source"}},
        {"tokenize": {"columns": "en", "kind": "words", "lowercase": False, "block": "said"}},
        {"drop": {"columns": "kind"}},
    ]
    job = job_of(
        folder,
        data={"references": "others", "ignore": []},
        task={"beams": 3, "length_penalty": 0.5, "generated_rows": 30},
        steps=steps,
        model={"encoder_decoder": {"width": 16, "depth": 1, "heads": 2}},
        train={"steps": 20, "validate_every": 10, "order": {"bucket": 32}, "seeds": 1},
        evaluate={"baselines": ["dummy"]},
    )
    run = execute(job, store)
    rows = sealed(run).to_pylist()
    chosen = [row for row in rows if row["generated"] is not None]
    assert 10 < len(chosen) < 60 < len(rows)
    theirs = [[row["reference"] for row in chosen], [f"{row['reference']} !" for row in chosen]]
    expected = sacrebleu.corpus_bleu([row["generated"] for row in chosen], theirs).score
    assert run.scores.test["bleu"].value == pytest.approx(expected, rel=1e-12)


def test_promotion_is_refused_by_name(folder, tmp_path):
    store = Store(str(tmp_path / "store"))
    given = {"rigour": {"profile": "standard"}, "evaluate": {"baselines": ["dummy"]}}
    weak, strong = (
        execute(plain(folder, train={"seeds": 1, "steps": steps, "validate_every": 20}, **given), store)
        for steps in (40, 60)
    )
    rule = Promote(evidence="sealed", horizon=2)
    assert promote(weak, store, rule).verdict == "promoted"
    with pytest.raises(DataError, match="texts are generated, which rivals cannot be asked for yet"):
        promote(strong, store, rule)


@pytest.mark.cluster
def test_two_workers_end_where_one_process_does(folder, store, tmp_path):
    train = {"order": {"bucket": 16}, "steps": 40, "validate_every": 20, "seeds": 1}
    given = {"train": train, "evaluate": {"baselines": ["dummy"]}}
    one = execute(plain(folder, **given), store)
    two = execute(plain(folder, **given, run={"workers": 2}), Store(str(tmp_path / "store")))
    for mine, other in zip(members_of(one), members_of(two), strict=True):
        assert mine.best_epoch == other.best_epoch
        ours, theirs = (
            load_file(f"{run.root}/model/{member.index:05d}/model.safetensors")
            for run, member in ((one, mine), (two, other))
        )
        for name, tensor in ours.items():
            assert float((tensor - theirs[name]).abs().max()) < 1e-3 * max(1.0, float(tensor.abs().max()))
