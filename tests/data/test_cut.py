"""Texts are cut into windows that foretell each of their tokens once, and stay on their own side of the split."""

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fmray.data.cut import START, context_of, cut
from fmray.data.hashing import part_ids
from fmray.data.lanes import Lanes
from fmray.errors import DataError, SpecError
from fmray.events import to_json
from fmray.ragged import Ragged
from fmray.records import SPLITS, Prepared
from fmray.spec.ref import Ref
from fmray.store import Store

CONTEXT = 5
LETTERS = list("abcde fg")
TOKENIZE = {"tokenize": {"columns": "text", "kind": "characters", "max_tokens": 1000}}


def rows_of(ragged: Ragged) -> list[list[int]]:
    own = ragged.compact()
    return [own.values[s : s + n].tolist() for s, n in zip(own.starts, own.lengths, strict=True)]


def by_definition(rows: list[list[int]], context: int) -> list[tuple[int, int, list[int], list[int]]]:
    """Cut one text after the other: its place, the window's number, the tokens before each, the tokens."""
    found = []
    for row, tokens in enumerate(rows):
        for part, start in enumerate(range(0, len(tokens), context)):
            target = tokens[start : start + context]
            found.append((row, part, [START, *tokens][start : start + len(target)], target))
    return found


def drawn(lengths: list[int], seed: int = 0) -> Ragged:
    values = np.random.default_rng(seed).integers(1, 50, sum(lengths)).astype(np.int32)
    return Ragged.of_lengths(values, np.array(lengths, np.int64))


LENGTHS = {
    "no rows": [],
    "no tokens": [0, 0],
    "one each": [1, 1, 1],
    "exact multiples": [4, 8, 0, 12, 4],
    "one more, one less": [5, 3, 9, 7, 0],
    "any": np.random.default_rng(5).integers(0, 30, 200).tolist(),
}


@pytest.mark.parametrize("context", [1, 2, 4, 100])
@pytest.mark.parametrize("lengths", list(LENGTHS.values()), ids=list(LENGTHS))
def test_windows_are_those_of_the_definition(lengths, context):
    tokens = drawn(lengths)
    found = cut(tokens, context)
    together = zip(found.row.tolist(), found.part.tolist(), rows_of(found.inputs), rows_of(found.target), strict=True)
    assert list(together) == by_definition(rows_of(tokens), context)
    assert len(found) == len(found.target)
    assert found.target.dtype == found.inputs.dtype == np.int32


def test_rows_are_cut_as_they_were_chosen():
    tokens = drawn(LENGTHS["any"])[np.array([7, 3, 3, 150, 0])]
    found = cut(tokens, 4)
    together = zip(found.row.tolist(), found.part.tolist(), rows_of(found.inputs), rows_of(found.target), strict=True)
    assert list(together) == by_definition(rows_of(tokens), 4)


def test_what_else_a_row_has_each_of_its_windows_has():
    found = cut(drawn([6, 0, 3]), 3).arrays("text", {"weight": np.array([1.0, 2.0, 3.0])})
    assert found["weight"].tolist() == [1, 1, 3]
    assert sorted(found) == ["target", "text", "weight"]


def test_other_tasks_leave_rows_whole():
    assert context_of(Ref("language_model", {"context": 7})) == 7
    assert context_of(Ref("language_model", {})) == 128
    assert [context_of(Ref(name, {})) for name in ("classification", "tagging", "my_module:Task")] == [0, 0, 0]


def test_parts_of_rows_have_identities_of_their_own_and_the_first_keeps_its_rows():
    random = np.random.default_rng(0)
    ids = random.integers(0, 1 << 63, (500, 2)).astype(np.uint64)
    ids[1] = ids[0] + np.array([0, 1], np.uint64)  # nearly equal rows
    row, part = np.repeat(np.arange(500), 40), np.tile(np.arange(40), 500)
    found = part_ids(ids[row], part)
    assert len(np.unique(found, axis=0)) == len(np.unique(found[:, 1])) == 20_000
    assert np.array_equal(found[part == 0], ids)
    assert np.array_equal(found[:, 0], ids[row, 0])
    some = random.permutation(20_000)[:99]
    assert np.array_equal(part_ids(ids[row[some]], part[some]), found[some])  # whatever else there is


@pytest.fixture
def folder(write) -> Path:
    """Write 240 texts of 0 to 30 letters, one of them null."""
    return write("a.parquet", texts(), row_group_size=60)


