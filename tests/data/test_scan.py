"""Show that a scan sees what lies on disk, refuses what cannot be read as one table, and notices every edit."""

import datetime
import os
import pickle
import shutil
import subprocess
import sys
import time

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fmray.data import files
from fmray.data import scan as scanning
from fmray.data.scan import Dataset, read_item, scan, work_items
from fmray.errors import DataError, SpecError
from fmray.spec.sections import Data


def look(path: object, **section: object) -> Dataset:
    return scan(Data(**{"path": str(path), "target": "y", **section}), ".")


def read(dataset: Dataset, columns: list[str] | None = None) -> pa.Table:
    return pa.concat_tables([read_item(dataset, item, columns) for item in work_items(dataset)])


# ----------------------------------------------------------------------------------------------------------------------
# Finding


def test_a_folder_is_searched_recursively_and_read_in_order_of_names(write):
    for name, value in [
        ("b.parquet", 2),
        ("a/z.parquet", 1),
        ("c.parquet", 3),
        ("_draft/x.parquet", 9),
        (".h.parquet", 9),
    ]:
        folder = write(name, {"y": [value]})
    (folder / "README.md").write_text("not data")
    dataset = look(folder)
    assert [file.path for file in dataset.files] == ["a/z.parquet", "b.parquet", "c.parquet"]
    assert read(dataset).column("y").to_pylist() == [1, 2, 3]
    assert (dataset.num_rows, dataset.root) == (3, str(folder))


def test_a_file_and_a_glob_find_what_they_name(write):
    for name in ("a-1.parquet", "a-2.parquet", "b-1.parquet"):
        folder = write(name, {"y": [1]})
    assert [file.path for file in look(folder / "b-1.parquet").files] == ["b-1.parquet"]
    assert [file.path for file in look(folder / "a-*.parquet").files] == ["a-1.parquet", "a-2.parquet"]


def test_a_relative_path_starts_from_the_folder_of_the_job(write, tmp_path):
    write("a.parquet", {"y": [1]})
    dataset = scan(Data(path="../data", target="y"), str(tmp_path / "jobs"))
    assert dataset.root == str(tmp_path / "data")


def test_a_uri_is_read_through_fsspec():
    memory = fsspec.filesystem("memory")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"y": [1, 2]}), sink)
    memory.pipe("/bucket/set/part-0.parquet", sink.getvalue().to_pybytes())
    dataset = look("memory://bucket/set")
    assert dataset.root.startswith("memory://")
    assert read(dataset).column("y").to_pylist() == [1, 2]
    assert [file.path for file in look("memory://bucket/set/*.parquet").files] == ["part-0.parquet"]


class Refusing(fsspec.AbstractFileSystem):
    protocol = "refusing"

    def info(self, path: str, **options: object) -> dict[str, object]:
        raise RuntimeError("Unable to locate credentials")  # as botocore does: no OSError


def test_a_storage_that_refuses_in_words_of_its_own_is_named():
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(DataError, match=r"'refusing://bucket/x' cannot be listed: Unable to locate credentials\."):
        look("refusing://bucket/x")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowher", r"data.path: nothing lies at '.*nowher'. Did you mean 'nowhere'\?"),
        ("nowhere", r"data.path: '.*nowhere' is empty. Accepted: Parquet files, by any name."),
        ("csv", r"data.path: '.*csv' holds no Parquet file: 1 entry is not read: 1 text \(a.csv\). Accepted"),
        ("csv/*.parquet", r"data.path: no file matches '.*csv/\*.parquet'"),
    ],
)
def test_a_path_without_files_is_refused_with_what_is_there(tmp_path, path, message):
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/a.csv").write_text("y\n1")
    with pytest.raises(DataError, match=message):
        look(tmp_path / path)


def test_a_scheme_that_nobody_answers_is_a_mistake_of_the_job():
    with pytest.raises(SpecError, match=r"data.path: 'nothing://a/b' cannot be opened: .* Accepted: a path, or a URI"):
        look("nothing://a/b")


