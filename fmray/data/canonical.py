"""Bring cells of every Arrow type into the two 64-bit words that `hash v1` mixes.

The contract is written in `fmray.data.hashing`; whatever changes a word here is another version there.
"""

import decimal
import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fmray.errors import DataError

LANES = (0, 1)
BLOCK_WORDS = 1 << 15
FLOAT_EXACT = 1 << 53  # every integer up to here is a float64
TIME_UNITS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}  # times, then floor-divided by


@dataclass(frozen=True)
class Cells:
    """Hold the canonical form of a column.

    Args:
        kind: What its words mean; part of the key they are mixed with.
        words: One array per lane; the same array twice where one word says all.
        valid: False where the cell is missing; None if none is.

    Shapes:
        words: 2 x (num_rows,), uint64.
        valid: (num_rows,), bool.
    """

    kind: str
    words: tuple[np.ndarray, np.ndarray]
    valid: np.ndarray | None


def mix(words: np.ndarray, add: np.uint64 | np.ndarray) -> np.ndarray:
    """Give M(words + add) in a new array.

    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (splitmix64).
    """
    x: np.ndarray = words + add
    shifted = x >> _SHIFTS[0]
    x ^= shifted
    x *= _FACTORS[0]
    np.right_shift(x, _SHIFTS[1], out=shifted)
    x ^= shifted
    x *= _FACTORS[1]
    np.right_shift(x, _SHIFTS[2], out=shifted)
    x ^= shifted
    return x


@functools.cache
def key(lane: int, kind: str, name: str, seed: int) -> np.uint64:
    """Give K(lane, kind, name, seed) of the contract."""
    text = f"fmray hash v1|{int(seed)}|{lane}|{kind}|{name}"
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
STEPS = tuple(key(lane, "step", "", 0) | np.uint64(1) for lane in LANES)
LENGTHS = tuple(key(lane, "length", "", 0) | np.uint64(1) for lane in LANES)


def sum_of_fields(
    names: Sequence[str], arrays: Sequence[pa.Array], num_rows: int, seed: int, lanes: Sequence[int] = LANES
) -> list[np.ndarray]:
    """Sum the mixed cells of each row over its fields, per lane.

    Shapes:
        returns: len(lanes) x (num_rows,), uint64.
    """
    sums = [np.zeros(num_rows, np.uint64) for _ in lanes]
    for name, array in zip(names, arrays, strict=True):
        cells = canonical(array, name)
        for lane in lanes:
            mixed = mix(cells.words[lane], key(lane, cells.kind, name, seed))
            if cells.valid is not None:
                mixed *= cells.valid
            sums[lane] += mixed
    return sums


def canonical(array: pa.Array, name: str) -> Cells:
    """Bring a column into the form that is hashed.

    Raises:
        DataError: If its type has none.
    """
    kind = array.type
    for fits, reader in _READERS:
        if fits(kind):
            return reader(array, name)
    raise DataError(f"column '{name}' holds {kind}, which cannot be hashed. Put it in data.ignore.", "hash")


def _values(array: pa.Array, dtype: str) -> np.ndarray:
    # Straight from the buffer: Arrow's own conversion turns integers with nulls into floats.
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, count=array.offset + len(array))[array.offset :]


def _valid(array: pa.Array) -> np.ndarray | None:
    return None if array.null_count == 0 else array.is_valid().to_numpy(zero_copy_only=False)


def _floats(array: pa.Array, name: str) -> Cells:
    values = _values(array, f"f{array.type.bit_width // 8}").astype(np.float64)
    return _numbers(values, _valid(array))


def _numbers(values: np.ndarray, valid: np.ndarray | None) -> Cells:
    values += 0.0  # -0.0 becomes 0.0
    numbers = values == values
    if not numbers.all():
        valid = numbers if valid is None else numbers & valid
    words = values.view(np.uint64)
    return Cells("number", (words, words), valid)


def _booleans(array: pa.Array, name: str) -> Cells:
    return _integers(array.cast(pa.uint8()), name)


