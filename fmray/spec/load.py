"""Read a job file: YAML 1.2, one file or several that extend each other, every mistake at its line.

Nothing is guessed: a number that only YAML 1.1 or Python would read is refused, a key given twice is an error.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from fmray.errors import FmrayError, SpecError
from fmray.spec.check import check
from fmray.spec.explain import Origin, dotted, explain
from fmray.spec.job import Job
from fmray.spec.jobfile import read_text
from fmray.spec.mistakes import STAND_IN, Mistakes, without
from fmray.spec.ranges import Keys, MisplacedRangeError
from fmray.spec.refusal import Refusal

ODD_NUMBER = re.compile(r"[-+]?(0[0-9]+(\.[0-9]*)?|[0-9]+(_[0-9]+)+(\.[0-9_]*)?)")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\$")
INTERPOLATED: tuple[tuple[str, str], ...] = (("data", "path"), ("track", "mlflow"))
"""Where variables of the environment stand: in paths and addresses."""
TAGS = ("map", "seq", "str", "int", "float", "bool", "null")
MOST_DEPTH, MOST_VALUES = 50, 100_000
MOST_ROUNDS = 100
"""Times that a job is built again without the keys found to be wrong."""
KINDS = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
MOST_CORNERS = 50
"""Options of a choice that are checked when a job is read; what follows is checked when its turn comes."""


@dataclass
class Source:
    """Hold plain values and where each was written.

    Args:
        value: As read.
        lines: Path -> (file, line), in the order of the file.
        mistakes: What cannot be read as it is written.
    """

    value: Any
    lines: dict[Keys, tuple[str, int]] = field(default_factory=dict)
    mistakes: list[Refusal] = field(default_factory=list)


def load_job(path: str | Path, overrides: Sequence[str] = (), also: Callable[[Job], None] | None = None) -> Job:
    """Read a job from a file.

    Args:
        overrides: `dotted.key=value`, the value as YAML, e.g. `train.epochs=3`.
        also: Looks at the job as well, and raises what it finds; of a job with mistakes it gets what is right.

    Raises:
        SpecError: If the file cannot be read or asks for something that does not exist; it names file, line and key.
            `errors` holds one for every mistake, in the order of the file.
    """
    file = Path(path)
    source = _read(file, ())
    for override in overrides if isinstance(source.value, dict) else ():
        _override(source, override)
    folder = str(file.resolve().parent)
    return _job(source, {"name": file.stem}, folder=folder, file=str(file), also=also)


def job_from(value: Mapping[str, Any], folder: str | Path = ".") -> Job:
    """Build a job from plain values, as a job file would spell them.

    Args:
        folder: Where relative paths and the user's own modules are looked up.

    Raises:
        SpecError: If it asks for something that does not exist.
    """
    return _job(Source(value), {"name": "job"}, folder=str(Path(folder).resolve()), file="", also=None)


def _job(
    source: Source, defaults: Mapping[str, Any], folder: str, file: str, also: Callable[[Job], None] | None
) -> Job:
    if not isinstance(source.value, Mapping):
        given = "nothing" if source.value is None else KINDS.get(type(source.value), "a value")
        raise SpecError(f"a job is a map of keys, and this is {given}. See jobs/quickstart.yaml.", file)
    value = {**defaults, **source.value}
    mistakes = Mistakes(Origin(file, source.lines))
    if "name" not in source.value and not NAME.fullmatch(defaults["name"]):
        text = (
            f"'{defaults['name']}' cannot name a job: a name has letters, digits, '.', '_' and '-', the first a letter"
        )
        mistakes.add_all([(("name",), f"{text} or digit. Set name: in the file, or rename the file.")])
    mistakes.add_all(source.mistakes)
    mistakes.add_all(_interpolate(value))
    job, plain = _built(value, folder, mistakes)
    if job is not None:
        mistakes.add_all(check(job, plain))
    if job is not None and not mistakes:
        rest = {key: given for key, given in value.items() if key != "search"}  # of which nothing is left at a corner
        for keys, found in job.ranges.items():
            for corner in found.corners[1:MOST_CORNERS]:
                _check_corner(partial(job.at, {keys: corner}), rest, mistakes)
    if job is not None and also is not None and job.data.path != STAND_IN:
        try:
            also(job)
        except FmrayError as error:
            mistakes.add_errors(error)
        except Exception:  # of a job with mistakes anything may go wrong
            if not mistakes:
                raise
    if job is None or mistakes:
        raise mistakes.error()
    return job


def _built(value: Mapping[str, Any], folder: str, mistakes: Mistakes) -> tuple[Job | None, dict[str, Any]]:
    """Build a job of what is right; None if nothing is. Keys that are wrong are noted and left out."""
    plain = dict(value)
    for _ in range(MOST_ROUNDS):
        try:
            return Job.from_json({**plain, "folder": folder}), plain
        except MisplacedRangeError as error:
            found = {error.keys: str(error), ("search",): ""}  # without its ranges, a search would seem useless
            left_out = [error.keys]
        except ValidationError as error:
            found = explain(error, plain)
            left_out = list(found)
        mistakes.add_all(found.items())
        for keys in sorted(left_out, key=len, reverse=True):
            plain = without(plain, keys)
    return None, plain


def _check_corner(build: Callable[[], Job], value: Mapping[str, Any], mistakes: Mistakes) -> None:
    try:
        mistakes.add_all(check(build(), value))
    except ValidationError as error:
        mistakes.add_all(explain(error, value).items())


def _read(file: Path, seen: tuple[Path, ...]) -> Source:
    if file.resolve() in seen:
        raise SpecError(f"'{file}' extends itself. Break the circle.", str(seen[0]))
    source = _parse(read_text(file), str(file))
    if not isinstance(source.value, dict) or "extends" not in source.value:
        return source
    base_name = source.value.pop("extends")
    where = Origin(str(file), source.lines).where(("extends",))
    if not isinstance(base_name, str) or not (file.parent / base_name).is_file():
        raise SpecError(f"{base_name!r} is no file. Give the path of one job file, from this one's folder.", where)
    base = _read(file.parent / base_name, (*seen, file.resolve()))
    mistakes = [*base.mistakes, *source.mistakes]
    return Source(_merged(base.value, source.value), {**base.lines, **source.lines}, mistakes)


def _merged(base: Any, over: Any) -> Any:
    """Merge maps key by key; anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}
    return over


