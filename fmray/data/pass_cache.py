"""Keep what passes find in a work item, and read it back for as long as nothing that it depends on has changed.

Kept are row hashes and sides (`rows`), and what training rows say to a step (`fits`). Each is named by all that decides
it: the marks of the files, the columns, the split, the steps up to it and what those have learned, which rows go, and
the sources. What depends on rows of other items is never kept.
"""

import hashlib
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.catalogue import STEPS
from fmray.data.apply import fit_item, fit_rows
from fmray.data.duplicates import kept_rows
from fmray.data.exact import from_text, to_text
from fmray.data.identify import Identified, Recipe, Summary, identify, quarantine, sides_of
from fmray.data.pipeline import Pipeline
from fmray.data.scan import WorkItem
from fmray.data.scratch import write_file
from fmray.errors import DataError
from fmray.records import Json
from fmray.spec.pretrained import by_content
from fmray.spec.ref import Ref
from fmray.store import MANIFEST, Store, code_digest, fingerprint, verify
from fmray.targets.codec import codec_for

ROWS, FITS = "rows", "fits"
FOUND = "found.json"
IDLE = frozenset({"path", "dedup", "max_quarantine", "positive", "sample"})
"""Keys of the data section that do not change what is found in an item."""

Record = tuple[str, str]
"""Kind and fingerprint."""


@dataclass(frozen=True)
class Kept:
    """Name and find what is kept in a store.

    Args:
        common: Fingerprint of what decides about the rows of every item, beside the item itself.
        steps: As the job names them.
    """

    store: Store
    common: str
    steps: Sequence[Ref]

    @classmethod
    def of(cls, store: Store, recipe: Recipe, asked: Json, steps: Sequence[Ref]) -> "Kept":
        """Name what decides about every item.

        Args:
            asked: The data section.
            steps: As for the class.
        """
        data = {name: value for name, value in asked.items() if name not in IDLE}
        decided = (recipe.definition.to_json(), recipe.schema, recipe.slices, recipe.num_buckets, recipe.task)
        code = code_digest(__name__, codec_for(recipe.task).__module__)  # a codec is found by name
        return cls(store, fingerprint(ROWS, data, str(recipe.dataset.schema), *decided, code), steps)

    def name(self, recipe: Recipe, item: WorkItem) -> str:
        """Name the rows of an item by the bytes they stand in; empty where these cannot be told from others."""
        files = [recipe.dataset.files[piece[0]] for piece in item.pieces]
        if not all(file.mark for file in files):
            return ""
        is_read_whole = recipe.dataset.data.verify == "full"
        bytes_of = [(f.size, f.version, f.mark, f.content if is_read_whole else "", f.partition) for f in files]
        return fingerprint(self.common, bytes_of, [piece[1:] for piece in item.pieces])

    def lesson(self, recipe: Recipe, pipeline: Pipeline, with_target: bool) -> str:
        """Name what is asked of training rows: by the next step, behind those that have learned, and for the target.

        Versions of libraries and the processor count, for sums of floats and hashes of values are theirs.
        """
        known = [fitted.state for fitted in pipeline.fitted]
        steps = [by_content(ref).to_json() for ref in self.steps[: len(known) + 1]]
        code = code_digest(*(STEPS.module(ref.name) for ref in self.steps[: len(known) + 1]))
        computed_by = (pl.__version__, pa.__version__, np.__version__, platform.machine(), code)
        return fingerprint(FITS, recipe.task, steps, known, with_target, recipe.fold, computed_by)

    def rows(self, key: str) -> str:
        """Give the folder of the rows of that name, empty if there is none; one that is damaged is made anew."""
        try:
            manifest = self.store.find(ROWS, key)
            if manifest is None:
                return ""
            verify(manifest["folder"], manifest["files"])
            return str(manifest["folder"])
        except DataError:
            self.store.remove(f"{self.store.path(ROWS, key)}/{MANIFEST}")  # what has no manifest is no record
            return ""

    def learn(self, key: str, fit: Callable[[], Summary]) -> "Learned":
        """Read a summary back, or make it and keep it."""
        path = self.store.path(FITS, f"{key}.json")
        if self.store.exists(path):
            with suppress(ValueError, DataError):  # damaged: made anew
                digest, *parts = from_text(self.store.read_bytes(path))
                if digest == _digest(to_text(parts).encode()):
                    return Learned(Summary(*parts), (FITS, key), True)
        summary = fit()
        parts = [summary.target, summary.step, summary.num_rows, summary.with_nulls]
        try:
            text = to_text([_digest(to_text(parts).encode()), *parts])
        except TypeError:  # a step of the user's own may say anything
            return Learned(summary, None, False)
        self.store.write_bytes(path, text.encode())
        return Learned(summary, (FITS, key), False)


