"""Open the folder of a trained model, and let it predict new rows.

What a model says of a row is what the run that made it would have said: the same fitted steps, the same ensemble.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.contents import stored_as
from fmray.data.cut import context_of, cut, ended, foretold_block, masked, masked_share
from fmray.data.scan import is_list_of_labels
from fmray.data.target import class_values, texts_of
from fmray.data.vocabulary import Vocabulary
from fmray.errors import DataError, FmrayError
from fmray.events import Note, Report, ignore
from fmray.inference.generate import Generator, Tell
from fmray.inference.generation import Generation, columns_of
from fmray.inference.rows import Reader, Slice, Unseen, as_trained
from fmray.inference.sequences import RowTexts
from fmray.pieces import tokens_of
from fmray.ragged import Array, Blocks, Ragged, by_row, joined, values_of
from fmray.records import Target
from fmray.registry import Trust, trust_given
from fmray.schema import Schema
from fmray.store import Store
from fmray.store.copies import folder_to_keep
from fmray.store.places import files_of
from fmray.store.regular import open_regular, require_inside
from fmray.targets.codec import codec_of
from fmray.train.next_tokens import NextTokens
from fmray.train.predict import Predictor
from fmray.train.saved import EXAMPLE, FILE, Saved, admit_code, read_model

if TYPE_CHECKING:
    import pandas as pd

MODEL_FOLDER = "model"
MOST_EXAMPLE_BYTES = 1 << 30


def open_model(folder: str | Path, store: Store | None = None, *, trust_code: Trust = False) -> "SavedModel":
    """Open a trained model; no code that the folder brings or names is run unless it is trusted.

    Args:
        folder: Directory of a run, or of a model, wherever it was moved to; on a disk or in object storage.
        store: Store that a relative folder lies in; by default it is relative to the working directory.
        trust_code: Run the author's own modules that the model needs, as they were when it was trained.

    Raises:
        DataError: If there is no model, or it is damaged.
        SpecError: If it needs a module that is not trusted, cannot be found, or is another by now.
    """
    place = store.path(str(folder)) if store is not None else str(folder).rstrip("/")
    files = files_of(place)
    if not files.exists(f"{place}/{FILE}"):
        place = f"{place}/{MODEL_FOLDER}"
    if not files.exists(f"{place}/{FILE}"):
        raise DataError(f"{place}/{FILE} is missing. Give the directory of a finished run, or a model folder.")
    here = folder_to_keep(place)
    saved = read_model(here)
    trust = trust_code or trust_given()
    admit_code(saved, here, trust)
    return SavedModel(saved, place, here, trust=trust)


@dataclass(frozen=True)
class Predicted:
    """Hold what a model says of rows.

    Shapes:
        said: (N, C) probabilities or (N, T) numbers, float64, or N rows of (L, C) for L tokens, or of the bytes of a
            text; without meaning where a row is faulty.
        faulty: (N,), why a row cannot be an input, as a place in `reasons`, whose first is "" for sound rows.
    """

    said: Array
    faulty: np.ndarray
    reasons: list[str]


class SavedModel:
    """Turn rows as they are read into predictions.

    Args:
        saved: What the folder holds.
        folder: Where it lies.
        here: A local folder with the same content.
        device: Where members compute.
        trust: Whose code it may run, which whoever opens it elsewhere needs too.
    """

    def __init__(self, saved: Saved, folder: str, here: str, device: str = "cpu", trust: Trust = False) -> None:
        self.saved = saved
        self.folder = folder
        self.trust = trust
        self._here = here
        try:
            self.codec = codec_of(saved.prepared.target)
            self._classes = _values_of(saved)
            self.reader = Reader(saved, here)
            self.predictor = Predictor(
                saved.members, saved.ensemble, prepared=saved.prepared, task=saved.task, device=device
            )
        except FmrayError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError, OverflowError) as error:
            raise DataError(f"{folder} does not fit together: {error!r}. Copy the model folder again.") from error

    @property
    def input_schema(self) -> Schema:
        """Columns that rows must have: names and kinds."""
        return Schema(tuple(column for column in self.reader.schema.columns if column.name != self.reader.generated))

    @property
    def input_types(self) -> pa.Schema:
        """The same columns, as the types that training rows had."""
        return pa.schema([field for field in self.reader.types if field.name != self.reader.generated])

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.saved.prepared.target

    @property
    def identity(self) -> str:
        """Name of the content of the folder."""
        return self.saved.identity

    @property
    def output_names(self) -> tuple[str, ...]:
        """Columns of the predictions: `prediction`, `p_<class>` ...; or `prediction`; or `y_<target>` ...

        A predicted class is a value of the target column, in its own type.
        """
        return self.codec.names_for_people()

    @property
    def example(self) -> pa.Table:
        """A few validation rows as they were read, with the columns that rows must have.

        Raises:
            DataError: If the file was changed since the model was written, or cannot be read.
        """
        path = f"{self._here}/{EXAMPLE}"
        try:
            require_inside(path, self._here)
            with open_regular(path, MOST_EXAMPLE_BYTES) as file:
                data = file.read()
            if self.saved.example not in (None, hashlib.sha256(data).hexdigest()):
                raise DataError(
                    f"{self.folder}/{EXAMPLE} was changed since the model was written. Copy the model folder again."
                )
            return pq.read_table(pa.BufferReader(data)).select(self.input_types.names)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{self.folder}/{EXAMPLE} cannot be read: {error}. Copy the model folder again.") from error

    def predict(self, table: "pa.Table | pd.DataFrame") -> pa.Table:
        """Say something of every row, in order; null where a row cannot be an input, e.g. for an infinite number.

        Args:
            table: Rows with the columns of `input_schema`; others are not looked at.

        Raises:
            DataError: If a column is missing or holds another kind of value.
        """
        given = table if isinstance(table, pa.Table) else _from_pandas(table, self.input_types)
        rows = self._as_trained(given)
        predicted = self.predict_rows(rows, Unseen())
        return self.as_table(predicted.said, predicted.faulty > 0, rows)

    def generate(
        self,
        prompts: str | Sequence[str],
        asked: Generation = Generation(),
        *,
        report: Report = ignore,
        tell: Tell | None = None,
    ) -> pa.Table:
        """Go on with prompts: a row for each text, prompt by prompt.

        Columns are `prompt`, its place; `sample`, the number of its text; `text`, without the prompt; `tokens`, how
        many it has; `log_probability`, the sum of ln of the model's own probability of each; `ended`, why: "length",
        "stop", "context" or "allowed".

        Args:
            asked: How texts are generated.
            report: Takes a note of all that a person should know, such as prompts that are longer than the context.
            tell: Takes texts as they grow.

        Raises:
            SpecError: If the model generates no text, or what is asked does not fit it.
        """
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        generator = self.generator(asked)
        texts, remarks = generator(given, range(len(given)), tell=tell)
        for note in (*generator.notes, *remarks.lines()):
            report(Note(note))
        place = np.repeat(np.arange(len(given)), [len(own) for own in texts])
        return pa.table({"prompt": pa.array(place, pa.int32()), **columns_of(texts)})

    def generator(self, asked: Generation) -> Generator:
        """Give what goes on with prompts; see `generate`."""
        return Generator(self._next_tokens, self.vocabulary, asked)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """By which text becomes ids, and ids text.

        Raises:
            SpecError: If the model reads no text token by token.
        """
        return Vocabulary(self.saved.prepared.steps)

    @cached_property
    def _next_tokens(self) -> NextTokens:
        saved = self.saved
        return NextTokens.of(self.predictor, saved.members, saved.ensemble, prepared=saved.prepared, task=saved.task)

    def outputs(self, table: pa.Table) -> "Predicted":
        """Give the outputs of rows as they are read; see `predict`.

        Where a model generates text, outputs are those of the tokens of the true one, which rows then must have.
        """
        columns = self.reader.schema.columns
        rows = as_trained(table, columns, self.reader.types, time_zone=self.saved.data.time_zone)
        return self._of_slices(rows, Unseen(), self._outputs)

    def predict_rows(self, table: pa.Table, unseen: Unseen) -> "Predicted":
        """Give the outputs of rows, and why some have none.

        Args:
            table: As `rows.as_trained` gives it.
            unseen: Takes the levels that no training row has.
        """
        return self._of_slices(table, unseen, self._texts if self.codec.generates else self._outputs)

    def _of_slices(self, table: pa.Table, unseen: Unseen, say: Callable[[Slice], Array]) -> "Predicted":
        """Give what is said of rows, a few at a time."""
        parts: list[Array] = []
        faulty = np.zeros(table.num_rows, np.uint16)
        reasons: list[str] = [""]
        try:
            for part in self.reader.slices(table, reasons, unseen):
                rows = slice(part.start, part.start + len(part.faults))
                parts.append(say(part))
                faulty[rows] = part.faults
        except (FmrayError, OSError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # polars panics outside of Exception where a learned state is none
            text = f"{type(error).__name__}: {error!s:.300}"
            raise DataError(f"{self.folder}: the model fails on these rows ({text}). Copy its folder again.") from error
        none = Ragged.from_texts(pa.array([], pa.string())) if say == self._texts else self._no_outputs()
        return Predicted(joined(parts) if parts else none, faulty, reasons)

    def _as_trained(self, table: pa.Table) -> pa.Table:
        zone = self.saved.data.time_zone
        return as_trained(table, self.input_schema.columns, self.input_types, time_zone=zone)

    def _outputs(self, part: Slice) -> Array:
        """Give the outputs of rows; where tokens have one each, rows hold as many as they have tokens."""
        rows = dict(part.x)
        if not self.codec.by_entry:
            return self.predictor(rows)
        if self.codec.generates:
            rows = {name: self._windows(own) for name, own in rows.items()}
            return by_row(self.predictor(rows), next(iter(rows.values())).arrays["target"])
        lengths = self._tokens(rows)
        if not lengths.any():
            return Ragged.of_lengths(values_of(self._no_outputs()), lengths)
        if self.codec.from_inputs:
            rows = {name: self._windows(own) for name, own in rows.items()}
        return Ragged.of_lengths(self.predictor(rows), lengths)

    def _tokens(self, rows: Mapping[str, Blocks]) -> np.ndarray:
        """Count the tokens of each row that have an output (N,)."""
        way, blocks = next(iter(rows.items()))
        block = next(block for block in self.saved.ways()[way].schema.blocks.values() if block.is_ragged)
        return tokens_of(blocks.arrays[block.name], block.kind)

    def _texts(self, part: Slice) -> Array:
        """Generate the text of each row, and give its bytes."""
        return Ragged.from_texts(pa.array(self._texts_of(part.x), pa.string()))

    @cached_property
    def _texts_of(self) -> Callable[[Mapping[str, Blocks]], list[str]]:
        saved = self.saved
        return RowTexts(saved.ensemble, saved.prepared, saved.task)(self.predictor)

    def _windows(self, rows: Blocks) -> Blocks:
        """Lay texts out as those of training were."""
        block = foretold_block(self.saved.prepared.schema)
        others = {name: values for name, values in rows.arrays.items() if name != block}
        tokens = rows.arrays[block]
        context = context_of(self.saved.task)
        windows = cut(tokens, context) if context else ended(tokens, np.zeros(len(tokens), np.int64))
        if share := masked_share(self.saved.task):
            num_ids = self.saved.prepared.schema.blocks[block].width
            windows = masked(windows, share, num_ids=num_ids, is_kept=np.zeros(len(windows), bool))
        return Blocks(windows.arrays(block, others))

    def _no_outputs(self) -> Array:
        """Give the outputs of no row."""
        nobody = np.zeros((0, 2), np.int64)
        width = self.codec.constant_for(nobody).shape[1] if self.codec.from_inputs else self.codec.num_outputs
        said = np.zeros((0, width))
        return Ragged.of_lengths(said, np.zeros(0, np.int64)) if self.codec.by_entry else said

    def as_table(self, said: Array, is_null: np.ndarray, rows: pa.Table) -> pa.Table:
        """Lay outputs (N, C) or (N, T) out in columns named for people; rows that are null (N,) have none.

        Args:
            rows: What they are outputs of, as `rows.as_trained` gives it.
        """
        data = self.saved.data
        codec = self.codec.over(texts_of(rows, data)) if self.codec.in_text else self.codec
        columns = codec.columns_for_people(said, is_null, self._classes, self.saved.ensemble.params)
        return pa.table(columns, names=list(self.output_names))


def _values_of(saved: Saved) -> pa.Array:
    """Give the classes in the type that the files held them in."""
    target = saved.prepared.target
    if not target.classes or target.columns[0] not in saved.types.names:
        return pa.array(target.classes, pa.string())
    kind = stored_as(saved.types.field(target.columns[0]))
    return class_values(target, saved.data, kind.value_type if is_list_of_labels(kind) else kind)


def _from_pandas(frame: "pd.DataFrame", types: pa.Schema) -> pa.Table:
    """Read the columns a model needs; errors name the column, as pandas lets one hold anything."""
    columns = {}
    for name in (name for name in types.names if name in frame.columns):
        try:
            columns[name] = pa.array(frame[name], from_pandas=True)
        except (pa.ArrowException, TypeError) as error:
            raise DataError(f"the rows: column '{name}' holds values of several kinds: {error}.") from error
    return pa.table(columns)