def _parse(text: str, file: str) -> Source:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    source = Source(None)
    try:
        _refuse_knots(yaml, text, file)
        constructor, _ = yaml.get_constructor_parser(text)
        node = constructor.composer.get_single_node()
        doubles = list(_drop_doubles(node, (), set()))
        read = None if node is None else constructor.construct_document(node)
        source.value = _plain(read, (), source=source, file=file, text=text.splitlines())
        if doubles:  # what stands in maps of one key was brought together
            source.mistakes += doubles
            source.lines = dict(sorted(source.lines.items(), key=lambda entry: entry[1][1]))
    except MarkedYAMLError as error:
        said = error.problem or error.context
        raise SpecError(f"not YAML: {said}. Mend this line or the one before.", _at(error, file)) from error
    except ReaderError as error:
        raise SpecError(f"holds a character that YAML does not allow: {error.reason}. Remove it.", file) from error
    return source


def _refuse_knots(yaml: YAML, text: str, file: str) -> None:
    """Refuse an alias inside of what it stands for, which would be read as null, and nesting that takes for ever."""
    around: list[str | None] = []
    for event in yaml.parse(text):
        if isinstance(event, CollectionStartEvent):
            around.append(event.anchor)
            if len(around) > MOST_DEPTH:
                where = f"{file}:{event.start_mark.line + 1}"
                raise SpecError(f"is nested more than {MOST_DEPTH} deep. Write it flat.", where)
        elif isinstance(event, CollectionEndEvent):
            around.pop()
        elif isinstance(event, AliasEvent) and event.anchor in around:
            where = f"{file}:{event.start_mark.line + 1}"
            raise SpecError(f"*{event.anchor} stands inside of &{event.anchor}. Write the value out.", where)


def _drop_doubles(node: Node | None, path: Keys, seen: set[int]) -> Iterator[Refusal]:
    """List keys that stand twice in one map, at the last place where they do; the others are taken out of the map."""
    if node is None or isinstance(node, ScalarNode) or id(node) in seen:
        return
    seen.add(id(node))
    if not isinstance(node, MappingNode):
        for place, inner in enumerate(node.value):
            yield from _drop_doubles(inner, (*path, place), seen)
        return
    lines: dict[str | int, list[int]] = {}
    kept: dict[str | int, tuple[Node, Node]] = {}
    for place, (key, inner) in enumerate(node.value):
        name = key.value if isinstance(key, ScalarNode) else place
        _, before = kept.pop(name, (key, None))
        if isinstance(before, MappingNode) and isinstance(inner, MappingNode) and inner is not before:
            inner.value = before.value + inner.value  # their mistakes are all to be said
        kept[name] = (key, inner)
        lines.setdefault(name, []).append(key.start_mark.line + 1)
    node.value = list(kept.values())
    for name, (_, inner) in kept.items():
        if others := lines[name][:-1]:
            already = f"line{'s' * (len(others) > 1)} {' and '.join(map(str, others))}"
            yield (*path, name), f"duplicate key, which stands in {already} already. Keep one."
        yield from _drop_doubles(inner, (*path, name), seen)


def _at(error: MarkedYAMLError, file: str) -> str:
    return f"{file}:{error.problem_mark.line + 1}" if error.problem_mark else file


