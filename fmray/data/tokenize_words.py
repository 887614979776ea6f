"""Turn lists of words into token ids, one per word, by a vocabulary that is learned from training rows.

Words were split before, as those of a treebank were, or are those of a text, see `fmray.words`; so a row has as many
ids as words, and a tag can belong to each. Beside them may stand the pieces that a pretrained tokenizer makes of words.
"""

import re
import unicodedata
from collections import Counter

import numpy as np
import polars as pl

from fmray.data.step import Fitted, Partial, chosen
from fmray.data.text import Sample, about_empty, blocks_of, list_series, merged_sample, refuse_empty, sample_of
from fmray.data.tokenize import read_tokenizer
from fmray.data.word_pieces import MOST_SAMPLED, reader_of
from fmray.ragged import Ragged
from fmray.records import Json
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.words import RULE, split_words

UNKNOWN = 1
"""Id of what the vocabulary lacks, and of a missing word; padding has 0."""
FIRST = 2
MOST_COUNTED = 1_000_000
"""Different parts that are counted at most, the most frequent of those seen: what bounds memory on any corpus."""
WHOLE, PIECES = "whole", "pieces"
SEPARATOR = "\x1f"
"""Stands between the words of a list that is one value."""


class TokenizeWords:
    """Give each row an id per word, or per part of a word.

    Args:
        params: As `fmray.spec.components.steps.TokenizeWords` declares them.
    """

    def __init__(self, params: declared.TokenizeWords) -> None:
        self.params = params
        self._parts = [part for part in params.parts if part != PIECES]

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Count words and parts of words, and rows."""
        counts: dict[str, Counter[str]] = {part: Counter() for part in self._parts}
        lengths = {}
        filled = {}
        samples: dict[str, Sample] = {}
        for name in self._blocks(schema):
            lists = _lists(frame[name])
            if self.params.pretrained is not None:
                samples[name] = sample_of(_whole(lists.filter(lists.list.len() > 0)), MOST_SAMPLED)
            words = lists.list.explode().drop_nulls().alias("word").value_counts(name="rows")
            for part, counted in counts.items():
                found = words.select(self._part(words["word"], part).alias("part"), "rows").group_by("part").sum()
                counted.update(dict(found.iter_rows()))
            lengths[name] = int(lists.list.len().sum())
            filled[name] = int((lists.list.len() > 0).sum())
        most = {part: _most(counted) for part, counted in counts.items()}
        beside = {
            name: _most(Counter(dict(_whole(frame[name]).alias("value").value_counts(name="rows").iter_rows())))
            for name in self._beside(schema)
        }
        told = {"counts": most, "words": lengths, "filled": filled, "rows": frame.height, "beside": beside}
        return told | {"samples": samples}

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        counts, beside = (
            {part: _most(Counter(own) + Counter(other[key][part])) for part, own in one[key].items()}
            for key in ("counts", "beside")
        )
        words = {name: number + other["words"][name] for name, number in one["words"].items()}
        filled = {name: number + other["filled"][name] for name, number in one["filled"].items()}
        rows = one["rows"] + other["rows"]
        samples = {
            name: merged_sample(own, other["samples"][name], MOST_SAMPLED) for name, own in one["samples"].items()
        }
        told = {"counts": counts, "words": words, "filled": filled, "rows": rows, "beside": beside}
        return told | {"samples": samples}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Give ids to the most frequent parts, the most frequent first; equally frequent ones go by their spelling.

        Raises:
            DataError: If no training row has a word.
        """
        blocks = self._blocks(schema)
        vocabularies = {part: self._vocabulary(counts) for part, counts in partial["counts"].items()}
        unknown = {part: _unknown(partial["counts"][part], known) for part, known in vocabularies.items()}
        beside = {name: self._vocabulary(partial["beside"][name]) for name in self._beside(schema)}
        columns: list[Column] = []
        notes = []
        means = {}
        tokenizer = self._tokenizer()
        for column in schema.columns:
            if column.name in beside:
                block = self._beside(schema)[column.name]
                columns.append(Column(column.name, "tokens", FIRST + len(beside[column.name]), block=block))
                means[block] = sum(partial["words"].values()) / max(1, partial["rows"])
                notes.append(
                    f"tokenize_words makes block '{block}': each word of a row has the value of '{column.name}' there, "
                    f"by {FIRST + len(beside[column.name]):,} ids"
                )
                continue
            if column.name not in blocks:
                columns.append(column)
                continue
            if column.kind == "text":
                notes.append(f"words of '{column.name}' are {RULE}")
            filled = partial["filled"][column.name]
            refuse_empty(column.name, "word", filled, "tokenize_words")
            mean = partial["words"][column.name] / max(1, partial["rows"])
            empty = about_empty(partial["rows"] - filled, partial["rows"]).replace("none", "no word")
            if tokenizer is not None:
                block = _block(blocks[column.name], PIECES, several=len(blocks) > 1)
                reader = reader_of(tokenizer)
                columns.append(Column(_named(column.name, PIECES), "pieces", reader.width, block=block))
                means[block], about = reader.about(partial["samples"][column.name], SEPARATOR, self.params.max_tokens)
                notes.append(f"tokenize_words makes block '{block}' of '{column.name}': {about}{empty}")
            for part, known in vocabularies.items():
                block = _block(blocks[column.name], part, several=len(blocks) > 1)
                columns.append(Column(_named(column.name, part), "tokens", FIRST + len(known), block=block))
                means[block] = mean
                notes.append(
                    f"tokenize_words makes block '{block}' of '{column.name}': {mean:.1f} words per row, by "
                    f"{FIRST + len(known):,} ids; {unknown[part]} of training words have none of their own{empty}"
                )
        made = Schema(tuple(columns))
        _ = made.blocks  # refuses two columns of one block
        state = {"vocabularies": vocabularies, "columns": list(blocks), "mean_lengths": means}
        state |= ({"beside": beside} if beside else {}) | ({"tokenizer": tokenizer} if tokenizer is not None else {})
        return Fitted(state, made, tuple(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Encode."""
        made = []
        for name in state["columns"]:
            lists = _lists(frame[name])
            lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
            words = lists.filter(lists.list.len().fill_null(0) > 0).list.explode()
            levels = words.unique().drop_nulls()
            if "tokenizer" in state:
                rows = reader_of(state["tokenizer"]).rows(lists, self.params.max_tokens)
                made.append(list_series(_named(name, PIECES), rows))
            for part, known in state["vocabularies"].items():
                place = {text: FIRST + number for number, text in enumerate(known)}
                ids = [place.get(text, UNKNOWN) for text in self._part(levels, part).to_list()]
                codes = words.replace_strict(levels, ids, default=UNKNOWN, return_dtype=pl.Int32)
                made.append(list_series(_named(name, part), Ragged.of_lengths(codes.to_numpy(), lengths)))
            for other, known in state.get("beside", {}).items():
                place = {text: FIRST + number for number, text in enumerate(known)}
                own = np.array([place.get(value, UNKNOWN) for value in _whole(frame[other]).to_list()], np.int32)
                made.append(list_series(other, Ragged.of_lengths(np.repeat(own, lengths), lengths)))
        kept = [name for name in state["columns"] if WHOLE not in state["vocabularies"]]
        return frame.drop(kept).with_columns(made)

    def _tokenizer(self) -> str | None:
        """Read the tokenizer of pieces, as JSON, where the job asks for them."""
        params = self.params
        if params.pretrained is None:
            return None
        return read_tokenizer(params.pretrained, params.content, most=params.max_tokens, step="tokenize_words")

    def _blocks(self, schema: Schema) -> dict[str, str]:
        own = self.params.block
        return blocks_of(self.params.columns, schema, "tokenize_words", kind="tokens", block=own, of=("words", "text"))

    def _beside(self, schema: Schema) -> dict[str, str]:
        """Give the block that each column whose value stands beside words becomes."""
        columns = chosen(self.params.beside, schema, ("words", "text"), "tokenize_words", key="beside")
        return {column.name: f"beside_{re.sub(r'[^0-9A-Za-z]+', '_', column.name)}" for column in columns}

    def _part(self, words: pl.Series, part: str) -> pl.Series:
        """Give a part of each word, normalised."""
        normal = pl.Series([unicodedata.normalize("NFKC", word) for word in words.to_list()], dtype=pl.String)
        if part == "shape":
            return _shape(normal)
        if self.params.lowercase:
            normal = normal.str.to_lowercase()
        letters = int(part[-1]) if part != WHOLE else 0
        if part.startswith("prefix"):
            return normal.str.head(letters)
        return normal.str.tail(letters) if part.startswith("suffix") else normal

    def _vocabulary(self, counts: dict[str, int]) -> list[str]:
        often = [(number, text) for text, number in counts.items() if number >= self.params.min_count]
        often.sort(key=lambda pair: (-pair[0], pair[1]))
        return [text for _, text in often[: self.params.vocabulary - FIRST]]


def _lists(values: pl.Series) -> pl.Series:
    """Give words as lists, those of a text too."""
    return split_words(values) if values.dtype == pl.String else values


def _whole(values: pl.Series) -> pl.Series:
    """Give a text, or all words of a list in their order, as one value; nothing is a value too."""
    return (values if values.dtype == pl.String else values.list.join(SEPARATOR, ignore_nulls=True)).fill_null("")


def _shape(words: pl.Series) -> pl.Series:
    """Give the kinds of signs in each word, runs of one kind as one: `Xx-d` of `Covid-19`."""
    for pattern, sign in ((r"\p{Lu}+", "X"), (r"[\p{L}--[X]]+", "x"), (r"\p{N}+", "d")):
        words = words.str.replace_all(pattern, sign)
    return words


def _most(counts: Counter[str]) -> dict[str, int]:
    if len(counts) <= MOST_COUNTED:
        return dict(counts)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_COUNTED])


def _named(column: str, part: str) -> str:
    return column if part == WHOLE else f"{column}.{part}"


def _block(block: str, part: str, *, several: bool) -> str:
    if part == WHOLE:
        return block
    return f"{part}_{block}" if several else part


def _unknown(counts: dict[str, int], known: list[str]) -> str:
    """Give the share of words whose part has no id of its own."""
    total = sum(counts.values())
    return f"{(total - sum(counts[text] for text in known)) / total:.1%}" if total else "none"