def texts(num_rows: int = 240) -> pa.Table:
    source = np.random.default_rng(4)
    lines: list[str | None] = ["".join(source.choice(LETTERS, size)) for size in source.integers(0, 31, num_rows)]
    lines[7] = None
    lines[9] = ""
    beside = {"n": source.standard_normal(num_rows), "w": np.arange(1.0, num_rows + 1)}
    beside |= {"doc": np.arange(num_rows) // 3, "kind": source.choice(["new", "old"], num_rows)}
    return pa.table({"text": pa.array(lines, pa.string()), "id": np.arange(num_rows), **beside})


def asked(steps: list[object] | None = None, used: tuple[str, ...] = (), **data: object) -> dict[str, object]:
    """Give the sections of a job for windows; columns that it does not use are ignored."""
    used = [*used, *data.values(), *(["n"] if steps else [])]
    ignored = [name for name in ("n", "w", "doc", "kind") if name not in used]
    return {
        "data": {"target": "text", "key": "id", "ignore": ignored, **data},
        "task": {"language_model": {"context": CONTEXT}},
        "steps": [TOKENIZE, *(steps or [])],
        "train": {"order": {"num_lanes": 5}},
    }


def spelled(found: Prepared) -> dict[int, str]:
    vocabulary = json.loads(found.steps[0]["state"]["tokenizer"])["model"]["vocab"]
    return {place: token for token, place in vocabulary.items()}


def texts_of(found: Prepared, split: str) -> dict[int, str]:
    """Put the windows of a side together again: the first word of a text's identity -> the text."""
    arrays = Lanes(found, split).load(["tokens", "target", "row_id"])
    names = spelled(found)
    whole: dict[int, str] = {}
    last: dict[int, int] = {}
    for text, inputs, target in zip(
        arrays["row_id"][:, 0].tolist(), rows_of(arrays["tokens"]), rows_of(arrays["target"]), strict=True
    ):
        assert len(inputs) == len(target) <= CONTEXT
        assert inputs == [last.get(text, START), *target[:-1]]
        last[text] = target[-1]
        whole[text] = whole.get(text, "") + "".join(names[token] for token in target)
    return whole


def test_a_text_comes_back_from_its_windows_all_of_which_are_on_one_side(folder, prepared):
    found = prepared(folder, **asked())
    sides = {split: texts_of(found, split) for split in SPLITS}
    expected = Counter(text for text in texts()["text"].to_pylist() if text)
    assert Counter(text for side in sides.values() for text in side.values()) == expected
    assert sum(map(len, sides.values())) == len(set().union(*sides.values())) == sum(expected.values())
    assert all(sides.values())


def test_texts_and_windows_are_counted_and_said_on_the_console(folder, prepared):
    told: list[str] = []
    found = prepared(folder, report=lambda event: told.append(to_json(event).get("text", "")), **asked())
    lengths = [len(text) for text in texts()["text"].to_pylist() if text]
    windows = sum(-(-length // CONTEXT) for length in lengths)
    note = f"{len(lengths)} texts are cut into {windows:,} windows of up to 5 tokens"
    assert [text for text in told if text.startswith(note)]
    assert [text for text in found.notes if text.startswith(note)]
    assert sum(map(found.num_rows, SPLITS)) == windows
    assert found.entries == {"tokens": (sum(lengths), CONTEXT)}
    assert sum(found.rows[split] for split in SPLITS) == len(lengths)


def test_a_text_that_is_null_or_empty_is_unlabelled(folder, prepared):
    empty = sum(not text for text in texts()["text"].to_pylist())
    found = prepared(folder, **asked())
    assert found.rows["unlabelled"] == empty > 2
    assert f"{empty} of 240 rows have no 'text'" in "".join(found.notes)


def test_ids_are_counted_in_training_texts_only(folder, prepared):
    found = prepared(folder, **asked())
    names = spelled(found)
    letters = Counter("".join(texts_of(found, "train").values()))
    assert {names[place]: count for place, count in enumerate(found.target.counts) if count} == letters
    assert len(found.target.counts) == found.schema.blocks["tokens"].width == len(names)
    assert found.target.counts[:2] == (0, 0)  # padding, and what has no id of its own
    assert found.target.rows == found.rows["train"]


def test_windows_have_identities_of_their_own_and_their_group_is_the_text(folder, prepared):
    found = prepared(folder, **asked())
    assert found.grouped
    arrays = [Lanes(found, split).load(["row_id", "group"]) for split in SPLITS]
    ids = np.concatenate([part["row_id"] for part in arrays])
    assert len(np.unique(ids, axis=0)) == len(ids)
    assert np.array_equal(np.concatenate([part["group"] for part in arrays]), ids[:, 0])


def test_weight_slices_and_group_are_those_of_the_text(folder, prepared):
    kept = asked([{"drop": {"columns": ["n", "kind"]}}], ("kind",), weight="w", group="doc")
    found = prepared(folder, **kept, evaluate={"slices": ["kind"]})
    rows = [row for row in texts().to_pylist() if row["text"]]
    beside = {row["w"]: (row["doc"], row["kind"], -(-len(row["text"]) // CONTEXT)) for row in rows}
    groups: dict[int, set[int]] = {}
    seen: Counter[float] = Counter()
    for split in SPLITS:
        arrays = Lanes(found, split).load(["weight", "group", "slice_kind", "row_id"])
        for weight, group, code in zip(*(arrays[name].tolist() for name in list(arrays)[:3]), strict=True):
            doc, kind, _ = beside[weight]
            assert found.slices["kind"][code] == kind
            groups.setdefault(group, set()).add(doc)
            seen[weight] += 1
    assert seen == Counter({weight: windows for weight, (_, _, windows) in beside.items()})
    assert all(len(docs) == 1 for docs in groups.values())
    assert len(groups) == len({doc for doc, _, _ in beside.values()})


def test_lanes_do_not_depend_on_how_rows_are_read(folder, prepared, tmp_path):
    one = prepared(folder, **asked())
    other = prepared(folder, store=Store(str(tmp_path / "other")), item_bytes=1, **asked())
    assert (len(one.parts["train"]), len(other.parts["train"])) == (1, 4)
    assert one.target == other.target
    for split in SPLITS:
        ours, theirs = (Lanes(record, split).load(["tokens", "target", "row_id", "group"]) for record in (one, other))
        assert all(rows_of(ours[name]) == rows_of(theirs[name]) for name in ("tokens", "target"))
        assert all(np.array_equal(ours[name], theirs[name]) for name in ("row_id", "group"))
    assert one.test_identity == other.test_identity


def test_another_context_is_another_record(folder, prepared):
    longer = {**asked(), "task": {"language_model": {"context": 7}}}
    one, other = prepared(folder, **asked()), prepared(folder, **longer)
    assert one.fingerprint != other.fingerprint
    assert other.entries["tokens"][1] == 7


def test_texts_alone_are_divided_by_what_they_say(write, prepared):
    lines = texts().select(["text"])
    folder = write("a.parquet", pa.concat_tables([lines, lines.slice(0, 60)]))
    sections = {**asked(), "data": {"target": "text"}}
    found = prepared(folder, **sections)
    sides = [set(texts_of(found, split).values()) for split in SPLITS]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides)) == len({text for text in lines["text"].to_pylist() if text})
    less = prepared(folder, **{**sections, "data": {"target": "text", "dedup": "exact"}})
    assert less.rows["duplicates"] > 20
    assert len(texts_of(less, "train")) == less.rows["train"] == found.rows["train"] - less.rows["duplicates"]


def test_numbers_beside_a_text_stand_at_each_of_its_windows(folder, prepared):
    found = prepared(folder, **asked(["standardise"]))
    assert list(found.schema.blocks) == ["x", "tokens"]
    arrays = Lanes(found, "train").load(["x", "row_id"])
    values: dict[int, set[float]] = {}
    for text, x in zip(arrays["row_id"][:, 0].tolist(), arrays["x"][:, 0].tolist(), strict=True):
        values.setdefault(text, set()).add(x)
    assert all(len(held) == 1 for held in values.values())
    assert len(set().union(*values.values())) == len(values)


def test_a_number_that_no_float32_holds_is_refused_by_its_row(write, prepared):
    table = texts()
    n = table["n"].to_pylist()
    n[30] = 1e300
    folder = write("a.parquet", table.set_column(2, "n", pa.array(n)))
    sections = asked(used=("n",))
    with pytest.raises(DataError, match=r"'n' is inf after the steps in a\.parquet row 30"):
        prepared(folder, **sections)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([{"drop": {"columns": ["text", "kind"]}}], r"no step makes tokens\. Add tokenize, for one column"),
        ([{"tokenize": {"columns": ["text", "kind"]}}], "steps make tokens_text, tokens_kind"),
    ],
)
def test_texts_are_cut_in_one_block_of_tokens(folder, prepared, steps, text):
    sections = asked(steps, used=("kind",))
    with pytest.raises(SpecError, match=f"a language model reads one block of tokens, and {text}"):
        prepared(folder, **{**sections, "steps": steps})


@pytest.mark.parametrize(
    ("target", "text"),
    [("n", "column 'n' holds double"), (["text", "kind"], "given text, kind"), ("id", "column 'id' holds int64")],
)
def test_what_is_foretold_is_one_column_of_text(folder, prepared, target, text):
    sections = asked()
    data = {**sections["data"], "target": target, "key": [], "ignore": ["w", "doc"]}
    with pytest.raises(SpecError, match=rf"foretells one column of text, {text}"):
        prepared(folder, **{**sections, "data": data})


@pytest.mark.parametrize("key", [{"labels": {"a": "b"}}, {"positive": "a"}, {"sample": {"rates": {"a": 2}}}])
def test_keys_of_classes_are_refused(folder, prepared, key):
    with pytest.raises(SpecError, match="goes with class"):
        prepared(folder, **asked(**key))


@pytest.fixture
def local_ray():
    """Start a Ray of our own."""
    import ray

    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with warnings.catch_warnings(action="ignore"):
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=place)
    yield ray
    ray.shutdown()
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_writes_the_same_bytes_as_this_process(folder, prepared, tmp_path, local_ray):
    here = prepared(folder, item_bytes=1, **asked(["standardise"], weight="w"))
    over_ray = {"store": Store(str(tmp_path / "ray")), "run": {"prepare": "ray"}}
    there = prepared(folder, item_bytes=1, **asked(["standardise"], weight="w"), **over_ray)

    def contents(found: Prepared) -> dict[str, str]:
        files = (path for path in Path(found.root).rglob("*") if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert len(here.parts["train"]) == 4
    assert contents(here) == contents(there)
