"""Keep a model in a folder that stands alone: JSON and safetensors, and nothing that runs by being read.

    model.json               what speaks, how rows become its inputs, what the columns were; ends in its own checksum
    <member>/                model.safetensors of each member that speaks
    weights/<digest>/        pretrained weights that steps use, as they were found
    example.parquet          a few validation rows as read, inputs only
    code/                    the user's own modules that stood beside the job file

The folder may be moved or copied; whatever was changed in it since is found when it is read.
"""

import atexit
import base64
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.catalogue import MODELS
from fmray.data.arrow_frames import faults
from fmray.data.contents import without_extensions
from fmray.data.scan import Dataset, read_item, work_items
from fmray.data.split import VAL, Definition, assign
from fmray.data.weights import write_weights
from fmray.errors import DataError, SpecError
from fmray.records import TENSORS as NETWORK
from fmray.records import Ensemble, Json, Member, Prepared, Target
from fmray.registry import Trust, file_of_module
from fmray.schema import Schema
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Data
from fmray.store import Store, fingerprint, redact, with_imported
from fmray.store.copies import copy_file, folder_to_write
from fmray.store.places import files_of
from fmray.store.regular import open_regular, require_inside, require_regular
from fmray.store.sources import module_digest
from fmray.train.artefacts import CURE, file_of, read_bytes, read_tensors
from fmray.train.description import FORMAT, data_of, ensemble_of, read_description, types_of

FILE, EXAMPLE, CODE = "model.json", "example.parquet", "code"
EXAMPLE_ROWS = 16
DEPTHS = ("depth", "stages", "config.num_hidden_layers", "config.n_layers", "config.n_layer")
"""Parameters that say how many layers a model has."""
MOST_CODE_BYTES = 16 << 20


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
        code: Python file in `code/` -> SHA-256; None where an earlier fmray did not say.
        example: SHA-256 of `example.parquet`; None where an earlier fmray did not say.
        identity: Names the content of the folder.
    """

    members: tuple[Member, ...]
    ensemble: Ensemble
    prepared: Prepared
    task: Ref
    data: Data
    types: pa.Schema
    modules: Mapping[str, str]
    code: Mapping[str, str] | None
    example: str | None
    identity: str

    def ways(self) -> dict[str, Prepared]:
        """Give each way in which rows become inputs of some member, by fingerprint."""
        return {own.fingerprint: own for own in map(self.prepared.for_member, self.members)}


def write_model(
    root: str,
    chosen: Sequence[Member],
    ensemble: Ensemble,
    prepared: Prepared,
    task: Ref,
    dataset: Dataset,
    job: Job,
    store: Store,
) -> None:
    """Write the folder of a model: the members' tensors, and all that turns new rows into predictions.

    Args:
        root: Folder to write; what is there is written over.
        chosen: Members that the ensemble names, in its order.
        dataset, job: What was learned from, and how it was asked for.
        store: Holds the pretrained weights that steps use.
    """
    ways = {own.fingerprint: own for own in map(prepared.for_member, chosen)} | {prepared.fingerprint: prepared}
    names = ("index", "model", "seed", "tensor_hash", "prepared")
    members = [
        {name: getattr(member, name) for name in names}
        | ({} if member.artefact == NETWORK else {"artefact": member.artefact})
        for member in chosen
    ]
    types = without_extensions(field for field in dataset.schema if field.name not in dataset.data.ignore)
    asked = job.to_json()["data"]
    description: Json = {
        "format": FORMAT,
        "task": {"name": task.name, "params": dict(task.params)},
        "ensemble": ensemble.to_json(),
        "members": redact(members),
        "target": prepared.target.to_json(),
        "prepared": prepared.fingerprint,
        "ways": {name: _way(own) for name, own in ways.items()},
        "data": {**asked, "path": redact(asked["path"])},
        "types": base64.b64encode(types.serialize().to_pybytes()).decode(),
        "modules": {name: _digest_of(name) for name in job.modules()},
    }
    # Not redacted as a whole: a column may be called `token`, and its step must not forget what it learned.
    plain: Json = json.loads(json.dumps(description, allow_nan=False))
    with folder_to_write(root) as home:
        for member in chosen:
            for name in files_of(member.root).sizes(member.root):
                copy_file(f"{member.root}/{name}", f"{home}/{member.index:05d}/{name}")
        for own in ways.values():
            write_weights(own.steps, store, home)
        pq.write_table(_example(dataset, prepared, list(ways.values())), f"{home}/{EXAMPLE}")
        plain["example"] = hashlib.sha256(Path(home, EXAMPLE).read_bytes()).hexdigest()
        _copy_code(job, Path(home) / CODE)
        plain["code"] = {
            path.relative_to(Path(home) / CODE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(home, CODE).rglob("*.py"))
        }
        text = json.dumps({**plain, "checksum": fingerprint(plain)}, indent=1, allow_nan=False)
        (Path(home) / FILE).write_text(text, encoding="utf-8")


def read_model(root: str) -> Saved:
    """Read the folder of a model back.

    Raises:
        DataError: If it holds no model, one of another format, or a damaged one.
    """
    path = f"{root}/{FILE}"
    told, value = read_description(path)
    ways = {name: _prepared(name, way, value["target"]) for name, way in value["ways"].items()}
    base = ways.pop(value["prepared"])
    known: Json = {"params": {}, "status": "finished", "best_epoch": 0, "epochs": 0, "val_score": None}
    members = tuple(Member(**{**known, **m, "root": f"{root}/{m['index']:05d}"}) for m in value["members"])
    for member in members:
        _refuse_damaged(member, root)
    return Saved(
        members=members,
        ensemble=ensemble_of(value["ensemble"]),
        prepared=replace(base, variants=ways),
        task=Ref(value["task"]["name"], value["task"]["params"]),
        data=data_of(value["data"], path),
        types=types_of(value["types"], path),
        modules={name: value["modules"][name] for name in told.own_modules},
        code=value.get("code"),
        example=value.get("example"),
        identity=value["checksum"],
    )


def admit_code(saved: Saved, folder: str, trust: Trust) -> None:
    """Let the user's own modules that a model needs be imported, if they are trusted and those it was trained with.

    Nothing of `code/` is imported where it lies: what its digests prove is copied, and the copy is put on the path.

    Args:
        folder: Local folder of the model.
        trust: True takes modules from `code/` or wherever they are installed; names of modules take those as they lie
            here, beside the job that names them.

    Raises:
        SpecError: If one is not trusted, cannot be found, or has another source.
    """
    if not saved.modules:
        return
    if not (trust is True or (trust and saved.modules.keys() <= trust)):
        names = ", ".join(saved.modules)
        raise SpecError(
            f"this model needs code of its author: {names}. Nothing of it was run. Read its code/ folder, "
            "and give --trust-code (trust_code=True in Python, FMRAY_TRUST_CODE=1 where MLflow serves it) to run it.",
            folder,
        )
    homes = [_proven_code(saved, folder)] if trust is True and os.path.isdir(f"{folder}/{CODE}") else []
    for name, digest in saved.modules.items():
        is_loaded = name.partition(".")[0] in sys.modules  # then what is loaded is what would be used
        for places in [homes, []] if is_loaded else [homes]:
            try:
                file = file_of_module(name, places)
            except ModuleNotFoundError as error:
                raise SpecError(f"no module {name!r}. Put its folder on PYTHONPATH.", "model") from error
            if file is None or module_digest(name, file) != digest:
                text = f"module {name!r} is not the one this model was trained with"
                raise SpecError(f"{text}. Put that one on PYTHONPATH first.", "model")
    sys.path[:0] = [home for home in homes if home not in sys.path]
    importlib.invalidate_caches()


_proven: dict[str, str] = {}
"""Identity of a model -> folder with its code as it was proven in this process."""


def _proven_code(saved: Saved, folder: str) -> str:
    """Copy the code of a model that has the digests its description gives."""
    if saved.identity in _proven:
        return _proven[saved.identity]
    here = tempfile.mkdtemp(prefix="fmray-code-")
    atexit.register(shutil.rmtree, here, ignore_errors=True)
    for name, digest in (_old_code(saved, folder) if saved.code is None else saved.code).items():
        path = f"{folder}/{CODE}/{name}"
        try:
            require_inside(path, folder)
            with open_regular(path, MOST_CODE_BYTES) as file:
                source = file.read()
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}. Copy the model folder again.", path) from error
        if digest is not None and hashlib.sha256(source).hexdigest() != digest:
            module = name.partition("/")[0].removesuffix(".py")
            raise SpecError(
                f"module '{module}' is not the one this model was trained with. Copy the model folder again.", path
            )
        Path(here, name).parent.mkdir(parents=True, exist_ok=True)
        Path(here, name).write_bytes(source)
    _proven[saved.identity] = here
    return here


def _old_code(saved: Saved, folder: str) -> dict[str, None]:
    """List the sources of a model's own modules; those of earlier versions have digests of whole modules only."""
    tops = {name.partition(".")[0] for name in saved.modules}
    paths = (path.relative_to(f"{folder}/{CODE}") for path in sorted(Path(folder, CODE).rglob("*.py")))
    return {path.as_posix(): None for path in paths if path.parts[0].removesuffix(".py") in tops}


