"""Read `model.json`, which a stranger may have written: every value is checked before anything is built from it.

A name in it leads to code only if the catalogue has it, or if its module is listed in `modules`; which of those may run
is decided by whoever opens the model.
"""

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fmray.catalogue import ESTIMATORS, MODELS, STEPS, TARGETS, TASKS
from fmray.data.contents import with_extensions
from fmray.errors import DataError, SpecError
from fmray.records import Ensemble, Json, Target
from fmray.registry import Registry
from fmray.schema import DENSE, Kind
from fmray.spec.sections import Data
from fmray.store import fingerprint
from fmray.store.plain import MOST_DEPTH
from fmray.store.regular import MOST_JSON_BYTES, open_regular, require_inside
from fmray.targets.codec import codec_of

FORMAT = 1
"""Number of the layout of a model folder; another one is refused."""
MOST_INDEX = 99_999
"""Largest number of a member: its folder has five digits."""
MODULE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
DIGEST = r"^[0-9a-f]{16,128}$"

Whole = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=DIGEST)]
Texts = list[str]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class _Named(_Strict):
    name: str
    params: dict[str, Any]


class _Step(_Named):
    state: dict[str, Any]


class _Column(_Strict):
    name: str
    kind: Kind
    width: Annotated[int, Field(ge=1, le=2**31)]
    classes: Texts
    block: str = DENSE


class _Way(_Strict):
    raw: list[_Column]
    schema_: list[_Column] = Field(alias="schema")
    steps: list[_Step]
    with_nulls: Texts | None = None


def _known_kind(kind: str) -> str:
    if kind not in TARGETS:
        raise ValueError(f"give one of {', '.join(TARGETS)}")
    return kind


class _Target(_Strict):
    columns: Annotated[Texts, Field(min_length=1)]
    kind: Annotated[str, AfterValidator(_known_kind)]
    classes: Texts
    positive: Annotated[int, Field(ge=-1)]
    mean: list[Number]
    scale: list[Number]
    counts: list[Whole]
    sampled: list[Whole]
    rows: Whole = 0


class _Member(_Strict):
    index: Annotated[int, Field(ge=0, le=MOST_INDEX)]
    model: _Named
    seed: int
    tensor_hash: Digest
    prepared: str
    artefact: Literal["tensors", "lightgbm"] = "tensors"


class _Ensemble(_Strict):
    name: str
    members: Annotated[list[Annotated[int, Field(ge=0, le=MOST_INDEX)]], Field(min_length=1)]
    weights: list[Number]
    val_score: float | str | None
    reason: str
    combine: Literal["mean", "vote", "soup", "logistic"]
    params: dict[str, Any]
    gain: dict[str, Any] | None
    cost: dict[str, Any]


def _code_path(path: object) -> object:
    parts = path.split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts) or not parts[-1].endswith(".py"):
        raise ValueError("give the path of a Python file inside code/")
    return path


class Description(_Strict):
    """Hold what a `model.json` says, of the right types; what it says may still not fit together."""

    format: Literal[1]
    task: _Named
    ensemble: _Ensemble
    members: Annotated[list[_Member], Field(min_length=1)]
    target: _Target
    prepared: str
    ways: dict[str, _Way]
    data: dict[str, Any]
    types: str
    modules: dict[Annotated[str, Field(pattern=MODULE)], Digest]
    code: dict[Annotated[str, BeforeValidator(_code_path)], Digest] | None = None
    example: Digest | None = None
    checksum: Digest

    def names(self) -> Iterator[tuple[Registry, str, str]]:
        """Give every name that leads to code: the table it belongs to, the name, and where it stands."""
        yield TASKS, self.task.name, "task"
        for place, member in enumerate(self.members):
            yield table_of(member.model.name), member.model.name, f"members.{place}.model"
        for key, way in self.ways.items():
            for place, step in enumerate(way.steps):
                yield STEPS, step.name, f"ways.{key}.steps.{place}"

    @cached_property
    def own_modules(self) -> tuple[str, ...]:
        """The modules that predicting needs beyond fmray, each listed in `modules`.

        Raises:
            SpecError: If a name can be no code of its kind.
            DataError: If a module is not listed.
        """
        found: dict[str, None] = {}
        for registry, name, where in self.names():
            registry.path(name)
            if registry.is_catalogued(name):
                continue
            module = name.partition(":")[0]
            if module not in self.modules:
                raise DataError(f"{where}: module '{module}' is not one of the model's own. It lists: {_listed(self)}.")
            found[module] = None
        return tuple(sorted(found))


def table_of(model: str) -> Registry:
    """Give the table that the name of a model belongs to."""
    return ESTIMATORS if model in ESTIMATORS else MODELS


def _listed(description: Description) -> str:
    return ", ".join(sorted(description.modules)) or "none"


