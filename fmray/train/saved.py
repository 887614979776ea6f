"""Keep a model in a folder that stands alone: JSON and safetensors, and nothing that runs by being read.

    model.json               what speaks, how rows become its inputs, what the columns were; ends in its own checksum
    <member>/                model.safetensors of each member that speaks
    example.parquet          a few validation rows as read, inputs only
    code/                    the user's own modules that stood beside the job file

The folder may be moved or copied; whatever was changed in it since is found when it is read.
"""

import base64
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.raw import faults
from fmray.data.scan import Dataset, read_item, work_items
from fmray.data.split import VAL, Definition, assign
from fmray.errors import DataError, SpecError
from fmray.records import Ensemble, Json, Member, Prepared, Target
from fmray.schema import Schema
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Data
from fmray.store import fingerprint, redact, source_digest
from fmray.store.copies import copy_file, folder_to_write
from fmray.store.places import files_of
from fmray.train.predict import TENSORS, read_tensors

FORMAT = 1
"""Number of the layout of a model folder; another one is refused."""
FILE, EXAMPLE, CODE = "model.json", "example.parquet", "code"
EXAMPLE_ROWS = 16


@dataclass(frozen=True)
class Saved:
    """Describe a model as its folder holds it.

    Args:
        members: Those that the ensemble names, in its order; their tensors lie in the folder.
        ensemble: How their words become one.
        prepared: How rows become inputs, with a variant for each other way that members' rows were prepared; no lanes.
        task: What turns outputs into predictions.
        data: What the job said of the data: keys, what means "missing".
        types: Columns that made up a row in training, as they were read.
        modules: The user's own modules behind the names of models, steps and task -> digest of their source.
        identity: Names the content of the folder.
    """

    members: tuple[Member, ...]
    ensemble: Ensemble
    prepared: Prepared
    task: Ref
    data: Data
    types: pa.Schema
    modules: Mapping[str, str]
    identity: str

    def ways(self) -> dict[str, Prepared]:
        """Give each way in which rows become inputs of some member, by fingerprint."""
        return {own.fingerprint: own for own in map(self.prepared.for_member, self.members)}


def write_model(
    root: str, chosen: Sequence[Member], ensemble: Ensemble, prepared: Prepared, task: Ref, dataset: Dataset, job: Job
) -> None:
    """Write the folder of a model: the members' tensors, and all that turns new rows into predictions.

    Args:
        root: Folder to write; what is there is written over.
        chosen: Members that the ensemble names, in its order.
        dataset, job: What was learned from, and how it was asked for.
    """
    ways = {own.fingerprint: own for own in map(prepared.for_member, chosen)} | {prepared.fingerprint: prepared}
    names = ("index", "model", "seed", "tensor_hash", "prepared")
    members = [{name: getattr(member, name) for name in names} for member in chosen]
    types = pa.schema([field for field in dataset.schema if field.name not in dataset.data.ignore])
    asked = job.to_json()["data"]
    description: Json = {
        "format": FORMAT,
        "task": {"name": task.name, "params": dict(task.params)},
        "ensemble": ensemble.to_json(),
        "members": redact(members),
        "target": asdict(prepared.target),
        "prepared": prepared.fingerprint,
        "ways": {name: _way(own) for name, own in ways.items()},
        "data": {**asked, "path": redact(asked["path"])},
        "types": base64.b64encode(types.serialize().to_pybytes()).decode(),
        "modules": {name: source_digest(name) for name in job.modules()},
    }
    # Not redacted as a whole: a column may be called `token`, and its step must not forget what it learned.
    plain: Json = json.loads(json.dumps(description, allow_nan=False))
    text = json.dumps({**plain, "checksum": fingerprint(plain)}, indent=1, allow_nan=False)
    with folder_to_write(root) as home:
        for member in chosen:
            for name in files_of(member.root).sizes(member.root):
                copy_file(f"{member.root}/{name}", f"{home}/{member.index:05d}/{name}")
        pq.write_table(_example(dataset, prepared, list(ways.values())), f"{home}/{EXAMPLE}")
        _copy_code(job, Path(home) / CODE)
        (Path(home) / FILE).write_text(text, encoding="utf-8")


