"""Write the reference of job files: every key, every name of the catalogue and every parameter.

`python -m fmray.spec.reference` prints the page `docs/reference.md`; a test compares them.
"""

import json
from collections.abc import Iterator
from typing import Any

from fmray import catalogue
from fmray.registry import Registry
from fmray.spec.components.base import Params
from fmray.spec.explain import SECTIONS, dotted
from fmray.spec.schema import job_schema

HEAD = """# Reference

Every key of a job file, and every name and parameter that can stand in it. `fmray schema` gives the same as a JSON
schema, with which editors complete and check job files. This page is generated: `python -m fmray.spec.reference`.

A *search range* such as `{log_uniform: [1e-4, 1e-2]}` may stand in place of a value in `steps`, `task`, `model` and
`train`. Parameters marked *in a pack* may differ between members that train side by side; any other parameter that
is searched makes a structure of its own.
"""
TABLES: dict[str, tuple[str, Registry]] = {
    "Steps that prepare rows": ("steps", catalogue.STEPS),
    "Steps that change rows while training": ("steps", catalogue.LIVE),
    "Tasks": ("task", catalogue.TASKS),
    "Models": ("model", catalogue.MODELS),
    "Models that learn from whole blocks of rows": ("model", catalogue.ESTIMATORS),
    "Optimizers": ("train.optimizer", catalogue.OPTIMIZERS),
    "Learning rate schedules": ("train.schedule", catalogue.SCHEDULES),
    "Ensembles": ("ensemble", catalogue.ENSEMBLES),
}

WORDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a map",
    "string": "text",
}
"""Types of a JSON schema, in words."""


def reference() -> str:
    """Give the page, as Markdown."""
    return "\n".join([HEAD, "## Keys", "", *_keys(), *_names()])


def _keys() -> Iterator[str]:
    schema = job_schema()
    for keys, section in SECTIONS.items():
        part = schema["$defs"][section.__name__] if keys else schema
        if keys:
            yield from (f"### `{dotted(keys)}`", "", part["description"], "")
        yield from ("| key | accepted | default | meaning |", "|---|---|---|---|")
        for name, described in part["properties"].items():
            cells = (f"`{name}`", _accepted(described), _default(described), described["description"])
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        yield ""


def _accepted(part: dict[str, Any]) -> str:
    """Put a JSON schema in words."""
    if "$ref" in part:
        return "a map of keys, see below"
    if "anyOf" in part:
        options = [_accepted(option) for option in part["anyOf"] if not _is_range(option)]
        return " or ".join(dict.fromkeys(option for option in options if option))
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if "patternProperties" in part:
        return "`{NAME: {PARAMETER: VALUE}}`"
    if ":" in part.get("pattern", ""):
        return "`package.module:Name`"
    return WORDS.get(part.get("type", ""), "") + _bounds(part)


def _is_range(option: dict[str, Any]) -> bool:
    return "log_uniform" in option.get("properties", {})


def _bounds(part: dict[str, Any]) -> str:
    low = f"[{part['minimum']:g}" if "minimum" in part else "(-inf"
    low = f"({part['exclusiveMinimum']:g}" if "exclusiveMinimum" in part else low
    high = f"{part['maximum']:g}]" if "maximum" in part else "inf)"
    high = f"{part['exclusiveMaximum']:g})" if "exclusiveMaximum" in part else high
    return "" if (low, high) == ("(-inf", "inf)") else f" in {low}, {high}"


def _default(part: dict[str, Any]) -> str:
    """Give the default; that of a section lies in its own keys."""
    is_section = isinstance(part.get("default"), dict) and part["default"]
    return f"`{json.dumps(part['default'])}`" if "default" in part and not is_section else ""


def _names() -> Iterator[str]:
    for title, (place, table) in TABLES.items():
        yield from (f"## {title}", "", f"Stand in `{place}`.", "")
        for name in table:
            declared: type[Params] = table.params(name)
            yield from (f"### `{name}`", "", declared.__doc__ or "", "")
            if declared.model_fields:
                yield from _parameters(declared)


def _parameters(declared: type[Params]) -> Iterator[str]:
    yield from ("| parameter | accepted | default | meaning |", "|---|---|---|---|")
    for name, info in declared.model_fields.items():
        default = "must be given" if info.is_required() else f"`{json.dumps(info.default)}`"
        packed = " *In a pack.*" if name in declared.packable else ""
        yield f"| `{name}` | {declared.accepted(name)} | {default} | {info.description}{packed} |"
    yield ""


if __name__ == "__main__":
    print(reference(), end="")