def test_secrets_in_a_uri_stay_out_of_messages():
    with pytest.raises(SpecError) as caught:
        look("nothing://user:hunter2@host/b")
    assert "hunter2" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"data.path: bad.parquet: the file is empty \(0 bytes\)"),
        (b"PAR1", r"data.path: bad.parquet: the file is cut short or not Parquet \(4 bytes"),
        (b"a,b\n1,2\n" * 100, r"data.path: bad.parquet: the file is CSV text, not Parquet. Convert it to Parquet."),
        (b"\xff" * 92 + (80).to_bytes(4, "little") + b"PAR1", r"data.path: bad.parquet: "),
        (b"\xff" * 92 + (10**9).to_bytes(4, "little") + b"PAR1", r"data.path: bad.parquet: the file is cut short"),
    ],
)
def test_a_damaged_file_is_refused_by_name(write, content, message):
    folder = write("good.parquet", {"y": [1]})
    (folder / "bad.parquet").write_bytes(content)
    with pytest.raises(DataError, match=message):
        look(folder)


def test_a_truncated_file_is_refused_by_name(write):
    folder = write("good.parquet", {"y": range(1000)})
    whole = (folder / "good.parquet").read_bytes()
    for part in (1, len(whole) // 2, len(whole) - 1):
        (folder / "bad.parquet").write_bytes(whole[:part])
        with pytest.raises(DataError, match=r"bad.parquet: the file is cut short"):
            look(folder)


def test_corruption_inside_a_file_is_named_with_its_row_group_when_it_is_read(write):
    folder = write("a.parquet", {"y": np.arange(3000)}, row_group_size=1000, compression="zstd", use_dictionary=False)
    path = folder / "a.parquet"
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset : column.data_page_offset + 20] = bytes(20)  # the page's header
    path.write_bytes(damaged)
    dataset = look(folder)
    with pytest.raises(DataError, match=r"a.parquet: row group 1 cannot be read"):
        read(dataset)


def test_a_file_that_changes_or_vanishes_between_scan_and_reading_is_an_error(write):
    folder = write("a.parquet", {"y": [1, 2]})
    dataset = look(folder)
    write("a.parquet", {"y": [1, 2, 3, 4]})
    with pytest.raises(DataError, match=r"a.parquet: the file has changed since it was scanned"):
        read(dataset)
    (folder / "a.parquet").unlink()
    with pytest.raises(DataError, match=r"a.parquet: .*No such file"):
        read(dataset)


def test_files_without_rows_are_fine_beside_others_and_have_no_say_about_types(write):
    write("a.parquet", {"y": pa.array([], pa.string())})
    folder = write("b.parquet", {"y": [1, 2]})
    dataset = look(folder)
    assert read(dataset).column("y").to_pylist() == [1, 2]
    assert [item.num_rows for item in work_items(dataset)] == [2]


