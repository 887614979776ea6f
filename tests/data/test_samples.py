from pathlib import Path

from fmray.data.samples import iris
from fmray.store import Store


def test_a_sample_that_was_damaged_is_written_again_as_it_was(tmp_path):
    store = Store(str(tmp_path))
    shard = Path(iris(store), "part-00001.parquet")
    whole = shard.read_bytes()
    for damage in (b"", whole[:100], whole[:200] + b"x" + whole[201:]):
        shard.write_bytes(damage)
        iris(store)
        assert shard.read_bytes() == whole
    shard.unlink()
    iris(store)
    assert shard.read_bytes() == whole


def test_a_sample_whose_mark_was_damaged_is_written_again(tmp_path):
    store = Store(str(tmp_path))
    mark = Path(f"{iris(store)}.json")
    mark.write_text(mark.read_text().replace("iris", "rose"))
    iris(store)
    assert store.read_json(str(mark))["name"] == "iris"


def test_all_that_lies_in_the_folder_of_a_sample_is_rows(tmp_path):
    assert {path.suffix for path in Path(iris(Store(str(tmp_path)))).iterdir()} == {".parquet"}
