"""Find the trained members that new ones begin with: the champion's, or those of a run that a job names.

They must have learned from the side of the split that is training rows now, and see the same inputs; or the job is
refused, or starts cold where it says so. What was decided stands in the run's `run.json`, and holds when it goes on.
"""

import os
from collections.abc import Callable
from contextlib import suppress

from fmray.catalogue import MODELS
from fmray.errors import DataError, SpecError
from fmray.promote.history import champion_of
from fmray.promote.vocabulary import compare_vocabularies
from fmray.records import Json, Prepared, Run
from fmray.report.folder import RUN
from fmray.report.identity import origin_of
from fmray.schema import Column, Schema
from fmray.spec.job import Job
from fmray.spec.sections import StartFrom, WarmStart
from fmray.store import Store
from fmray.store.copies import folder_to_keep
from fmray.store.places import files_of
from fmray.store.sealed import open_text, parse
from fmray.targets.codec import codec_of
from fmray.train.population import Blueprint
from fmray.train.saved import FILE, Saved, read_model
from fmray.train.starts import model_in, starts_in
from fmray.train.warm import WHERE, Start, listed

CHAMPION = "champion"
START = "train.start"
CURE = "Train this once without train.warm_start, or give it otherwise: cold."


def starts_of(
    job: Job, asked: WarmStart, prepared: Prepared, run: Run, store: Store, note: Callable[[str], None]
) -> tuple[Start, ...]:
    """Give what the members of a run begin with, in their order; nothing where they start cold.

    Args:
        asked: As the job says it.
        note: Hears what was decided.

    Raises:
        SpecError: If the members of the named run do not fit, and the job does not say to start cold then.
        DataError: If there is no such run.
    """
    path = f"{run.root}/{RUN}"
    facts = store.read_json(path)
    origin = facts["warm_start"]["from"] if "warm_start" in facts else _origin(job, asked, store)
    starts, why = _starts(job, asked, prepared=prepared, store=store, origin=origin)
    if why:
        note(f"members start cold: {why}")
    else:
        shown = ", ".join(str(start.member) for start in starts)
        count = job.train.seeds.n
        note(f"{count} members start from those of {origin}: {shown}" + ", in turn" * (count > len(starts)))
    whose = [{"member": start.member, "tensor_hash": start.tensor_hash} for start in starts]
    told: Json = {"from": origin, "cold": why, "members": whose}
    store.write_json(path, {**store.read_json(path), "warm_start": told})
    return starts


def started_from(
    job: Job, asked: StartFrom, prepared: Prepared, run: Run, store: Store, note: Callable[[str], None]
) -> tuple[Start, ...]:
    """Give the foreign tensors that the members of a run begin with, in their order.

    They may come from other data and another target. Where they come from a run on the same rows, these must be divided
    as they were there.

    Args:
        asked: As the job says it.
        note: Hears what was loaded and what is drawn.

    Raises:
        SpecError: If they do not fit the model, or may have learned from rows that are validation or test now.
        DataError: If they are missing or damaged.
    """
    root = origin_of(asked.model, job.folder)
    found = model_in(root)
    saved = None if found is None else found.saved
    starts = starts_in(root, found, asked.part or (saved and _trunk(saved, job, prepared)) or "", START)
    blueprint = Blueprint.of(job.model.name, job.model.params, 0)
    num_outputs = codec_of(prepared.target).num_outputs
    has_tables = starts[0].takes_embeddings(blueprint.module(prepared.schema, num_outputs))
    if text := compare_vocabularies(starts, saved, job.model.params, prepared=prepared, has_tables=has_tables):
        note(f"train.start: {text}")
    facts = _known_facts(root)
    if facts is None:
        note(f"train.start: nothing is known of the rows that {root} learned from")
    elif _shares_rows(facts, prepared):
        _refuse_other_split(root, prepared, START)
    else:
        text = "read other files; whether rows of validation or test now stand in them is not checked"
        note(f"train.start: {root} {text}")
    modules = [start.module(blueprint, prepared.schema, num_outputs) for start in starts]
    taken, drawn = starts[0].described(modules[0])
    note(f"train.start: from {root}: {listed(taken)}; drawn: {listed(drawn)}")
    whose = [{"member": start.member, "tensor_hash": start.tensor_hash} for start in starts]
    told: Json = {"from": root, "part": asked.part, "members": whose, "taken": taken, "drawn": drawn}
    path = f"{run.root}/{RUN}"
    store.write_json(path, {**store.read_json(path), "start": told})
    return starts


def _trunk(saved: Saved, job: Job, prepared: Prepared) -> tuple[str, ...]:
    """Name the tensors to take from a model that was trained for a task of another kind; none for all."""
    names = {member.model["name"] for member in saved.members}
    if saved.prepared.target.kind == prepared.target.kind or names != {job.model.name} or job.model.name not in MODELS:
        return ()
    trunk: tuple[str, ...] = MODELS.params(job.model.name).trunk
    return trunk


def _known_facts(root: str) -> Json | None:
    """Read the run.json of the run that a folder belongs to, if it belongs to one."""
    with suppress(DataError, OSError, ValueError, KeyError, TypeError):
        return _facts_of(root if files_of(root).exists(f"{root}/{RUN}") else os.path.dirname(root))
    return None