def test_a_data_set_without_any_rows_is_refused(write):
    folder = write("a.parquet", {"y": pa.array([], pa.int64())})
    with pytest.raises(DataError, match=r"has 1 files and no rows"):
        look(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Evolution


def test_small_types_widen_and_values_stay(write):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    write(
        "a.parquet",
        {
            "y": pa.array([1], pa.int8()),
            "f": pa.array([3], pa.int32()),
            "g": pa.array([0.5], pa.float32()),
            "u": pa.array([7], pa.uint16()),
            "t": pa.array([datetime.datetime(2024, 1, 1, 12)], pa.timestamp("s")),
            "z": pa.array([datetime.datetime(2024, 1, 1, 14, tzinfo=zone)], pa.timestamp("ms", "+02:00")),
            "s": pa.array(["x"]).dictionary_encode(),
            "n": pa.nulls(1),
            "v": pa.array([[1, 2]], pa.list_(pa.int16(), 2)),
            "d": pa.array([datetime.date(2024, 1, 1)], pa.date32()),
        },
    )
    folder = write(
        "b.parquet",
        {
            "y": pa.array([2**40], pa.int64()),
            "f": pa.array([0.25], pa.float64()),
            "g": pa.array([0.1], pa.float64()),
            "u": pa.array([-1], pa.int8()),
            "t": pa.array([datetime.datetime(2024, 1, 2)], pa.timestamp("us")),
            "z": pa.array([datetime.datetime(2024, 1, 1, 12)], pa.timestamp("us")),
            "s": pa.array(["y"], pa.large_string()),
            "n": pa.array([1.5]),
            "v": pa.array([[0.5, 1]], pa.list_(pa.float32(), 2)),
            "d": pa.array([datetime.datetime(2024, 1, 2, 6)], pa.timestamp("ms")),
        },
    )
    dataset = look(folder, time_zone="UTC")
    assert {field.name: str(field.type) for field in dataset.schema} == {
        "y": "int64",
        "f": "double",
        "g": "double",
        "u": "int32",
        "t": "timestamp[us, tz=UTC]",
        "z": "timestamp[us, tz=UTC]",
        "s": "string",
        "n": "double",
        "v": "fixed_size_list<item: double>[2]",
        "d": "timestamp[ms, tz=UTC]",
    }
    noon = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
    table = read(dataset)
    assert table.schema.equals(dataset.schema)
    assert table.to_pylist()[0] | {"z": noon} == {
        "y": 1, "f": 3.0, "g": 0.5, "u": 7, "t": noon, "z": noon, "s": "x", "n": None,
        "v": [1.0, 2.0], "d": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    }  # fmt: skip
    assert table.column("z").to_pylist() == [noon, noon]


def test_a_string_among_numbers_is_refused_with_the_files(write):
    write("a.parquet", {"y": [1], "age": [3]})
    write("b.parquet", {"y": [1], "age": ["3"]})
    folder = write("c.parquet", {"y": [1], "age": [4]})
    message = (
        r"data.schema: column 'age' holds int64 in a.parquet, c.parquet but string in b.parquet. Convert one of them"
    )
    with pytest.raises(DataError, match=message):
        look(folder)
    assert look(folder, ignore=["age"]).schema.names == ["y"]


def test_a_missing_column_lists_the_files_and_the_renamed_one(write):
    write("a.parquet", {"y": [1], "age": [3]})
    write("b.parquet", {"y": [1], "Age": [3]})
    folder = write("c.parquet", {"y": [1], "other": [4]})
    message = (
        r"data.schema: column 'age' is missing from 2 of 3 files: b.parquet \(which has 'Age'\), c.parquet. "
        r"Rename it there, or set data.schema: union to read it as null."
    )
    with pytest.raises(DataError, match=message):
        look(folder)


def test_under_union_a_missing_column_is_null_where_it_is_missing(write):
    write("a.parquet", {"y": [1], "age": [3]})
    folder = write("b.parquet", {"y": [0], "tag": ["x"]})
    table = read(look(folder, schema="union"))
    assert table.to_pylist() == [{"y": 1, "age": 3, "tag": None}, {"y": 0, "age": None, "tag": "x"}]


def test_a_target_missing_from_some_files_is_refused_even_under_union(write):
    write("a.parquet", {"label": [1], "age": [3]})
    folder = write("b.parquet", {"Label": [0], "age": [3]})
    message = r"'label' is missing from 1 of 2 files: b.parquet \(which has 'Label'\). It is data.target, so every file"
    with pytest.raises(DataError, match=message):
        look(folder, target="label", schema="union")


def test_an_integer_that_no_float_equals_is_refused_and_not_rounded(write):
    write("a.parquet", {"y": [1], "id": [2**53 + 1]})
    folder = write("b.parquet", {"y": [1], "id": [0.5]})
    with pytest.raises(DataError, match=r"a.parquet: column 'id' cannot be read as double"):
        read(look(folder))


def test_two_columns_of_one_name_are_refused(write):
    folder = write("a.parquet", pa.table([[1], [2]], names=["y", "y"]))
    with pytest.raises(DataError, match=r"a.parquet: several columns are called 'y'"):
        look(folder)


# ----------------------------------------------------------------------------------------------------------------------
# What the job names


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"target": "churned"},
            r"data.target: column 'churned' is not in bank.parquet. Did you mean 'churn'\? It has: age, balance, churn.",
        ),
        ({"target": "churm"}, r"is not in bank.parquet. Did you mean 'churn'\? It has"),
        ({"ignore": ["agee"]}, r"data.ignore: column 'agee' is not in bank.parquet. Did you mean 'age'\?"),
        ({"key": "id"}, r"data.key: column 'id' is not in"),
        ({"group": "user"}, r"data.group: column 'user' is not in"),
        ({"time": "when"}, r"data.time: column 'when' is not in"),
        ({"weight": "w"}, r"data.weight: column 'w' is not in"),
        ({"weight": "churn"}, r"data.target: column 'churn' is data.weight as well"),
        ({"ignore": ["churn"]}, r"data.ignore: column 'churn' is data.target as well"),
    ],
)
def test_a_column_that_cannot_play_its_part_is_answered_with_what_there_is(write, section, message):
    folder = write("bank.parquet", {"age": [1], "balance": [2.0], "churn": ["yes"]})
    if section.get("target") == "churned":
        section = {**section}
    with pytest.raises(SpecError, match=message):
        look(folder, **{"target": "churn", **section})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weight": "s"}, r"data.weight: column 's' holds string. Accepted: numbers."),
        ({"time": "s"}, r"data.time: column 's' holds string. Accepted: timestamp, date or a number."),
        ({"key": "v"}, r"data.key: column 'v' holds fixed_size_list.* Accepted: one value per row."),
        ({"ignore": ["l"]}, r"column 'st' holds struct<.* Add it to data.ignore."),
    ],
)
def test_a_type_that_nobody_can_read_is_refused_by_name(write, section, message):
    columns = {"y": [1], "s": ["a"], "l": [["b"]], "st": [{"a": 1}], "v": pa.array([[1.0]], pa.list_(pa.float32(), 1))}
    folder = write("a.parquet", columns)
    with pytest.raises(SpecError, match=message):
        look(folder, **{"ignore": ["l", "st"], **section})
    assert look(folder, ignore=["l", "st"]).schema.names == ["y", "s", "l", "st", "v"]


