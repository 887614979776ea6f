"""Know before training which metrics validation and test cannot give, from what is known of their targets.

A metric is tried on a few made-up predictions of rows of the same classes, or numbers: what is not defined there is not
defined on any predictions. So nothing about a metric has to be declared, and metrics of a user's own are covered.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from fmray.data.sides import another_split
from fmray.errors import DataError
from fmray.metrics.find import defaults, find_metric
from fmray.metrics.metric import Metric
from fmray.records import Json, Prepared, Split, Target

JUDGED: tuple[Split, ...] = ("val", "test")
WORDS = {"val": "validation", "test": "test"}
FEW_ROWS = 5
MOST_SHOWN = 5


def check_sides(prepared: Prepared, primary: Metric, names: Sequence[str]) -> list[str]:
    """Refuse rows on which the primary metric has no value, and say what else can be told of them.

    Args:
        names: Of further metrics.

    Raises:
        DataError: If nothing could be chosen on validation, or shown on test.
    """
    if not prepared.held:
        return []
    notes = []
    for split in JUDGED:
        held = prepared.held[split]
        if not is_defined(primary, held, prepared.target):
            raise DataError(
                f"{primary.name} is not defined on {WORDS[split]}: {_why(prepared, split)}. "
                f"{_cure(prepared, primary, held)}",
                "split",
            )
        others = [name for name in dict.fromkeys(names) if name != primary.name]
        lost = [n for n in others if not is_defined(find_metric(n, prepared.target), held, prepared.target)]
        if lost:
            notes.append(f"{', '.join(lost)} not defined on {WORDS[split]}: {_why(prepared, split)}")
    return [*notes, *_few(prepared)]


def is_defined(metric: Metric, held: Json, target: Target) -> bool:
    """Tell whether a metric has a value on rows of which it is known what they hold; see `Prepared.held`."""
    if target.kind == "class":
        present = [
            place for place, name in enumerate(target.classes) for _ in range(min(held["counts"].get(name, 0), 2))
        ]
        truth: np.ndarray = np.array(present, np.int64)
        # every class is ahead somewhere, so no metric lacks an answer that some predictions would give it
        scores = 1.0 + (np.arange(len(truth))[:, None] + np.arange(len(target.classes))) % max(len(target.classes), 2)
        output = scores / scores.sum(1, keepdims=True)
    else:
        ends = [held["low"], held["high"]][: min(held["rows"], 2)]
        if any(value is None for end in ends for value in end):
            return True
        truth = np.array(ends, np.float64).reshape(len(ends), -1)
        output = truth + np.linspace(0.1, 0.2, max(truth.size, 1))[: truth.size].reshape(truth.shape)
        if len(target.columns) == 1:
            truth = truth[:, 0]
            output = output[:, 0]
    with suppress(Exception), np.errstate(all="ignore"):  # a metric of the user's own may take more rows than these
        return not np.isnan(metric.value(output, truth, None))
    return True


def _why(prepared: Prepared, split: Split) -> str:
    held = prepared.held[split]
    target = prepared.target
    if target.kind == "number":
        same = [name for name, low, high in zip(target.columns, held["low"], held["high"], strict=True) if low == high]
        if held["rows"] == 1 or not same:
            return f"it has {_rows(held['rows'])}"
        value = held["low"][target.columns.index(same[0])]
        return f"'{same[0]}' is {value:g} in all of its {_rows(held['rows'])}"
    missing = [name for name in target.classes if not held["counts"].get(name)]
    if not missing:
        return f"it has {_rows(held['rows'])}"
    shown = "; ".join(_counted(prepared, name) for name in missing[:MOST_SHOWN])
    more = f"; and {len(missing) - MOST_SHOWN} more classes" if len(missing) > MOST_SHOWN else ""
    counted = " of a weight above 0" if prepared.weighted else ""
    return f"none of its {_rows(held['rows'])}{counted} is of {shown}{more}"


def _counted(prepared: Prepared, name: str) -> str:
    target = prepared.target
    train = target.counts[target.classes.index(name)]
    val, test = (prepared.held[split]["counts"].get(name, 0) for split in JUDGED)
    return f"class '{name}' (train {train:,}, validation {val:,}, test {test:,})"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _cure(prepared: Prepared, primary: Metric, held: Json) -> str:
    target = prepared.target
    every = [find_metric(name, target) for name in defaults(target)[1] if name != primary.name]
    fitting = [
        metric.name for metric in every if all(is_defined(metric, prepared.held[split], target) for split in JUDGED)
    ]
    other = f", or name a metric that is defined under evaluate.primary: {', '.join(fitting)}" if fitting else ""
    merge = "map rare classes to one with data.labels, " if len(target.classes) > 2 else ""
    return f"Give more such rows, {merge}{another_split(prepared.split['by'], prepared.split['column'])}{other}."


def _few(prepared: Prepared) -> list[str]:
    """Say which classes have next to no rows on a side."""
    target = prepared.target
    if target.kind != "class":
        return []
    sides = [prepared.held[split]["counts"] for split in JUDGED]
    few = [name for name in target.classes if min(side.get(name, 0) for side in sides) < FEW_ROWS]
    if not few:
        return []
    shown = "; ".join(_counted(prepared, name) for name in few[:MOST_SHOWN])
    more = f"; and {len(few) - MOST_SHOWN} more" if len(few) > MOST_SHOWN else ""
    return [f"fewer than {FEW_ROWS} rows to judge by: {shown}{more}"]