def _shares_rows(facts: Json, prepared: Prepared) -> bool:
    """Tell whether a run has read a file as large as one that is read now, which will be the same: mind its rows."""
    theirs = {(file["bytes"], file["rows"]) for file in facts.get("data", {}).get("manifest", [])}
    return not theirs.isdisjoint((file["bytes"], file["rows"]) for file in prepared.manifest)


def _starts(job: Job, asked: WarmStart, prepared: Prepared, store: Store, origin: str) -> tuple[tuple[Start, ...], str]:
    """Give starts, or the reason for starting cold."""
    if not origin:
        return (), f"job '{job.name}' has no champion yet"
    root = store.path("runs", job.name, origin) if asked.model == CHAMPION else origin
    try:
        _refuse_other_split(root, prepared)
        model = root if files_of(root).exists(f"{root}/{FILE}") else f"{root}/model"
        return _fitting(read_model(folder_to_keep(model)), model, job=job, prepared=prepared, origin=origin), ""
    except SpecError as error:
        if asked.otherwise == "refuse":
            raise SpecError(f"{error.message} {CURE}", WHERE) from error
        return (), error.message


def _origin(job: Job, asked: WarmStart, store: Store) -> str:
    """Name the run: the champion by its id, another by its folder."""
    if asked.model == CHAMPION:
        return champion_of(job.name, store) or ""
    return origin_of(asked.model, job.folder)


def _facts_of(root: str) -> Json:
    """Read the run.json of a run that may have been moved; it says itself where it lay."""
    path = f"{root}/{RUN}"
    data = files_of(root).read(path)
    said = parse(data, path)
    facts: Json = open_text(data, f"runs/{said['job']}/{said['run_id']}/{RUN}", path, is_sealed=False)
    return facts


def _refuse_other_split(root: str, prepared: Prepared, where: str = WHERE) -> None:
    """Make sure that no row of validation or test now was a training row then."""
    files = files_of(root)
    beside = root if files.exists(f"{root}/{RUN}") else os.path.dirname(root)
    try:
        split = _facts_of(beside)["data"]["split"]
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{WHERE}: {root} holds no finished run, so which rows it learned from is unknown. "
            "Give the directory of one, or its model/ in there."
        ) from error
    if apart := sorted(n for n in split.keys() | prepared.split.keys() if split.get(n) != prepared.split.get(n)):
        shown = ", ".join(f"{name} {split.get(name)} -> {prepared.split.get(name)}" for name in apart)
        raise SpecError(
            f"rows were divided otherwise for {beside} ({shown}), so it may have learned from rows that are "
            "validation or test now.",
            where,
        )


def _fitting(saved: Saved, place: str, job: Job, prepared: Prepared, origin: str) -> tuple[Start, ...]:
    """Give the members of a model as starts.

    Args:
        place: Folder of the model, where every worker finds it.

    Raises:
        SpecError: Naming what they see, predict or are otherwise.
    """
    theirs = saved.prepared.target
    ours = prepared.target
    if (theirs.kind, theirs.columns, theirs.classes) != (ours.kind, ours.columns, ours.classes):
        shown = f"{', '.join(theirs.columns)}: {', '.join(theirs.classes) or theirs.kind}"
        raise SpecError(
            f"{origin} predicts {shown}, this job {', '.join(ours.columns)}: {', '.join(ours.classes) or ours.kind}.",
            WHERE,
        )
    for member in saved.members:
        if member.model["name"] != job.model.name:
            raise SpecError(f"{origin} is a {member.model['name']}, this job trains a {job.model.name}.", WHERE)
        own = saved.prepared.for_member(member)
        if apart := _apart(own.schema, prepared.schema):
            raise SpecError(f"{origin} has other inputs: {apart}.", WHERE)
        steps = [[(step["name"], dict(step["params"])) for step in one.steps] for one in (own, prepared)]
        if steps[0] != steps[1]:
            names = [", ".join(name for name, _ in one) for one in steps]
            raise SpecError(f"the inputs of {origin} come from other steps: {names[0]} -> {names[1]}.", WHERE)
    starts = tuple(Start(m.index, m.tensor_hash, f"{place}/{m.index:05d}") for m in saved.members)
    blueprint = Blueprint.of(job.model.name, job.model.params, 0)
    for start in starts:
        start.module(blueprint, prepared.schema, codec_of(ours).num_outputs)
    return starts


def _apart(theirs: Schema, ours: Schema) -> str:
    """Say in words how two schemas differ, empty if they do not."""
    if theirs == ours:
        return ""
    before, now = ({column.name: column for column in schema.columns} for schema in (theirs, ours))
    found = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "changed": [_change(before[n], now[n]) for n in now if n in before and before[n] != now[n]],
    }
    words = [f"{what} {', '.join(names)}" for what, names in found.items() if names]
    return "; ".join(words) or f"in the order {', '.join(now)}, not {', '.join(before)}"


def _change(before: Column, now: Column) -> str:
    if before.kind != now.kind or before.classes == now.classes:
        return f"{now.name} ({before.kind} of {before.width} -> {now.kind} of {now.width})"
    new = [level for level in now.classes if level not in before.classes]
    gone = [level for level in before.classes if level not in now.classes]
    words = [f"{what} level {', '.join(levels)}" for what, levels in (("new", new), ("gone", gone)) if levels]
    return f"{now.name} ({'; '.join(words) or 'levels in another order'})"