# ----------------------------------------------------------------------------------------------------------------------
# Fingerprint and cache


def test_the_fingerprint_stays_while_the_files_do(write, store):
    folder = write("a.parquet", {"y": [1, 2]})
    data = Data(path=str(folder), target="y")
    assert (
        len({scan(data, ".").fingerprint, scan(data, ".", store).fingerprint, scan(data, ".", store).fingerprint}) == 1
    )


def test_an_edit_in_place_changes_the_fingerprint_even_with_the_old_size_and_time(write, store):
    folder = write("a.parquet", {"y": [1, 2]}, compression="none")
    data, path = Data(path=str(folder), target="y"), folder / "a.parquet"
    before, was = scan(data, ".", store).fingerprint, os.stat(path)
    write("a.parquet", {"y": [1, 3]}, compression="none")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert os.stat(path).st_size == was.st_size
    assert scan(data, ".", store).fingerprint != before


def swap(path, values):
    """Write other values so that size, footer and time stay."""
    was, footer = os.stat(path), pq.read_metadata(path).serialized_size
    pq.write_table(pa.table({"y": values}), path, compression="none", use_dictionary=False)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (os.stat(path).st_size, pq.read_metadata(path).serialized_size) == (was.st_size, footer)


@pytest.mark.parametrize("hashed", [0, 1 << 20])
def test_values_swapped_with_size_footer_and_time_kept_change_the_fingerprint(write, store, monkeypatch, hashed):
    monkeypatch.setattr(files, "HASHED_BYTES", hashed)
    folder = write("a.parquet", {"y": [1, 5, 3, 9]}, compression="none", use_dictionary=False)
    data = Data(path=str(folder), target="y")
    before = scan(data, ".", store).fingerprint
    assert scan(data, ".", store).fingerprint == scan(data, ".").fingerprint == before
    swap(folder / "a.parquet", [1, 3, 5, 9])
    assert scan(data, ".", store).fingerprint == scan(data, ".").fingerprint != before


