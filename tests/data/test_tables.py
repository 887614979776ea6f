"""Show that a Delta table is read by its log, and that other tables are refused by name."""

import json

import pyarrow as pa
import pytest

from fmray.data.scan import read_item, scan, work_items
from fmray.errors import DataError
from fmray.spec.sections import Data


def look(path):
    return scan(Data(path=str(path), target="y"), ".")


def test_a_delta_table_has_the_rows_of_its_newest_version_with_their_partitions(tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="the extra `delta` is not installed")
    table = pa.table({"x": [1.0, 2, 3, 4], "region": ["a b", "c/d", "c/d", None], "y": ["p", "q", "p", "q"]})
    place = str(tmp_path / "table")
    deltalake.write_deltalake(place, table, partition_by=["region"])
    deltalake.write_deltalake(place, table, mode="append", partition_by=["region"])
    deltalake.DeltaTable(place).delete("x = 1 or x = 2")
    dataset = look(place)
    rows = pa.concat_tables([read_item(dataset, item) for item in work_items(dataset)]).to_pylist()
    assert (
        sorted((row["x"], row["region"] or "", row["y"]) for row in rows) == [(3, "c/d", "p")] * 2 + [(4, "", "q")] * 2
    )
    assert dataset.notes[0].startswith("data.path is a Delta table, read by its log: ")
    assert ", version" not in dataset.notes[0]
    for part in ("region=c%2Fd", "*/*.parquet"):
        with pytest.raises(DataError, match=r"_delta_log says which files count. Give the folder of the table"):
            look(f"{place}/{part}")


def test_a_delta_table_whose_log_is_damaged_or_far_away_is_refused_by_its_log(write, tmp_path):
    folder = write("part.parquet", {"y": [1]})
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log/00000000000000000000.json").write_text(json.dumps({"protocol": {}}))
    with pytest.raises(DataError, match=r"is a Delta table \(_delta_log\)"):
        look(folder)
    with pytest.raises(DataError, match=r"holds a Delta table below it: 'data/_delta_log'"):
        look(tmp_path)


@pytest.mark.parametrize(
    ("mark", "said"),
    [("metadata/v1.metadata.json", "an Iceberg table"), (".hoodie/hoodie.properties", "a Hudi table")],
)
def test_iceberg_and_hudi_tables_are_refused_by_name(write, tmp_path, mark, said):
    folder = write("data/part.parquet", {"y": [1]})
    (folder / mark).parent.mkdir()
    (folder / mark).write_text("{}")
    with pytest.raises(DataError, match=f"is {said}"):
        look(folder)
    with pytest.raises(DataError, match=said.split()[1]):
        look(tmp_path)
    if "Iceberg" in said:
        with pytest.raises(DataError, match=f"is {said}"):
            look(folder / "data")
