"""Hold `hash v1` to its written contract: published vectors, and an implementation that shares no code with it."""

import datetime
import decimal
import hashlib
import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.data.hashing import BLOCK_ROWS, row_hash, row_ids, sample_of, uniform
from fmray.errors import DataError

WORD = 1 << 64


# ----------------------------------------------------------------------------------------------------------------------
# The contract again, one value at a time, on Python's own integers.


def mixed(x: int) -> int:
    x %= WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def keyed(lane: int, kind: str, name: str = "", seed: int = 0) -> int:
    text = f"fmray hash v1|{seed}|{lane}|{kind}|{name}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(number: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", 0.0 if number == 0 else number))[0]


def bytes_word(value: bytes, lane: int) -> int:
    total = len(value) * (keyed(lane, "length") | 1)
    for i in range(0, len(value), 8):
        total += mixed(int.from_bytes(value[i : i + 8], "little") + i // 8 * (keyed(lane, "step") | 1))
    return total


def integer_word(value: int, lane: int) -> int:
    try:
        if int(float(value)) == value:
            return bits(float(value))
    except OverflowError:
        pass
    return mixed(value + keyed(lane, "integer" if value < 2**63 else "unsigned"))


def decimal_word(value: decimal.Decimal, lane: int) -> int:
    if value == int(value) and -(2**63) <= value < 2**64:
        return integer_word(int(value), lane)
    if decimal.Decimal(float(value)) == value or decimal.Decimal(repr(float(value))) == value:
        return bits(float(value))
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).rjust(1 - exponent, "0")
    whole, fraction = (text[:exponent], text[exponent:]) if exponent < 0 else (text + "0" * exponent, "")
    plain = whole + ("." + fraction.rstrip("0") if fraction.rstrip("0") else "")
    return mixed(bytes_word(("-" * sign + plain).encode(), lane) + keyed(lane, "decimal"))


EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def cell(value: object, lane: int) -> tuple[str, int] | None:
    """Give kind and word of a value; None if it is missing."""
    match value:
        case None:
            return None
        case float() if math.isnan(value):
            return None
        case float():
            return "number", bits(value)
        case bool() | int():
            return "number", integer_word(int(value), lane)
        case decimal.Decimal():
            return "number", decimal_word(value, lane)
        case str():
            return "bytes", bytes_word(value.encode(), lane)
        case bytes():
            return "bytes", bytes_word(value, lane)
        case datetime.datetime():
            moment = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
            return "time", (moment - EPOCH) // datetime.timedelta(microseconds=1)
        case datetime.date():
            return "time", (value - datetime.date(1970, 1, 1)).days * 86_400_000_000
        case datetime.timedelta():
            return "duration", value // datetime.timedelta(microseconds=1)
        case datetime.time():
            seconds = value.hour * 3600 + value.minute * 60 + value.second
            return "clock", seconds * 1_000_000 + value.microsecond
        case list():
            total = len(value) * (keyed(lane, "length") | 1)
            for i, element in enumerate(value):
                if (found := cell(element, lane)) is not None:
                    total += mixed(found[1] + i * (keyed(lane, "step") | 1) + keyed(lane, found[0]))
            return "list", total
        case dict():
            return "struct", sum_of_fields(value, lane, 0)
    raise TypeError(value)


def sum_of_fields(row: dict[str, object], lane: int, seed: int) -> int:
    found = {name: cell(value, lane) for name, value in row.items()}
    return sum(mixed(c[1] + keyed(lane, c[0], name, seed)) for name, c in found.items() if c is not None)


def reference(row: dict[str, object], seed: int = 0) -> tuple[int, int]:
    """Give the two words of a row's hash."""
    words = [mixed(sum_of_fields(row, lane, seed) + keyed(lane, "row", "", seed)) for lane in (0, 1)]
    return words[0], words[1]


# ----------------------------------------------------------------------------------------------------------------------