def test_a_small_data_set_keeps_its_fingerprint_when_it_is_copied_with_its_times(write, tmp_path):
    folder = write("a.parquet", {"y": [1, 2]})
    shutil.copytree(folder, tmp_path / "copy")  # keeps times
    assert look(tmp_path / "copy").fingerprint == look(folder).fingerprint


def test_verified_in_full_nothing_but_contents_decides(write, store, monkeypatch):
    monkeypatch.setattr(files, "HASHED_BYTES", 0)
    folder = write("a.parquet", {"y": [1, 5, 3, 9]}, compression="none", use_dictionary=False)
    data = Data(path=str(folder), target="y", verify="full")
    before = scan(data, ".", store).fingerprint
    os.utime(folder / "a.parquet", (1, 1))
    assert scan(data, ".", store).fingerprint == before
    # Even where the filesystem tells nothing, as if the mark had been forged:
    monkeypatch.setattr(files, "_local_mark", lambda known: "same")
    scan(data, ".", store)
    swap(folder / "a.parquet", [1, 3, 5, 9])
    assert scan(data, ".", store).fingerprint != before


def test_a_fresh_scan_believes_nothing_that_was_kept(write, store):
    folder = write("a.parquet", {"y": [1, 2]})
    data = Data(path=str(folder), target="y")
    scan(data, ".", store)
    (cache,) = [store.path("scans", os.path.basename(name)) for name in store.list(store.path("scans"))]
    text = store.read_bytes(cache)
    store.write_bytes(cache, text.replace(b'"num_rows": 2', b'"num_rows": 5').replace(b'"num_rows":2', b'"num_rows":5'))
    assert scan(data, ".", store, fresh=True).num_rows == 2


def test_data_that_change_between_scan_and_reading_or_while_they_are_read_are_refused(write, monkeypatch):
    folder = write("a.parquet", {"y": [1, 5, 3, 9]}, compression="none", use_dictionary=False)
    dataset = look(folder)
    swap(folder / "a.parquet", [1, 3, 5, 9])
    with pytest.raises(DataError, match=r"a.parquet: the file has changed since it was scanned. Run again."):
        read(dataset)
    dataset, read_groups = look(folder), scanning._read_groups

    def change_meanwhile(*arguments):
        table = read_groups(*arguments)
        swap(folder / "a.parquet", [1, 5, 3, 9])
        return table

    monkeypatch.setattr(scanning, "_read_groups", change_meanwhile)
    with pytest.raises(DataError, match=r"a.parquet: the file changed while it was read. Run again."):
        read(dataset)


def test_a_rewrite_of_the_same_bytes_is_another_version(write, store):
    folder = write("a.parquet", {"y": [1, 2]})
    before = look(folder).fingerprint
    os.utime(folder / "a.parquet", (1, 1))
    assert look(folder).fingerprint != before


def test_an_added_renamed_or_removed_file_changes_the_fingerprint(write):
    folder = write("a.parquet", {"y": [1, 2]})
    seen = [look(folder).fingerprint]
    write("b.parquet", {"y": [1, 2]})
    seen.append(look(folder).fingerprint)
    (folder / "a.parquet").rename(folder / "c.parquet")
    seen.append(look(folder).fingerprint)
    (folder / "b.parquet").unlink()
    seen.append(look(folder).fingerprint)
    assert len(set(seen)) == 4


