"""Turn text into numbers by a pretrained encoder that is not trained any further.

Texts are encoded once, when rows are prepared; every epoch of every member then reads numbers.

Shape legend: N texts, L tokens of the longest text of a batch, H numbers per text.
"""

import importlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from fmray.data.step import Fitted, Partial, chosen
from fmray.data.text import about_empty, refuse_empty
from fmray.data.weights import STATE, local_copy, refuse_unfit
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.spec.pretrained import TENSORS, TOKENIZER

WHERE = "steps.embed.folder"
ADAPTER = "adapter_config.json"
LAYER = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+\.")
"""In the name of a tensor that belongs to one of many layers."""
BATCH_TOKENS = 2048
"""Tokens, padding included, that are encoded together."""
PLACES = 8
"""Places of a row that are added up together, by which batches are padded."""
CHUNK_TEXTS = 8192
"""Texts that are tokenized together."""


class Embed:
    """Give each text the mean of what a pretrained encoder says of its tokens, scaled to a mean square of 1.

    A missing or empty text is all zeros. Batches hold texts of similar length, each computed by one thread, and padded
    so that what stands beside a text changes next to nothing: with encoders of 384 numbers, no bit on x86 CPUs.

    Args:
        weights: Folder of the encoder, in the store or beside a model.
        params: As `fmray.spec.components.steps.Embed` declares them.

    Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019 (mean pooling).
    """

    def __init__(self, weights: str, params: declared.Embed) -> None:
        self.weights = weights
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Count texts, their tokens, and those that are cut."""
        encoder = self._encoder()
        found = {}
        for name in self._columns(schema):
            texts = frame[name].filter(frame[name].str.len_bytes() > 0)
            lengths = encoder.lengths(texts.to_list())
            found[name] = {
                "rows": frame.height,
                "filled": len(texts),
                "tokens": int(np.minimum(lengths, self.params.max_tokens).sum()),
                "cut": int((lengths > self.params.max_tokens).sum()),
            }
        return found

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Count the texts of both."""
        return {name: {key: part[key] + other[name][key] for key in part} for name, part in one.items()}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Say what the texts become.

        Raises:
            DataError: If no training row has text.
        """
        width = self._encoder().width
        digest = str(self.params.content)
        notes = []
        for name, part in partial.items():
            refuse_empty(name, "text", part["filled"], "embed")
            note = f"embed makes {width} numbers of '{name}' by {self.params.folder} (sha256 {digest[:12]})"
            note += f": {part['tokens'] / part['filled']:.1f} tokens per text"
            if part["cut"]:
                note += f"; {part['cut']:,} of {part['filled']:,} training texts are cut after "
                note += f"{self.params.max_tokens} tokens (max_tokens keeps more)"
            empty = about_empty(part["rows"] - part["filled"], part["rows"])
            notes.append(note + (f"{empty} and are all zeros" if empty else ""))
        columns = (Column(c.name, "vector", width) if c.name in partial else c for c in schema.columns)
        return Fitted({STATE: digest, "columns": list(partial)}, Schema(tuple(columns)), tuple(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Encode; equal texts once."""
        encoder = self._encoder()
        made = []
        for name in state["columns"]:
            texts = frame[name].fill_null("")
            distinct = texts.unique(maintain_order=True)
            codes = texts.replace_strict(distinct, np.arange(len(distinct)), return_dtype=pl.Int64).to_numpy()
            values = encoder(distinct.to_list())
            made.append(pl.Series(name, values[codes], dtype=pl.Array(pl.Float32, encoder.width)))
        return frame.with_columns(made)

    def _columns(self, schema: Schema) -> list[str]:
        return [column.name for column in chosen(self.params.columns, schema, ("text",), "embed")]

    def _encoder(self) -> "Encoder":
        return _opened(self.weights, self.params.pool, self.params.max_tokens)


