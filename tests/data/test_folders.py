"""Show that every entry of a folder is read, or left out and named, however links, names and kinds are mixed."""

import os
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.scan import Dataset, read_item, scan, work_items
from fmray.errors import DataError
from fmray.spec.sections import Data


def look(path: object, **section: object) -> Dataset:
    return scan(Data(**{"path": str(path), "target": "y", **section}), ".")


def values(dataset: Dataset) -> list[int]:
    return pa.concat_tables([read_item(dataset, item, ["y"]) for item in work_items(dataset)]).column("y").to_pylist()


def test_links_to_files_to_folders_and_to_links_are_followed(write, tmp_path):
    write("0.parquet", {"y": [0]})
    folder = tmp_path / "data"
    (tmp_path / "blobs").mkdir()
    (tmp_path / "other/deep").mkdir(parents=True)
    pq.write_table(pa.table({"y": [1]}), tmp_path / "blobs/aa")
    pq.write_table(pa.table({"y": [2]}), tmp_path / "other/deep/c.parquet")
    os.symlink(tmp_path / "blobs/aa", tmp_path / "first")
    os.symlink(tmp_path / "first", folder / "1.parquet")
    os.symlink(tmp_path / "other", folder / "more")
    dataset = look(folder)
    assert values(dataset) == [0, 1, 2]
    assert dataset.notes == ()
    assert values(look(folder / "*.parquet")) == [0, 1]


def test_a_link_that_leads_back_to_nothing_or_to_a_shard_that_is_there_is_left_out_and_said(write, tmp_path):
    folder = write("a.parquet", {"y": [1]})
    os.symlink("a.parquet", folder / "latest.parquet")
    os.symlink(".", folder / "round")
    os.symlink("gone.parquet", folder / "lost.parquet")
    os.symlink("self", folder / "self")
    dataset = look(folder)
    assert values(dataset) == [1]
    (note,) = dataset.notes
    assert "4 entries are not read" in note
    for said in (
        "linked a second time (latest.parquet)",
        "a folder above them (round)",
        "to nothing (lost.parquet)",
        "(self)",
    ):
        assert said in note


def test_a_folder_named_like_a_partition_is_not_hidden_and_marks_of_writers_are(write):
    write("_year=2020/part-0.parquet", {"y": [1]})
    write("_year=2021/part-0.parquet", {"y": [2]})
    folder = write("_temporary/0/part-9.parquet", {"y": [9]})
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / "_metadata").write_bytes(b"PAR1")
    (folder / "_year=2020/.part-0.parquet.crc").write_bytes(b"crc")
    dataset = look(folder)
    assert dataset.num_rows == 2
    assert "4 entries are not read: 4 hidden" in dataset.notes[0]
    assert "_temporary" in dataset.notes[0]


@pytest.mark.parametrize(
    "name",
    [
        "part-00000",
        "a.snappy.parquet",
        "a.parquet.gzip",
        "A.PARQUET",
        "a b.PQ",
        "a#1.parq",
        "50%.parquet",
        "päth",
        "q?.x",
    ],
)
def test_a_shard_is_known_by_its_bytes_whatever_its_name(write, name):
    folder = write(name, {"y": [1]})
    assert values(look(folder)) == [1]
    assert values(look(folder / name)) == [1]


def test_strangers_beside_shards_are_counted_and_named(write):
    folder = write("a.parquet", {"y": [1]})
    (folder / "b.csv").write_text("x,y\n1,2\n")
    (folder / "empty").write_bytes(b"")
    (folder / "notes.txt").write_text("read me")
    (folder / "z.bin").write_bytes(b"\x00\x01" * 40)
    (note,) = look(folder).notes
    assert note.startswith("data.path: 4 entries are not read: ")
    for said in ("1 CSV text (b.csv)", "1 empty (empty)", "1 text (notes.txt)", "1 not Parquet (z.bin)"):
        assert said in note


def test_pipes_sockets_and_devices_are_left_out_and_never_opened(write, tmp_path, monkeypatch):
    folder = write("a.parquet", {"y": [1]})
    os.mkfifo(folder / "pipe.parquet")
    os.symlink("/dev/null", folder / "null.parquet")
    monkeypatch.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.parquet")
        (note,) = look(folder).notes
        assert "named pipes" in note
        assert "sockets" in note
        assert "devices" in note
    with pytest.raises(DataError, match=r"pipe.parquet' is a named pipe. Accepted: a file, a folder"):
        look(folder / "pipe.parquet")


@pytest.mark.parametrize("name", ["exp [v2]", "q?", "star*", "[ab]"])
def test_a_path_that_exists_wins_over_what_its_signs_mean(write, name):
    folder = write(f"{name}/run [1].parquet", {"y": [1]})
    write(f"{name}/plain.parquet", {"y": [2]})
    assert values(look(folder / name)) == [2, 1]
    assert values(look(folder / name / "run [1].parquet")) == [1]
    assert values(look(folder / name / "*.parquet")) == [2, 1]
    assert values(look(folder / name / "p*")) == [2]


def test_folders_that_a_pattern_names_are_read(write):
    for year in (2019, 2020, 2021):
        folder = write(f"year={year}/part-0.parquet", {"y": [year]})
    dataset = look(folder / "year=202*")
    assert values(dataset) == [2020, 2021]
    assert dataset.schema.field("year").type == pa.int64()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "gzip-compressed"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (b'{"a": 1}\n{"a": 2}\n', "JSON text"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"ARROW1\x00\x00" + bytes(40), "an Arrow IPC"),
        (b"ORC" + bytes(40), "an ORC file"),
        (b"Obj\x01" + bytes(40), "an Avro file"),
        (b"a;b\n1;2\n" * 9, "CSV text"),
    ],
)
def test_a_file_that_is_something_known_is_called_so(write, content, said):
    folder = write("good.parquet", {"y": [1]})
    (folder / "bad.parquet").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad.parquet: the file is {said}.*, not Parquet"):
        look(folder)


def test_an_encrypted_file_is_called_so_and_so_are_encrypted_columns(tmp_path):
    import base64

    import pyarrow.parquet.encryption as pe

    class Client(pe.KmsClient):
        def __init__(self, config: object) -> None:
            pe.KmsClient.__init__(self)

        def wrap_key(self, key: bytes, name: str) -> bytes:
            return base64.b64encode(key)

        def unwrap_key(self, wrapped: bytes, name: str) -> bytes:
            return base64.b64decode(wrapped)

    table, factory = pa.table({"x": [1.0], "y": [1]}), pe.CryptoFactory(Client)
    for plain, said in (
        (False, r"a.parquet: the file is encrypted"),
        (True, r"a.parquet: the file has encrypted columns"),
    ):
        asked = pe.EncryptionConfiguration(footer_key="k", column_keys={"c": ["x"]}, plaintext_footer=plain)
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), asked)
        with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
        with pytest.raises(DataError, match=said):
            look(tmp_path)


def test_a_file_that_may_not_be_read_is_named(write, monkeypatch):
    from fmray.data import files

    folder = write("a.parquet", {"y": [1]})

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "_footer", refuse)  # whoever runs tests may be root, who may read anything
    with pytest.raises(DataError, match=r"a.parquet: the file cannot be read: Permission denied"):
        look(folder)