# Published: both words of the row hash, big-endian hexadecimal. Changing one is changing the version.
VECTORS: list[tuple[dict[str, object], int, str]] = [
    ({}, 0, "acd241226fbf86661e9df7a94a5bc3ff"),
    ({"a": 0}, 0, "377f576d7fb6eb747336216ad836e760"),
    ({"a": 1}, 0, "60e8297e2406bc0bf75a1bad74a78fdc"),
    ({"a": 1}, 7, "cd16ad682f118e03ef165c4d96ed2fc7"),
    ({"b": 1}, 0, "e0840fc0d2edf6973269f73de14562c5"),
    ({"a": -1.5}, 0, "0c3e8627cf5184e33611d2b15d97c4ba"),
    ({"a": 2**53 + 1}, 0, "e53232cdca25f658fd882cf56457fa0d"),
    ({"a": ""}, 0, "515549e1da535b414897764444e357c0"),
    ({"a": "eight by"}, 0, "f1fc339488056638ec163e59fc414c95"),
    ({"a": "Grüße an alle Zeilen"}, 0, "ebb6278d9a43c3f6001f4a6e9e1c8603"),
    ({"a": datetime.datetime(2024, 2, 29, 12, 30, 0, 250)}, 0, "12739f25227611945a16a30cd3f026b9"),
    ({"a": [1.0, None, 3.0]}, 0, "361adca893f5743ebf9e3efc5d7198c4"),
    ({"a": 1, "b": "x", "c": None}, 3, "13bc6ef5d2721fe3655cd4b9e55a05e4"),
]


def table_of(rows: list[dict[str, object]], kinds: dict[str, pa.DataType] | None = None) -> pa.Table:
    names = sorted({name for row in rows for name in row})
    return pa.table({n: pa.array([row.get(n) for row in rows], (kinds or {}).get(n)) for n in names})


def hashed(
    values: list[object], kind: pa.DataType | None = None, name: str = "a", seed: int = 0
) -> list[tuple[int, int]]:
    return [tuple(map(int, pair)) for pair in row_hash(pa.table({name: pa.array(values, kind)}), [name], seed)]


def expected(values: list[object], name: str = "a", seed: int = 0) -> list[tuple[int, int]]:
    return [reference({name: value}, seed) for value in values]


@pytest.mark.parametrize(("row", "seed", "published"), VECTORS)
def test_a_published_vector_is_what_both_implementations_give(row, seed, published):
    words = reference(row, seed)
    assert f"{words[0]:016x}{words[1]:016x}" == published
    # A table without columns has no rows to Arrow, and an absent column hashes like a null one.
    table = table_of([row or {"absent": None}])
    assert row_hash(table, table.column_names, seed).tolist() == [list(words)]


INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(2**53 - 3, 2**53 + 3) | st.sampled_from([-(2**63), 2**63 - 1])
FLOAT = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([-0.0, 2.0**63, -(2.0**63), 2.0**53])
MOMENT = st.datetimes(datetime.datetime(1800, 1, 1), datetime.datetime(2200, 1, 1))
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[object]]] = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), INT64),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1) | st.integers(2**64 - 2000, 2**64 - 1)),
    "float32": (pa.float32(), st.floats(width=32)),
    "float64": (pa.float64(), FLOAT),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text()),
    "large_string": (pa.large_string(), st.text(max_size=20)),
    "string_view": (pa.string_view(), st.text(max_size=20)),
    "binary": (pa.binary(), st.binary(max_size=40)),
    "fixed_binary": (pa.binary(11), st.binary(min_size=11, max_size=11)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["", "a", "longer than eight"])),
    "timestamp_us": (pa.timestamp("us"), MOMENT),
    "timestamp_zone": (pa.timestamp("us", "Asia/Tokyo"), MOMENT.map(lambda m: m.replace(tzinfo=datetime.UTC))),
    "date32": (pa.date32(), st.dates()),
    "date64": (pa.date64(), st.dates()),
    "duration": (pa.duration("us"), st.timedeltas(datetime.timedelta(-1000), datetime.timedelta(1000))),
    "clock": (pa.time64("us"), st.times()),
    "narrow_decimal": (pa.decimal128(12, 4), st.decimals("-9999999.9999", "9999999.9999", places=4)),
    "wide_decimal": (
        pa.decimal128(38, 6),
        st.decimals(-(10**31), 10**31, places=6) | st.integers(2**53, 2**66).map(decimal.Decimal),
    ),
    "list": (pa.list_(pa.int64()), st.lists(st.none() | INT64, max_size=5)),
    "fixed_list": (pa.list_(pa.float32(), 3), st.lists(st.floats(width=32), min_size=3, max_size=3)),
    "list_of_text": (pa.large_list(pa.string()), st.lists(st.none() | st.text(max_size=9), max_size=3)),
    "struct": (
        pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))]),
        st.fixed_dictionaries(
            {"x": st.none() | st.integers(0, 9), "y": st.none() | st.lists(st.text(max_size=9), max_size=2)}
        ),
    ),
}


