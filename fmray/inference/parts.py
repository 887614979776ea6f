"""Predict the rows of one work item into one Parquet file, which is there whole or not at all.

What was counted while it was written stands in the file's own footer, so a finished file needs no second look.
"""

import contextlib
import functools
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.hashing import row_hash
from fmray.data.scan import Dataset, WorkItem, read_item
from fmray.data.scratch import is_local, write_file
from fmray.errors import DataError
from fmray.inference.generation import COLUMNS, Generation
from fmray.inference.model import SavedModel, open_model
from fmray.inference.rowids import hashes_files, ids_of, leave_hashes
from fmray.inference.rows import Unseen, as_trained
from fmray.inference.says import Said, says_of
from fmray.records import Json
from fmray.registry import Trust
from fmray.store.files import TEMPORARY
from fmray.store.manifest import measure, verify
from fmray.store.places import files_of
from fmray.store.sealed import open_text, seal_text

COUNTS = b"fmray"
log = logging.getLogger("fmray")

_OPENING = threading.Lock()
FILE, ROW, ROW_ID, FAULT = "file", "row", "row_id", "fault"


@dataclass(frozen=True)
class Work:
    """Hold what every work item needs.

    Args:
        folder: Of the model.
        identity: Of its content.
        dataset: The rows, as found.
        out: Folder that predictions go to.
        keys: Columns that tell rows apart, which are carried along.
        hashed: Columns whose values make up a row's id.
        num_buckets: Into how many parts rows are cut to find equal ones.
        trust: Whose code the model may run.
        asked: How the model goes on with the rows' text; None where it predicts.
        prompt: Column of that text.
    """

    folder: str
    identity: str
    dataset: Dataset
    out: str
    keys: tuple[str, ...]
    hashed: tuple[str, ...]
    num_buckets: int
    trust: Trust = False
    asked: Generation | None = None
    prompt: str = ""

    @property
    def copies(self) -> int:
        """Rows that are written for each row that is read."""
        return 1 if self.asked is None else self.asked.num

    @property
    def scratch(self) -> str:
        """Folder for what one pass leaves to the next; its name hides it from whoever reads the predictions."""
        return f"{self.out}/_state/scratch"

    def part(self, index: int) -> str:
        """Name the file of a work item."""
        return f"{self.out}/part-{index:06d}.parquet"

    def mark(self, index: int) -> str:
        """Name the file that says what the others of a work item were when they were whole."""
        return f"{self.scratch}/{index:06d}.json"


def is_done(work: Work, item: WorkItem, sizes: Mapping[str, int]) -> bool:
    """Tell whether the predictions of a work item are there as they were left, and what finds equal rows.

    Args:
        sizes: Of all files in the folder of the predictions, which is listed once for all items.
    """
    if work.mark(item.index).removeprefix(f"{work.out}/") not in sizes:
        return False
    try:
        mark = _read_mark(work, item)
        if is_local(work.out):
            verify(work.out, mark)
        # an earlier version did not list all of them
        names = {*mark, *_names_of(work, item)}
        return all(name in mark and sizes.get(name) == mark[name]["size"] for name in names)
    except DataError as error:
        log.warning("%s It is made anew.", error)
        return False


def mark_of(work: Work, item: WorkItem) -> Json:
    """Give size and checksum of the predictions of a work item."""
    found: Json = _read_mark(work, item)[work.part(item.index).removeprefix(f"{work.out}/")]
    return found


def _read_mark(work: Work, item: WorkItem) -> dict[str, Json]:
    path = work.mark(item.index)
    data = files_of(work.out).read(path)
    found: dict[str, Json] = open_text(data, path.rpartition("/")[2], path, is_sealed=True)
    return found


def _leave_mark(work: Work, item: WorkItem) -> None:
    """Write down what the files of a work item are, last."""
    path = work.mark(item.index)
    found = measure(work.out, _names_of(work, item))
    files_of(work.out).write(path, seal_text(found, path.rpartition("/")[2]))


def _names_of(work: Work, item: WorkItem) -> list[str]:
    """Name the files of a work item that its mark lists, relative to the folder of the predictions."""
    made = [work.part(item.index), *(hashes_files(work.scratch, item.index) if is_local(work.out) else [])]
    return [name.removeprefix(f"{work.out}/") for name in made]


def predict_item(work: Work, item: WorkItem) -> None:
    """Write the predictions of all rows of a work item.

    Raises:
        DataError: If a file is damaged or has changed since it was found.
    """
    model = _opened(work.folder, work.identity, work.trust)
    says = says_of(model, work.asked)
    names = list(dict.fromkeys([*(column.name for column in says.reads), *work.keys, *work.hashed]))
    table = read_item(work.dataset, item, names) if item.pieces else work.dataset.schema.empty_table().select(names)
    hashes = row_hash(table, work.hashed)
    leave_hashes(work.scratch, item.index, hashes, work.num_buckets)
    where = ", ".join(dict.fromkeys(work.dataset.files[piece[0]].path for piece in item.pieces[:3]))
    rows = as_trained(table, says.reads, types=model.input_types, where=where, time_zone=work.dataset.data.time_zone)
    beside = _provenance(work.dataset, item) | {ROW_ID: _binary(hashes)} | _key_columns(table, work, model)
    counts: Json = {"rows": table.num_rows, "faults": {}}
    with whole_file(work.part(item.index)) as sink:
        writer: pq.ParquetWriter | None = None
        for start in range(0, max(1, table.num_rows), says.num_rows):
            said = says(rows.slice(start, says.num_rows), hashes[start : start + says.num_rows])
            _count(counts["faults"], said.faulty, said.reasons)
            held = {name: column.slice(start, says.num_rows) for name, column in beside.items()}
            made = _laid_out(held, said, says.copies)
            writer = writer or _writer(sink, made.schema)
            writer.write_table(made)
        if writer is not None:
            counts |= says.counts()
            writer.add_key_value_metadata({COUNTS: json.dumps(counts).encode()})
            writer.close()
    _leave_mark(work, item)


