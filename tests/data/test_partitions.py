"""Show that columns in the names of folders are read like columns of files, with types, missing values and all."""

import datetime

import pyarrow as pa
import pytest

from fmray.data.partitions import type_of
from fmray.data.preview import preview
from fmray.data.scan import Dataset, read_item, scan, work_items
from fmray.errors import DataError
from fmray.spec.job import Job
from fmray.spec.sections import Data


def look(path: object, **section: object) -> Dataset:
    return scan(Data(**{"path": str(path), "target": "y", **section}), ".")


def read(dataset: Dataset) -> pa.Table:
    return pa.concat_tables([read_item(dataset, item) for item in work_items(dataset)])


def test_partition_columns_are_typed_decoded_and_missing_where_they_say_so(write):
    write("n=1/day=2024-01-02/s=a%20b%2Fc/part.parquet", {"y": [1]})
    write("n=__HIVE_DEFAULT_PARTITION__/day=2024-01-03/s=null/part.parquet", {"y": [2, 3]})
    table = read(look(write("n=-7/day=2024-01-04/s=x=1/part.parquet", {"y": [4]})))
    rows = {row.pop("y"): row for row in table.to_pylist()}
    day = datetime.date
    assert rows[1] == {"n": 1, "day": day(2024, 1, 2), "s": "a b/c"}
    assert rows[2] == rows[3] == {"n": None, "day": day(2024, 1, 3), "s": None}
    assert rows[4] == {"n": -7, "day": day(2024, 1, 4), "s": "x=1"}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "02"], pa.int64()),
        (["1", "01"], pa.string()),
        (["0.5", "1"], pa.float64()),
        (["2024-02-30"], pa.string()),
        (["2024-01-01 10:00:00"], pa.timestamp("us")),
        (["9" * 30, "x"], pa.string()),
        (["true", "1"], pa.string()),
        ([], pa.string()),
    ],
)
def test_the_type_of_a_partition_takes_no_two_values_for_one(values, kind):
    assert type_of(values) == kind


def test_a_target_a_key_and_an_ignored_column_may_be_partitions(write):
    write("region=north/part.parquet", {"x": [1], "y": [1]})
    folder = write("region=south/part.parquet", {"x": [2], "y": [2]})
    assert sorted(read(look(folder, target="region")).column("region").to_pylist()) == ["north", "south"]
    assert look(folder, ignore=["region"]).schema.names == ["x", "y", "region"]
    assert look(folder, key=["region"]).num_rows == 2


def test_a_file_that_holds_its_partition_column_must_agree_with_its_folder(write):
    folder = write("region=north/part.parquet", {"y": [1, 2], "region": ["north", "north"]})
    write("region=south/part.parquet", {"y": [3]})
    assert read(look(folder)).column("region").to_pylist() == ["north", "north", "south"]
    write("region=west/part.parquet", {"y": [1, 2], "region": ["west", "east"]})
    with pytest.raises(DataError, match=r"region=west/part.parquet: column 'region' holds 'east' in the file.*'west'"):
        read(look(folder))


def test_a_folder_whose_value_is_not_of_the_type_that_files_hold_is_refused(write):
    write("n=1/part.parquet", {"y": [1], "n": [1]})
    folder = write("n=x/part.parquet", {"y": [1]})
    with pytest.raises(DataError, match=r"n=x/part.parquet: folder 'n=x' is no int64"):
        read(look(folder))


def test_where_some_folders_name_no_column_it_is_missing_and_said_unless_it_plays_a_part(write):
    write("a.parquet", {"y": [1]})
    folder = write("year=2020/a.parquet", {"y": [2]})
    dataset = look(folder)
    assert read(dataset).column("year").to_pylist() == [None, 2020]
    assert any("'year' is missing (null) in 1 of 2 files" in note for note in dataset.notes)
    with pytest.raises(DataError, match=r"a.parquet: no folder of its path names 'year', which is data.group"):
        look(folder, group="year")


def test_one_path_that_names_a_column_twice_is_refused(write):
    folder = write("n=1/n=2/a.parquet", {"y": [1]})
    with pytest.raises(DataError, match=r"name one column twice"):
        look(folder)


def test_what_folders_say_reaches_the_lanes_and_the_notes_of_the_record(write, prepared):
    for region in ("north", "south"):
        folder = write(
            f"region={region}/part.parquet", {"x": [float(n) for n in range(60)], "y": [n / 7 for n in range(60)]}
        )
    made = prepared(folder, steps=["auto"])
    assert "region" in [column.name for column in made.raw.columns]
    assert any("read from the names of folders: 'region' (string)" in note for note in made.notes)
    assert prepared(folder, steps=["auto"]).notes == made.notes


def test_a_look_at_partitions_reads_several_and_says_of_how_many_rows_it_speaks(write):
    for year in (2020, 2021):
        for region in ("north", "east", "south", "west"):
            rows = {"x": [n / 7 for n in range(30)], "k": ["same"] * 30, "y": ["a", "b"] * 15}
            folder = write(f"year={year}/region={region}/part.parquet", rows)
    seen = preview(Job.from_json({"name": "test", "data": {"path": str(folder), "target": "y"}}))
    assert seen.num_rows == 4 * 30
    left_out = [note for note in seen.notes if "leaves out" in note]
    assert left_out == ["judged by 120 of 240 rows: auto leaves out 'k': it is the same in all training rows"]
