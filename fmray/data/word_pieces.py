"""Turn lists of words into word pieces by the tokenizer of a pretrained model; see `fmray.pieces`.

A word is tokenized by itself, as it would be behind a space, so its pieces depend neither on the words beside it nor on
which of them are in a frame. It has one piece at least: what the tokenizer makes nothing of is unknown to it.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from fmray.data.text import Sample
from fmray.data.tokenize import encode, tokenizer_of
from fmray.pieces import laid_out
from fmray.ragged import Ragged

MOST_SAMPLED = 10_000
"""Different training rows whose lengths are told; a hash chooses them."""


@dataclass(frozen=True)
class Reader:
    """Hold what a tokenizer says around words and of those that it does not know.

    Args:
        tokenizer: As JSON, which cuts nothing.
        before, after: Special tokens around a text.
        unknown: Id of a word without pieces.
        lead: Stands before each word, "" or a space where the tokenizer tells words in a text by it.
        width: Number of ids.
    """

    tokenizer: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    unknown: int
    lead: str
    width: int

    def pieces(self, words: pl.Series) -> tuple[Ragged, np.ndarray]:
        """Give the ids of each word's pieces, and which words have none of their own; equal words are read once.

        Shapes:
            words: (W,).
            returns: W rows; (W,), bool.
        """
        if not len(words):
            return Ragged.of_lengths(np.zeros(0, np.int32), np.zeros(0, np.int64)), np.zeros(0, bool)
        given = words.fill_null("")
        distinct = given.unique(maintain_order=True)
        found = encode([self.lead + word for word in distinct.to_list()], self.tokenizer)
        bare = np.flatnonzero(found.lengths == 0)
        found[bare] = Ragged.of_lengths(np.full(len(bare), self.unknown, np.int32), np.ones(len(bare), np.int64))
        places = given.replace_strict(distinct, np.arange(len(distinct)), return_dtype=pl.Int64).to_numpy()
        return found[places], np.isin(places, bare)

    def rows(self, lists: pl.Series, most: int) -> Ragged:
        """Give the entries of rows of words."""
        lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
        words = lists.filter(pl.Series(lengths > 0)).list.explode()
        pieces, _ = self.pieces(words)
        return laid_out(pieces, lengths, before=self.before, after=self.after, most=most)

    def about(self, sample: Sample, separator: str, most: int) -> tuple[float, str]:
        """Give the mean number of entries of a row, and say what rows become and what of them is cut.

        Args:
            sample: Rows of words, joined.
        """
        lists = pl.Series([text.split(separator) for _, text, _ in sample], dtype=pl.List(pl.String))
        rows = np.array([count for _, _, count in sample], np.int64)
        num_words = lists.list.len().to_numpy().astype(np.int64)
        row_W = np.repeat(np.arange(len(num_words)), num_words)
        pieces, bare_W = self.pieces(lists.list.explode())
        beside = len(self.before) + len(self.after)
        whole = np.bincount(row_W, weights=pieces.lengths, minlength=len(rows)).astype(np.int64) + beside
        made = laid_out(pieces, num_words, before=self.before, after=self.after, most=most)
        mean = float((made.lengths * rows).sum() / max(1, rows.sum()))
        note = f"{mean:.1f} pieces per row, by {self.width:,} ids; a word is told by its first"
        longer = int(rows[whole > most].sum())
        if longer:
            among = f"{rows.sum():,} training rows" + (" of a sample" if len(sample) == MOST_SAMPLED else "")
            note += f"; {longer:,} of {among} are read in windows of {most} that end between words, so none is left out"
            note += f" (the longest row has {whole.max():,}; max_tokens makes windows wider)"
        if cut := int(rows[row_W[pieces.lengths > most - beside]].sum()):
            note += f"; {cut:,} words have more pieces than a window, of which the first {most - beside} are read"
        if bare := int(rows[row_W[bare_W]].sum()):
            note += f"; {bare:,} words have no piece and stand as unknown"
        return mean, note


@lru_cache(maxsize=8)
def reader_of(tokenizer: str) -> Reader:
    """Give the reader of a tokenizer, as JSON."""
    known = json.loads(tokenizer) | {"truncation": None}
    text = json.dumps(known)
    found = tokenizer_of(text)
    example = found.encode("a")
    special = np.array(example.special_tokens_mask, bool)
    opens = int(np.argmin(special)) if not special.all() else len(special)
    ids = example.ids
    return Reader(
        tokenizer=text,
        before=tuple(ids[:opens]),
        after=tuple(one for one, is_special in zip(ids[opens:], special[opens:], strict=True) if is_special),
        unknown=_unknown(found, known["model"], ids),
        lead=" " if "ByteLevel" in json.dumps(known["pre_tokenizer"]) else "",
        width=found.get_vocab_size(),
    )


def _unknown(tokenizer: Any, model: Any, special: list[int]) -> int:
    """Give the id of what a tokenizer does not know; where it knows every sign, that of the last special token."""
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    found = tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None
    return int(special[-1] if found is None else found)