def _laid_out(beside: dict[str, pa.Array], said: Said, copies: int) -> pa.Table:
    """Lay rows and what was said of them side by side, each row as often as something was said of it."""
    faults = pa.array([None, *said.reasons[1:]], pa.string()).take(pa.array(said.faulty))
    each = pa.array(np.repeat(np.arange(len(faults)), copies))
    held = beside if copies == 1 else {name: column.take(each) for name, column in beside.items()}
    return pa.table({**held, **said.columns, FAULT: faults.take(each)})


def mend_item(work: Work, item: WorkItem) -> None:
    """Tell rows of a work item that equal earlier ones apart; done twice, it changes nothing."""
    ids = _binary(np.repeat(ids_of(work.scratch, item.index, work.num_buckets), work.copies, axis=0))
    path = work.part(item.index)
    start = 0
    with opened_part(path) as part, whole_file(path) as sink:
        writer = _writer(sink, part.schema_arrow)
        for group in range(part.num_row_groups):
            table = part.read_row_group(group)
            place = table.schema.get_field_index(ROW_ID)
            writer.write_table(table.set_column(place, ROW_ID, ids.slice(start, len(table))))
            start += len(table)
        writer.add_key_value_metadata({COUNTS: part.metadata.metadata[COUNTS]})
        writer.close()
    _leave_mark(work, item)


def counts_of(work: Work, item: WorkItem) -> Json:
    """Read what was counted while the file of a work item was written.

    Raises:
        DataError: If the file is damaged, or has not the rows of the item.
    """
    path = work.part(item.index)
    try:
        with opened_part(path) as part:
            counts: Json = json.loads(part.metadata.metadata[COUNTS])
            num_rows = part.metadata.num_rows
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}. Remove it and run the same command again.") from error
    if num_rows != item.num_rows * work.copies:
        told = f"{path} has {num_rows} rows, its input {item.num_rows}"
        raise DataError(f"{told}. Remove it and run the command again.")
    return counts


def _opened(folder: str, identity: str, trust: Trust) -> SavedModel:
    """Open a model once per process, also where several threads ask for it at once."""
    with _OPENING:
        return _open(folder, identity, trust)


@functools.lru_cache(maxsize=1)
def _open(folder: str, identity: str, trust: Trust) -> SavedModel:
    model = open_model(folder, trust_code=trust)
    if model.identity != identity:
        raise DataError(f"{folder}: the model has changed since the command began. Run it again with another --out.")
    return model


def _provenance(dataset: Dataset, item: WorkItem) -> dict[str, pa.Array]:
    """Say for every row in which file, and where in it, it stands."""
    sizes = [piece[4] for piece in item.pieces]
    names = pa.array([dataset.files[piece[0]].path for piece in item.pieces], pa.string())
    places = [np.arange(first, first + num_rows) for _, _, _, first, num_rows in item.pieces]
    rows = np.concatenate(places) if places else np.zeros(0, np.int64)
    return {FILE: names.take(pa.array(np.repeat(np.arange(len(sizes)), sizes))), ROW: pa.array(rows)}


def _key_columns(table: pa.Table, work: Work, model: SavedModel) -> dict[str, pa.ChunkedArray]:
    made = model.output_names if work.asked is None else COLUMNS
    taken = {FILE, ROW, ROW_ID, FAULT, *made}
    return {(f"key_{name}" if name in taken else name): table.column(name) for name in work.keys}


def _binary(ids: np.ndarray) -> pa.Array:
    flat = np.ascontiguousarray(ids).view(np.uint8).reshape(-1)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(flat)])


def _count(faults: dict[str, int], codes: np.ndarray, reasons: list[str]) -> None:
    for reason, number in zip(reasons[1:], np.bincount(codes, minlength=len(reasons)).tolist()[1:], strict=True):
        if number:
            faults[reason] = faults.get(reason, 0) + number


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    # Numbers and ids hardly repeat, so a dictionary of them costs time and saves nothing.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(sink, schema, use_dictionary=texts, write_statistics=False)


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[Any]:
    """Give a place to write to that becomes the file at the end."""
    if not is_local(path):
        held = pa.BufferOutputStream()
        yield held
        write_file(path, memoryview(held.getvalue()))
        return
    folder, name = os.path.split(path)
    temporary = f"{folder}/{TEMPORARY}{name}-{secrets.token_hex(4)}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def opened_part(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, wherever it lies."""
    with files_of(path).open(path) as file, pq.ParquetFile(file) as part:
        yield part


def merged(counts: list[Json]) -> tuple[dict[str, int], Unseen]:
    """Add up the faults of work items, and what no training row has."""
    faults: dict[str, int] = {}
    unseen = Unseen()
    for part in counts:
        for reason, number in part["faults"].items():
            faults[reason] = faults.get(reason, 0) + number
        unseen.add(part)
    return faults, unseen
