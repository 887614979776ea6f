"""Check that a record made from what was kept of files has the bytes of one made from nothing."""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data import pass_cache as keeping
from fmray.data.exact import from_text, to_text
from fmray.data.scan import scan
from fmray.errors import DataError
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.store import Store
from fmray.targets.classes import Class

ROWS = 160
PLAIN = {"compression": "none", "use_dictionary": False}
ASKED = {
    "plain": {"steps": ["auto"]},
    "copies": {"steps": ["auto"], "data": {"dedup": "exact"}, "evaluate": {"slices": ["city"]}},
    "two steps": {
        "steps": [{"impute": {"by": "median"}}, {"drop": {"columns": ["city", "side", "c", "when"]}}, "standardise"]
    },
    "group": {"steps": ["auto"], "data": {"group": "who", "dedup": "exact"}},
    "key": {"steps": ["auto"], "data": {"key": "id", "weight": "heavy"}},
    "time": {"steps": ["auto", "quantile"], "data": {"time": "when"}, "split": {"by": "time"}},
    "class": {"steps": ["auto"], "data": {"target": "city", "ignore": ["y"], "sample": {"over": 1.0}}},
    "labels": {"steps": ["auto"], "data": {"target": "city", "labels": {"Ulm": "Bonn"}, "null_values": ["Jena"]}},
    "given": {"steps": [{"one_hot": {"columns": ["city"]}}, "auto"], "split": {"by": "given", "column": "side"}},
}


def rows(number: int, num_rows: int = ROWS) -> pa.Table:
    """Give rows of which some stand twice, some are faulty and some have no label."""
    rng = np.random.default_rng(number)
    a = rng.integers(0, 40, num_rows) / 8
    a[7] = np.inf
    y = a + rng.integers(0, 3, num_rows)
    return pa.table(
        {
            "a": a,
            "b": pa.array(rng.standard_normal(num_rows), mask=rng.random(num_rows) < 0.7),
            "city": rng.choice(("Ulm", "Bonn", "Jena", "Hof"), num_rows, p=(0.4, 0.3, 0.2, 0.1)),
            "who": rng.integers(0, 50, num_rows),
            "id": np.arange(num_rows) + number * num_rows,
            "heavy": pa.array(rng.random(num_rows), mask=rng.random(num_rows) < 0.005),
            "when": pa.array(np.datetime64("2024-01-01") + rng.integers(0, 99, num_rows).astype("timedelta64[D]")),
            "side": rng.choice(("train", "val", "test"), num_rows),
            "y": pa.array(y, mask=rng.random(num_rows) < 0.02),
        }
    ).append_column("c", pa.array([f"c{value:.0f}" for value in a]))


def contents(prepared: Prepared) -> dict[str, str]:
    """Give the digest of every file of a record."""
    files = (path for path in Path(prepared.root).rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def reused(notes: list[str], name: str) -> tuple[int, ...]:
    """Give how many items of how many were read back in the passes of a name."""
    found = [note.split(": ")[1].split(" work")[0].split(" of ") for note in notes if note.startswith(name)]
    return tuple(int(number) for number in found[0]) if found else (0, 0)


@pytest.fixture
def grown(tmp_path, write, prepared, store) -> Callable[..., list[str]]:
    """Prepare what lies in the folder of data with what is kept, compare with a record made from nothing, give notes."""

    def check(asked: dict, **more: object) -> list[str]:
        notes: list[str] = []
        tell = lambda event: notes.append(getattr(event, "text", ""))  # noqa: E731
        asked = {"item_bytes": 1, "evaluate": {"slices": []}, **asked}
        asked["data"] = {"max_quarantine": 0.5, **asked.get("data", {})}
        there = prepared(tmp_path / "data", **{**asked, **more}, report=tell)
        bare = Store(str(tmp_path / f"bare-{len(list(tmp_path.iterdir()))}"))
        shutil.copytree(store.path("splits"), bare.path("splits"))
        nothing = prepared(tmp_path / "data", **asked, store=bare, run={"prepare": "local", "reuse": False})
        assert not bare.exists(bare.path("rows"))
        assert not bare.exists(bare.path("fits"))
        assert contents(there) == contents(nothing)
        return notes

    return check


def rewrite(path: Path) -> None:
    """Change values in the middle of a file so that its size, time and footer stay."""
    before, table = path.stat(), pq.read_table(path)
    a = table["a"].to_numpy().copy()
    finite = np.flatnonzero(np.isfinite(a))
    inner = finite[(a[finite] > a[finite].min()) & (a[finite] < a[finite].max())]
    a[inner] = np.roll(a[inner], 1)
    pq.write_table(table.set_column(0, "a", pa.array(a)), path, **PLAIN)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def life(write, grown, asked, **more):
    """Let files come, go, change their names and be rewritten, and tell how many items were read back each time."""
    for number in range(4):
        folder = write(f"{number}.parquet", rows(number), **PLAIN)
    told = [reused(grown(asked, **more), "identify rows")]
    write("4.parquet", rows(4), **PLAIN)
    told.append(reused(grown(asked, **more), "identify rows"))
    (folder / "1.parquet").unlink()
    told.append(reused(grown(asked, **more), "identify rows"))
    (folder / "4.parquet").rename(folder / "0-new.parquet")
    told.append(reused(grown(asked, **more), "identify rows"))
    before = scan(Job.from_json({"name": "t", "data": {"path": str(folder), "target": "y"}}).data, ".").fingerprint
    rewrite(folder / "2.parquet")
    data = Job.from_json({"name": "t", "data": {"path": str(folder), "target": "y"}}).data
    assert scan(data, ".").fingerprint != before  # though size, time and footer are the same
    write("5.parquet", rows(5), **PLAIN)
    told.append(reused(grown(asked, **more), "identify rows"))
    return told


# appended, removed, renamed, rewritten and appended: what is read back, of how many
EXPECTED = [(0, 0), (4, 5), (4, 4), (3, 4), (3, 5)]


@pytest.mark.slow
def test_a_record_of_changed_data_has_the_bytes_of_one_made_from_nothing(write, grown):
    assert life(write, grown, ASKED["copies"]) == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ASKED) - {"copies"}))