def read_model(root: str) -> Saved:
    """Read the folder of a model back.

    Raises:
        DataError: If it holds no model, one of another format, or a damaged one.
    """
    path = Path(root) / FILE
    value = _description(path)
    ways = {name: _prepared(name, way, value["target"]) for name, way in value["ways"].items()}
    base = ways.pop(value["prepared"])
    known: Json = {"params": {}, "status": "finished", "best_epoch": 0, "epochs": 0, "val_score": None}
    members = tuple(Member(**{**known, **m, "root": f"{root}/{m['index']:05d}"}) for m in value["members"])
    for member in members:
        _refuse_damaged(member)
    return Saved(
        members=members,
        ensemble=Ensemble.from_json(value["ensemble"]),
        prepared=replace(base, variants=ways),
        task=Ref(value["task"]["name"], value["task"]["params"]),
        data=Data(**value["data"]),
        types=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["types"]))),
        modules=value["modules"],
        identity=value["checksum"],
    )


def refuse_other_code(saved: Saved) -> None:
    """Make sure that the user's own modules are those that the model was trained with.

    Raises:
        SpecError: If one cannot be found, or has another source.
    """
    for name, digest in saved.modules.items():
        try:
            same = source_digest(name) == digest
        except ModuleNotFoundError as error:
            raise SpecError(f"model: no module {name!r}. Put its folder on PYTHONPATH.") from error
        if not same:
            raise SpecError(
                f"model: module {name!r} is not the one this model was trained with. Put that one on PYTHONPATH first."
            )


def _description(path: Path) -> Json:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} is missing. Give the directory of a finished run, or a model folder.") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: it is not JSON ({error}).") from error
    number = value.get("format") if isinstance(value, dict) else None
    if number != FORMAT:
        raise DataError(f"{path}: format {number}. This fmray reads {FORMAT}; run the job again with --fresh.")
    if fingerprint({name: held for name, held in value.items() if name != "checksum"}) != value.get("checksum"):
        raise DataError(f"{path} is damaged: its checksum does not match. Copy the folder again.")
    return dict(value)


def _refuse_damaged(member: Member) -> None:
    read_tensors(f"{member.root}/{TENSORS}", member.tensor_hash, member.index)


def _way(prepared: Prepared) -> Json:
    return {
        "raw": prepared.raw.to_json(),
        "schema": prepared.schema.to_json(),
        "steps": list(prepared.steps),
        "with_nulls": None if prepared.with_nulls is None else list(prepared.with_nulls),
    }


def _prepared(name: str, way: Json, target: Json) -> Prepared:
    return Prepared(
        fingerprint=name, root="", schema=Schema.from_json(way["schema"]), target=Target.from_json(target),
        num_lanes=1, parts={}, steps=tuple(way["steps"]), rows={}, quarantine={}, test_identity="",
        raw=Schema.from_json(way["raw"]), with_nulls=_names_of(way.get("with_nulls")),
    )  # fmt: skip


def _names_of(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Read names back; a model of an earlier version has none."""
    return None if given is None else tuple(given)


def _example(dataset: Dataset, prepared: Prepared, ways: Sequence[Prepared]) -> pa.Table:
    """Give a few validation rows as read: the columns that some way of preparing them needs."""
    schemas = [own.raw for own in ways]
    names = list(dict.fromkeys(column.name for raw in schemas for column in raw.columns))
    definition = Definition.from_json(prepared.split)
    for item in work_items(dataset):
        table = read_item(dataset, item, list(definition.reads()))
        places = np.flatnonzero(assign(definition, table, dataset.data.null_values) == VAL)
        if not len(places):
            continue
        rows = read_item(dataset, item, names).take(pa.array(places))
        sound = np.all([faults(rows, raw, [])[0] == 0 for raw in schemas], axis=0)
        if sound.any():
            return rows.filter(pa.array(sound)).slice(0, EXAMPLE_ROWS).combine_chunks()
    return pa.schema([dataset.schema.field(name) for name in names]).empty_table()


def _copy_code(job: Job, folder: Path) -> None:
    """Copy the user's modules that lie beside the job file; installed packages must be installed where it is read."""
    beside = Path(job.folder).resolve()
    for top in {name.partition(".")[0] for name in job.modules()}:
        found = importlib.util.find_spec(top)
        origin = Path(found.origin).resolve() if found is not None and found.origin else None
        if origin is None or not origin.is_relative_to(beside):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if found is not None and found.submodule_search_locations:
            sources = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(origin.parent, folder / top, dirs_exist_ok=True, ignore=sources)
        else:
            shutil.copyfile(origin, folder / origin.name)