@pytest.mark.parametrize("label", KINDS)
def test_every_type_agrees_with_the_reference_row_by_row(label):
    kind, values = KINDS[label]

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.none() | values, max_size=30), st.integers(0, 3))
    def agree(rows, seed):
        array = pa.array(rows, kind)
        back = array.to_pylist()  # as stored, e.g. after rounding to float32
        assert hashed(array, seed=seed) == expected(back, seed=seed)
        assert hashed(array[1:], seed=seed) == expected(back[1:], seed=seed)  # a slice shares the buffers of the whole

    agree()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.fixed_dictionaries({"n": st.none() | INT64, "t": st.none() | st.text(max_size=20), "f": FLOAT}), min_size=1
    )
)
def test_rows_of_several_columns_agree_with_the_reference(rows):
    table = table_of(rows, {"n": pa.int64(), "t": pa.string(), "f": pa.float64()})
    assert row_hash(table, ["t", "n", "f"]).tolist() == [list(reference(row)) for row in rows]


def test_rows_beyond_one_block_and_in_uneven_chunks_agree_with_the_reference():
    texts = [f"row {i} " + "x" * (i % 97) for i in range(2 * BLOCK_ROWS + 11)]
    table = pa.table({"a": pa.chunked_array([texts[:5], texts[5:20_000], texts[20_000:]]), "b": range(len(texts))})
    hashes = row_hash(table, ["a", "b"])
    for i in [0, 4, 5, 19_999, 20_000, BLOCK_ROWS, len(texts) - 1]:
        assert tuple(hashes[i].tolist()) == reference({"a": texts[i], "b": i})


def test_one_huge_cell_among_small_ones_agrees_with_the_reference():
    values = [b"small", bytes(range(256)) * 4096 + b"end", b"", b"after"]
    assert hashed(values) == expected(values)


def test_equal_numbers_hash_alike_in_every_type():
    kinds = [
        pa.int8(),
        pa.uint16(),
        pa.int64(),
        pa.uint64(),
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.decimal128(9, 3),
    ]
    assert {hashed([3], kind)[0] for kind in kinds[:-1]} | {hashed([decimal.Decimal("3.000")], kinds[-1])[0]} == {
        reference({"a": 3})
    }
    assert hashed([True, False], pa.bool_()) == hashed([1, 0], pa.int64())
    assert hashed([-0.0], pa.float64()) == hashed([0], pa.int8())
    assert hashed([decimal.Decimal("0.10")], pa.decimal128(5, 2)) == hashed([0.1], pa.float64())


def test_integers_beyond_the_floats_keep_their_identity():
    values = [2**53, 2**53 + 1, 2**53 + 2, 2**62 + 1, 2**63 - 1, 2**63 - 2]
    assert len(set(hashed(values, pa.int64()))) == len(values)
    assert hashed(values, pa.int64()) == hashed(values, pa.uint64())
    assert hashed([2**53, 2**53 + 2], pa.int64()) == hashed([2.0**53, 2.0**53 + 2], pa.float64())
    assert hashed([2**63], pa.uint64()) == hashed([2.0**63], pa.float64())
    assert hashed([2**64 - 1], pa.uint64()) != hashed([-1], pa.int64())


def test_one_instant_hashes_alike_in_every_unit_and_zone():
    noon = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    kinds = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ("UTC", "America/New_York")]
    assert len({hashed([noon], kind)[0] for kind in [*kinds, pa.timestamp("ms")]}) == 1
    assert hashed([datetime.date(2024, 5, 1)], pa.date32()) == hashed(
        [datetime.datetime(2024, 5, 1)], pa.timestamp("ns")
    )


