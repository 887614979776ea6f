"""Say something of the rows of a file: what a model predicts of them, or texts that go on where theirs end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fmray.errors import SpecError
from fmray.inference.generation import Generated, Generation, Remarks, columns_of
from fmray.inference.model import SavedModel
from fmray.inference.rows import Unseen
from fmray.records import Json
from fmray.schema import Column

WRITE_ROWS = 1 << 17
WRITE_BYTES = 64 << 20
LEAST_ROWS = 1024
PROMPT_ROWS = 256
NO_PROMPT = "the prompt is missing"


@dataclass(frozen=True)
class Said:
    """Hold what was said of some rows.

    Args:
        columns: By name, `copies` rows for each row, one behind the other.
        faulty: Why a row has nothing to be said of (n,), as a place in `reasons`; 0 for sound rows.
        reasons: In words; the first is "".
    """

    columns: dict[str, pa.Array]
    faulty: np.ndarray
    reasons: list[str]


class Predicts:
    """Predict rows.

    Attributes:
        reads: Columns that rows must have.
        num_rows: How many are taken at a time.
        copies: Rows that are written for each.
    """

    copies = 1

    def __init__(self, model: SavedModel) -> None:
        self.reads: Sequence[Column] = model.input_schema.columns
        self.num_rows = max(LEAST_ROWS, min(WRITE_ROWS, WRITE_BYTES // (8 * model.codec.num_outputs)))
        self._model = model
        self._unseen = Unseen()

    def __call__(self, rows: pa.Table, hashes: np.ndarray) -> Said:
        """Predict rows, as `rows.as_trained` gives them; their hashes are (n, 2)."""
        predicted = self._model.predict_rows(rows, self._unseen)
        table = self._model.as_table(predicted.said, predicted.faulty > 0, rows)
        columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
        return Said(columns, predicted.faulty, predicted.reasons)

    def counts(self) -> Json:
        """Give what no training row has."""
        return self._unseen.to_json()


class Generates:
    """Go on with the text of rows; it has the attributes of `Predicts`.

    Draws depend on the seed and a row's hash, so equal rows have equal texts.

    Args:
        model: A language model.
        asked: How texts are generated.

    Raises:
        SpecError: If the model generates no text, or what is asked does not fit it.
    """

    num_rows = PROMPT_ROWS

    def __init__(self, model: SavedModel, asked: Generation) -> None:
        self.reads: Sequence[Column] = [prompt_column(model)]
        self.copies = asked.num
        self._generator = model.generator(asked)
        self._null_values = [value for value in model.reader.null_values if isinstance(value, str)]
        self._remarks = Remarks()

    def __call__(self, rows: pa.Table, hashes: np.ndarray) -> Said:
        """Go on with them."""
        texts = rows.column(0)
        missing = pc.is_null(texts)
        if self._null_values:
            missing = pc.or_(missing, pc.is_in(texts.fill_null(""), pa.array(self._null_values, pa.string())))
        faulty = np.asarray(missing).astype(np.uint16)
        sound = np.flatnonzero(faulty == 0)
        prompts = texts.take(pa.array(sound)).cast(pa.string()).to_pylist()
        found, remarks = self._generator(prompts, [hashes[row].tobytes().hex() for row in sound])
        self._remarks.add(remarks)
        made: list[list[Generated | None]] = [[None] * self.copies for _ in range(len(faulty))]
        for row, own in zip(sound.tolist(), found, strict=True):
            made[row] = [*own, *[None] * (self.copies - len(own))]
        return Said(columns_of(made), faulty, ["", NO_PROMPT])

    def counts(self) -> Json:
        """Give what a person should know of prompts and texts."""
        return {**Unseen().to_json(), "generated": asdict(self._remarks)}


def prompt_column(model: SavedModel) -> Column:
    """Give the column of text that prompts are read from, as training rows had it.

    Raises:
        SpecError: If the model's tokens are of a column that a step made.
    """
    name = model.vocabulary.column
    for column in model.input_schema.columns:
        if column.name == name:
            return column
    raise SpecError(f"it reads '{name}', which a step makes. Give a model that reads a column as it is.", "MODEL")


def says_of(model: SavedModel, asked: Generation | None) -> Predicts | Generates:
    """Give what is said of rows: texts, if they are asked for, else predictions."""
    return Predicts(model) if asked is None else Generates(model, asked)
