"""Hash rows by value, so that equal rows are equal in every file, type and year.

`hash v1` is an on-disk contract: splits and row ids depend on it, so it is written out here, frozen by test vectors,
and never delegated to a library. All arithmetic is modulo 2**64; M is the finaliser of splitmix64; j is 0 or 1.

    M(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31
    K(j, kind, name, seed): the first 8 bytes, little-endian, of BLAKE2b("fmray hash v1|seed|j|kind|name")
    G(j): K(j, "step", "", 0) | 1          L(j): K(j, "length", "", 0) | 1
    row hash, word j: M(K(j, "row", "", seed) + sum over columns of M(w(j) + K(j, kind, name, seed)))

A cell is a kind and two words w(0), w(1):

    number    bool, integer, float, decimal: the bits of the float64 of the same value (-0.0 as 0.0). An integer that no
              float64 equals: M(i + K(j, "integer" below 2**63, else "unsigned", "", 0)). A decimal that is no 64-bit
              integer: the nearest float64 if its shortest spelling is the decimal, else M(w(j) + K(j, "decimal", "",
              0)) of the bytes of its plain spelling without trailing zeros.
    time      date, timestamp: microseconds since 1970 UTC, rounded down; no zone means UTC.
    clock, duration     microseconds, rounded down.
    bytes     string (UTF-8) and binary: little-endian 8-byte words b(0), b(1) ..., the last filled with zeros:
              sum of M(b(i) + i G(j)) + L(j) * number of bytes.
    list      sum over elements of M(w(j) + i G(j) + K(j, kind, "", 0)) + L(j) * number of elements.
    struct    sum over fields of M(w(j) + K(j, kind, field name, 0)).

Null and NaN mean "missing" and add nothing: a writer may swap one for the other, and a column that is null in a row is
as if it were absent. Columns are told apart by name, so their order is irrelevant.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fmray.data.canonical import LANES, STEPS, key, mix, sum_of_fields
from fmray.errors import DataError
from fmray.seeding import derive

HASH_VERSION = "v1"
SAMPLE_ROWS = 100_000
"""Rows that choices are made by where there are more."""
_PART = np.uint64(derive(0, "part of a row") | 1)
_SAMPLE = np.uint64(derive(0, "sample of rows"))
BLOCK_ROWS = 1 << 14  # keeps every temporary array of a block in the core's own cache


def part_ids(ids: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Give an identity to each part of rows: that of its row to the first, one that follows from it to each other.

    Shapes:
        ids: (n, 2), uint64; part: (n,), from 0.
        returns: (n, 2), uint64.
    """
    found = ids.copy()
    later = part > 0
    found[later, 1] = mix(ids[later, 1] + part[later].astype(np.uint64) * _PART, _PART)
    return found


def row_hash(table: pa.Table, columns: Sequence[str], seed: int = 0) -> np.ndarray:
    """Give 128 bits per row that depend on the values of the named columns and on nothing else.

    Shapes:
        returns: (num_rows, 2), uint64.

    Raises:
        DataError: If a column is absent or of a type without a canonical form.
    """
    return row_hashes(table, [columns], seed)[0]


def row_hashes(table: pa.Table, sets: Sequence[Sequence[str]], seed: int = 0, num_words: int = 2) -> list[np.ndarray]:
    """Give the row hash over each of several sets of columns, reading every column once.

    Args:
        num_words: 1 where the second word is not needed, which halves the work.

    Shapes:
        returns: each (num_rows, num_words), uint64.

    Raises:
        DataError: As `row_hash`.
    """
    for columns in sets:
        if absent := sorted(set(columns) - set(table.column_names)):
            raise DataError(f"columns {absent} are not in the table. It has: {', '.join(table.column_names)}.", "hash")
        if not columns:
            raise DataError("no columns were named. Name at least one.", "hash")
    members: dict[tuple[bool, ...], list[str]] = {}  # columns that are in the same sets are summed together
    named = [frozenset(columns) for columns in sets]
    for name in sorted(set().union(*named)):
        members.setdefault(tuple(name in columns for columns in named), []).append(name)
    lanes = LANES[:num_words]
    results = [np.empty((table.num_rows, num_words), np.uint64) for _ in sets]
    keys = [key(lane, "row", "", seed) for lane in lanes]
    start = 0
    for batch in table.select(sorted(set().union(*sets))).to_batches(max_chunksize=BLOCK_ROWS):
        with np.errstate(invalid="ignore"):  # a signalling NaN is as missing as a quiet one
            sums = {
                where: sum_of_fields(
                    names, [batch.column(name) for name in names], num_rows=batch.num_rows, seed=seed, lanes=lanes
                )
                for where, names in members.items()
            }
        for place, result in enumerate(results):
            for lane in lanes:
                total = np.add.reduce([parts[lane] for where, parts in sums.items() if where[place]])
                result[start : start + batch.num_rows, lane] = mix(total, keys[lane])
        start += batch.num_rows
    return results


def row_ids(hashes: np.ndarray, occurrence: np.ndarray) -> np.ndarray:
    """Tell equal rows apart by their occurrence number; the first keeps its hash as its id.

    Shapes:
        hashes: (num_rows, 2), uint64.
        occurrence: (num_rows,), integer, 0 for the first of equal rows.
        returns: (num_rows, 2), uint64.
    """
    repeats = np.flatnonzero(occurrence)
    result = hashes.copy()
    for lane in LANES:
        steps = np.asarray(occurrence)[repeats].astype(np.uint64) * STEPS[lane]
        result[repeats, lane] = mix(hashes[repeats, lane] + steps, key(lane, "occurrence", "", 0))
    return result


def mixed_ids(ids: np.ndarray, key: np.uint64) -> np.ndarray:
    """Give one word per row id that depends on all its bits and on a key.

    Shapes:
        ids: (num_rows, 2), uint64.
        returns: (num_rows,), uint64.
    """
    return mix(mix(ids[:, 0], key) + ids[:, 1], np.uint64(0))


def sample_of(ids: np.ndarray, num_rows: int, most: int = SAMPLE_ROWS) -> np.ndarray:
    """Say which rows are in a sample of about so many, chosen by a hash of their identities: all, if there are no more.

    Args:
        ids: Of all rows, or of some: whether a row is in the sample does not depend on the others.
        num_rows: How many rows there are in all.

    Shapes:
        ids: (n, 2), uint64.
        returns: (n,), bool.
    """
    if num_rows <= most:
        return np.ones(len(ids), bool)
    chosen: np.ndarray = mixed_ids(ids, _SAMPLE) < np.uint64(int(most / num_rows * 2.0**64))
    return chosen


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Give each row a number in [0, 1) made of the upper 53 bits of its first word.

    Shapes:
        hashes: (num_rows, 2), uint64.
        returns: (num_rows,), float64.
    """
    return np.asarray((hashes[:, 0] >> np.uint64(11)) * 2.0**-53)
