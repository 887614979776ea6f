import json
import logging

import pytest

from fmray.errors import DataError
from fmray.store import Store
from fmray.store.sealed import open_text, say_unverified, seal_text

VALUE = {"name": "a", "nested": {"list": [1, 2]}, "nothing": float("nan"), "score": 0.25}
PLACE = "runs/job/1/scores.json"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("value", [{}, VALUE])
def test_what_is_sealed_is_plain_json_and_reads_back_without_its_checksum(value, indent):
    data = seal_text(value, PLACE, indent=indent)
    assert json.loads(data).keys() == {*value, "checksum"}
    assert str(open_text(data, PLACE, "path", is_sealed=True)) == str(value)


@pytest.mark.parametrize("indent", [None, 1])
def test_no_flipped_bit_of_a_sealed_text_gives_another_value(indent):
    data = seal_text(VALUE, PLACE, indent=indent)
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        try:
            found = open_text(bytes(flipped), PLACE, "path", is_sealed=True)
        except DataError as error:
            assert "path is damaged" in str(error)
        else:
            assert str(found) == str(VALUE)


def test_no_cut_tail_of_a_sealed_text_gives_another_value():
    data = seal_text(VALUE, PLACE, indent=1)
    for length in range(len(data)):
        with pytest.raises(DataError, match="path is damaged"):
            open_text(data[:length], PLACE, "path", is_sealed=True)


def test_an_edited_number_names_the_file(store):
    store.write_json(PLACE, {"value": 0.5})
    store.write_bytes(PLACE, store.read_bytes(PLACE).replace(b"0.5", b"0.9"))
    with pytest.raises(DataError, match=r"scores\.json is damaged or has been changed: its checksum does not match"):
        store.read_json(PLACE)


def test_a_file_in_the_place_of_another_is_refused(store):
    store.write_json("runs/job/1/scores.json", {"value": 0.5})
    store.write_json("runs/job/2/scores.json", {"value": 0.7})
    store.write_bytes("runs/job/1/scores.json", store.read_bytes("runs/job/2/scores.json"))
    with pytest.raises(DataError, match=r"1/scores\.json is damaged"):
        store.read_json("runs/job/1/scores.json")


def test_a_file_whose_checksum_was_taken_out_is_refused(store):
    store.write_bytes(PLACE, b'{"value": 0.9}')
    with pytest.raises(DataError, match="checksum"):
        store.read_json(PLACE)


def test_json_nested_ten_million_deep_is_refused_at_once(store):
    for data in (b"[" * 10**7, b'{"a":' * 10**7):
        store.write_bytes(PLACE, data)
        with pytest.raises(DataError, match=r"scores\.json is damaged"):
            store.read_json(PLACE)


def test_a_store_may_be_moved(tmp_path):
    Store(str(tmp_path / "here")).write_json(PLACE, VALUE)
    (tmp_path / "here").rename(tmp_path / "there")
    assert Store(str(tmp_path / "there")).read_json(PLACE)["score"] == 0.25


def test_records_of_an_earlier_version_are_read_and_said_once_to_be_unverified(tmp_path, caplog):
    (tmp_path / "runs").mkdir()
    (tmp_path / "store.json").write_text('{"format":1}')
    (tmp_path / "runs/a.json").write_text('{"value": 1}')
    (tmp_path / "runs/a.jsonl").write_text('{"value":1}\n{"value":2}\n')
    say_unverified.cache_clear()
    store = Store(str(tmp_path))
    with caplog.at_level(logging.WARNING, "fmray"):
        assert store.read_json("runs/a.json") == {"value": 1}
        assert store.events("runs/a.jsonl") == [{"value": 1}, {"value": 2}]
    assert [record.message for record in caplog.records if "not verified" in record.message] == [
        "this store holds records of an earlier version, without checksums: they are not verified"
    ]
    say_unverified.cache_clear()


def test_a_changed_line_of_a_log_is_named_and_a_chained_log_verifies_itself(store):
    for number in range(3):
        store.append("logs/a.jsonl", {"n": number})
        store.append("ledger/a.jsonl", {"n": number, "hash": "0"})
    assert b"checksum" not in store.read_bytes("ledger/a.jsonl")
    assert [event["n"] for event in store.events("ledger/a.jsonl")] == [0, 1, 2]
    store.write_bytes("logs/a.jsonl", store.read_bytes("logs/a.jsonl").replace(b'"n":1', b'"n":9'))
    with pytest.raises(DataError, match=r"a\.jsonl:2 is damaged"):
        store.events("logs/a.jsonl")


def test_a_store_of_sealed_records_is_refused_by_versions_that_write_none(tmp_path):
    Store(str(tmp_path / "new"))
    assert json.loads((tmp_path / "new/store.json").read_text())["format"] == 2  # they read 1
    (tmp_path / "old/runs").mkdir(parents=True)
    Store(str(tmp_path / "old")).write_json("runs/a.json", {"value": 1})
    assert json.loads((tmp_path / "old/store.json").read_text())["format"] == 1
    assert not Store(str(tmp_path / "old")).is_read_only
