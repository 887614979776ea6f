"""Embeddings are taken for the tokens that they were trained for, or the start is refused or says that it is unknown."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fmray.errors import SpecError
from fmray.promote.vocabulary import compare_vocabularies
from fmray.schema import Column, Schema
from fmray.spec.load import job_from
from fmray.spec.pretrained import learned_in, with_pretrained
from fmray.train.artefacts import tensor_hash
from fmray.train.warm import Start

WIDTH = 5
PADDED = 8
OWN = {"model": {"vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4}}}
OTHER = {"model": {"vocab": {"[PAD]": 0, "[UNK]": 1, "x": 2, "y": 3, "z": 4}}}
REFUSED = r"train\.start: .* has embeddings of another vocabulary than that of the rows \(ids: \d -> \d\)"


def read_by(block: str, told: dict) -> dict:
    return {"name": "tokenize", "state": {"tokenizer": json.dumps(told), "mean_lengths": {block: 1.0}}}


def of_words(**parts: list[str]) -> dict:
    means = {"tokens" if part == "whole" else part: 1.0 for part in parts}
    return {"name": "tokenize_words", "state": {"vocabularies": parts, "mean_lengths": means}}


def way(*steps: dict, block: str = "", **variants: SimpleNamespace) -> SimpleNamespace:
    """Give what is read of prepared rows."""
    blocks = [name for step in steps for name in step["state"]["mean_lengths"]] + [block] * bool(block)
    schema = Schema(tuple(Column(name, "tokens", WIDTH, block=name) for name in blocks))
    found = SimpleNamespace(schema=schema, steps=steps)
    found.for_member = lambda member: variants.get(member.prepared, found)
    return found


@pytest.fixture
def compare(tmp_path):
    module = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(PADDED, 2), "layers": torch.nn.Linear(2, WIDTH)})
    tensors = module.state_dict()
    save_file(tensors, tmp_path / "model.safetensors")

    def compare(theirs, ours, part=(), members=("",), **params):
        starts = [Start(index, tensor_hash(tensors), str(tmp_path), part=part) for index in range(len(members))]
        made = [SimpleNamespace(prepared=name, model={"params": params}) for name in members]
        saved = theirs and SimpleNamespace(members=made, prepared=theirs)
        return compare_vocabularies(starts, saved, params, prepared=ours, has_tables=starts[0].takes_embeddings(module))

    return compare


def test_the_same_tokens_are_taken_wherever_texts_are_cut(compare):
    cut = {**OWN, "truncation": {"max_length": 9}}
    assert compare(way(read_by("tokens", OWN)), way(read_by("tokens", cut))) == ""


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (way(read_by("tokens", OWN)), way(read_by("tokens", OTHER))),
        (way(of_words(whole=["a", "b"])), way(of_words(whole=["b", "a"]))),
        (way(read_by("tokens", OWN)), way(of_words(whole=["a", "b", "c"]))),
    ],
)
def test_another_vocabulary_of_equal_size_is_refused_though_embeddings_are_padded(compare, theirs, ours):
    with pytest.raises(SpecError, match=REFUSED):
        compare(theirs, ours)
    assert compare(theirs, ours, part="layers") == ""  # no embedding is taken, though a layer has as many rows as ids


def test_only_what_the_model_reads_counts(compare):
    theirs = way(read_by("title", OWN), read_by("body", OWN))
    ours = way(read_by("title", OWN), read_by("body", OTHER))
    assert compare(theirs, ours, block="title") == ""
    with pytest.raises(SpecError, match=REFUSED):
        compare(theirs, ours, block="body")
    with pytest.raises(SpecError, match=REFUSED):
        compare(theirs, ours)
    parts = [way(of_words(whole=["a"], shape=shapes)) for shapes in (["x"], ["X"])]
    assert compare(*parts, block="tokens") == ""
    with pytest.raises(SpecError, match=REFUSED):
        compare(*parts, block="shape")


def test_each_member_is_compared_by_its_own_vocabulary(compare):
    ours = way(read_by("tokens", OWN))
    theirs = way(read_by("tokens", OWN), fold=way(read_by("tokens", OTHER)))
    assert compare(theirs, ours) == ""
    with pytest.raises(SpecError, match=REFUSED):
        compare(theirs, ours, members=("", "fold"))


def test_what_cannot_be_compared_is_said(compare):
    ours = way(read_by("tokens", OWN))
    assert "is unknown. Make sure" in compare(None, ours)
    assert "is unknown. Make sure" in compare(way(block="tokens"), ours)
    assert compare(None, ours, part="layers") == ""
    assert compare(None, way()) == ""


def test_a_run_whose_members_have_several_vocabularies_has_none_to_read_by(tmp_path):
    def write(*vocabularies: dict) -> str:
        ways = {f"w{place}": {"steps": [read_by("tokens", told)]} for place, told in enumerate(vocabularies)}
        members = [{"prepared": name} for name in ways]
        told = {"prepared": "w0", "ways": ways, "members": members}
        Path(tmp_path, "model.json").write_text(json.dumps(told))
        return str(tmp_path)

    assert json.loads(learned_in(write(OWN, OWN), "steps")) == OWN
    with pytest.raises(SpecError, match="have 2 vocabularies. Name a run whose members share one"):
        learned_in(write(OWN, OTHER), "steps")


@pytest.mark.parametrize(
    ("pad", "unknown", "around", "is_taken"), [(0, 1, None, True), (5, 1, None, False), (0, 1, {"type": "Bert"}, False)]
)
def test_tokens_are_hidden_by_an_id_that_no_token_has(tmp_path, pad, unknown, around, is_taken):
    added = [{"id": pad, "content": "[PAD]"}, {"id": unknown, "content": "[UNK]"}]
    told = {**OWN, "added_tokens": added, "post_processor": around}
    Path(tmp_path, "model.json").write_text(
        json.dumps(
            {"prepared": "w", "ways": {"w": {"steps": [read_by("tokens", told)]}}, "members": [{"prepared": ""}]}
        )
    )
    job = job_from(
        {
            "data": {"path": "rows", "target": "text"},
            "task": "masked_language_model",
            "steps": [{"tokenize": {"columns": "text", "pretrained": str(tmp_path)}}],
            "model": "encoder",
            "evaluate": {"baselines": ["dummy"]},
        },
        tmp_path,
    )
    if is_taken:
        assert with_pretrained(job).steps[0].params["content"]
    else:
        with pytest.raises(SpecError, match="has a vocabulary from elsewhere, and tokens are hidden by id 0"):
            with_pretrained(job)
