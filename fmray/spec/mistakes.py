"""Gather every mistake of a job file, so that all are said at once, in the order of the file.

A mistake that only follows from another one is left out: it would be gone once that one is mended.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fmray.errors import FmrayError, SpecError
from fmray.spec.explain import Origin, dotted
from fmray.spec.ranges import Keys
from fmray.spec.refusal import Refusal

STAND_IN = "-"
"""Stands for `data.path` and `data.target` while the rest of a job is checked."""


class Mistakes:
    """Hold mistakes by the key where they stand; the first one found at a key counts.

    Args:
        origin: Knows the line of each key.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._found: dict[Keys, FmrayError] = {}
        self._doubtful: set[Keys] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

    def add_all(self, refusals: Iterable[Refusal]) -> None:
        """Take mistakes that were found together, none of which follows from another of them."""
        fresh = [refusal for refusal in refusals if not self._follows(*refusal)]
        for keys, message in fresh:
            self._doubtful |= {keys, (*keys[:-1], *re.findall(r"Did you mean '([^']*)'", message)[:1])}
            if message and keys not in self._found:
                self._found[keys] = SpecError(message, self._origin.where(keys))

    def add_errors(self, error: FmrayError) -> None:
        """Take what was found in the data; such errors name keys, but not where these were written."""
        for one in error.errors:
            keys = tuple(one.where.split("."))
            if self._origin.place(keys) >= 0:
                if not self._follows(keys, one.message):
                    found = type(one)(one.message, self._origin.where(keys))
                    self._found[(*keys, one.message)] = found.with_traceback(one.__traceback__)
            elif not self._found:
                self._found[one.where, one.message] = one

    def error(self) -> FmrayError:
        """Give one error that holds all, in file order."""
        order = sorted(self._found, key=self._origin.place)
        return SpecError.join([self._found[keys] for keys in order])

    def _follows(self, keys: Keys, message: str) -> bool:
        """Tell whether a mistake depends on a key that is wrong itself: it stands there, or its message names it."""
        for doubtful in self._doubtful:
            shorter = min(len(doubtful), len(keys))
            if doubtful[:shorter] == keys[:shorter] and (len(doubtful) > 1 or doubtful == keys):
                return True
            if len(doubtful) > 1 and re.search(rf"\b{re.escape(dotted(doubtful))}\b", message):
                return True
        return False


def without(value: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """Give a job as written without a key, so that the rest can be checked; what is required gets a stand-in."""
    is_required = keys[:1] == ("data",) and keys[1:2] in (("path",), ("target",))
    changed = dict(value) if is_required else _left_out(value, keys)
    data = changed["data"] if isinstance(changed.get("data"), Mapping) else {}
    replaced = {str(keys[1]): STAND_IN} if is_required else {}
    return {"name": "job", **changed, "data": {"path": STAND_IN, "target": STAND_IN, **data, **replaced}}


def _left_out(value: Mapping[Any, Any], keys: Keys) -> dict[Any, Any]:
    """Leave out a key, or the section around it where the key itself is missing or stands in a list."""
    first, *rest = keys
    inner = value.get(first)
    if rest and isinstance(inner, Mapping) and rest[0] in inner:
        return {**value, first: _left_out(inner, tuple(rest))}
    return {name: given for name, given in value.items() if name != first}