def test_a_moved_folder_keeps_its_fingerprint(write):
    folder = write("a.parquet", {"y": [1, 2]})
    before = look(folder).fingerprint
    folder.rename(folder.parent / "moved")
    assert look(folder.parent / "moved").fingerprint == before


def test_footers_in_the_store_are_not_read_again_and_a_damaged_cache_is(write, store):
    folder = write("a.parquet", {"y": [1, 2]})
    data = Data(path=str(folder), target="y")
    first = scan(data, ".", store)
    (cache,) = [store.path("scans", os.path.basename(name)) for name in store.list(store.path("scans"))]
    text, value = store.read_bytes(cache), store.read_json(cache)
    # The cache is believed: a row count written in it comes back ...
    store.write_json(cache, {**value, "files": [{**value["files"][0], "num_rows": 5}]})
    assert scan(data, ".", store).num_rows == 5
    # ... but not one that was changed in it: that is made again, as one that cannot be read.
    store.write_bytes(cache, text.replace(b'"num_rows": 2', b'"num_rows": 5'))
    assert scan(data, ".", store) == first
    for damage in (b"{", b"[]", b'{"schemas": ["zz"], "files": []}', text.replace(b'"schemas"', b'"skemas"')):
        store.write_bytes(cache, damage)
        assert scan(data, ".", store) == first


def test_a_data_set_travels_to_another_process(write):
    dataset = look(write("a.parquet", {"y": [1, 2]}))
    assert pickle.loads(pickle.dumps(dataset)) == dataset


# ----------------------------------------------------------------------------------------------------------------------
# Work items


def test_every_row_group_is_in_one_item_in_order(write):
    rng = np.random.default_rng(0)
    start = 0
    for i, rows in enumerate(rng.integers(0, 400, 25)):
        folder = write(
            f"{i:02d}.parquet", {"y": np.arange(start, start + rows)}, row_group_size=int(rng.integers(1, 90))
        )
        start += int(rows)
    dataset = look(folder)
    for target in (1, 1000, 1 << 30):
        items = work_items(dataset, target_bytes=target)
        assert [item.index for item in items] == list(range(len(items)))
        values = [read_item(dataset, item).column("y").to_numpy() for item in items]
        assert [len(v) for v in values] == [item.num_rows for item in items]
        assert np.array_equal(np.concatenate(values), np.arange(start))
        for item, rows in zip(items, values, strict=True):
            first = [sum(f.num_rows for f in dataset.files[: p[0]]) + p[3] for p in item.pieces]
            assert first[0] == rows[0]
    assert len(work_items(dataset, target_bytes=1 << 30)) == 1


def test_a_large_file_is_cut_by_row_groups_and_small_ones_are_joined(write):
    write("a-large.parquet", {"y": np.arange(100_000)}, row_group_size=10_000, use_dictionary=False)
    for i in range(30):
        folder = write(f"small-{i:02d}.parquet", {"y": np.arange(10)})
    items = work_items(look(folder), target_bytes=200_000)
    assert [item.num_rows for item in items] == [20_000] * 5 + [300]