def read_description(path: str) -> tuple[Description, Json]:
    """Read a `model.json`: checked, and as plain values.

    Raises:
        DataError: If it is none, of another format, damaged, or does not fit together, naming the key.
    """
    value = _plain(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT or value["format"] is True:
        number = value.get("format") if isinstance(value, dict) else None
        raise DataError(f"{path}: format {number!r:.40}. This fmray reads {FORMAT}; run the job again with --fresh.")
    try:
        checked = Description.model_validate(value)
        if fingerprint({name: held for name, held in value.items() if name != "checksum"}) != checked.checksum:
            raise DataError(f"{path} is damaged: its checksum does not match. Copy the folder again.")
        _ = checked.own_modules
        _refuse_misfits(checked)
    except ValidationError as error:
        raise DataError(_spelled(path, error)) from error
    except SpecError as error:
        raise DataError(f"{path}: {error}") from error
    except DataError as error:
        raise error if error.message.startswith(path) else DataError(f"{path}: {error.message}") from error
    return checked, value


def types_of(text: str, path: str) -> pa.Schema:
    """Read the columns of training rows as Arrow serialised them.

    Raises:
        DataError: If they are none, or name extension types, whose libraries might unpickle what stands there.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{path}: types is no base64 ({error}). Copy the folder again.") from error
    if b"ARROW:extension" in data:
        raise DataError(f"{path}: types holds an extension type. Accepted: types of Arrow itself.")
    try:
        found = with_extensions(pa.ipc.read_schema(pa.py_buffer(data)).remove_metadata())
        names = found.names
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: types is no schema of Arrow ({error}). Copy the folder again.") from error
    if len(set(names)) != len(names):
        raise DataError(f"{path}: types names a column twice. Copy the folder again.")
    return found


def data_of(value: Mapping[str, Any], path: str) -> Data:
    """Read what the job said of its data.

    Raises:
        DataError: If it is not what a job may say.
    """
    try:
        return Data(**value)
    except (ValidationError, TypeError) as error:
        text = _spelled(path, error) if isinstance(error, ValidationError) else f"{path}: data: {error}."
        raise DataError(text) from error


def _plain(path: str) -> Any:
    try:
        require_inside(path, os.path.dirname(path))
        with open_regular(path, MOST_JSON_BYTES) as file:
            value = json.loads(file.read(), object_pairs_hook=_once, parse_constant=_refuse_constant)
        _refuse_depth(value)
        return value
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Give the directory of a finished run, or a model folder.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Give a model folder.") from error
    except (ValueError, RecursionError) as error:
        reason = "nested without end" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path} is damaged: it is not JSON ({reason:.200}).") from error


def _once(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands in it twice")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        held = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [inner for values in held for inner in values if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {MOST_DEPTH} deep")


def _spelled(path: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    keys = ".".join(str(key) for key in first["loc"])
    return f"{path}: {keys[:200]}: {first['msg'][:200]}. Copy the model folder again."


def _refuse_misfits(told: Description) -> None:
    """Refuse a description whose parts contradict each other.

    Raises:
        DataError: Naming the parts.
    """
    named = [member.index for member in told.members]
    ensemble = told.ensemble
    target = told.target
    codec = codec_of(Target.from_json(target.model_dump()))
    ways = {told.prepared, *(member.prepared for member in told.members if member.prepared)}
    schemas = [columns for way in told.ways.values() for columns in (way.raw, way.schema_)]
    twice = [one for columns in schemas for one in [[c.name for c in columns]] if len(set(one)) != len(one)]
    facts = {
        "members name an index twice": len(set(named)) == len(named),
        "ensemble.members are not the members": list(ensemble.members) == named,
        "ensemble.weights has not one number per member": len(ensemble.weights) == len(named),
        "ways lacks a way that a member's rows were prepared in": ways <= told.ways.keys(),
        "a schema names a column twice": not twice,
        "a schema holds no column": all(schemas),
        **codec.misfits(),
        "ensemble.params do not fit its target": codec.fits(ensemble.params),
        "a member's artefact is not that of its model": all(
            (one.model.name in ESTIMATORS) == (one.artefact != "tensors") for one in told.members
        ),
        "ensemble.params do not fit its members": _fits_members(told),
    }
    if wrong := next((words for words, holds in facts.items() if not holds), ""):
        raise DataError(f"{wrong}. Copy the model folder again.")


def _fits_members(told: Description) -> bool:
    """Tell whether what a logistic regression over members needs has the shapes it must have."""
    if told.ensemble.combine != "logistic":
        return True
    params = told.ensemble.params
    num_members = len(told.members)
    num_classes = len(told.target.classes)
    groups = params.get("groups", list(range(num_members)))
    if not isinstance(groups, list) or len(groups) != num_members or not all(type(one) is int for one in groups):
        return False
    if sorted(set(groups)) != list(range(max(groups) + 1)):
        return False
    try:
        coefficients = np.asarray(params["coefficients"], np.float64)
        intercepts = np.asarray(params["intercepts"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    shapes = ((max(groups) + 1) * num_classes, num_classes), (num_classes,)
    is_finite = bool(np.isfinite(coefficients).all() and np.isfinite(intercepts).all())
    return (coefficients.shape, intercepts.shape) == shapes and is_finite


def ensemble_of(value: Json) -> Ensemble:
    """Give the ensemble of a description, whose gain may be anything.

    Raises:
        DataError: If its gain is no interval.
    """
    try:
        return Ensemble.from_json(value)
    except (KeyError, TypeError) as error:
        raise DataError(f"ensemble does not fit: {error}. Copy the model folder again.") from error
