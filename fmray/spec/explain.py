"""Say what is wrong with a job in words: where, what was given, what is accepted."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from fmray.registry import nearest
from fmray.spec import schedule, sections
from fmray.spec.job import Job
from fmray.spec.promotion import Promote
from fmray.spec.ranges import Keys

UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
ACCEPTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', the first a letter or digit",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
    "mapping_type": "a map of keys",
    "dict_type": "a map of keys",
    "dataclass_type": "a map of keys",
}
SHORT = (("train", "seeds"), ("train", "folds"))
SECTIONS: dict[Keys, type] = {
    (): Job,
    ("data",): sections.Data,
    ("data", "sample"): sections.Sample,
    ("split",): sections.Split,
    ("train",): sections.Train,
    ("train", "early_stop"): sections.EarlyStop,
    ("train", "seeds"): sections.Seeds,
    ("train", "folds"): sections.Folds,
    ("train", "warm_start"): sections.WarmStart,
    ("train", "groups"): sections.ParameterGroup,
    ("train", "phases"): sections.Phase,
    ("train", "start"): sections.StartFrom,
    ("train", "order"): sections.Order,
    ("search",): sections.Search,
    ("evaluate",): sections.Evaluate,
    ("rigour",): sections.Rigour,
    ("promote",): Promote,
    ("track",): sections.Track,
    ("run",): sections.RunOptions,
    ("schedule",): schedule.Schedule,
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

    def place(self, keys: Keys) -> int:
        """Give the place of a key in the file among all keys, or of the nearest one around it."""
        order = self._order
        return next((order[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in order), -1)

    @cached_property
    def _order(self) -> dict[Keys, int]:
        return {keys: place for place, keys in enumerate(self.lines)}


def dotted(keys: Keys) -> str:
    """Spell a path of keys as a user would."""
    return ".".join(str(key) for key in keys)


def explain(error: ValidationError, value: Mapping[str, Any]) -> dict[Keys, str]:
    """Put what pydantic found in words, by the keys where it stands; empty where another finding has said it."""
    by_keys: dict[Keys, list[Any]] = {}
    for finding in error.errors():
        by_keys.setdefault(_keys(finding, value), []).append(finding)
    unknown = {keys[:-1] for keys, findings in by_keys.items() if findings[0]["type"] in UNKNOWN}
    said: dict[Keys, str] = {}
    for keys, findings in by_keys.items():
        # a key that is misspelt and therefore missing is first of all misspelt
        is_consequence = findings[0]["type"].startswith("missing") and keys[:-1] in unknown
        said[keys] = "" if is_consequence else _message(findings, keys)
    return said


def _keys(finding: Any, value: Mapping[str, Any]) -> Keys:
    """Drop what pydantic adds to a path: names of union branches that are no keys."""
    keys: list[str | int] = []
    place: Any = value
    for part in finding["loc"]:
        if (isinstance(place, Mapping) and part in place) or (
            isinstance(place, list) and isinstance(part, int) and part < len(place)
        ):
            place = place[part]
        elif finding["type"] not in ("missing", "missing_argument", *UNKNOWN):
            continue
        keys.append(part)
    return tuple(keys)


def _message(findings: Sequence[Any], keys: Keys) -> str:
    """Put findings about one key in a sentence; each branch of a union brings one."""
    first = findings[0]
    kind = first["type"]
    given = first.get("input")
    match kind:
        case _ if kind in UNKNOWN:
            return _unknown(keys)
        case "missing" | "missing_argument":
            if keys == ("schedule", "cron"):
                return f"is missing. Give {schedule.FIELDS}."
            if keys[:2] == ("train", "groups"):
                return "is missing. Give a pattern of parameter names, e.g. encoder.*."
            return "is missing. Only data.path and data.target must be given."
        case "value_error":
            return f"{first['ctx']['error']}."
        case "invalid_key":
            return f"{keys[-1] if keys else given!r} is no text. Put the key in quotes."
    spelled = json.dumps(given) if given is None or isinstance(given, bool) else repr(given)
    accepted = dict.fromkeys(map(_accepted, findings))
    if keys in SHORT and kind == "dataclass_type":  # a number there is short for {n: number}
        accepted = {"a whole number": None, **accepted}
    return f"{spelled}. Accepted: {' or '.join(accepted)}."


def _accepted(finding: Any) -> str:
    kind = finding["type"]
    if kind == "literal_error":
        return str(finding["ctx"]["expected"]).replace(" or ", ", ")
    said = str(finding["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    if kind.startswith(("greater_than", "less_than")):
        return f"a number {said}"
    return ACCEPTED.get(kind, said[:1].lower() + said[1:])


def _unknown(keys: Keys) -> str:
    around = tuple(key for key in keys[:-1] if isinstance(key, str))  # without places in lists
    section = SECTIONS.get(around[:2] if around[:2] == ("train", "phases") else around)  # without the phase's name
    if section is None:
        return f"unknown key '{keys[-1]}'."
    name = str(keys[-1])
    known = [f.name for f in dataclasses.fields(section) if f.name not in ("folder", "ranges")]
    return f"unknown key '{name}'. {nearest(name, known)}"