@dataclass(frozen=True)
class Learned:
    """Hold what training rows of an item say.

    Args:
        record: Under which it is kept, if it is.
        reused: Whether it was read back.
    """

    summary: Summary
    record: Record | None
    reused: bool


@dataclass(frozen=True)
class Known:
    """Hold what is known of an item.

    Args:
        folder: With its rows; empty if they lie in the scratch folder.
        records: Under which it is kept.
        reused: Whether rows were read back.
    """

    found: Identified
    folder: str
    records: tuple[Record, ...]
    reused: bool


def know(kept: Kept | None, lesson: str, recipe: Recipe, pipeline: Pipeline, item: WorkItem) -> Known:
    """Identify the rows of an item, or read back what was found when that was done before.

    Args:
        lesson: As `Kept.lesson` names it.
    """
    key = kept.name(recipe, item) if kept else ""
    if kept is None or not key:
        found = identify(recipe, pipeline, item)
        quarantine(recipe, item, found)
        return Known(found, "", (), False)
    folder = kept.rows(key)
    made = None
    if not folder:
        folder, made = _make(kept.store, key, recipe=recipe, pipeline=pipeline, item=item)
    there = replace(recipe, kept={item.index: folder})
    found = made or _read(kept.store, folder)
    quarantine(there, item, found)
    if not recipe.learns_at_once:
        return Known(found, folder, ((ROWS, key),), made is None)
    sides = sides_of(there, item.index)
    summary = made.summary if made else None
    learned = kept.learn(
        _fit_key(key, lesson, sides),
        lambda: summary or fit_rows(there, pipeline, with_target=True, item=item, sides=sides, occurrence=sides[:0]),
    )
    records = [(ROWS, key), *([learned.record] if learned.record else [])]
    return Known(replace(found, summary=learned.summary), folder, tuple(records), made is None)


def learn(
    kept: Kept | None, lesson: str, recipe: Recipe, pipeline: Pipeline, with_target: bool, item: WorkItem
) -> Learned:
    """Summarise the training rows of an item, or read back what they said when they were the same rows."""
    key = kept.name(recipe, item) if kept else ""
    if kept is None or not key:
        return Learned(fit_item(recipe, pipeline, with_target, item), None, False)
    sides, occurrence = kept_rows(recipe, item.index)
    if recipe.fold:  # which rows it holds follows from their ids
        key = fingerprint(key, _digest(occurrence.tobytes()))
    return kept.learn(
        _fit_key(key, lesson, sides),
        lambda: fit_rows(recipe, pipeline, with_target=with_target, item=item, sides=sides, occurrence=occurrence),
    )


def _make(store: Store, key: str, recipe: Recipe, pipeline: Pipeline, item: WorkItem) -> tuple[str, Identified | None]:
    """Identify the rows of an item and keep them; None beside the folder if another process was faster."""
    with store.create(ROWS, key) as draft:
        if draft.existing is not None:
            return draft.folder, None
        found = identify(replace(recipe, kept={item.index: draft.folder}), pipeline, item)
        told = [found.sides, found.reasons, found.levels, found.labels, found.held]
        write_file(f"{draft.folder}/{FOUND}", to_text(told).encode())
        draft.commit({})
        return draft.folder, found


def _read(store: Store, folder: str) -> Identified:
    sides, reasons, levels, labels, held = from_text(store.read_bytes(f"{folder}/{FOUND}"))
    return Identified(sides, reasons, levels=levels, summary=None, labels=labels, held=held)


def _fit_key(key: str, lesson: str, sides: np.ndarray) -> str:
    return fingerprint(key, lesson, _digest(np.asarray(sides).tobytes()))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