def _refuse_damaged(member: Member, root: str) -> None:
    path = f"{member.root}/{file_of(member)}"
    if not os.path.lexists(path):
        raise DataError(f"{path} is missing, and {root}/{FILE} names it as member {member.index}. {CURE}")
    require_inside(path, root)
    require_regular(path)
    if member.artefact != NETWORK:
        read_bytes(member)  # what it holds is checked before it is built
        return
    tensors = read_tensors(path, member.tensor_hash, member.index)
    _refuse_huge(member, sum(tensor.numel() for tensor in tensors.values()), path)


def _refuse_huge(member: Member, num_elements: int, path: str) -> None:
    """Refuse parameters of a model of fmray that its tensors cannot be of: building it might take for ever."""
    if not MODELS.is_catalogued(member.model["name"]):
        return
    layers = 1.0
    params = dict(member.model["params"])
    if isinstance(config := params.pop("config", None), Mapping):
        params |= {f"config.{name}": given for name, given in config.items()}
    for name, given in params.items():
        values = given if isinstance(given, list) else [given]
        numbers = [value for value in values if isinstance(value, int | float)]
        layers *= max([1, *numbers]) if name in DEPTHS else 1
        if len(values) > num_elements or any(not abs(value) <= num_elements + 1 for value in numbers):
            raise DataError(f"{path} has {num_elements:,} numbers, too few for {name} {given!r:.60} in {FILE}.")
    if layers > num_elements:
        raise DataError(f"{path} has {num_elements:,} numbers, too few for {layers:,.0f} layers in {FILE}.")


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


def _digest_of(module: str) -> str:
    """Digest a module of the user as it lies now, which an earlier job of this process may have had another of."""
    file = file_of_module(module)
    if file is None:
        raise SpecError(f"module {module!r} has no source. Put it beside the job file, or install it.", "model")
    return module_digest(module, file)


def _copy_code(job: Job, folder: Path) -> None:
    """Copy the user's modules that lie beside the job file, with those there that they import.

    Installed packages must be installed where the model is read.
    """
    beside = Path(job.folder).resolve()
    for top in sorted({name.partition(".")[0] for name in [*job.modules(), *with_imported(job.modules())]}):
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