def _integers(array: pa.Array, name: str) -> Cells:
    signed = pa.types.is_signed_integer(array.type)
    values = _values(array, f"{'i' if signed else 'u'}{array.type.bit_width // 8}")
    floats = values.astype(np.float64)
    cells = _numbers(floats, None)
    if array.type.bit_width < 64 or not len(values) or max(-int(values.min()), int(values.max())) <= FLOAT_EXACT:
        return Cells("number", cells.words, _valid(array))
    within = floats < (2.0**63 if signed else 2.0**64)  # rounding up may leave the type's range
    inexact = np.flatnonzero(~within | (np.where(within, floats, 0).astype(values.dtype) != values))
    large = values[inexact].astype(np.uint64)
    unsigned = large >= np.uint64(2**63) if not signed else np.zeros(len(large), bool)
    words = tuple(cells.words[lane].copy() for lane in LANES)
    for lane in LANES:
        keys = np.where(unsigned, key(lane, "unsigned", "", 0), key(lane, "integer", "", 0))
        words[lane][inexact] = mix(large, keys)
    return Cells("number", (words[0], words[1]), _valid(array))


def _decimals(array: pa.Array, name: str) -> Cells:
    kind = array.type
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        kind = pa.decimal128(kind.precision, kind.scale)
        array = array.cast(kind)
    if pa.types.is_decimal128(kind) and 0 <= kind.scale <= 22:
        low, high = _values(array.fill_null(0), "2i8").reshape(-1, 2).T if array.null_count else _values(array, "2i8").T
        if ((low >> 63) == high).all() and (np.abs(low) <= 10**15).all():
            # Both are float64 exactly, so their quotient is the nearest float64, which spells the decimal again.
            return _numbers(low / 10.0**kind.scale, _valid(array))
    encoded = array.dictionary_encode()
    words = np.array([_decimal_words(value) for value in encoded.dictionary.to_pylist()], np.uint64).reshape(-1, 2)
    return _taken(Cells("number", (words[:, 0], words[:, 1]), None), encoded.indices)


def _decimal_words(value: decimal.Decimal) -> list[int]:
    number = float(value)
    is_integer = -(2**63) <= value < 2**64 and value == value.to_integral_value()
    if decimal.Decimal(number) == value or (not is_integer and decimal.Decimal(repr(number)) == value):
        return [int(word[0]) for word in _numbers(np.array([number]), None).words]
    if is_integer:
        kind = pa.int64() if value < 2**63 else pa.uint64()
        return [int(word[0]) for word in _integers(pa.array([int(value)], kind), "").words]
    text = _bytes(pa.array([format(value.normalize(_WIDE), "f")]), "").words
    return [int(mix(text[lane], key(lane, "decimal", "", 0))[0]) for lane in LANES]


_WIDE = decimal.Context(prec=80)


def _times(array: pa.Array, name: str) -> Cells:
    kind = array.type
    valid = _valid(array)
    if pa.types.is_date(kind):
        days = pa.types.is_date32(kind)
        return _ticks(
            "time",
            _values(array, "i4" if days else "i8"),
            times=86_400_000_000 if days else 1_000,
            divided_by=1,
            valid=valid,
        )
    label = "time" if pa.types.is_timestamp(kind) else "duration" if pa.types.is_duration(kind) else "clock"
    return _ticks(label, _values(array, f"i{kind.bit_width // 8}"), *TIME_UNITS[kind.unit], valid)


def _ticks(kind: str, values: np.ndarray, times: int, divided_by: int, valid: np.ndarray | None) -> Cells:
    words = (values.astype(np.int64) * times // divided_by).view(np.uint64)
    return Cells(kind, (words, words), valid)


def _bytes(array: pa.Array, name: str) -> Cells:
    num_rows = len(array)
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        offsets = (np.arange(num_rows + 1) + array.offset) * width
        data = array.buffers()[1]
    else:
        if not (pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)):
            small = pa.types.is_string(array.type) or pa.types.is_binary(array.type)
            array = array if small else array.cast(pa.large_binary())
        large = array.type in (pa.large_string(), pa.large_binary())
        _, where, data = array.buffers()
        offsets = np.frombuffer(where, "i8" if large else "i4")[array.offset : array.offset + num_rows + 1]
        offsets = offsets.astype(np.int64)
    words = (np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint64))
    lengths = np.diff(offsets)
    for rows in _blocks((lengths + 7) // 8):
        _digest_bytes(data, offsets[rows.start : rows.stop + 1], lengths[rows], tuple(w[rows] for w in words))
    return Cells("bytes", words, _valid(array))


def _blocks(num_words: np.ndarray) -> list[slice]:
    """Cut rows into runs of about BLOCK_WORDS words; a row is never cut."""
    ends = np.cumsum(num_words)
    cuts = [0]
    while cuts[-1] < len(ends):
        before = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, before + BLOCK_WORDS, side="right"))))
    return [slice(*pair) for pair in itertools.pairwise(cuts)]


