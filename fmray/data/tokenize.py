"""Turn text into token ids by a vocabulary that is learned from training rows.

Texts to learn from are chosen by their hashes and read in the order of these, so a vocabulary depends on which rows are
in train and on nothing else.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import numpy as np
import polars as pl

from fmray.data.step import Fitted, Partial
from fmray.data.text import (
    Sample,
    about_empty,
    blocks_of,
    list_series,
    merged_sample,
    refuse_empty,
    replaced,
    sample_of,
)
from fmray.errors import SpecError
from fmray.ragged import Ragged
from fmray.records import Json
from fmray.schema import Schema
from fmray.spec.components import steps as declared
from fmray.spec.pretrained import TOKENIZER, description_in, tokenizer_in

PAD, UNKNOWN = "[PAD]", "[UNK]"
SPECIAL = [PAD, UNKNOWN]
"""Their places are their ids: 0 and 1."""
MOST_COPIES = 100
"""Times that a text counts at most where the vocabulary is learned."""
MOST_CHARACTERS = 20_000
"""Of a text, that the vocabulary is learned from."""
BATCH_TEXTS = 8192


class Tokenize:
    """Give each row the ids of its text's tokens; padding has 0, what no training text has 1. No text has no ids.

    A pretrained tokenizer gives its own ids, with the special tokens around them that its model was trained with. These
    stay where a text is cut, and stand alone where there is no text.

    Args:
        params: As `fmray.spec.components.steps.Tokenize` declares them.
    """

    def __init__(self, params: declared.Tokenize) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Choose texts to learn from, and count rows."""
        _library()
        names = list(self._blocks(schema))
        most = self.params.sample
        samples = {name: sample_of(frame[name].str.head(MOST_CHARACTERS), most) for name in names}
        filled = {name: int((frame[name].str.len_bytes() > 0).sum()) for name in names}
        return {"samples": samples, "filled": filled, "rows": frame.height}

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give what both say."""
        samples = {
            name: merged_sample(own, other["samples"][name], self.params.sample) for name, own in one["samples"].items()
        }
        filled = {name: number + other["filled"][name] for name, number in one["filled"].items()}
        return {"samples": samples, "filled": filled, "rows": one["rows"] + other["rows"]}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Learn the vocabulary.

        Raises:
            DataError: If no training row has text.
        """
        blocks = self._blocks(schema)
        for name, filled in partial["filled"].items():
            refuse_empty(name, "text", filled, "tokenize")
        whole: Sample = []
        for sample in partial["samples"].values():
            whole = merged_sample(whole, sample, self.params.sample)
        pretrained = self.params.pretrained
        text = (
            self._trained(whole)
            if pretrained is None
            else read_tokenizer(pretrained, self.params.content, most=self.params.max_tokens, step="tokenize")
        )
        width = tokenizer_of(text).get_vocab_size()
        notes = []
        means = {}
        for name, sample in partial["samples"].items():
            means[blocks[name]], note = self._lengths(name, blocks[name], sample=sample, tokenizer=text)
            empty = about_empty(partial["rows"] - partial["filled"][name], partial["rows"])
            notes.append(f"{note}, by {width:,} ids{empty}")
        state = {"tokenizer": text, "columns": list(blocks), "mean_lengths": means}
        return Fitted(state, replaced(schema, blocks, "tokens", width), tuple(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Encode."""
        made = []
        for name in state["columns"]:
            ids = encode(frame[name].fill_null("").to_list(), state["tokenizer"], special=self._special)
            made.append(
                list_series(name, Ragged(ids.values, ids.starts, np.minimum(ids.lengths, self.params.max_tokens)))
            )
        return frame.with_columns(made)

    def _blocks(self, schema: Schema) -> dict[str, str]:
        return blocks_of(self.params.columns, schema, step="tokenize", kind="tokens", block=self.params.block)

    def _lengths(self, name: str, block: str, sample: Sample, tokenizer: str) -> tuple[float, str]:
        """Give the mean number of tokens that are kept, and say how many texts are cut."""
        uncut = tokenizer_of(tokenizer, cut=False)
        lengths = _encoded([text for _, text, _ in sample], uncut, special=self._special).lengths
        rows = np.array([count for _, _, count in sample], np.int64)
        kept = np.minimum(lengths, self.params.max_tokens)
        mean = float((kept * rows).sum() / max(1, rows.sum()))
        cut = int(rows[lengths > self.params.max_tokens].sum())
        among = f"{rows.sum():,} training texts" + (" of a sample" if len(sample) == self.params.sample else "")
        note = f"tokenize makes block '{block}' of '{name}': {mean:.1f} tokens per text"
        if cut:
            note += f"; {cut:,} of {among} are cut after {self.params.max_tokens} tokens (the longest has "
            note += f"{lengths.max():,}; max_tokens keeps more)"
        return mean, note

    @property
    def _special(self) -> bool:
        """Whether special tokens stand around those of a text."""
        return self.params.pretrained is not None

    def _trained(self, sample: Sample) -> str:
        """Learn a vocabulary, and give it as JSON."""
        library = _library()
        tokenizer = library.Tokenizer(self._model(library))
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), *([library.normalizers.Lowercase()] if self.params.lowercase else [])]
        )
        tokenizer.pre_tokenizer = self._splitter(library)
        texts = chain.from_iterable(repeat(text, min(rows, MOST_COPIES)) for _, text, rows in sample)
        tokenizer.train_from_iterator(texts, self._trainer(library))
        return str(tokenizer.to_str())

    def _model(self, library: Any) -> Any:
        models = library.models
        match self.params.kind:
            case "words" | "characters":
                return models.WordLevel(unk_token=UNKNOWN)
        return models.BPE(unk_token=UNKNOWN)

    def _splitter(self, library: Any) -> Any:
        split = library.pre_tokenizers
        match self.params.kind:
            case "characters":
                return split.Split(library.Regex(r"[\s\S]"), "isolated")
            case "bytes":
                return split.ByteLevel(add_prefix_space=False, use_regex=False)
            case "byte_bpe":
                return split.ByteLevel(add_prefix_space=False, use_regex=True)
            case "words":
                return split.BertPreTokenizer()
        return split.Metaspace()

    def _trainer(self, library: Any) -> Any:
        trainers = library.trainers
        common = {"vocab_size": self.params.vocabulary, "special_tokens": SPECIAL, "show_progress": False}
        match self.params.kind:
            case "words" | "characters":
                return trainers.WordLevelTrainer(**common)
            case "bytes" | "byte_bpe" as kind:
                alphabet = library.pre_tokenizers.ByteLevel.alphabet()
                size = declared.BYTE_IDS if kind == "bytes" else self.params.vocabulary
                return trainers.BpeTrainer(**{**common, "vocab_size": size}, initial_alphabet=alphabet)
        return trainers.BpeTrainer(**common)


def read_tokenizer(folder: str, content: str | None, most: int, step: str) -> str:
    """Read the tokenizer of a pretrained model, and give it as JSON: one that cuts texts and pads none.

    Args:
        content: Digest of the file, where it is known.
        most: Tokens of a text, special ones included.
        step: That the job names it in.

    Raises:
        SpecError: If it cannot be read, or if special tokens leave no room for others.
    """
    where = f"steps.{step}.pretrained"
    path = description_in(folder) or f"{folder}/{TOKENIZER}"
    try:
        data = tokenizer_in(folder, where)
        if content not in (None, hashlib.sha256(data).hexdigest()):
            raise SpecError(f"{path} was changed since the run began. Run the job again.", where)
        tokenizer = _library().Tokenizer.from_buffer(data)
    except SpecError:
        raise
    except Exception as error:  # the library raises plain ones
        raise SpecError(f"{path} cannot be read as a tokenizer: {error}.", where) from error
    beside = tokenizer.num_special_tokens_to_add(False)
    if beside >= most:
        text = f"{most} leaves no room beside {beside} special tokens. Give more."
        raise SpecError(text, f"steps.{step}.max_tokens")
    tokenizer.no_padding()  # files come with padding to a fixed length
    tokenizer.enable_truncation(most)
    return str(tokenizer.to_str())


def encode(texts: list[str], tokenizer: str, *, special: bool = False) -> Ragged:
    """Give the ids of texts, int32.

    Args:
        tokenizer: As JSON.
        special: Put its special tokens around those of each text.
    """
    return _encoded(texts, tokenizer_of(tokenizer), special=special)


def _encoded(texts: list[str], known: Any, *, special: bool) -> Ragged:
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    for batch in _batches(texts):
        rows = [encoding.ids for encoding in known.encode_batch_fast(batch, add_special_tokens=special)]
        lengths += map(len, rows)
        parts.append(np.fromiter(chain.from_iterable(rows), np.int32))
    return Ragged.of_lengths(np.concatenate([np.zeros(0, np.int32), *parts]), np.array(lengths, np.int64))


def _batches(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + BATCH_TEXTS] for start in range(0, len(texts), BATCH_TEXTS))


@lru_cache(maxsize=8)
def tokenizer_of(text: str, cut: bool = True) -> Any:
    """Give the tokenizer that a JSON text describes.

    Args:
        cut: Whether it cuts texts where it says so.
    """
    found = _library().Tokenizer.from_str(text)
    if not cut:
        found.no_truncation()
    return found


def _library() -> Any:
    # Work items run side by side as they are, and threads of the library's own would not survive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError as error:
        text = "tokenize needs the package tokenizers. Install fmray[text]."
        raise SpecError(text, "steps.tokenize") from error
    return tokenizers
