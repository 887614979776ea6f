"""Look at this machine as a node would, without Ray around it."""

import shutil
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.files import find_files
from fmray.preflight.probe import MEET_SECONDS, Scout
from fmray.store import source_digest


def test_a_node_tells_the_source_it_has_as_this_machine_does():
    told = Scout().versions(["json", "no_such_module"])
    assert told["fmray"] == source_digest("fmray")
    assert told["missing"] == ["no_such_module"]


def test_files_are_counted_as_a_scan_counts_them(tmp_path):
    for name in ("a.parquet", "deep/b.parquet", "_draft/c.parquet", ".d.parquet", "_SUCCESS", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), tmp_path / name)
    for path in (str(tmp_path), str(tmp_path / "*.parquet"), str(tmp_path / "a.parquet")):
        found = find_files(path, ".").files
        told = Scout().data(path)
        assert (told["files"], told["bytes"]) == (len(found), sum(file.size for file in found))
        assert bytes.fromhex(told["tail"]) == b"PAR1"


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_data_that_are_not_there_are_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no Parquet file lies at"):
        Scout().data(str(tmp_path / name))


def test_what_one_node_wrote_is_missed_where_it_is_not_seen(tmp_path):
    here, there = f"{tmp_path}/store/.look", f"{tmp_path}/other/.look"
    scout = Scout()
    assert scout.write(here, "one") == []
    assert scout.read(here, ["one", "two"]) == ["two"]
    assert scout.read(there, ["one"]) == ["one"]
    (tmp_path / "store/.look/one").write_bytes(b"something else")
    assert scout.read(here, ["one"]) == ["one"]
    scout.clear(here)
    assert not (tmp_path / "store").exists()


def test_a_store_that_holds_something_keeps_it(tmp_path):
    (tmp_path / "store.json").write_text("{}")
    scout = Scout()
    scout.write(f"{tmp_path}/.look", "one")
    scout.clear(f"{tmp_path}/.look")
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Scout().write(f"{tmp_path}/file/.look", "one")


def test_free_space_is_that_of_the_disk_a_store_will_lie_on(tmp_path):
    told = Scout().disks(str(tmp_path / "not" / "yet"))
    assert told["path"] == str(tmp_path)
    assert told["free"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert Scout().disks("s3://bucket/store") == {}


@pytest.mark.slow
def test_a_node_that_waits_for_another_in_vain_says_so_within_its_limit():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    assert Scout().meet(place, 0, 1, 4) == 1.0
    with pytest.raises(Exception, match=r"(?i)time"):
        Scout().meet(place, 0, 2, 4)
    assert MEET_SECONDS < 10