def test_whatever_the_job_asks_nothing_but_time_is_changed(write, grown, name):
    assert life(write, grown, ASKED[name]) == EXPECTED


def test_a_step_learns_again_only_where_what_it_sees_has_changed(write, grown):
    for number in range(3):
        write(f"{number}.parquet", rows(number), **PLAIN)
    grown(ASKED["two steps"])
    notes = grown({"steps": [*ASKED["two steps"]["steps"][:2], "min_max"]})
    assert reused(notes, "identify rows") == (3, 3)  # other steps, the same rows
    # the median is known, and `min_max` is another question to the rows that are filled with it
    assert reused(notes, "learn the steps") == (0, 0)
    notes = grown({**ASKED["two steps"], "data": {"positive": None, "max_quarantine": 0.4}})
    assert (reused(notes, "identify rows"), reused(notes, "learn the steps")) == ((3, 3), (3, 3))


@pytest.mark.slow
def test_another_column_split_or_label_is_another_question(write, grown):
    write("0.parquet", rows(0), **PLAIN)
    grown(ASKED["plain"])
    assert reused(grown({**ASKED["plain"], "data": {"ignore": ["b"]}}), "identify rows") == (0, 0)
    assert reused(grown({**ASKED["plain"], "data": {"null_values": [3]}}), "identify rows") == (0, 0)
    other = {"split": {"salt": 3, "redefine": True}}
    assert reused(grown({**ASKED["plain"], **other}), "identify rows") == (0, 0)


def test_a_codec_of_other_code_makes_another_record_out_of_nothing_kept(write, prepared, monkeypatch):
    folder = write("0.parquet", rows(0), **PLAIN)
    asked = {**ASKED["class"], "data": {**ASKED["class"]["data"], "max_quarantine": 0.5}}
    notes: list[str] = []
    tell = lambda event: notes.append(getattr(event, "text", ""))  # noqa: E731
    first = prepared(folder, **asked, report=tell)
    assert prepared(folder, **asked, report=tell).fingerprint == first.fingerprint
    monkeypatch.setattr(Class, "__module__", "fmray.targets.number")  # as if its code were that one
    assert prepared(folder, **asked, report=tell).fingerprint != first.fingerprint
    assert reused(notes, "identify rows") == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "fits"])
def test_what_is_damaged_is_made_anew(write, grown, store, kind):
    write("0.parquet", rows(0), **PLAIN)
    grown(ASKED["plain"])
    held = [path for path in Path(store.path(kind)).rglob("*") if path.suffix in (".npy", ".json") and path.is_file()]
    for path in (path for path in held if not path.name.startswith(("lease", "manifest"))):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    write("1.parquet", rows(1), **PLAIN)
    again = grown(ASKED["plain"])
    assert reused(again, "identify rows") == ((0, 0) if kind == "rows" else (1, 2))
    write("2.parquet", rows(2), **PLAIN)
    assert reused(grown(ASKED["plain"]), "identify rows") == (2, 3)


