"""Check that rows of different lengths reach a model the same, whoever reads them, from wherever, however padded."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fmray.data.lanes import Lanes
from fmray.data.order import Share
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.errors import SpecError
from fmray.models import layers
from fmray.ragged import Blocks, Ragged, flattened, restored
from fmray.records import Prepared
from fmray.schema import Column, Schema
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Order
from fmray.store import Store
from fmray.train.blocks import RaggedTensor, as_floats
from fmray.train.ingest import Rows
from fmray.train.population import Blueprint, enter
from fmray.train.stream import Pieces, Windows

ORDER = Order(chunk_rows=4, window_chunks=3, num_lanes=5)
WORDS = ["red", "green", "blue", "yellow", "black", "white", "brown", "grey", "pink"]
STEPS = [
    {"tokenize": {"columns": ["question", "answer"], "kind": "words"}},
    "standardise",
]


def write_texts(path, num_rows=230):
    random = np.random.default_rng(3)

    def text():
        return " ".join(random.choice(WORDS, random.integers(0, 14)))

    rows = {"question": [text() for _ in range(num_rows)], "answer": [text() for _ in range(num_rows)]}
    rows["question"][7] = None
    rows |= {"n": random.standard_normal(num_rows), "id": np.arange(num_rows)}
    rows["y"] = [int("red" in (q or "") + a) for q, a in zip(rows["question"], rows["answer"], strict=True)]
    path.mkdir(parents=True)
    pq.write_table(pa.table(rows), path / "a.parquet", row_group_size=50)


def prepared_texts(folder, steps=STEPS, item_bytes=1 << 30):
    if not (folder / "data").exists():
        write_texts(folder / "data")
    job = Job.from_json(
        {
            "name": "texts",
            "data": {"path": str(folder / "data"), "target": "y", "key": "id"},
            "steps": steps,
            "train": {"order": {"chunk_rows": 4, "window_chunks": 3, "num_lanes": 5}},
            "run": {"prepare": "local"},
        }
    )
    store = Store(str(folder / f"store{item_bytes}"))
    return prepare(scan(job.data, ".", store), job, Ref("classification"), store, item_bytes=item_bytes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    return prepared_texts(tmp_path_factory.mktemp("texts"))


def batches(prepared, rank, size, first_step=0, order=ORDER, **options):
    rows = Rows(prepared, "train", "cpu", share=Share(rank, size), **options)
    return list(rows.batches(order, 7, 1, 32, first_step))


def lists(inputs, name):
    return [row[:n] for row, n in zip(inputs[name].tolist(), inputs[f"{name}_lengths"].tolist(), strict=True)]


def test_each_text_column_is_a_block_beside_the_numbers(prepared):
    blocks = prepared.schema.blocks
    assert list(blocks) == ["x", "tokens_question", "tokens_answer"]
    assert blocks["x"].width == prepared.schema.width == 1
    assert Prepared.from_json(prepared.to_json()) == prepared
    assert prepared.entries["tokens_answer"][1] == max(
        Lanes(prepared, "train").load(["tokens_answer"])["tokens_answer"].lengths.max(),
        *(Lanes(prepared, s).load(["tokens_answer"])["tokens_answer"].lengths.max() for s in ("val", "test")),
    )


def test_schemas_without_ragged_blocks_read_as_they_always_did():
    schema = Schema((Column("age", "number"),))
    assert schema.to_json() == [{"name": "age", "kind": "number", "width": 1, "classes": ()}]


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ragged_rows_are_the_same_for_any_number_of_workers(prepared, size, memory):
    whole = batches(prepared, 0, 1)
    shares = [batches(prepared, rank, size, memory_bytes=memory) for rank in range(size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        order = torch.cat([part.places.values for part in parts]).argsort()
        for name in ("tokens_question", "tokens_answer"):
            found = [row for part in parts for row in lists(part.inputs, name)]
            assert [found[i] for i in order] == lists(batch.inputs, name)
            assert all(part.inputs[name].shape[1] % 8 == 0 for part in parts)
            assert all(
                part.inputs[name].shape[1] - max(map(len, lists(part.inputs, name)), default=0) <= 8 for part in parts
            )


@pytest.mark.parametrize("first_step", [1, 4])
def test_memory_and_stream_give_equal_batches_from_any_step_on(prepared, first_step):
    for rank in range(3):
        kept = batches(prepared, rank, 3)[first_step:]
        streamed = batches(prepared, rank, 3, first_step, memory_bytes=0)
        for one, other in zip(kept, streamed, strict=True):
            assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
            assert torch.equal(one.target, other.target)


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_buckets_hold_rows_of_similar_length_for_any_number_of_workers(prepared, size, memory):
    order = replace(ORDER, bucket=5, window_chunks=30)
    whole = batches(prepared, 0, 1, order=order)
    for step in (0, 2):
        shares = [batches(prepared, rank, size, step, order=order, memory_bytes=memory) for rank in range(size)]
        for batch, *parts in zip(whole[step:], *shares, strict=True):
            places = torch.cat([part.places.values for part in parts]).argsort()
            assert torch.equal(torch.cat([part.rows for part in parts])[places], batch.rows)
            found = [row for part in parts for row in lists(part.inputs, "tokens_answer")]
            assert [found[i] for i in places] == lists(batch.inputs, "tokens_answer")
    lanes = Lanes(prepared, "train")
    spread, plain = (
        lanes.lengths(lanes.order(asked, 7, 1))[:150].reshape(-1, 5).std(1).mean() for asked in (order, ORDER)
    )
    assert spread < 0.6 * plain


@pytest.mark.parametrize("num_parts", [1, 3])
def test_buckets_come_through_ray_as_they_are_in_memory(prepared, num_parts):
    lanes = Lanes(prepared, "train")
    order = replace(ORDER, bucket=10)
    plan = Windows(
        lanes,
        ("tokens_answer",),
        share=Share(1, 2),
        order=order,
        seed=1,
        first_epoch=2,
        first_window=0,
        epochs=1,
        num_parts=num_parts,
    )
    found = [
        plan.join(window, [plan.read(num_parts * window + part) for part in range(num_parts)])["row"]
        for window in range(plan.num_windows)
    ]
    assert np.array_equal(np.concatenate(found), lanes.order(order, 1, 2, Share(1, 2)))
    assert len(found) > 1


def test_rows_that_travel_through_ray_are_the_rows_of_the_files(prepared):
    lanes = Lanes(prepared, "train")
    columns = ("tokens_question", "x")
    whole = lanes.load(columns, Share(1, 2))
    plan = Pieces(lanes, columns, Share(1, 2), 40)
    parts = [Blocks(restored(flattened(plan.read(item)))) for item in range(len(plan))]
    found = Blocks.joined(parts)
    assert rows_of(found.arrays["tokens_question"]) == rows_of(whole["tokens_question"])
    assert np.array_equal(found.arrays["x"], whole["x"])


def test_items_of_a_window_join_to_the_window(prepared):
    lanes = Lanes(prepared, "train")
    plan = Windows(
        lanes, ("tokens_answer",), share=Share(0, 1), order=ORDER, seed=1, first_epoch=0, first_window=0, epochs=1
    )
    parted = Windows(
        lanes,
        ("tokens_answer",),
        share=Share(0, 1),
        order=ORDER,
        seed=1,
        first_epoch=0,
        first_window=0,
        epochs=1,
        num_parts=3,
    )
    whole = plan.join(0, [plan.read(0)])
    found = parted.join(0, [parted.read(item) for item in range(3)])
    assert rows_of(found["tokens_answer"]) == rows_of(whole["tokens_answer"])
    assert np.array_equal(found["row"], whole["row"])


def test_lanes_do_not_depend_on_how_rows_are_read(tmp_path):
    one, other = (prepared_texts(tmp_path, item_bytes=size) for size in (1 << 30, 1))
    assert len(other.parts["train"]) > 1
    assert one.steps[0] == other.steps[0]  # sums of floats differ in their last bit
    for name in ("tokens_question", "tokens_answer"):
        assert rows_of(Lanes(one, "train").load([name])[name]) == rows_of(Lanes(other, "train").load([name])[name])
    assert one.entries == other.entries


def rows_of(ragged):
    own = ragged.compact()
    return [own.values[s : s + n].tolist() for s, n in zip(own.starts, own.lengths, strict=True)]


def test_ragged_rows_are_chosen_assigned_and_written_as_arrays_are():
    random = np.random.default_rng(0)
    lengths = random.integers(0, 5, 20)
    rows = Ragged.of_lengths(random.integers(0, 99, lengths.sum()), lengths)
    plain = rows_of(rows)
    index = random.integers(0, 20, 50)
    assert rows_of(rows[index]) == [plain[i] for i in index]
    assert rows_of(Ragged.from_arrow(rows[index].to_arrow()[10:30])) == [plain[i] for i in index[10:30]]
    made = Ragged.empty(20, rows.values)
    for some in np.array_split(random.permutation(20), 3):
        made[some] = rows[some]
    assert rows_of(made) == plain
    padded = RaggedTensor(*(torch.from_numpy(a) for a in (rows.values, rows.starts, rows.lengths))).padded()
    assert [row[:n].tolist() for row, n in zip(padded, lengths, strict=True)] == plain
    assert not padded[torch.arange(padded.shape[1]) >= torch.from_numpy(lengths)[:, None]].any()


TEXTS = Schema((Column("t", "tokens", 50, block="tokens"), Column("n", "number")))


def test_an_embedding_bag_is_the_weighted_sum_of_its_embeddings():
    bag = layers.EmbeddingBag(7, 3, 0.5)
    bag.weight_KVE.data = torch.randn(2, 7, 3)
    ids, weights = torch.tensor([[1, 6, 0], [2, 2, 0]]), torch.tensor([[0.5, 2.0, 0], [1.0, 3.0, 0]])
    expected = torch.einsum("bl,kble->kbe", weights, bag.weight_KVE[:, ids])
    torch.testing.assert_close(bag(ids, weights), expected)


def test_a_model_that_lacks_what_it_reads_names_the_step():
    numbers = Schema((Column("n", "number"),))
    with pytest.raises(SpecError, match="bag_of_embeddings reads tokens, and no step makes them. Add tokenize"):
        enter([Blueprint.of("bag_of_embeddings", {}, 0)], numbers, 2)
    with pytest.raises(SpecError, match="model: mlp reads x, and no step makes it"):
        enter([Blueprint.of("mlp", {}, 0)], Schema(TEXTS.columns[:1]), 2)


def test_two_columns_of_one_block_are_refused():
    both = Schema(tuple(Column(name, "tokens", 9, block="tokens") for name in ("a", "b")))
    with pytest.raises(SpecError, match="'a' and 'b' are both in block 'tokens'"):
        _ = both.blocks


def test_a_model_of_numbers_reads_numbers_beside_text(prepared):
    population = enter([Blueprint.of("mlp", {}, 0)], prepared.schema, 2)
    assert population(batches(prepared, 0, 1)[0]).shape == (1, 32, 2)


def test_a_frame_of_lists_becomes_ragged_columns():
    from fmray.data.arrow_frames import blocks

    frame = pl.DataFrame({"t": pl.Series([[1, 2], [], [3]], dtype=pl.List(pl.Int32)), "n": [1.0, 2.0, 3.0]})[1:]
    made = blocks(frame, TEXTS)
    assert rows_of(made.arrays["tokens"]) == [[], [3]]
    assert made.arrays["x"].tolist() == [[2.0], [3.0]]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Prepare 90 images of 5 x 5 pixels."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(2).integers(0, 256, (90, 25)).astype(np.uint8)
    raw = pa.FixedSizeBinaryArray.from_buffers(pa.binary(25), 90, [None, pa.py_buffer(pixels.tobytes())])
    (folder / "data").mkdir()
    pq.write_table(pa.table({"p": raw, "y": pixels[:, 12] > 127, "id": np.arange(90)}), folder / "data" / "a.parquet")
    data = {"path": str(folder / "data"), "target": "y", "key": "id"}
    job = Job.from_json({"name": "images", "data": data, "run": {"prepare": "local"}})
    store = Store(str(folder / "store"))
    return prepare(scan(job.data, ".", store), job, Ref("classification"), store)


def test_every_level_of_a_pixel_is_the_float32_of_a_255th():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(as_floats(torch.from_numpy(levels)), levels.astype(np.float32) * np.float32(1 / 255))


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_pixels_are_bytes_in_lanes_and_memory_and_floats_in_batches(images, memory):
    held = Lanes(images, "train").load(["x", "row_id"])
    assert held["x"].dtype == np.uint8
    assert images.row_bytes < 25 + 64 < 4 * 25
    rows = Rows(images, "train", "cpu", memory, identified=True)
    found = {}
    for batch in rows.batches(ORDER, 1, 0, 16):
        assert batch.inputs["x"].dtype == torch.float32
        found |= dict(zip(map(tuple, batch.ids.tolist()), batch.inputs["x"].numpy(), strict=True))
    expected = held["x"].astype(np.float32) * np.float32(1 / 255)
    for row_id, x in zip(held["row_id"].view(np.int64).tolist(), expected, strict=True):
        np.testing.assert_array_equal(found[tuple(row_id)], x)
