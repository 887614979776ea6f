"""Choose a few rows by which a model is known again: as they were read, and where they lie among the prepared ones.

They are validation rows of one work item, those with the smallest identities; no other item is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fmray.data.apply import item_of
from fmray.data.hashing import part_ids, row_hash
from fmray.data.lanes import Lanes
from fmray.data.scan import Dataset, read_item, work_items
from fmray.errors import DataError
from fmray.evaluate.table import read
from fmray.records import Ensemble, Member, Part, Predictions, Prepared
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_of
from fmray.train.predict import Predictor, inputs_of, output_names

GOLDEN_ROWS = 256
MOST_BYTES = 64 << 20
"""Of raw rows, which lie in memory and in a file for a while: large ones are fewer."""
MOST_POSITIONS = 65_536
"""Prepared rows whose identities are looked at."""
MOST_WINDOWS = 1024
"""Windows of golden texts, so that they are predicted in one batch."""
_ID = np.dtype([("", np.uint64), ("", np.uint64)])


@dataclass(frozen=True)
class GoldenRows:
    """Hold rows as they were read, and what they are among the prepared rows of validation.

    Args:
        as_read: The rows, with the columns that the model reads.
        positions: Of what was prepared from them in the sequence of the split, ascending: the row itself, or each
            window of it.
    """

    as_read: pa.Table
    positions: np.ndarray

    def predicted(self, members: Sequence[Member], ensemble: Ensemble, prepared: Prepared, task: Ref) -> np.ndarray:
        """Let members predict the rows, in this process and on its CPU, from what was prepared; of tokens, each."""
        predictor = Predictor(members, ensemble, prepared=prepared, task=task)
        outputs = predictor(inputs_of(members, prepared, "val", self.positions))
        return np.asarray(codec_of(prepared.target).as_in_tables(outputs, ensemble.params))

    def said(self, path: str, prepared: Prepared) -> np.ndarray:
        """Read what a table of predictions on validation says of the rows; of tokens, of each."""
        codec = codec_of(prepared.target)
        first = int(self.positions[0])
        predictions = Predictions(path, "val", output_names(prepared), prepared.num_rows("val"))
        table = read(predictions, first, int(self.positions[-1]) + 1)
        position = first + np.cumsum(codec.opens_row(table.target)) - 1
        found = (
            codec.probabilities(table.output)[np.isin(position, self.positions)]
            if codec.generates
            else (table.output[np.isin(position, self.positions)])
        )
        return found if found.ndim == 2 else found[:, None]


def choose_rows(dataset: Dataset, prepared: Prepared) -> GoldenRows:
    """Choose rows of validation, always the same ones.

    Raises:
        DataError: If the data cannot be read, or no row of it is found again.
    """
    part = max(prepared.parts["val"], key=lambda one: one.num_rows)
    places = np.arange(part.start, part.start + min(part.num_rows, MOST_POSITIONS))
    ids = Lanes(prepared, "val").take(places, ["row_id"])["row_id"]
    columns = [name for name in dataset.schema.names if name not in dataset.data.ignore]
    inputs = {column.name for own in (prepared, *prepared.variants.values()) for column in own.raw.columns}
    hashed = list(dataset.data.key or columns)
    names = [name for name in dataset.schema.names if name in inputs.union(hashed)]
    table = read_item(dataset, work_items(dataset)[item_of(part)], names)
    # of equal rows the first one has its hash as its identity, and the others say the same
    _, own, row = np.intersect1d(_words(ids), _words(row_hash(table, hashed)), return_indices=True)
    if not len(own):
        raise DataError(f"no validation row is found again in {dataset.root}. Run the job again with --fresh.")
    row_bytes = table.nbytes // max(1, len(table)) + 1
    number = min(GOLDEN_ROWS, max(1, MOST_BYTES // row_bytes))
    order = np.argsort(own[:number])
    own = own[:number][order]
    row = row[:number][order]
    if codec_of(prepared.target).from_inputs and not codec_of(prepared.target).generates:
        windows = list(_windows(own, ids, part))
        kept = [place for place, some in enumerate(windows) if len(some)]
        if not kept:
            raise DataError(f"each of {len(own)} texts has more than {MOST_WINDOWS} windows. Give shorter texts.")
        return GoldenRows(
            table.select([name for name in names if name in inputs]).take(pa.array(row[kept])),
            part.start + np.concatenate([windows[place] for place in kept]),
        )
    return GoldenRows(table.select([name for name in names if name in inputs]).take(pa.array(row)), part.start + own)


def _words(ids: np.ndarray) -> np.ndarray:
    """Give identities (n, 2) as one value each (n,)."""
    found: np.ndarray = np.ascontiguousarray(ids).view(_ID)[:, 0]
    return found


def _windows(first: np.ndarray, ids: np.ndarray, part: Part) -> Iterator[np.ndarray]:
    """Give where the windows of each row lie; none of a row whose windows are not all looked at, or too many."""
    total = 0
    for place in first.tolist():
        wanted = part_ids(np.repeat(ids[place : place + 1], MOST_WINDOWS, 0), np.arange(MOST_WINDOWS))
        there = ids[place : place + MOST_WINDOWS]
        differs = np.flatnonzero((there != wanted[: len(there)]).any(1))
        is_last = len(differs) == 0 and place + len(there) == part.num_rows
        number = int(differs[0]) if len(differs) else len(there) * is_last
        is_kept = total + number <= MOST_WINDOWS
        total += number * is_kept
        yield np.arange(place, place + number * is_kept)
