"""Find the metrics that a job names, or those that fit its target.

A metric whose value depends on which class is the positive one is bound to it here, once.
"""

import re

from fmray.catalogue import METRICS
from fmray.errors import SpecError
from fmray.metrics import classification, distribution, labels, ranking, tags
from fmray.metrics.metric import Metric
from fmray.records import Target
from fmray.registry import nearest
from fmray.targets.codec import codec_of
from fmray.targets.tags import marks_entities

SHOWN = 5
ONE_CLASS = re.compile(r"f1\[(.+)\]")
ONE_OF = {"class": classification.f1_of, "labels": labels.f1_of, tags.KIND: tags.f1_of}
"""Kind of target -> the F1 of one of its classes."""
OF_KIND = {("labels", metric.name): metric for metric in (labels.F1_MACRO, labels.F1_MICRO)}
"""Kind of target, name -> the metric of a name that those of several kinds share."""


def defaults(target: Target) -> tuple[str, tuple[str, ...]]:
    """Give the primary metric where the job names none, and all that fit the target, the primary one first."""
    names = codec_of(target).metrics
    return names[0], names


def find_metric(name: str, target: Target) -> Metric:
    """Give a metric by name, bound to the target's positive class.

    Raises:
        SpecError: If there is no such metric, or it does not fit the target.
    """
    if matched := ONE_CLASS.fullmatch(name):
        return _f1_of(matched.group(1), target)
    if name not in METRICS and ":" not in name:
        raise SpecError(f"unknown metric '{name}'. {nearest(name, [*METRICS, 'f1[label]'])}", "evaluate")
    metric: Metric = OF_KIND.get((target.kind, name)) or METRICS.find(name)
    if metric.kind != target.kind:
        fitting = ", ".join(defaults(target)[1])
        raise SpecError(
            f"'{name}' judges a {metric.kind}, the target is a {target.kind}. Accepted: {fitting}.", "evaluate"
        )
    if metric is tags.ENTITY_F1 and target.classes:
        if not marks_entities(target.classes):
            shown = ", ".join(target.classes[:SHOWN])
            raise SpecError(f"entity_f1 needs tags O, B-TYPE and I-TYPE, and the tags are {shown}.", "evaluate")
        return tags.entity_f1(target.classes)
    if metric is distribution.MMD:
        return distribution.mmd(target.scale)
    if metric.name in ("roc_auc", "average_precision") and target.positive >= 0:
        return getattr(ranking, metric.name)(target.positive)  # type: ignore[no-any-return]
    return metric


def _f1_of(label: str, target: Target) -> Metric:
    if label not in target.classes:
        raise SpecError(f"f1[{label}]: there is no class '{label}'. {nearest(label, target.classes)}", "evaluate")
    return ONE_OF[target.kind](label, target.classes.index(label))
