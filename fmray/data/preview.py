"""Look at a job's data before anything is prepared: the first footers, and a row group or a few through the steps.

What depends on all rows is not claimed; what is wrong with columns and steps shows here, in a second.
"""

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import pyarrow as pa

from fmray.catalogue import ESTIMATORS, MODELS, STEPS
from fmray.data import pipeline
from fmray.data.arrow_frames import as_frame, blocks, faults, raw_schema
from fmray.data.pipeline import Pipeline
from fmray.data.scan import Dataset, WorkItem, read_item, scan, work_items
from fmray.data.target import decide, fit_target, learn_target, target_frame
from fmray.data.weights import folders_of
from fmray.errors import DataError
from fmray.records import Target
from fmray.schema import Schema
from fmray.spec.effect import hidden_params
from fmray.spec.inputs import require_inputs, unread
from fmray.spec.job import Job
from fmray.spec.pretrained import with_pretrained
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_for

FOOTERS = 32
PARTITIONS = 4
"""Files of which rows are looked at where folders name columns, which are the same throughout a file."""

ENCODED_ROWS = 64
"""Rows that are looked at where a step computes by pretrained weights."""


@dataclass(frozen=True)
class Preview:
    """Say what the first rows show.

    Args:
        dataset: The files looked at.
        task: The objective, decided.
        columns: That a model may see, as read.
        inputs: After the steps, as the first rows suggest; None if they are too few to learn from, or a step is the
            user's own.
        target: As the first rows suggest; None likewise.
        num_rows: Rows the steps were tried on.
        notes: Of the steps.
    """

    dataset: Dataset
    task: Ref
    columns: Schema
    inputs: Schema | None
    target: Target | None
    num_rows: int
    notes: tuple[str, ...]


def preview(job: Job) -> Preview:
    """Try a job on the first rows of its data.

    Raises:
        DataError: If files cannot be read.
        SpecError: If a column, the split or a step does not fit.
    """
    job = with_pretrained(job)
    dataset = scan(job.data, job.folder, most_files=FOOTERS, extra_columns=job.named_columns)
    task = decide(dataset, job.data, job.task)
    columns = raw_schema(dataset, job)
    shown = list(dict.fromkeys([*(c.name for c in columns.columns), *job.data.reads_target]))
    table = pa.concat_tables([read_item(dataset, item, shown) for item in _first_groups(dataset)])
    looked_at = table.num_rows
    codes, _ = faults(table, columns, job.data.target)
    if codes.any():
        table = table.take(np.flatnonzero(codes == 0))
    known = list(takewhile(lambda step: STEPS.is_catalogued(step.name), job.prepared_steps))
    weights = folders_of(known)
    if weights:  # an encoder takes milliseconds a text
        looked_at = min(looked_at, ENCODED_ROWS)
    seen = f"judged by {looked_at:,} of {dataset.num_rows:,} rows"
    generated = job.data.target[0] if codec_for(task.name).generates else ""
    steps = Pipeline(pipeline.build(known, weights), columns, generated=generated)
    notes = (*dataset.notes, *hidden_params(job))
    inputs, target = None, None
    frame = as_frame(table.slice(0, looked_at), columns, job.data.null_values)
    try:
        notes += steps.learn_idle()
        while not steps.is_complete:
            targets = target_frame(table.slice(0, looked_at), job.data) if steps.uses_target else None
            told = steps.learn_next([steps.fit_next(frame, targets)]).notes
            notes += told if looked_at == dataset.num_rows else tuple(f"{seen}: {note}" for note in told)
            notes += steps.learn_idle()
        if len(known) == len(job.prepared_steps):
            blocks(steps.apply(frame), steps.schema)
            inputs = steps.schema
            if job.model.name in MODELS or job.model.name in ESTIMATORS:
                model = MODELS.params(job.model.name)
                require_inputs(job.model.name, model.reads, model.needs, inputs)
                notes += tuple(unread(job.model.name, model.reads, inputs))
        else:  # a look at a job runs nothing that it brings
            own = job.prepared_steps[len(known)].name
            notes += (f"'{own}' is code of your own, which check does not run; it and what follows were not tried",)
        target, told = learn_target(fit_target(table, job.data, task.name), job.data)
        notes += tuple(note for note in told if "positive class" not in note)
    except DataError as error:
        if error.where == "steps" and "still" in error.message:
            raise  # no row can change that
        notes += (f"the first rows cannot settle it: {error}",)
    return Preview(dataset, task, columns=columns, inputs=inputs, target=target, num_rows=table.num_rows, notes=notes)


def _first_groups(dataset: Dataset) -> list[WorkItem]:
    """Name the first row groups; with columns that folders name, the first ones of files with different values."""
    pieces = [piece for item in work_items(dataset) for piece in item.pieces]
    apart = sorted({dataset.files[piece[0]].partition: piece for piece in reversed(pieces)}.values())
    if len(apart) < 2:
        return [WorkItem(0, (pieces[0],), pieces[0][4])]
    number = min(PARTITIONS, len(apart))
    chosen = [apart[place * (len(apart) - 1) // (number - 1)] for place in range(number)]  # outer folders differ too
    items = []
    for index, (file, group, _, row, _) in enumerate(chosen):
        rows = dataset.files[file].row_groups[group]
        items.append(WorkItem(index, ((file, group, 1, row, rows),), rows))
    return items
