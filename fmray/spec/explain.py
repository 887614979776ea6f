"""Say what is wrong with a job in words: where, what was given, what is accepted."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fmray.errors import SpecError
from fmray.registry import nearest
from fmray.spec import sections
from fmray.spec.job import Job
from fmray.spec.ref import is_range

Keys = tuple[str | int, ...]

LATER = {
    "search": "search is not in this version; every value stands alone",
    "promote": "promotion is not in this version",
    "track": "tracking is not in this version; the run directory holds everything",
    "schedule": "scheduling is not in this version; use cron",
}
SECTIONS: dict[Keys, type] = {
    (): Job,
    ("data",): sections.Data,
    ("split",): sections.Split,
    ("train",): sections.Train,
    ("train", "early_stop"): sections.EarlyStop,
    ("train", "seeds"): sections.Seeds,
    ("train", "order"): sections.Order,
    ("evaluate",): sections.Evaluate,
    ("rigour",): sections.Rigour,
    ("run",): sections.RunOptions,
}


@dataclass(frozen=True)
class Origin:
    """Know where each key of a job was written.

    Args:
        file: The job file; empty for a job from Python.
        lines: Path of keys -> (file, line).
    """

    file: str
    lines: Mapping[Keys, tuple[str, int]] = field(default_factory=dict)

    def where(self, keys: Keys) -> str:
        """Give `file:line key` of a key, or of the nearest one around it."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.lines:
                file, line = self.lines[keys[:length]]
                return f"{file}:{line} {dotted(keys)}" if line else f"{file} {dotted(keys)}"
        return f"{self.file} {dotted(keys)}".strip()


def dotted(keys: Keys) -> str:
    """Spell a path of keys as a user would."""
    return ".".join(str(key) for key in keys)


def explain(error: ValidationError, value: Mapping[str, Any], origin: Origin) -> SpecError:
    """Turn what pydantic found into one error; of several findings the first, and how many more."""
    findings = error.errors()
    first = findings[0]
    keys = _keys(first, value)
    more = len({_keys(finding, value) for finding in findings}) - 1
    message = _message(first, keys)
    if more:
        message += f" ({more} more {'key needs' if more == 1 else 'keys need'} a look.)"
    return SpecError(message, origin.where(keys))


def _keys(finding: Any, value: Mapping[str, Any]) -> Keys:
    """Drop what pydantic adds to a path: names of union branches that are no keys."""
    keys: list[str | int] = []
    place: Any = value
    for part in finding["loc"]:
        if (isinstance(place, Mapping) and part in place) or (
            isinstance(place, list) and isinstance(part, int) and part < len(place)
        ):
            place = place[part]
        elif finding["type"] not in ("missing", "missing_argument", "unexpected_keyword_argument", "extra_forbidden"):
            continue
        keys.append(part)
    return tuple(keys)


def _message(finding: Any, keys: Keys) -> str:
    kind, given = finding["type"], finding.get("input")
    match kind:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return _unknown(keys)
        case "missing" | "missing_argument":
            return "is missing. Only data.path and data.target must be given."
        case "literal_error":
            return f"{given!r}. Accepted: {finding['ctx']['expected'].replace(' or ', ', ')}."
        case "value_error":
            return f"{finding['ctx']['error']}."
    if isinstance(given, Mapping) and is_range(given):
        return f"{dict(given)} is a range, and {LATER['search']}. Give one value."
    said = finding["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{given!r}. Accepted: {said}."


def _unknown(keys: Keys) -> str:
    section = SECTIONS.get(keys[:-1])
    if section is None:
        return f"unknown key '{keys[-1]}'."
    name = str(keys[-1])
    if keys[:-1] == () and name in LATER:
        return f"{LATER[name]}. Leave the key out."
    known = [f.name for f in dataclasses.fields(section) if f.name != "folder"]
    return f"unknown key '{name}'. {nearest(name, known)}"
