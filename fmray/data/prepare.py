"""Turn a data set into lanes, or find that it was done before.

A record is named by all that decides its content, so equal work is done once. Passes over the rows run in this process
or as Ray Data tasks over work items: the same functions either way, so both write the same bytes, and no row crosses
the object store.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from fmray.catalogue import STEPS
from fmray.data.arrow_frames import raw_schema
from fmray.data.cut import context_of, masked_share
from fmray.data.duplicates import num_buckets
from fmray.data.folders import NOT_READ
from fmray.data.folds import Fold
from fmray.data.identify import Recipe
from fmray.data.lanes import KIND, verify_lanes
from fmray.data.pass_cache import Kept
from fmray.data.preparation import Preparation
from fmray.data.preparation import Run as RunPass
from fmray.data.scan import ITEM_BYTES, Dataset, work_items
from fmray.data.scratch import is_local, write_file
from fmray.data.session import run_here, run_over_ray, session
from fmray.data.split import define
from fmray.data.weights import keep_weights, records_of
from fmray.errors import SpecError
from fmray.events import Note, Record, Report, ignore
from fmray.records import Json, Prepared
from fmray.registry import nearest
from fmray.spec.job import Job
from fmray.spec.pretrained import by_content, with_pretrained
from fmray.spec.ref import Ref
from fmray.store import Store, code_digest, fingerprint, redact, verify
from fmray.store.plain import to_plain, write_text
from fmray.store.sealed import parse
from fmray.targets.codec import codec_for

SMALL_BYTES = 256 << 20
FILE = "prepared.json"
VERIFIED_BYTES = 1 << 30


def prepare(
    dataset: Dataset,
    job: Job,
    task: Ref,
    store: Store,
    report: Report = ignore,
    item_bytes: int = ITEM_BYTES,
    fold: Fold | None = None,
) -> Prepared:
    """Make the lanes of a job's data, or read them back if they are there.

    Args:
        task: The objective, decided.
        report: Gets notes and progress.
        item_bytes: Rows are read in pieces of about this size; it decides into which files they are written.
        fold: Training rows that steps do not learn from. They stand in the lanes as all others do, and count for the
            target, whose classes and scale are those of all training rows.

    Raises:
        DataError: If rows do not add up, too many are set aside, a split is empty, or the disk is too small.
        SpecError: If a step, a split or a column is not as it must be.
        ClusterError: If Ray fails.
    """
    _refuse_slices(dataset, job.evaluate.slices)
    context = context_of(task)
    masked = masked_share(task)
    job = with_pretrained(job)
    weights = keep_weights(job.prepared_steps, store)
    definition = define(dataset, job.split, store, job.name, seen=job.data.target if context else ())
    asked = {name: value for name, value in job.to_json()["data"].items() if name != "path"}
    more = [*([fold] if fold else []), *([context] if context else []), *([masked] if masked else [])]
    key = fingerprint(KIND, dataset.fingerprint, asked, definition.to_json(), *_decided(job, task), *more)
    report(Record(KIND, key))
    with store.create(KIND, key) as draft:
        manifest = draft.existing
        if manifest is None:
            schema = raw_schema(dataset, job)
            if not schema.columns:
                raise SpecError(f"no column is left to learn from in {', '.join(dataset.schema.names)}.", "data")
            recipe = Recipe(
                dataset, definition, schema=schema, task=task.name, slices=job.evaluate.slices,
                num_lanes=job.train.order.num_lanes, num_buckets=num_buckets(dataset.num_rows), folder=draft.folder,
                fold=fold, context=context, masked=masked,
            )  # fmt: skip
            for folder in (recipe.scratch, recipe.quarantine):
                if is_local(folder):
                    os.makedirs(folder)
            kept = Kept.of(store, recipe, asked, job.prepared_steps) if job.run.reuse and not dataset.fresh else None
            items = work_items(dataset, target_bytes=item_bytes)
            with _runner(job.run.prepare, dataset, report) as run:
                preparation = Preparation(
                    recipe, items, steps=job.prepared_steps, run=run, report=report, kept=kept,
                    weights=weights,
                )  # fmt: skip
                prepared = preparation.write(key)
            store.remove(recipe.scratch)
            write_file(f"{draft.folder}/{FILE}", _exact(prepared))
            manifest = draft.commit(
                {
                    "rows": dict(prepared.rows),
                    "test_identity": prepared.test_identity,
                    "records": sorted({*preparation.records, *records_of(job.prepared_steps)}),
                }
            )
    found = Prepared.from_json({**_described(manifest, store), "root": manifest["folder"]})
    if draft.existing is not None:
        _verify_small(found, manifest, store, report)
    # What lies beside the rows may come and go while the record stays.
    kept_notes = (note for note in found.notes if note not in dataset.notes and not note.startswith(NOT_READ))
    return replace(found, notes=(*dataset.notes, *kept_notes))


def _decided(job: Job, task: Ref) -> list[object]:
    """Give what decides the content of a record beside the data and its split."""
    modules = [STEPS.module(step.name) for step in job.prepared_steps]
    steps = [by_content(ref).to_json() for ref in job.prepared_steps]
    code = code_digest(__name__, codec_for(task.name).__module__, *modules)  # a codec is found by name
    return [steps, task.name, job.train.order.num_lanes, job.evaluate.slices, code]


def _described(manifest: Json, store: Store) -> Json:
    """Read what a record says of itself, and make sure that it is what was written."""
    folder = manifest["folder"]
    verify(folder, {FILE: manifest["files"][FILE]})
    description: Json = parse(store.read_bytes(f"{folder}/{FILE}"), f"{folder}/{FILE}")
    return description


def _verify_small(prepared: Prepared, manifest: Json, store: Store, report: Report) -> None:
    """Read a record that was made earlier once more, unless that would take long."""
    num_bytes = sum(entry["size"] for entry in manifest["files"].values())
    if num_bytes <= VERIFIED_BYTES:
        verify_lanes(prepared, store)
    else:
        text = (
            f"{num_bytes / 1e9:.1f} GB of lanes are used as they are; up to {VERIFIED_BYTES / 1e9:.1f} GB are verified"
        )
        report(Note(text))


def _refuse_slices(dataset: Dataset, slices: Sequence[str]) -> None:
    known = [name for name in dataset.schema.names if name not in dataset.data.ignore]
    for name in slices:
        if name not in known:
            raise SpecError(f"column '{name}' is not in the data. {nearest(name, known)}", "evaluate.slices")
        if pa.types.is_nested(kind := dataset.schema.field(name).type):
            raise SpecError(f"column '{name}' holds {kind}. Accepted: one value per row.", "evaluate.slices")


def _exact(prepared: Prepared) -> bytes:
    """Give the record as strict JSON: without secrets, but with every level of the data as it is.

    A column may be called `token`, and a level read `password=1`; a step that forgot them would do something else.
    """
    plain: Any = to_plain({**prepared.to_json(), "root": ""})
    hidden = redact(plain)
    steps = [{**step, "state": exact["state"]} for step, exact in zip(hidden["steps"], plain["steps"], strict=True)]
    exact = {name: plain[name] for name in ("schema", "raw", "target", "slices", "split", "with_nulls")}
    return write_text({**hidden, **exact, "steps": steps}, indent=1).encode()


@contextlib.contextmanager
def _runner(where: str, dataset: Dataset, report: Report) -> Iterator[RunPass]:
    """Choose where passes run, and open and close what they need."""
    num_bytes = sum(sum(file.group_bytes) for file in dataset.files)
    rule = f"over {SMALL_BYTES >> 20} MB goes to Ray" if where == "auto" else f"run.prepare: {where}"
    if where == "local" or (where == "auto" and num_bytes <= SMALL_BYTES):
        report(Note(f"preparing {num_bytes / 1e6:,.1f} MB in this process ({rule})"))
        yield partial(run_here, report)
        return
    report(Note(f"preparing {num_bytes / 1e6:,.1f} MB over Ray Data ({rule})"))
    with session():
        yield partial(run_over_ray, report)
