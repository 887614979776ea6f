"""Check that tags of tokens reach a model beside their tokens, whoever reads them, and are scored by token."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fmray.data.lanes import Lanes
from fmray.data.order import Share
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.metrics.find import find_metric
from fmray.ragged import Ragged, by_row, entries_of, values_of
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Order, Train
from fmray.store import Store
from fmray.train import ingest
from fmray.train.ingest import EVALUATION_ROWS, NO_TARGET, Rows
from fmray.train.loop import evaluate, predict_rows
from fmray.train.pack import Pack, Plan

ORDER = Order(chunk_rows=4, window_chunks=3, num_lanes=5)
LISTS = pa.list_(pa.string())
WORDS = ["red", "green", "blue", "yellow", "black"]
TAG_OF = {"red": "R", "green": "G"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """Prepare 210 rows of 1 to 9 words, whose tags follow from the words."""
    folder = tmp_path_factory.mktemp("tags")
    random = np.random.default_rng(3)
    words = [random.choice(WORDS, random.integers(1, 10)).tolist() for _ in range(210)]
    tags = [[TAG_OF.get(word, "O") for word in row] for row in words]
    tags[5] = None
    rows = {"words": pa.array(words, LISTS), "y": pa.array(tags, LISTS), "id": np.arange(210)}
    (folder / "data").mkdir()
    pq.write_table(pa.table(rows | {"w": random.uniform(0.5, 2, 210)}), folder / "data/a.parquet", row_group_size=50)
    job = Job.from_json(
        {
            "name": "tags",
            "data": {"path": str(folder / "data"), "target": "y", "key": "id", "weight": "w"},
            "steps": [{"tokenize_words": {"columns": "words", "parts": ["whole", "prefix1"]}}],
            "train": {"order": {"chunk_rows": 4, "window_chunks": 3, "num_lanes": 5}},
            "run": {"prepare": "local"},
        }
    )
    store = Store(str(folder / "store"))
    return prepare(scan(job.data, ".", store), job, Ref("tagging"), store)


def batches(prepared, rank, size, first_step=0, **options):
    return list(Rows(prepared, "train", "cpu", share=Share(rank, size), **options).batches(ORDER, 7, 1, 32, first_step))


def rows_of(batch):
    """Give words and tags of each row, without padding."""
    lengths = batch.lengths.tolist()
    return [
        [values[:length] for values in pair]
        for length, *pair in zip(lengths, batch.inputs["tokens"].tolist(), batch.target.tolist(), strict=True)
    ]


def pack_of(prepared, members=2):
    plans = [
        Plan(
            i,
            5 + i,
            model=Ref("tagger", {"embedding": 4, "width": 6}),
            optimizer=Ref("adam", {}),
            task=Ref("tagging"),
            params={},
        )
        for i in range(members)
    ]
    return Pack(plans, prepared.schema, prepared.target, Train(batch_rows=32), True)


def test_each_word_has_the_tag_that_stands_beside_it(prepared):
    ids = dict(zip(prepared.steps[0]["state"]["vocabularies"]["whole"], range(2, 99), strict=False))
    names = {number: word for word, number in ids.items()}
    seen = 0
    for batch in batches(prepared, 0, 1):
        for words, tags in rows_of(batch):
            assert [prepared.target.classes[tag] for tag in tags] == [TAG_OF.get(names[word], "O") for word in words]
            seen += len(words)
        padding = torch.arange(batch.target.shape[1]) >= batch.lengths[:, None]
        assert (batch.target[padding] == NO_TARGET).all()
        assert (batch.target[~padding] >= 0).all()
        assert batch.target.shape == batch.inputs["tokens"].shape == batch.inputs["prefix1"].shape
    assert seen == sum(prepared.target.counts)


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("size", [1, 3])
def test_rows_and_their_tags_are_the_same_for_any_number_of_workers(prepared, size, memory):
    whole = batches(prepared, 0, 1)
    shares = [batches(prepared, rank, size, memory_bytes=memory) for rank in range(size)]
    assert len(whole) > 3
    for batch, *parts in zip(whole, *shares, strict=True):
        order = torch.cat([part.places.values for part in parts]).argsort()
        found = [row for part in parts for row in rows_of(part)]
        assert [found[i] for i in order] == rows_of(batch)
        assert torch.equal(torch.cat([part.weight for part in parts])[order], batch.weight)


@pytest.mark.parametrize("first_step", [1, 3])
def test_memory_and_stream_give_equal_batches_from_any_step_on(prepared, first_step):
    for rank in range(3):
        kept = batches(prepared, rank, 3)[first_step:]
        streamed = batches(prepared, rank, 3, first_step, memory_bytes=0)
        for one, other in zip(kept, streamed, strict=True):
            assert torch.equal(one.target, other.target)
            assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
def test_members_are_scored_by_token_with_the_weights_of_rows(prepared, memory):
    pack, rows = pack_of(prepared), Rows(prepared, "val", "cpu", memory_bytes=memory)
    metric = find_metric("token_accuracy", prepared.target)
    scores, losses = evaluate(pack, rows, metric)
    said, same = predict_rows(pack, rows)
    held = entries_of(Lanes(prepared, "val").load(["target", "weight"]))
    log_loss = find_metric("token_log_loss", prepared.target)
    for member, output in enumerate(said):
        assert scores[member] == metric.value(output, held["target"], held["weight"])
        assert float(losses[member]) == pytest.approx(log_loss.value(output, held["target"], held["weight"]), rel=1e-5)
    assert torch.equal(losses, same)
    assert said.shape == (2, len(held["target"]), 3)


def test_some_rows_are_predicted_with_all_their_tokens(prepared):
    pack, rows = pack_of(prepared), Rows(prepared, "val", "cpu")
    whole = by_row(predict_rows(pack, rows)[0][0], Lanes(prepared, "val").load(["target"])["target"])
    kept = np.arange(rows.num_rows) % 3 == 1
    some, _ = predict_rows(pack, rows, mask=kept)
    assert np.array_equal(some[0], values_of(whole[kept]))
    none, _ = predict_rows(pack, rows, mask=np.zeros(rows.num_rows, bool))
    assert none.shape == (2, 0, 3)


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
def test_few_rows_are_predicted_at_a_time_where_they_have_many_tokens(prepared, memory, monkeypatch):
    pack, metric = pack_of(prepared), find_metric("token_accuracy", prepared.target)
    whole = evaluate(pack, Rows(prepared, "val", "cpu", memory_bytes=memory), metric)
    longest = prepared.entries["tokens"][1]
    for entries, expected in ((3 * longest + 1, 3), (longest - 1, 1), (1 << 30, EVALUATION_ROWS)):
        monkeypatch.setattr(ingest, "EVALUATION_ENTRIES", entries)
        rows = Rows(prepared, "val", "cpu", memory_bytes=memory)
        sizes = [len(batch) for batch in rows.in_sequence()]
        assert rows.chunk_rows == expected
        assert sizes == [min(expected, rows.num_rows - start) for start in range(0, rows.num_rows, expected)]
        scores, losses = evaluate(pack, rows, metric)
        assert scores == whole[0]
        torch.testing.assert_close(losses, whole[1], rtol=1e-6, atol=0)


def test_a_row_counts_as_many_outputs_as_it_has_tokens(prepared):
    num_rows = sum(prepared.num_rows(split) for split in ("train", "val", "test"))
    found = Rows(prepared, "train", "cpu").entries_per_row
    assert found == pytest.approx(prepared.entries["tokens"][0] / num_rows)
    assert 1 < found < prepared.entries["tokens"][1]


def test_entries_stand_beside_what_their_rows_have():
    target = Ragged.of_lengths(np.array([2, 0, 1, 1]), np.array([1, 0, 3]))[np.array([2, 1, 0])]
    ids = np.array([[5, 0], [6, 0], [7, 0]], np.uint64)
    found = entries_of({"target": target, "row_id": ids, "weight": np.array([1.0, 2, 3])})
    assert found["target"].tolist() == [[0, 0], [1, 1], [1, 2], [2, 0]]
    assert found["weight"].tolist() == [1, 1, 1, 3]
    assert found["group"].tolist() == [5, 5, 5, 7]
    grouped = entries_of({"target": target, "row_id": ids, "group": np.array([9, 9, 8])})
    assert grouped["group"].tolist() == [9, 9, 9, 8]
    plain = entries_of({"target": np.array([1, 2]), "row_id": ids[:2]})
    assert sorted(plain) == ["row_id", "target"]


@pytest.mark.parametrize("width", [0, 1, 3])
def test_rows_of_entries_of_several_numbers_are_written_and_read_as_lists(width, tmp_path):
    lengths = np.array([2, 0, 3, 1])
    values = np.arange(6.0 * max(width, 1)).reshape(6, width) if width else np.arange(6.0)
    rows = Ragged.of_lengths(values, lengths)[np.array([3, 0, 1, 2, 0])]
    pq.write_table(pa.table({"r": rows.to_arrow()}), tmp_path / "r.parquet", row_group_size=2)
    chunks = pq.read_table(tmp_path / "r.parquet")["r"].slice(1, 3).chunks
    found = np.concatenate([values_of(Ragged.from_arrow(chunk)) for chunk in chunks])
    assert found.tolist() == values_of(rows[1:4]).tolist()
