"""A language model that fmray has trained goes on with prompts: in the terminal, from Python, for files of rows."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.cli.app import run_command
from fmray.errors import DataError, SpecError
from fmray.events import Note
from fmray.inference.generation import Generation
from fmray.inference.model import SavedModel, open_model
from fmray.inference.parts import predict_item
from fmray.inference.predict import generate, spell_summary
from fmray.records import Run
from fmray.spec.job import Job
from fmray.store import Store
from fmray.workflow import execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("generate_life")]
ROOT = Path(__file__).resolve().parents[1]
PATTERN = "abcdefghij"
CONTEXT = 16


def job_of(folder: Path, **changes: object) -> Job:
    options = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True}
    asked = {
        "name": "letters",
        "data": {"path": str(folder), "target": "text", "key": "id", "null_values": ["?"]},
        "task": {"language_model": {"context": CONTEXT}},
        "steps": [{"tokenize": {"columns": "text", "kind": "characters", "max_tokens": 1000}}],
        "model": {"decoder": {"width": 32, "depth": 1, "heads": 2}},
        "train": {
            "steps": 200,
            "validate_every": 50,
            "optimizer": {"adamw": {"lr": 0.01}},
            "batch_rows": 32,
            "seeds": 2,
        },
        "ensemble": {"average": {"keep": "always"}},
        "evaluate": {"baselines": ["dummy"]},
        "rigour": {"profile": "draft"},
        "run": options,
    }
    return Job.from_json({**asked, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    home = tmp_path_factory.mktemp("letters")
    (home / "data").mkdir()
    starts = np.random.default_rng(3).integers(0, len(PATTERN), 200)
    source = np.random.default_rng(4)
    lines = []
    for start in starts.tolist():
        letters = [letter if source.random() > 0.1 else "." for letter in (PATTERN * 7)[start : start + 20 + start]]
        lines.append("".join(letters))
    pq.write_table(pa.table({"text": lines, "id": np.arange(200)}), home / "data/a.parquet")
    return execute(job_of(home / "data"), Store(str(home / "store")))


@pytest.fixture(scope="module")
def model(run) -> SavedModel:
    return open_model(run.root)


def test_the_command_goes_on_with_a_prompt_in_a_fresh_process(run):
    call = [sys.executable, "-m", "fmray.cli", "generate", run.root, "--prompt", "abcde", "--temperature", "0"]
    done = subprocess.run([*call, "--stop", "ij"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "fgh\n"
    assert "1 text of 5 tokens for 1 prompt; ended: 1 by stop" in done.stderr
    done = subprocess.run(
        [*call, "--max-new-tokens", "4", "--json"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.count("\n") == 1
    (text,) = json.loads(done.stdout)["texts"]
    assert (text["text"], text["tokens"], text["ended"]) == ("fghi", 4, "length")
    assert "fghi" in done.stderr


def test_what_it_has_learned_is_what_it_says(model):
    table = model.generate([PATTERN[:5], PATTERN[3:9]], Generation(temperature=0, max_new_tokens=8))
    assert table.column_names == ["prompt", "sample", "text", "tokens", "log_probability", "ended"]
    assert table["text"].to_pylist() == [(PATTERN * 2)[5:13], (PATTERN * 2)[9:17]]


def test_a_text_is_as_likely_as_the_same_model_says_that_read_it(model):
    prompts = ["abacab", "", "dab"]
    for beyond in (Generation(seed=2, max_new_tokens=9), Generation(beams=2, max_new_tokens=9)):
        made = model.generate(prompts, beyond).to_pylist()
        # a text of at most a context is read as one window
        told = model.predict(pa.table({"text": [p + one["text"] for p, one in zip(prompts, made, strict=True)]}))
        for prompt, one, p in zip(prompts, made, told["p"].to_pylist(), strict=True):
            assert one["log_probability"] == pytest.approx(sum(map(math.log, p[len(prompt) :])), rel=1e-4)


def test_all_that_is_decided_is_noted(model):
    notes = []
    prompts = ["abacabadab" * 3, "zß", "ab"]
    model.generate(
        prompts,
        Generation(max_new_tokens=20, stop=("ABA",)),
        report=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    said = "\n".join(notes)
    assert "the model reads 'ABA' as 'aba': texts end there" in said
    assert "1 of 3 prompts are longer than the context of 16 tokens: their beginning is not read" in said
    assert "1 of 3 prompts hold what the model's vocabulary lacks" in said


PROMPTS = ["abac", None, "", "dab", "?", "ab" * 20, "abac", "cab", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    table = pa.table({"text": pa.array(PROMPTS, pa.string()), "beside": range(len(PROMPTS))})
    pq.write_table(table.slice(0, 7), folder / "a.parquet", row_group_size=3)
    pq.write_table(table.slice(7), folder / "b.parquet", row_group_size=3)
    return folder


def read(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])


ASKED = Generation(seed=7, max_new_tokens=12, top_k=3)


def test_every_row_of_files_is_gone_on_with_once(run, prompts, tmp_path):
    summary = generate(run.root, str(prompts), str(tmp_path / "out"), ASKED, place="local")
    found = read(tmp_path / "out").to_pylist()
    assert list(found[0]) == ["file", "row", "row_id", "sample", "text", "tokens", "log_probability", "ended", "fault"]
    assert [(row["file"], row["row"]) for row in found] == [
        *(("a.parquet", row) for row in range(7)),
        *(("b.parquet", row) for row in range(5)),
    ]
    for prompt, row in zip(PROMPTS, found, strict=True):
        is_missing = prompt in (None, "?")
        assert (row["text"] is None) == (row["ended"] is None) == is_missing
        assert row["fault"] == ("the prompt is missing" if is_missing else None)
    assert summary["rows"] == 12
    assert summary["faults"] == {"the prompt is missing": 2}
    assert summary["generated"]["prompts"] == 10
    assert summary["generated"]["cut"] == 1
    assert summary["generated"]["tokens"] == sum(row["tokens"] or 0 for row in found)
    said = "\n".join(spell_summary(summary))
    assert "2 rows have no text: the prompt is missing" in said
    assert "1 of 10 prompts are longer than the context" in said
    # rows with the same text have the same one, and identities of their own
    assert found[0]["text"] == found[6]["text"]
    assert len({row["row_id"] for row in found}) == 12


def texts_by_id(table: pa.Table) -> dict[tuple[bytes, int | None], str]:
    return {(row["row_id"], row["sample"]): row["text"] for row in table.to_pylist()}


def test_texts_depend_neither_on_files_nor_on_work_items_nor_on_batches(run, prompts, tmp_path, monkeypatch):
    asked = replace(ASKED, num=2)
    whole = pa.table({"text": pa.array(PROMPTS[::-1], pa.string())})
    (tmp_path / "other").mkdir()
    pq.write_table(whole, tmp_path / "other/whole.parquet")
    generate(run.root, str(tmp_path / "other"), str(tmp_path / "one"), asked, place="local")
    monkeypatch.setattr("fmray.inference.says.PROMPT_ROWS", 1)
    monkeypatch.setattr("fmray.inference.says.Generates.num_rows", 1)
    summary = generate(run.root, str(prompts), str(tmp_path / "two"), asked, place="local", item_bytes=1)
    assert len(summary["parts"]) == 5
    one, two = (read(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 24
    held = [{(row["text"], row["sample"]) for row in table.to_pylist()} for table in (one, two)]
    assert held[0] == held[1]
    ours, theirs = texts_by_id(one), texts_by_id(two)
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 20  # of equal rows, which one is the first depends on the files
    assert all(ours[name] == theirs[name] for name in shared)


def test_what_was_interrupted_is_continued_and_the_rest_not_done_again(run, prompts, tmp_path, monkeypatch):
    done = []

    def interrupted(work, item):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(item.index)
        predict_item(work, item)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("fmray.inference.predict.predict_item", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(run.root, str(prompts), str(out), ASKED, place="local", item_bytes=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert before
    with pytest.raises(DataError, match="another kind, or with other settings"):
        generate(run.root, str(prompts), str(out), replace(ASKED, seed=8), place="local", item_bytes=1)
    generate(run.root, str(prompts), str(out), ASKED, place="local", item_bytes=1)
    assert len(read(out)) == 12
    generate(run.root, str(prompts), str(tmp_path / "whole"), ASKED, place="local", item_bytes=1)
    assert read(out).equals(read(tmp_path / "whole"))


def test_a_key_that_rows_have_is_kept_and_makes_equal_prompts_differ(run, tmp_path):
    rows = pa.table({"text": ["ab"] * 6, "id": range(6)})
    pq.write_table(rows, tmp_path / "rows.parquet")
    asked = replace(ASKED, top_k=0, temperature=3.0)
    generate(run.root, str(tmp_path / "rows.parquet"), str(tmp_path / "out"), asked, place="local")
    found = read(tmp_path / "out")
    assert found["id"].to_pylist() == list(range(6))
    assert len(set(found["text"].to_pylist())) == 6


def test_the_command_writes_texts_for_files(run, prompts, tmp_path, capsys):
    call = ["generate", run.root, str(prompts), "--out", str(tmp_path / "out"), "--beams", "2", "--max-new-tokens", "5"]
    code, told = run_command([*call, "--place", "local"], {})
    assert code == 0
    assert told["generated"]["ended"] == {"length": 10}
    assert "10 texts of 50 tokens for 10 prompts; ended: 10 by length" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["DATA"], ["--prompt", "a", "--out", "b"], ["DATA", "--out", "b", "--prompt", "a"]], ids=str
)
def test_it_is_either_prompts_or_a_data_set_with_a_folder(run, arguments, capsys):
    code, _ = run_command(["generate", run.root, *arguments], {})
    assert code == 5
    assert "Give --prompt, or DATA and --out." in capsys.readouterr().err


def test_a_file_without_the_column_is_refused(run, tmp_path):
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="column 'text' is missing from rows.parquet, and the model reads it"):
        generate(run.root, str(tmp_path / "rows.parquet"), str(tmp_path / "out"), ASKED)


def test_a_model_of_another_task_is_refused_by_name(tmp_path):
    job = Job.from_json(
        {
            "name": "wine",
            "data": {"path": "sample:wine", "target": "target"},
            "train": {"epochs": 1},
            "evaluate": {"baselines": ["dummy"]},
            "rigour": {"profile": "draft"},
            "run": {"workers": 0, "threads": 1, "prepare": "local"},
        }
    )
    run = execute(job, Store(str(tmp_path / "store")))
    with pytest.raises(
        SpecError, match="MODEL: a model of task classification generates no text. Give a model of task"
    ):
        open_model(run.root).generate("a")


def test_a_model_that_looks_ahead_is_refused_by_name(run, tmp_path):
    path = json.loads(Path(run.root, "card.json").read_text())["job"]["data"]["path"]
    train = {"steps": 4, "validate_every": 4, "batch_rows": 32}
    made = execute(job_of(Path(path), model="tagger", train=train), Store(str(tmp_path / "store")))
    with pytest.raises(SpecError, match="MODEL: tagger looks at tokens ahead"):
        open_model(made.root).generate("a")


@pytest.mark.parametrize("ensemble", ["soup", "greedy", "single"])
def test_ensembles_of_every_kind_that_averages_generate(run, tmp_path, ensemble):
    path = json.loads(Path(run.root, "card.json").read_text())["job"]["data"]["path"]
    train = {"steps": 20, "validate_every": 10, "batch_rows": 32, "seeds": 2}
    keep = {} if ensemble == "single" else {"keep": "always"}
    made = execute(job_of(Path(path), ensemble={ensemble: keep}, train=train), Store(str(tmp_path / "store")))
    model = open_model(made.root)
    (one,) = model.generate("abc", Generation(max_new_tokens=8, seed=1)).to_pylist()
    (p,) = model.predict(pa.table({"text": ["abc" + one["text"]]}))["p"].to_pylist()
    assert one["log_probability"] == pytest.approx(sum(map(math.log, p[3:])), rel=1e-4)


@pytest.mark.cluster
def test_over_ray_texts_are_the_same(run, prompts, tmp_path):
    for place in ("local", "ray"):
        generate(run.root, str(prompts), str(tmp_path / place), ASKED, place=place, item_bytes=1)
    assert read(tmp_path / "local").equals(read(tmp_path / "ray"))


def test_a_network_of_the_users_own_generates_too(run, tmp_path, monkeypatch):
    source = (
        "from torch import nn\n"
        "class Counting(nn.Module):\n"
        "    reads = ('tokens',)\n"
        "    def __init__(self, schema, num_outputs):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(num_outputs, num_outputs)\n"
        "    def forward(self, tokens, tokens_lengths):\n"
        "        print('computing')\n"
        "        return self.table(tokens)\n"
    )
    (tmp_path / "counting_net.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = replace(job_of(Path(json.loads(Path(run.root, "card.json").read_text())["job"]["data"]["path"])))
    own = Job.from_json({**job.to_json(), "model": "counting_net:Counting", "folder": str(tmp_path)})
    made = execute(own, Store(str(tmp_path / "store")))
    notes = []
    table = open_model(made.root, trust_code=True).generate(
        "ab", Generation(max_new_tokens=6), report=lambda event: notes.append(getattr(event, "text", ""))
    )
    assert table["tokens"].to_pylist() == [6]
    assert any("counting_net:Counting is computed in float32" in note for note in notes)
