"""Let a model predict every row of a data set, exactly once, however often it is interrupted.

One Parquet file per work item is put in place whole; what is there is not done again. The manifest comes last, so a
folder without one is unfinished.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from fmray.data.duplicates import num_buckets
from fmray.data.preparation import Run as RunPass
from fmray.data.scan import ITEM_BYTES, WorkItem, work_items
from fmray.data.scratch import is_local
from fmray.data.session import run_here, run_over_ray, session
from fmray.errors import DataError
from fmray.events import Note, Report, Stage, ignore
from fmray.inference.generation import Generation, Remarks
from fmray.inference.intake import find_rows, same_rows
from fmray.inference.model import SavedModel, open_model
from fmray.inference.parts import Work, counts_of, is_done, mark_of, mend_item, merged, predict_item
from fmray.inference.rowids import find_equal
from fmray.inference.says import prompt_column
from fmray.records import Json
from fmray.registry import Trust
from fmray.store import redact
from fmray.store.lease import hold
from fmray.store.manifest import measure
from fmray.store.places import files_of
from fmray.store.sealed import open_text, seal_text
from fmray.train.device import share_cores
from fmray.train.saved import FILE as MODEL

Place = Literal["auto", "local", "ray"]
MANIFEST, BEGUN = "predictions.json", "_state/begun.json"
FORMAT = 2
"""Number of the layout; since 2 files are listed with their checksums."""
ANEW = "Remove the folder, or give another one, and run the same command again."
SMALL_BYTES = 256 << 20
PROMPT_BYTES = 1 << 16
"""Bytes of prompts in a work item: an interruption loses the texts of so many."""
SMALL_PROMPT_BYTES = 1 << 20


def predict(
    model_folder: str,
    data: str,
    out: str,
    *,
    place: Place = "auto",
    report: Report = ignore,
    item_bytes: int = ITEM_BYTES,
    trust_code: Trust = False,
) -> Json:
    """Write what a model says of every row, and give a summary; an interrupted call is continued by the same call.

    Args:
        model_folder: Directory of a run, or of a model.
        data: File, folder, glob or URI of the rows.
        out: Folder for `part-<n>.parquet` and, last, `predictions.json`. Columns of a part: `file` and `row` it stands
            in, `row_id`, the key, those of `SavedModel.output_names`, and `fault`, why a row has no prediction.
        place: Where work items are done: "local" in this process, "ray" as tasks of Ray Data; "auto" decides by size.
        item_bytes: Rows are read in pieces of about this size.
        trust_code: Run the author's own modules that the model needs.

    Raises:
        DataError: If model or data are not as they must be, or `out` holds something else.
        ClusterError: If Ray fails, or another process writes to `out`.
    """
    report(Stage("model", model_folder))
    model = open_model(model_folder, trust_code=trust_code)
    return _say(model, data, out, None, place=place, report=report, item_bytes=item_bytes)


def generate(
    model_folder: str,
    data: str,
    out: str,
    asked: Generation = Generation(),
    *,
    place: Place = "auto",
    report: Report = ignore,
    item_bytes: int = PROMPT_BYTES,
    trust_code: Trust = False,
) -> Json:
    """Go on with the text of every row by a language model, and give a summary; see `predict`.

    Parts have `file`, `row`, `row_id`, the key where the rows have it, `sample` (the number of the row's text), `text`,
    `tokens`, `log_probability`, `ended`, and `fault`. What is drawn for a row depends on the seed and the values that
    make up its id, so rows with equal ones have equal texts, wherever they stand and whoever generates them.

    Args:
        data: File, folder, glob or URI of the rows; prompts stand in the column that the model has learned from.
        asked: How texts are generated.

    Raises:
        SpecError: If the model generates no text, or what is asked does not fit it.
        DataError: If model or data are not as they must be, or `out` holds something else.
        ClusterError: If Ray fails, or another process writes to `out`.
    """
    report(Stage("model", model_folder))
    model = open_model(model_folder, trust_code=trust_code)
    for note in model.generator(asked).notes:
        report(Note(note))
    return _say(model, data, out, asked, place=place, report=report, item_bytes=item_bytes)


def _say(
    model: SavedModel, data: str, out: str, asked: Generation | None, *, place: Place, report: Report, item_bytes: int
) -> Json:
    """Write what a model says of every row: texts, if they are asked for, else predictions."""
    work, num_bytes = _plan(model, data, out, asked)
    for note in work.dataset.notes:
        report(Note(note))
    items = work_items(work.dataset, target_bytes=item_bytes) or [WorkItem(0, (), 0)]
    begun: Json = {"format": FORMAT, "model": work.identity, "data": work.dataset.fingerprint, "item_bytes": item_bytes}
    if asked is not None:
        begun["asked"] = asked.to_json()
    _refuse_strange(work, begun)
    files = files_of(work.out)
    with hold(f"{work.out}/_state", wait_seconds=0, covers=[work.out]):
        _refuse_strange(work, begun)  # again, since another may have begun meanwhile
        files.write(f"{work.out}/{BEGUN}", seal_text(begun, BEGUN))
        if files.exists(f"{work.out}/{MANIFEST}"):
            found = read_manifest(work.out)
            damaged = broken(work.out, found)
            if not damaged:
                report(Stage("found", f"{work.out} is complete"))
                if not all("crc32" in part for part in found["parts"]):
                    report(Note("an earlier version wrote them, without checksums: not verified"))
                return found
            report(Note(f"{'; '.join(damaged[:3])}. All {len(found['parts'])} files are made anew"))
            for name in [MANIFEST, *(part["file"] for part in found["parts"])]:
                files.remove(f"{work.out}/{name}")
        for path in files.temporaries(work.out):
            files.remove(path)
        files.make(work.scratch)
        summary = _predict_items(work, items, num_bytes=num_bytes, place=place, report=report)
        files.write(f"{work.out}/{MANIFEST}", seal_text(summary, MANIFEST, indent=1))
        files.remove(work.scratch)
        return summary


def _plan(model: SavedModel, data: str, out: str, asked: Generation | None) -> tuple[Work, int]:
    """Look at the data; give what work items need, and the bytes to read."""
    saved = model.saved
    if asked is None:
        prompt = ""
        dataset = find_rows(data, saved, model.input_schema.columns)
    else:  # a prompt need not have the key that texts of training had
        keyless = replace(saved, data=replace(saved.data, key=()))
        column = prompt_column(model)
        prompt = column.name
        dataset = find_rows(data, keyless, [column])
    place = str(Path(out).resolve()) if is_local(out) else out.rstrip("/")
    is_one_file = [file.path for file in dataset.files] == [PurePosixPath(data).name]  # then its folder is not read
    if f"{place}/".startswith(f"{dataset.root.rstrip('/')}/") and place != dataset.root and not is_one_file:
        raise DataError(f"{out} lies inside {dataset.root}, so it would be read as data. Give another folder.", "--out")
    keys = saved.data.key if set(saved.data.key) <= set(dataset.schema.names) else ()
    hashed = keys or tuple(name for name in saved.types.names if name in dataset.schema.names)
    folder = str(Path(model.folder).resolve()) if is_local(model.folder) else model.folder
    buckets = num_buckets(dataset.num_rows)
    num_bytes = sum(sum(file.group_bytes) for file in dataset.files)
    work = Work(
        folder=folder, identity=model.identity, dataset=dataset, out=place, keys=keys, hashed=hashed,
        num_buckets=buckets, trust=model.trust, asked=asked, prompt=prompt,
    )  # fmt: skip
    return work, num_bytes


def _refuse_strange(work: Work, begun: Json) -> None:
    """Refuse a folder that holds anything but the beginning of the same predictions."""
    out = work.out
    files = files_of(out)
    path = f"{out}/{BEGUN}"
    if not files.exists(path):
        if is_local(out) and Path(out).is_file():
            raise DataError(f"{out} is a file. Give an empty folder.", "--out")
        held = [name for name in files.names(out) if name != "_state"]
        if held:
            text = (
                f"{out} holds {', '.join(held[:3])}, and {path} is missing: whether they are predictions is not known"
            )
            raise DataError(f"{text}. Give an empty folder.", "--out")
        return
    found = open_text(files.read(path), BEGUN, path, is_sealed=False, cure=ANEW)
    others = {
        "model": f"another model than {work.folder}/{MODEL}",
        "data": f"other data than {work.dataset.root}",
        "item_bytes": f"pieces of other sizes than {begun['item_bytes']:,} bytes",
        "asked": "another kind, or with other settings",
    }
    for name, what in others.items():
        if found.get(name) != begun.get(name):
            raise DataError(f"{out} holds predictions of {what}, as {path} says. Give an empty folder.", "--out")


def read_manifest(out: str) -> Json:
    """Read what a finished folder of predictions or texts says of itself.

    Raises:
        DataError: If it is damaged.
    """
    path = f"{out}/{MANIFEST}"
    data = files_of(out).read(path)
    is_sealed = b'"format": 1,' not in data[:32]
    found: Json = open_text(data, MANIFEST, path, is_sealed=is_sealed, cure=ANEW)
    return found


def broken(out: str, found: Json) -> list[str]:
    """Say of each file of finished predictions that is not as it was left what became of it.

    Where they lie elsewhere, sizes are compared, and nothing is fetched.
    """
    listed = {part["file"]: part for part in found["parts"]}
    sizes = files_of(out).sizes(out)
    told = [f"{out}/{name} is missing" for name in listed if name not in sizes]
    known = [name for name, part in listed.items() if name in sizes and "crc32" in part]
    short = [name for name in known if sizes[name] != listed[name]["size"]]
    told += [f"{out}/{name} has {sizes[name]} bytes instead of {listed[name]['size']}" for name in short]
    whole = [name for name in known if name not in short] if is_local(out) else []
    crcs = {name: entry["crc32"] for name, entry in measure(out, whole).items()}
    return told + [f"{out}/{name} has been changed" for name in whole if crcs[name] != listed[name]["crc32"]]


def _predict_items(work: Work, items: Sequence[WorkItem], num_bytes: int, place: Place, report: Report) -> Json:
    started = time.monotonic()
    dataset = work.dataset
    sizes = files_of(work.out).sizes(work.out)
    open_items = [item for item in items if not is_done(work, item, sizes)]
    done = len(items) - len(open_items)
    text = f"{dataset.num_rows:,} rows in {len(dataset.files)} files, {len(items)} work items"
    what = "predict" if work.asked is None else "generate"
    report(Stage(what, text + (f", {done} of them done before" if done else "")))
    small_bytes = SMALL_BYTES if work.asked is None else SMALL_PROMPT_BYTES
    with _runner(place, num_bytes, small_bytes, num_items=len(open_items), report=report) as (run, rule):
        if open_items:
            run(what, predict_item, (work,), [(item,) for item in open_items])
        repeats = _repeats(work, items, run)
    counts = [counts_of(work, item) for item in items]
    num_rows = sum(part["rows"] for part in counts)
    if num_rows != dataset.num_rows:
        raise DataError(f"{num_rows} of the {dataset.num_rows} rows were predicted. This is a bug of fmray.")
    faults, unseen = merged(counts)
    return {
        "format": FORMAT,
        "model": {"folder": work.folder, "identity": work.identity},
        "data": {"path": redact(dataset.data.path), "fingerprint": dataset.fingerprint, "files": len(dataset.files)},
        "notes": list(dataset.notes),
        "rows": num_rows,
        "repeats": repeats,
        "faults": faults,
        **unseen.to_json(),
        **_generated(work, counts),
        "parts": [
            {"file": Path(work.part(item.index)).name, "rows": part["rows"], **mark_of(work, item)}
            for item, part in zip(items, counts, strict=True)
        ],
        "key": list(work.keys),
        "place": rule,
        "seconds": round(time.monotonic() - started, 3),
    }


def _generated(work: Work, counts: Sequence[Json]) -> Json:
    """Add up what is to be known of prompts and texts; nothing where rows were predicted."""
    if work.asked is None:
        return {}
    remarks = Remarks()
    for part in counts:
        remarks.add(Remarks(**part["generated"]))
    prompts = {"column": work.prompt, "rows": same_rows(work.dataset.files)}
    return {"asked": work.asked.to_json(), "prompts": prompts, "generated": asdict(remarks)}


def _repeats(work: Work, items: Sequence[WorkItem], run: RunPass) -> int:
    """Count rows that equal an earlier one, and tell them apart; rows that share a key share an id."""
    common = (work.scratch, [item.index for item in items])
    found = run("find equal rows", find_equal, common, [(bucket,) for bucket in range(work.num_buckets)])
    holding = {index for counts in found for index in counts}
    if holding and not work.keys:
        run("tell equal rows apart", mend_item, (work,), [(item,) for item in items if item.index in holding])
    return sum(sum(counts.values()) for counts in found)


@contextmanager
def _runner(
    place: Place, num_bytes: int, small_bytes: int, *, num_items: int, report: Report
) -> Iterator[tuple[RunPass, str]]:
    """Choose where work items are done, and open and close what they need."""
    rule = f"over {small_bytes >> 20} MB goes to Ray" if place == "auto" else f"asked for {place}"
    here = place == "local" or (place == "auto" and num_bytes <= small_bytes)
    text = f"{'in this process' if here else 'over Ray Data'}: {num_bytes / 1e6:,.1f} MB ({rule})"
    report(Note(text))
    if here:
        with share_cores(num_items):
            yield partial(run_here, report), text
        return
    with session():
        yield partial(run_over_ray, report), text


def spell_summary(summary: Json) -> list[str]:
    """Say in a few lines what a person should know of predictions."""
    lines = [f"{summary['rows']:,} rows in {len(summary['parts'])} files, {summary['place']}"]
    what = "prediction"
    if "generated" in summary:
        what = "text"
        lines += Remarks(**summary["generated"]).lines()
    for reason, number in summary["faults"].items():
        lines.append(f"{number:,} rows have no {what}: {reason}")
    for name, found in summary["unseen"].items():
        shown = ", ".join(f"{level!r} {rows:,}" for level, rows in list(found["levels"].items())[:5])
        lines.append(f"{found['rows']:,} rows have a level of '{name}' that no training row has: {shown}")
    lines += summary.get("notes", [])
    for name, number in summary.get("nulls", {}).items():
        lines.append(f"{number:,} rows have no value of '{name}', which every training row has")
    for name, found in summary.get("unread", {}).items():
        shown = ", ".join(f"{text!r} {rows:,}" for text, rows in list(found["levels"].items())[:5])
        lines.append(f"{found['rows']:,} rows have a '{name}' that cannot be read, and count as missing: {shown}")
    if summary["repeats"]:
        what = "key" if summary["key"] else "values"
        lines.append(f"{summary['repeats']:,} rows have the {what} of an earlier row")
    return lines