def _plain(raw: Any, path: Keys, source: Source, file: str, text: Sequence[str]) -> Any:
    lines = source.lines
    if len(lines) > MOST_VALUES:  # aliases of aliases unfold without end
        raise SpecError(f"unfolds to more than {MOST_VALUES:,} values. Use fewer aliases.", file)
    tag = getattr(getattr(raw, "tag", None), "value", None)
    if tag is not None and str(tag).removeprefix("tag:yaml.org,2002:") not in TAGS:
        source.mistakes.append((path, f"tag {tag} is not read. Write a plain value."))
    if isinstance(raw, CommentedMap):
        written = raw.lc.data or {}
        plain = {}
        for key, inner in raw.items():
            here = (*path, key)
            lines[here] = (file, written[key][0] + 1) if key in written else lines.get(path, (file, 1))  # merged by <<
            if key in written:
                _note_odd((written[key][2], written[key][3]), inner, path=here, source=source, text=text)
            plain[key] = _plain(inner, here, source=source, file=file, text=text)
        return plain
    if isinstance(raw, CommentedSeq):
        items = []
        for place, inner in enumerate(raw):
            here = (*path, place)
            at = raw.lc.item(place)  # None inside of a tag that is not known
            lines[here] = (file, at[0] + 1) if at else lines.get(path, (file, 1))
            if at:
                _note_odd(at, inner, path=here, source=source, text=text)
            items.append(_plain(inner, here, source=source, file=file, text=text))
        return items
    return raw if raw is None or isinstance(raw, bool) else _bare(raw)


def _bare(raw: Any) -> Any:
    """Take ruamel's own kinds of scalars back to Python's."""
    for kind in (int, float, str):
        if isinstance(raw, kind):
            return kind(raw)
    return str(raw)  # dates and the like are text until a key says otherwise


def _note_odd(at: tuple[int, int], inner: Any, path: Keys, source: Source, text: Sequence[str]) -> None:
    if isinstance(inner, Mapping | list) or not at[0] < len(text):
        return
    matched = re.match(r"[^\s,\]\}#]+", text[at[0]][at[1] :])
    if matched and ODD_NUMBER.fullmatch(matched.group()):
        spelled = matched.group()
        plain = spelled.replace("_", "").lstrip("0") or "0"
        message = f"{spelled} is no YAML 1.2 number. Write {plain}, or '{spelled}' in quotes for text."
        source.mistakes.append((path, message))


def _override(source: Source, override: str) -> None:
    key, equals, text = override.partition("=")
    *folders, last = keys = key.split(".")
    if not equals or not all(keys) or len(keys) > MOST_DEPTH:
        raise SpecError(f"'{override}'. Give key=value, e.g. --set train.epochs=3.", "--set")
    read = _parse(text, f"--set {key}")
    _note_odd((0, 0), None, path=(), source=read, text=[text])
    source.mistakes += [((*keys, *inner), message) for inner, message in read.mistakes]
    value = read.value
    place = source.value
    for depth, name in enumerate(folders, 1):
        inner = place.get(name)
        if isinstance(inner, list):
            around = ".".join(folders[:depth])
            raise SpecError(f"'{override}' points into a list. Give it whole: {around}=[...].", "--set")
        if not isinstance(inner, dict):
            # `optimizer: adam` becomes `optimizer: {adam: {}}`, so that train.optimizer.adam.lr can be set
            place[name] = {inner: {}} if isinstance(inner, str) else {}
        place = place[name]
    place[last] = value
    source.lines[tuple(keys)] = ("--set", 0)


def _interpolate(value: dict[str, Any]) -> list[Refusal]:
    """Put in variables of the environment, and list those that cannot be."""
    found: list[Refusal] = []
    for section, key in INTERPOLATED:
        part = value.get(section)
        if isinstance(part, Mapping) and isinstance(part.get(key), str):
            try:
                value[section] = {**part, key: _filled(part[key])}
            except SpecError as error:
                found.append(((section, key), error.message))
    return [*found, *_misplaced_variables(value, ())]


def _filled(text: str) -> str:
    if "${" in VARIABLE.sub("", text):
        raise SpecError(f"'{text}' holds a ${{ that is no variable. Accepted: ${{NAME}} and ${{NAME:-default}}.")
    return VARIABLE.sub(_variable, text)


def _misplaced_variables(value: Any, keys: Keys) -> Iterator[Refusal]:
    """List variables where they would stay as they are written."""
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _misplaced_variables(inner, (*keys, key))
    if isinstance(value, str) and keys not in INTERPOLATED and re.search(r"\$\{[A-Za-z_]", value):
        places = " and ".join(map(dotted, INTERPOLATED))
        yield keys, f"'{value}' holds a variable. Variables stand in {places} only."


def _variable(matched: re.Match[str]) -> str:
    if matched.group() == "$$":
        return "$"
    name, default = matched.groups()
    found = os.environ.get(name) or default
    if found is None:
        raise SpecError(f"${{{name}}} is not set. Set it, or write ${{{name}:-default}}.")
    return found
