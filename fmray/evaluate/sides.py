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
from fmray.targets.codec import codec_of
from fmray.targets.wording import JUDGED, WORDS


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
    return [*notes, *codec_of(prepared.target).few(prepared.held)]


def is_defined(metric: Metric, held: Json, target: Target) -> bool:
    """Tell whether a metric has a value on rows of which it is known what they hold; see `Prepared.held`."""
    found = codec_of(target).made_up(held)
    if found is None:
        return True
    output, truth = found
    with suppress(Exception), np.errstate(all="ignore"):  # a metric of the user's own may take more rows than these
        return not np.isnan(metric.value(output, truth, None))
    return True


def _why(prepared: Prepared, split: Split) -> str:
    return codec_of(prepared.target).lack(prepared.held, split, weighted=prepared.weighted)


def _cure(prepared: Prepared, primary: Metric, held: Json) -> str:
    target = prepared.target
    every = [find_metric(name, target) for name in defaults(target)[1] if name != primary.name]
    fitting = [
        metric.name for metric in every if all(is_defined(metric, prepared.held[split], target) for split in JUDGED)
    ]
    other = f", or name a metric that is defined under evaluate.primary: {', '.join(fitting)}" if fitting else ""
    merge = codec_of(target).merge_cure()
    return f"Give more such rows, {merge}{another_split(prepared.split['by'], prepared.split['column'])}{other}."