@pytest.mark.slow
def test_two_at_once_leave_what_one_would(tmp_path, write, prepared, store):
    for number in range(4):
        folder = write(f"{number}.parquet", rows(number), **PLAIN)
    asked = {"item_bytes": 1, "data": {"max_quarantine": 0.5}}
    made: dict[str, Prepared] = {}
    steps = {"one": ["auto"], "two": [{"drop": {"columns": ["c"]}}, "auto"]}

    def work(name: str) -> None:
        made[name] = prepared(folder, **asked, steps=steps[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in steps:
        alone = prepared(folder, **asked, steps=steps[name], store=Store(str(tmp_path / name)))
        assert contents(made[name]) == contents(alone)
    assert len(store.list("rows")) == 4


def test_garbage_collection_removes_what_no_kept_run_was_made_from(write, prepared, store):
    for number in range(2):
        folder = write(f"{number}.parquet", rows(number), **PLAIN)
    asked = {"item_bytes": 1, "data": {"max_quarantine": 0.5}, "steps": ["auto"]}
    first = prepared(folder, **asked)
    (folder / "0.parquet").unlink()
    write("2.parquet", rows(2), **PLAIN)
    second = prepared(folder, **asked)
    assert (len(store.list("rows")), len(store.list("fits"))) == (3, 3)
    store.write_json("runs/t/r/run.json", {"records": [["prepared", second.fingerprint]]})
    store.gc(dry_run=False)
    assert store.find("prepared", first.fingerprint) is None
    assert (len(store.list("rows")), len(store.list("fits"))) == (2, 2)
    write("3.parquet", rows(3), **PLAIN)
    notes: list[str] = []
    prepared(folder, **asked, report=lambda event: notes.append(getattr(event, "text", "")))
    assert reused(notes, "identify rows") == (2, 3)
    store.remove("runs/t")
    store.gc(dry_run=False)
    assert (store.list("rows"), store.list("fits")) == ([], [])


def test_garbage_collection_leaves_parts_of_a_record_in_the_making(write, prepared, store):
    folder = write("0.parquet", rows(0), **PLAIN)
    made = prepared(folder, steps=["auto"], data={"max_quarantine": 0.5})
    with store.lease(store.path("prepared", "other")):
        store.gc(dry_run=False)
        assert store.find("prepared", made.fingerprint) is None  # no run lists it
        assert len(store.list("rows")) == 1
    store.gc(dry_run=False)
    assert store.list("rows") == []


def test_a_preparation_that_fails_leaves_its_parts_to_the_next(write, prepared, store, monkeypatch):
    for number in range(2):
        folder = write(f"{number}.parquet", rows(number), **PLAIN)
    asked = {"item_bytes": 1, "steps": ["auto"]}
    with pytest.raises(DataError, match="cannot be used"):
        prepared(folder, **asked, data={"max_quarantine": 0.0})
    notes: list[str] = []
    prepared(
        folder, **asked, data={"max_quarantine": 0.5}, report=lambda event: notes.append(getattr(event, "text", ""))
    )
    assert reused(notes, "identify rows") == (2, 2)


def test_files_that_cannot_be_told_apart_are_never_kept(write, prepared, store, monkeypatch):
    monkeypatch.setattr("fmray.data.files._local_mark", lambda path: "")
    prepared(write("0.parquet", rows(0), **PLAIN), steps=["auto"], data={"max_quarantine": 0.5})
    assert (store.list("rows"), store.list("fits")) == ([], [])


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1.5, float("inf"), -0.0, 0.1 + 0.2], 3: (True, None), 2.0: frozenset({"b", "a"})},
        [np.arange(5, dtype=np.uint64) << np.uint64(59), np.zeros((0, 3), np.float32), np.float64(0.1), b"\x00\xff"],
        {"dict": ["list", []], "": (("tuple", ()),), "Infinity": "\\NaN"},
        (2**70, -1, "password=1 token", {1: {2: {3: ()}}}),
    ],
)
def test_text_gives_back_types_order_and_bits(value):
    def same(one, other):
        assert type(one) is type(other)
        if isinstance(one, np.ndarray | np.generic):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        elif isinstance(one, dict):
            same(list(one.items()), list(other.items()))
        elif isinstance(one, list | tuple):
            assert len(one) == len(other)
            for a, b in zip(one, other, strict=True):
                same(a, b)
        else:
            assert repr(one) == repr(other) or isinstance(one, frozenset)
            assert one == other

    same(from_text(to_text(value)), value)


def test_what_is_no_plain_value_is_refused_and_garbage_is_told():
    with pytest.raises(TypeError, match="not kept as text"):
        to_text({"a": object()})
    with pytest.raises(TypeError, match="not kept as text"):
        to_text(np.array([object()]))
    for text in ('["object",1]', "[1]", "{", '["array",["<f8",[3],""]]', '["pickle","x"]'):
        with pytest.raises(ValueError, match=r"."):
            from_text(text)


def test_a_partial_that_no_text_holds_is_not_kept(store):
    kept = keeping.Kept(store, "common", ())
    summary = keeping.Summary({"counts": {}}, object(), 3)
    assert kept.learn("key", lambda: summary) == keeping.Learned(summary, None, False)
    assert store.list("fits") == []
