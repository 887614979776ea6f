"""Read a job file: YAML 1.2, one file or several that extend each other, every mistake at its line.

Nothing is guessed: a number that only YAML 1.1 or Python would read is refused, a key given twice is an error.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from fmray.errors import SpecError
from fmray.spec.check import check
from fmray.spec.explain import Keys, Origin, dotted, explain
from fmray.spec.job import Job

ODD_NUMBER = re.compile(r"[-+]?(0[0-9]+(\.[0-9]*)?|[0-9]+(_[0-9]+)+(\.[0-9_]*)?)")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\$")


@dataclass
class Source:
    """Hold plain values and where each was written.

    Args:
        value: As read.
        lines: Path -> (file, line).
    """

    value: Any
    lines: dict[Keys, tuple[str, int]] = field(default_factory=dict)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job from a file.

    Args:
        overrides: `dotted.key=value`, the value as YAML, e.g. `train.epochs=3`.

    Raises:
        SpecError: If the file cannot be read or asks for something that does not exist; it names file, line and key.
    """
    file = Path(path)
    source = _read(file, ())
    for override in overrides:
        _override(source, override)
    folder = str(file.resolve().parent)
    return _job(source, {"name": file.stem}, folder, str(file))


def job_from(value: Mapping[str, Any], folder: str | Path = ".") -> Job:
    """Build a job from plain values, as a job file would spell them.

    Args:
        folder: Where relative paths and the user's own modules are looked up.

    Raises:
        SpecError: If it asks for something that does not exist.
    """
    return _job(Source(dict(value)), {"name": "job"}, str(Path(folder).resolve()), "")


def _job(source: Source, defaults: Mapping[str, Any], folder: str, file: str) -> Job:
    if not isinstance(source.value, Mapping):
        raise SpecError(f"a job is a map of keys, given {source.value!r}. See jobs/quickstart.yaml.", file)
    value = {**defaults, **source.value}
    origin = Origin(file, source.lines)
    _interpolate(value, origin)
    try:
        job = Job.from_json({**value, "folder": folder})
    except ValidationError as error:
        raise explain(error, value, origin) from error
    check(job, value, origin)
    return job


def _read(file: Path, seen: tuple[Path, ...]) -> Source:
    if file.resolve() in seen:
        raise SpecError(f"'{file}' extends itself. Break the circle.", str(seen[0]))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"cannot be read: {reason}. Give the path of a job file.", str(file)) from error
    source = _parse(text, str(file))
    if not isinstance(source.value, dict) or "extends" not in source.value:
        return source
    base_name = source.value.pop("extends")
    if not isinstance(base_name, str):
        raise SpecError(f"extends: {base_name!r}. Give the path of one job file.", str(file))
    base = _read(file.parent / base_name, (*seen, file.resolve()))
    return Source(_merged(base.value, source.value), {**base.lines, **source.lines})


def _merged(base: Any, over: Any) -> Any:
    """Merge maps key by key; anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}
    return over


def _parse(text: str, file: str) -> Source:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    try:
        raw = yaml.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise SpecError(f"{str(error.problem).rstrip('.')}. Keep one.", f"{file}:{line}") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise SpecError(
            f"not YAML: {error.problem or error.context}. Mend this line or the one before.", f"{file}:{line}"
        ) from error
    source = Source(None)
    source.value = _plain(raw, (), source.lines, file, text.splitlines())
    return source


def _plain(raw: Any, path: Keys, lines: dict[Keys, tuple[str, int]], file: str, text: Sequence[str]) -> Any:
    if isinstance(raw, CommentedMap):
        plain = {}
        for key, inner in raw.items():
            line = raw.lc.key(key)[0] + 1
            lines[(*path, key)] = (file, line)
            plain[key] = _plain(inner, (*path, key), lines, file, text)
            _refuse_odd(raw.lc.value(key), inner, (*path, key), file, text)
        return plain
    if isinstance(raw, CommentedSeq):
        items = []
        for place, inner in enumerate(raw):
            lines[(*path, place)] = (file, raw.lc.item(place)[0] + 1)
            items.append(_plain(inner, (*path, place), lines, file, text))
            _refuse_odd(raw.lc.item(place), inner, (*path, place), file, text)
        return items
    return raw if raw is None or isinstance(raw, bool) else _bare(raw)


def _bare(raw: Any) -> Any:
    """Take ruamel's own kinds of scalars back to Python's."""
    for kind in (int, float, str):
        if isinstance(raw, kind):
            return kind(raw)
    return str(raw)  # dates and the like are text until a key says otherwise


def _refuse_odd(at: tuple[int, int], inner: Any, path: Keys, file: str, text: Sequence[str]) -> None:
    if isinstance(inner, Mapping | list) or not at[0] < len(text):
        return
    matched = re.match(r"[^\s,\]\}#]+", text[at[0]][at[1] :])
    if matched and ODD_NUMBER.fullmatch(matched.group()):
        spelled = matched.group()
        plain = spelled.replace("_", "").lstrip("0") or "0"
        raise SpecError(
            f"{spelled} is no YAML 1.2 number. Write {plain}, or '{spelled}' in quotes for text.",
            f"{file}:{at[0] + 1} {dotted(path)}",
        )


def _override(source: Source, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SpecError(f"'{override}'. Give key=value, e.g. --set train.epochs=3.", "--set")
    value = _parse(text, f"--set {key}").value
    place = source.value
    *folders, last = key.split(".")
    for name in folders:
        if not isinstance(place.get(name), dict):
            # `optimizer: adam` becomes `optimizer: {adam: {}}`, so that train.optimizer.adam.lr can be set
            place[name] = {place[name]: {}} if isinstance(place.get(name), str) else {}
        place = place[name]
    place[last] = value
    source.lines[tuple(key.split("."))] = ("--set", 0)


def _interpolate(value: dict[str, Any], origin: Origin) -> None:
    data = value.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("path"), str):
        path = VARIABLE.sub(lambda m: _variable(m, origin), data["path"])
        value["data"] = {**data, "path": path}


def _variable(matched: re.Match[str], origin: Origin) -> str:
    if matched.group() == "$$":
        return "$"
    name, default = matched.groups()
    found = os.environ.get(name) or default
    if found is None:
        raise SpecError(
            f"${{{name}}} is not set. Set it, or write ${{{name}:-default}}.", origin.where(("data", "path"))
        )
    return found
