"""Describe job files as a JSON schema, so that editors complete and check them."""

import inspect
import re
from typing import Any

from fmray import catalogue
from fmray.registry import Registry
from fmray.spec.components.base import Params
from fmray.spec.explain import SECTIONS
from fmray.spec.job import ADAPTER
from fmray.spec.ranges import NOT_SEARCHED
from fmray.spec.ref import DISTRIBUTIONS

RANGE = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "properties": {name: {"type": "array", "minItems": 2} for name in DISTRIBUTIONS},
    "additionalProperties": False,
}
"""A search range, which stands where the value would stand."""
SEARCHED = (catalogue.STEPS, catalogue.TASKS, catalogue.MODELS, catalogue.OPTIMIZERS, catalogue.SCHEDULES)
"""Tables of names whose parameters may be ranges."""
ARGUMENT = re.compile(r" {4}(\w+(?:, \w+)*): (.+)")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """Give the JSON schema of a job file, names of the catalogue included."""
    schema = ADAPTER.json_schema(mode="validation")
    parts = schema["properties"]
    del parts["folder"], parts["ranges"]
    schema["required"] = ["data"]  # the name is the file's
    parts["extends"] = {"type": "string", "description": "Another job file, whose keys this one changes."}
    parts["model"] = _reference(catalogue.MODELS, *catalogue.ESTIMATORS)
    parts["task"] = _reference(catalogue.TASKS, "auto")
    parts["ensemble"] = _reference(catalogue.ENSEMBLES)
    parts["steps"] = {"type": "array", "items": _reference(catalogue.STEPS, *catalogue.LIVE)}
    train = schema["$defs"]["Train"]["properties"]
    train["optimizer"] = _reference(catalogue.OPTIMIZERS)
    train["schedule"] = _reference(catalogue.SCHEDULES)
    train["seeds"] = {"anyOf": [{"type": "integer", "minimum": 1}, {"$ref": "#/$defs/Seeds"}]}
    folds = [{"type": "integer", "minimum": 2}, {"$ref": "#/$defs/Folds"}, {"type": "null"}]
    train["folds"] = {"anyOf": folds, "default": None}
    own = schema["$defs"]["Phase"]["properties"]
    own["optimizer"] = {"anyOf": [_reference(catalogue.OPTIMIZERS), {"type": "null"}], "default": None}
    own["schedule"] = {"anyOf": [_reference(catalogue.SCHEDULES), {"type": "null"}], "default": None}
    barred = {keys[1] for keys in NOT_SEARCHED}
    for name in train.keys() - barred:
        train[name] = {"anyOf": [train[name], RANGE]}
    for name in ("model", "task"):
        parts[name]["anyOf"].append(RANGE)
    for name in ("target", "key"):
        column = schema["$defs"]["Data"]["properties"][name]
        schema["$defs"]["Data"]["properties"][name] = {"anyOf": [{"type": "string"}, column]}
    group = schema["$defs"]["ParameterGroup"]["properties"]
    group["match"] = {"anyOf": [{"type": "string"}, group["match"]]}
    metrics = {"anyOf": [{"enum": sorted(catalogue.METRICS)}, {"type": "string", "pattern": r"^f1\[.+\]$"}]}
    schema["$defs"]["Evaluate"]["properties"]["primary"] = {"anyOf": [*metrics["anyOf"], {"type": "null"}]}
    for keys, section in SECTIONS.items():
        described = parts if not keys else schema["$defs"][section.__name__]["properties"]
        if keys:
            schema["$defs"][section.__name__]["description"] = summary_of(section)
        for name, text in arguments_of(section).items():
            if name in described:
                described[name]["description"] = text
    return {**schema, "$schema": DIALECT, "title": "fmray job"}


def summary_of(section: type) -> str:
    """Read what the docstring of a class says before its arguments."""
    return (inspect.getdoc(section) or "").partition("Args:\n")[0].strip()


def arguments_of(section: type) -> dict[str, str]:
    """Read what the docstring of a class says of each argument: `Args:`, then `name, other: text` with its lines."""
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, block = (inspect.getdoc(section) or "").partition("Args:\n")
    for line in block.splitlines():
        if not line.startswith("    "):
            break
        if matched := ARGUMENT.match(line):
            names = matched[1].split(", ")
            found |= dict.fromkeys(names, matched[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _reference(registry: Registry, *more: str) -> dict[str, Any]:
    """Describe `name`, `{name: {parameters}}` and the same of the user's own code."""
    own = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"}
    names = sorted([*registry, *more])
    described = {name: _parameters(registry.params(name), is_searched=registry in SEARCHED) for name in names}
    return {
        "anyOf": [
            {"enum": [name for name in names if not described[name].get("required")]},
            own,
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {name: {"anyOf": [described[name], {"type": "null"}]} for name in names},
                "patternProperties": {own["pattern"]: {"type": ["object", "null"]}},
                "additionalProperties": False,
            },
        ]
    }


def _parameters(declared: type[Params], *, is_searched: bool) -> dict[str, Any]:
    """Describe the parameters of one name, each with its type, bounds, default and meaning."""
    schema = declared.model_json_schema()
    for name, parameter in schema.get("properties", {}).items():
        parameter.pop("title", None)
        if is_searched:
            about = {key: parameter.pop(key) for key in ("description", "default") if key in parameter}
            schema["properties"][name] = {"anyOf": [parameter, RANGE], **about}
    schema.pop("title", None)
    return schema