def _digest_bytes(data: pa.Buffer, offsets: np.ndarray, lengths: np.ndarray, out: tuple[np.ndarray, ...]) -> None:
    start = int(offsets[0])
    stop = int(offsets[-1])
    padded = np.zeros(stop - start + 8, np.uint8)  # the last string's last word may reach past the end
    if stop > start:
        padded[:-8] = np.frombuffer(data, np.uint8, count=stop - start, offset=start)
    at_any_byte = np.ndarray((len(padded) - 7,), "<u8", buffer=padded, strides=(1,))
    num_words = (lengths + 7) // 8
    positions = _positions(num_words)
    words = at_any_byte[np.repeat(offsets[:-1] - start, num_words) + 8 * positions]
    cut = np.flatnonzero(lengths & 7)
    surplus = (8 - (lengths[cut] & 7)).astype(np.uint64) * np.uint64(8)
    words[np.cumsum(num_words)[cut] - 1] &= np.uint64(2**64 - 1) >> surplus
    for lane in LANES:
        mixed = mix(words + positions.astype(np.uint64) * STEPS[lane], np.uint64(0))
        out[lane][:] = _sums(mixed, num_words) + lengths.astype(np.uint64) * LENGTHS[lane]


def _positions(lengths: np.ndarray) -> np.ndarray:
    """Number the elements of each row from 0."""
    return np.asarray(np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths))


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum consecutive runs of the given lengths."""
    sums = np.zeros(len(lengths), np.uint64)
    filled = np.flatnonzero(lengths)
    if len(filled):
        sums[filled] = np.add.reduceat(values, (np.cumsum(lengths) - lengths)[filled])
    return sums


def _lists(array: pa.Array, name: str) -> Cells:
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        lengths = np.full(len(array), size)
        elements = array.values.slice(array.offset * size, len(array) * size)
    else:
        offsets = array.offsets.to_numpy().astype(np.int64)
        lengths = np.diff(offsets)
        elements = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    cells = canonical(elements, name)
    positions = _positions(lengths).astype(np.uint64)
    words = []
    for lane in LANES:
        mixed = mix(cells.words[lane] + positions * STEPS[lane], key(lane, cells.kind, "", 0))
        if cells.valid is not None:
            mixed *= cells.valid
        words.append(_sums(mixed, lengths) + lengths.astype(np.uint64) * LENGTHS[lane])
    return Cells("list", (words[0], words[1]), _valid(array))


def _structs(array: pa.Array, name: str) -> Cells:
    words = sum_of_fields([field.name for field in array.type], array.flatten(), len(array), 0)
    return Cells("struct", (words[0], words[1]), _valid(array))


def _dictionaries(array: pa.Array, name: str) -> Cells:
    return _taken(canonical(array.dictionary, name), array.indices)


def _taken(cells: Cells, indices: pa.Array) -> Cells:
    if not len(cells.words[0]):
        return _missing(indices, "")
    at = indices.fill_null(0).to_numpy(zero_copy_only=False)
    valid = indices.is_valid().to_numpy(zero_copy_only=False)
    if cells.valid is not None:
        valid &= cells.valid[at]
    return Cells(cells.kind, (cells.words[0][at], cells.words[1][at]), valid)


def _missing(array: pa.Array, name: str) -> Cells:
    nothing = np.zeros(len(array), np.uint64)
    return Cells("number", (nothing, nothing), np.zeros(len(array), bool))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    return any(getattr(pa.types, f"is_{test}")(kind) for test in ("list", "large_list", "fixed_size_list", "map"))


_READERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array, str], Cells]], ...] = (
    (pa.types.is_floating, _floats),
    (pa.types.is_integer, _integers),
    (_is_bytes, _bytes),
    (pa.types.is_boolean, _booleans),
    (pa.types.is_temporal, _times),
    (_is_list, _lists),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_struct, _structs),
    (pa.types.is_dictionary, _dictionaries),
    (pa.types.is_null, _missing),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), lambda array, name: canonical(array.storage, name)),
)