def test_missing_is_one_value_and_counts_for_nothing():
    payload = np.array([0x7FF8000000000001, 0xFFF0000000000007], np.uint64).view(np.float64)
    table = pa.table({"a": [1, 1, 1], "b": pa.array([None, *payload], pa.float64()), "c": pa.nulls(3)})
    assert len({tuple(pair) for pair in row_hash(table, ["a", "b", "c"]).tolist()}) == 1
    assert row_hash(table, ["a", "b", "c"]).tolist() == row_hash(table, ["a"]).tolist()


def test_values_that_look_alike_differ():
    assert (
        len(
            {
                *hashed(["3"]),
                *hashed([3]),
                *hashed([""]),
                *hashed([None], pa.string()),
                *hashed([datetime.date(1970, 1, 1)]),
            }
        )
        == 5
    )
    assert hashed(["a"]) != hashed(["a\0"])
    assert hashed([[1, None]], pa.list_(pa.int8())) != hashed([[1]], pa.list_(pa.int8()))
    assert hashed([1], name="a") != hashed([1], name="b")
    swapped = row_hash(pa.table({"a": [1, 2], "b": [2, 1]}), ["a", "b"]).tolist()
    assert swapped[0] != swapped[1]


def test_the_order_of_columns_is_irrelevant():
    one = pa.table({"a": [1, 2], "b": ["x", "y"]})
    assert np.array_equal(row_hash(one, ["a", "b"]), row_hash(one.select(["b", "a"]), ["b", "a"]))


def test_an_absent_column_is_named():
    with pytest.raises(DataError, match=r"columns \['c'\] are not in the table. It has: a, b."):
        row_hash(pa.table({"a": [1], "b": [2]}), ["a", "c"])


def test_no_two_of_a_million_structured_rows_collide_and_the_words_are_uniform():
    n = 1_000_000
    table = pa.table({"a": np.arange(n) % 1000, "b": np.arange(n) // 1000})
    hashes = row_hash(table, ["a", "b"])
    assert len(np.unique(hashes[:, 0])) == len(np.unique(hashes[:, 1])) == n
    counts = np.bincount((uniform(hashes) * 1000).astype(int), minlength=1000)
    chi_square = ((counts - n / 1000) ** 2 / (n / 1000)).sum()
    assert abs(chi_square - 999) < 6 * math.sqrt(2 * 999)
    # Flipping the lowest bit of one value flips each bit of either word with probability 1/2.
    other = row_hash(table.set_column(0, "a", pa.array((np.arange(n) % 1000) ^ 1)), ["a", "b"])
    for lane in (0, 1):
        flipped = np.unpackbits((hashes[:, lane] ^ other[:, lane]).view(np.uint8).reshape(n, 8), axis=1)
        assert np.abs(flipped.mean(axis=0) - 0.5).max() < 6 * 0.5 / math.sqrt(n)


def test_the_first_of_equal_rows_keeps_its_hash_and_repeats_differ():
    hashes = np.repeat(row_hash(pa.table({"a": [1, 2]}), ["a"]), 3, axis=0)
    ids = row_ids(hashes, np.array([0, 1, 2, 0, 1, 2]))
    assert ids[[0, 3]].tolist() == hashes[[0, 3]].tolist()
    assert len(np.unique(ids, axis=0)) == 6
    step = [(keyed(lane, "step") | 1) for lane in (0, 1)]
    for lane in (0, 1):
        assert int(ids[2, lane]) == mixed(int(hashes[2, lane]) + 2 * step[lane] + keyed(lane, "occurrence"))


def test_a_sample_is_of_the_same_rows_in_whatever_order_or_parts_they_come():
    ids = np.random.default_rng(3).integers(0, 1 << 63, (20_000, 2), dtype=np.uint64)
    chosen = sample_of(ids, 20_000, 2_000)
    order = np.random.default_rng(4).permutation(20_000)
    assert np.array_equal(sample_of(ids[order], 20_000, 2_000), chosen[order])
    assert np.array_equal(sample_of(ids[:77], 20_000, 2_000), chosen[:77])
    assert abs(chosen.sum() - 2_000) < 4 * (2_000 * 0.9) ** 0.5


def test_a_sample_of_more_rows_than_there_are_is_all_of_them():
    assert sample_of(np.zeros((5, 2), np.uint64), 5, 5).all()