class Encoder:
    """Hold a pretrained encoder and its tokenizer.

    Args:
        folder: Local, as `fmray.spec.pretrained` accepts it.
        pool: "mean" of the last layer's vectors of all tokens, or "first" for that of the first.
        max_tokens: Of a text, special ones included, that are read.

    Raises:
        DataError: If the tensors do not fit the configuration.
        SpecError: If transformers is missing, or the encoder has not so many places.
    """

    def __init__(self, folder: str, pool: str, max_tokens: int) -> None:
        import torch

        self.pool = pool
        self.max_tokens = max_tokens
        self.device = torch.device("cpu")
        self.module = load_encoder(folder)
        config = self.module.config
        self.width = int(config.hidden_size)
        self.padding = int(getattr(config, "pad_token_id", None) or 0)
        self.places = int(getattr(config, "max_position_embeddings", None) or max_tokens + 1)
        self.whole = load_tokenizer(f"{folder}/{TOKENIZER}")
        self.cut = load_tokenizer(f"{folder}/{TOKENIZER}")
        self.cut.enable_truncation(max_tokens)
        self._require_places()
        if torch.cuda.is_available():
            self.device = torch.device("cuda")
            self.module.to(self.device)

    def lengths(self, texts: list[str]) -> np.ndarray:
        """Count the tokens of texts (N,), however long they are."""
        counts: list[int] = []
        for chunk in _chunks(texts):
            counts += [len(encoding.ids) for encoding in self.whole.encode_batch_fast(chunk)]
        return np.array(counts, np.int64)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Give the numbers of texts (N, H), float32; zeros for an empty one."""
        result = np.zeros((len(texts), self.width), np.float32)
        rows: list[list[int]] = []
        for chunk in _chunks(texts):
            rows += [encoding.ids for encoding in self.cut.encode_batch_fast(chunk)]
        lengths = np.array([len(ids) if text else 0 for ids, text in zip(rows, texts, strict=True)], np.int64)
        batches = list(_batches(lengths))

        def encode(batch: np.ndarray) -> None:
            result[batch] = self._encoded([rows[place] for place in batch])

        _on_all_cores(encode, batches, alone=self.device.type != "cpu")
        return result

    def _require_places(self) -> None:
        """Refuse more tokens than the encoder has places for, by encoding as many; on a GPU that would end it."""
        try:
            self._encoded([[int(self.padding == 0)] * self.max_tokens])
        except (IndexError, RuntimeError) as error:
            text = f"{self.max_tokens}, and the encoder has places for {self.places} or fewer: {error}."
            raise SpecError(text, "steps.embed.max_tokens") from error

    def _encoded(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        import torch

        lengths_N = torch.tensor([len(ids) for ids in rows])
        # Attention sums over the places of a row in groups, and takes another kernel where no row is padded: so that
        # the last bits of a text depend on itself alone, there is a padded place, and the places are whole groups.
        longest = min(-(-(int(lengths_N.max()) + 1) // PLACES) * PLACES, self.places)
        ids_NL = torch.full((len(rows), longest), self.padding)
        for place, row in enumerate(rows):
            ids_NL[place, : len(row)] = torch.tensor(row)
        mask_NL = torch.arange(ids_NL.shape[1]) < lengths_N[:, None]
        with torch.inference_mode():
            mask = mask_NL.to(self.device)
            found = self.module(input_ids=ids_NL.to(self.device), attention_mask=mask.long())
            states_NLH = found.last_hidden_state.float()
            if self.pool == "first":
                pooled_NH = states_NLH[:, 0]
            else:
                pooled_NH = (states_NLH * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            scaled_NH = pooled_NH / pooled_NH.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
        values: np.ndarray = scaled_NH.cpu().numpy()
        return values


def load_tokenizer(path: str) -> Any:
    """Read a tokenizer that neither pads nor cuts.

    Raises:
        DataError: If it cannot be read.
        SpecError: If the package tokenizers is missing.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise SpecError("embed needs the package tokenizers. Install fmray[hf].", "steps.embed") from error
    try:
        found = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the library raises plain ones
        raise DataError(f"{path} cannot be read as a tokenizer: {error}. Save it again.", WHERE) from error
    found.no_padding()
    found.no_truncation()
    return found


def load_encoder(folder: str) -> Any:
    """Build the encoder of a folder with its tensors, float32, in evaluation mode; no code of the folder runs.

    Raises:
        DataError: If the tensors do not fit the configuration, are quantised or not finite.
        SpecError: If transformers is missing or cannot build the architecture.
    """
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            from transformers import AutoModel

            bars: Any = importlib.import_module("transformers.utils.logging")
    except ImportError as error:
        raise SpecError("embed needs the package transformers. Install fmray[hf].", "steps.embed") from error
    refuse_unfit(f"{folder}/{TENSORS}", WHERE)
    if os.path.exists(f"{folder}/{ADAPTER}"):  # it would be read as well, and change what the digest does not name
        raise SpecError(f"{folder} holds an adapter ({ADAPTER}). Merge it into the model, and save that.", WHERE)
    shows_bars = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        module, found = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",  # whatever the folder says, which may name code on the hub
            output_loading_info=True,
        )
    except Exception as error:  # of many kinds, some of them the library's own
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{folder} cannot be read as a model of transformers: {reason}. Save it again.", WHERE
        ) from error
    finally:
        if shows_bars:
            bars.enable_progress_bar()
    # a pooler is often missing, and never read
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    beyond = sorted(name for name in found["unexpected_keys"] if LAYER.search(name))
    if missing or beyond:
        shown = ", ".join([*missing, *beyond][:3])
        what = (
            f"lacks {len(missing)} tensors of its model" if missing else f"has {len(beyond)} tensors of further layers"
        )
        raise DataError(f"{folder} {what}, e.g. {shown}. Save it again.", WHERE)
    if odd := next((name for name, values in module.named_parameters() if not values.isfinite().all()), ""):
        raise DataError(f"{folder} holds numbers in '{odd}' that are not finite. Save it again.", WHERE)
    return (module.get_encoder() if module.config.is_encoder_decoder else module).eval()


_ONE_AT_A_TIME = threading.Lock()


def _on_all_cores(function: Callable[[np.ndarray], None], batches: Sequence[np.ndarray], *, alone: bool) -> None:
    """Call a function for each batch on a thread per core, each computing alone, so that cores decide no bit."""
    import torch

    with _ONE_AT_A_TIME:  # work items run side by side, and each would take all cores
        cores = torch.get_num_threads()
        if alone:
            for batch in batches:
                function(batch)
            return
        try:
            with ThreadPoolExecutor(cores, "fmray-embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for _ in pool.map(function, reversed(batches)):  # the longest first
                    pass
        finally:
            torch.set_num_threads(cores)  # threads that start later take what was set last


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Give the places of texts that have tokens in batches of similar lengths."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= BATCH_TOKENS:
            stop += 1
        yield order[start:stop]
        start = stop


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + CHUNK_TEXTS] for start in range(0, len(texts), CHUNK_TEXTS))


def _opened(weights: str, pool: str, max_tokens: int) -> Encoder:
    with _OPENING:
        return _open(weights, pool, max_tokens)


_OPENING = threading.Lock()


@lru_cache(maxsize=2)
def _open(weights: str, pool: str, max_tokens: int) -> Encoder:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of the library would not survive a fork
    return Encoder(local_copy(weights), pool, max_tokens)