def test_where_files_come_and_go_items_away_from_them_stay_what_they_were(write, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        folder = write(f"{i:02d}.parquet", {"y": rng.standard_normal(int(rng.integers(100, 200)))})

    def cut():
        dataset = look(folder)
        items = work_items(dataset, target_bytes=10_000)
        assert max(sum(sum(dataset.files[p[0]].group_bytes) for p in item.pieces) for item in items) <= 10_000
        return [[(dataset.files[piece[0]].path, *piece[1:]) for piece in item.pieces] for item in items]

    before = cut()
    assert 60 / 8 <= len(before) <= 60 / 2.5  # 3 to 7 files would fill an item
    (folder / "00.parquet").unlink()
    write("99.parquet", {"y": np.arange(150.0)})
    after = cut()
    assert sum(item in before for item in after) >= 0.6 * len(before)


def test_columns_come_in_the_order_asked_for(write):
    dataset = look(write("a.parquet", {"y": [1], "a": [2], "b": [3]}))
    (item,) = work_items(dataset)
    assert read_item(dataset, item, ["b", "y"]).column_names == ["b", "y"]


@pytest.mark.slow
def test_ten_thousand_small_files_are_scanned_in_seconds_and_read_in_few_items(tmp_path, store):
    table = pa.table({f"x{i}": [0.5, 1.5] for i in range(20)} | {"y": [0, 1]})
    pq.write_table(table, tmp_path / "one.parquet")
    content = (tmp_path / "one.parquet").read_bytes()
    (tmp_path / "many").mkdir()
    for i in range(10_000):
        (tmp_path / "many" / f"{i:05d}.parquet").write_bytes(content)
    data = Data(path=str(tmp_path / "many"), target="y")
    started = time.monotonic()
    dataset = scan(data, ".", store)
    assert time.monotonic() - started < 30
    assert dataset.num_rows == 20_000
    assert len(work_items(dataset)) <= 20
    assert scan(data, ".", store) == dataset


def test_a_scan_imports_neither_ray_nor_torch_nor_sklearn():
    code = "import sys, fmray.data.split; print({'ray', 'torch', 'sklearn', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_real_data_set_is_read_whole(real_data):
    dataset = look(real_data("adult"), target="income")
    assert (dataset.num_rows, len(dataset.files)) == (48_842, 6)
    table = read(dataset, ["age", "income"])
    assert table.num_rows == 48_842
    assert pc.sum(table["age"]).as_py() == sum(pq.read_table(real_data("adult"), columns=["age"])["age"].to_pylist())


def spans_of(word: pa.DataType, place: pa.DataType) -> pa.DataType:
    return pa.struct([("slot", word), ("start", place), ("end", place)])


def test_spans_of_files_of_different_ages_are_read_as_one_type(tmp_path):
    rows = [[{"slot": "a", "start": 0, "end": 1}, {"slot": "b", "start": 2, "end": 3}], None, []]
    kinds = [
        pa.list_(spans_of(pa.string(), pa.int32())),
        pa.large_list(spans_of(pa.large_string(), pa.int64())),
        pa.list_(spans_of(pa.dictionary(pa.int32(), pa.string()), pa.uint8())),
    ]
    for place, kind in enumerate(kinds):
        values = pa.array(rows, pa.list_(spans_of(pa.string(), pa.int32())))
        if place < 2:
            values = pa.array(rows, kind)
        else:
            fields = [
                values.values.field(name).cast(kind.value_type.field(name).type) for name in ("slot", "start", "end")
            ]
            values = pa.ListArray.from_arrays(
                values.offsets, pa.StructArray.from_arrays(fields, ["slot", "start", "end"]), mask=values.is_null()
            )
        pq.write_table(pa.table({"y": values, "text": ["abcd"] * 3}), tmp_path / f"{place}.parquet")
    found = scan(Data(path=str(tmp_path), target=("y",), text="text"), ".")
    assert found.schema.field("y").type == pa.list_(spans_of(pa.string(), pa.int64()))
    read = [read_item(found, item, ["y"]).column(0).to_pylist() for item in work_items(found)]
    assert [row for part in read for row in part] == rows * 3


def test_spans_without_their_fields_and_texts_that_are_none_are_refused(tmp_path):
    kind = pa.list_(pa.struct([("slot", pa.string()), ("begin", pa.int32())]))
    table = pa.table({"y": pa.array([[{"slot": "a", "begin": 0}]], kind), "text": ["a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        SpecError, match=r"column 'y' holds list<.*begin.*a list<struct> of spans: one text, the type, and"
    ):
        scan(Data(path=str(tmp_path), target=("y",), text="text"), ".")
    with pytest.raises(SpecError, match=r"data\.text: column 'texts' is not in a\.parquet\. Did you mean 'text'\?"):
        scan(Data(path=str(tmp_path), target=("text",), text="texts"), ".")
