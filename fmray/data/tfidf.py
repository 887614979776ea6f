"""Turn text into weighted bags of hashed n-grams.

How often an n-gram occurs among training rows is counted exactly, item by item. Nothing is done row by row.
"""

import base64
import zlib
from functools import lru_cache

import numpy as np
import polars as pl

from fmray.data.canonical import key, mix
from fmray.data.step import Fitted, Partial
from fmray.data.text import about_empty, blocks_of, hashes_of, refuse_empty, replaced, weighted_series
from fmray.ragged import Ragged
from fmray.records import Json
from fmray.schema import Schema
from fmray.spec.components import steps as declared

WORD, WORD_OR_MARK = r"\w+", r"\w+|[^\w\s]"


class Tfidf:
    """Give each row the n-grams that its text has, each weighted by its number there times log of its rarity.

    The weight of an n-gram in d of N training rows is log((1 + N) / (1 + d)) + 1, as in scikit-learn; rows have the
    length 1. Missing and empty texts have no n-grams.

    Args:
        params: As `fmray.spec.components.steps.Tfidf` declares them.
    """

    def __init__(self, params: declared.Tfidf) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Count the rows that have each n-gram."""
        found = {}
        for name in self._blocks(schema):
            rows, ids, _ = self._counted(frame[name])
            frequency = np.bincount(ids, minlength=self.params.buckets)
            filled = len(np.unique(rows))
            found[name] = {"rows": frame.height, "filled": filled, "frequency": frequency, "entries": len(rows)}
        return found

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Count the rows of both."""
        return {name: {k: part[k] + other[name][k] for k in part} for name, part in one.items()}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix the weight of each n-gram.

        Raises:
            DataError: If no training row has one.
        """
        blocks = self._blocks(schema)
        state: Json = {
            "rows": {name: part["rows"] for name, part in partial.items()},
            "frequency": {name: _packed(part["frequency"]) for name, part in partial.items()},
            "mean_lengths": {blocks[name]: part["entries"] / max(1, part["rows"]) for name, part in partial.items()},
        }
        notes = []
        for name, part in partial.items():
            refuse_empty(name, f"n-gram of {self.params.of}", part["filled"], "tfidf")
            used = int((part["frequency"] > 0).sum())
            text = f"tfidf makes block '{blocks[name]}' of '{name}': n-grams fall into {used:,} of "
            text += f"{self.params.buckets:,} ids, {state['mean_lengths'][blocks[name]]:.1f} per training row"
            notes.append(text + about_empty(part["rows"] - part["filled"], part["rows"]))
        return Fitted(state, replaced(schema, blocks, "bag", self.params.buckets), tuple(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Make the bags."""
        made = []
        for name, packed in state["frequency"].items():
            rows, ids, counts = self._counted(frame[name])
            weights = _rarity(packed, state["rows"][name])[ids]
            weights *= 1 + np.log(counts) if self.params.sublinear else counts
            norm = np.sqrt(np.bincount(rows, weights**2, minlength=frame.height))
            weights = (weights / norm[rows]).astype(np.float32)
            bags = Ragged.of_lengths(ids.astype(np.int32), np.bincount(rows, minlength=frame.height))
            made.append(weighted_series(name, bags, weights))
        return frame.with_columns(made)

    def _blocks(self, schema: Schema) -> dict[str, str]:
        return blocks_of(self.params.columns, schema, step="tfidf", kind="bag", block=self.params.block)

    def _counted(self, texts: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give the n-grams of all rows: row, id and number there, ascending by row, then id."""
        texts = texts.fill_null("")
        texts = texts.str.to_lowercase() if self.params.lowercase else texts
        if self.params.of == "words":
            rows, words = _words(texts, WORD_OR_MARK if self.params.marks else WORD)
        else:
            rows, words = _characters(texts)
        grams: list[np.ndarray] = []
        whose: list[np.ndarray] = []
        for length in range(self.params.shortest, self.params.longest + 1):
            if length > len(words):
                break
            last = len(words) - length + 1
            inside = rows[:last] == rows[length - 1 :]
            gram = np.full(last, key(0, "n-gram", "", length))
            for place in range(length):  # the order of words counts
                gram = mix(gram + words[place : place + last], key(0, "n-gram", "", 0))
            grams.append(gram[inside] % np.uint64(self.params.buckets))
            whose.append(rows[:last][inside])
        if not grams:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        pairs = np.concatenate(whose) * self.params.buckets + np.concatenate(grams).astype(np.int64)
        found, counts = np.unique(pairs, return_counts=True)
        return found // self.params.buckets, found % self.params.buckets, counts


def _words(texts: pl.Series, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the row and the hash of each word."""
    found = texts.str.extract_all(pattern)
    rows = np.repeat(np.arange(len(texts)), found.list.len().to_numpy())
    words = found.explode().drop_nulls()
    distinct = words.unique(maintain_order=True)
    place = words.to_frame("word").join(
        distinct.to_frame("word").with_row_index("place"), on="word", how="left", maintain_order="left"
    )
    return rows, hashes_of(distinct)[place["place"].to_numpy()] if len(distinct) else np.zeros(0, np.uint64)


def _characters(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Give the row and the hash of each character."""
    rows = np.repeat(np.arange(len(texts)), texts.str.len_chars().to_numpy())
    whole = texts.str.join("").item() or ""
    points = np.frombuffer(whole.encode("utf-32-le"), np.uint32).astype(np.uint64)
    return rows, mix(points, key(0, "character", "", 0))


def _packed(frequency: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(frequency.astype("<i8").tobytes())).decode()


@lru_cache(maxsize=16)
def _rarity(packed: str, num_rows: int) -> np.ndarray:
    frequency = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<i8")
    return np.asarray(np.log((1 + num_rows) / (1 + frequency)) + 1)
