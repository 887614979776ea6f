"""Find the metrics that a job names, or those that fit its target.

A metric whose value depends on which class is the positive one, or on how the task decides, is bound to it here, once.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fmray.catalogue import METRICS
from fmray.errors import SpecError
from fmray.metrics import classification, distribution, labels, language, ranking, sequences, spans, tags
from fmray.metrics.metric import Metric
from fmray.records import Target
from fmray.registry import nearest
from fmray.targets.codec import codec_named, codec_of
from fmray.targets.labels import HALF, Rule, rule_of
from fmray.targets.tags import marks_entities, unfit_for_entities

SHOWN = 5
ONE_CLASS = re.compile(r"f1\[(.+)\]")
ONE_OF = {"class": classification.f1_of, spans.KIND: spans.f1_of, tags.KIND: tags.f1_of}
"""Kind of target -> the F1 of one of its classes; of labels it depends on the task as well."""


def defaults(target: Target) -> tuple[str, tuple[str, ...]]:
    """Give the primary metric where the job names none, and all that fit the target, the primary one first."""
    names = codec_of(target).metrics
    return names[0], names


def judges_one_class(kind: str) -> bool:
    """Tell whether a kind of target has metrics of one class, `f1[label]`."""
    return kind == labels.KIND or kind in ONE_OF


def find_metric(name: str, target: Target, params: Mapping[str, Any] | None = None) -> Metric:
    """Give a metric by name, bound to the target's positive class.

    Args:
        params: Of the task, where outputs are scored before anything is decided: these say how it will be. Without them
            a label is predicted above one half.

    Raises:
        SpecError: If there is no such metric, or it does not fit the target.
    """
    rule = HALF if params is None else rule_of(params)
    if matched := ONE_CLASS.fullmatch(name):
        return _f1_of(matched.group(1), target, rule)
    if target.kind == labels.KIND and name in labels.BY_RULE:
        return labels.BY_RULE[name](rule)
    if name not in METRICS and ":" not in name:
        raise SpecError(f"unknown metric '{name}'. {nearest(name, [*METRICS, 'f1[label]'])}", "evaluate")
    metric: Metric = METRICS.find(name)
    if metric is language.NATS_PER_TOKEN and target.kind == sequences.KIND:
        metric = replace(metric, kind=sequences.KIND)
    if metric.kind != target.kind:
        fitting = ", ".join(defaults(target)[1])
        judged, given = (codec_named(kind).noun for kind in (metric.kind, target.kind))
        raise SpecError(f"'{name}' judges a {judged}, the target is a {given}. Accepted: {fitting}.", "evaluate")
    if metric is tags.ENTITY_F1 and target.classes:
        if not marks_entities(target.classes):
            shown = ", ".join((unfit_for_entities(target.classes) or target.classes)[:SHOWN])
            text = f"entity_f1 needs tags O, B-TYPE and I-TYPE, and there are {shown}. data.labels can map them."
            raise SpecError(text, "evaluate")
        return tags.entity_f1(target.classes)
    if metric is distribution.MMD:
        return distribution.mmd(target.scale)
    if metric.name in ("roc_auc", "average_precision") and target.positive >= 0:
        return getattr(ranking, metric.name)(target.positive)  # type: ignore[no-any-return]
    return metric


def _f1_of(label: str, target: Target, rule: Rule) -> Metric:
    names = codec_of(target).class_names
    if label not in names:
        raise SpecError(f"f1[{label}]: there is no class '{label}'. {nearest(label, names)}", "evaluate")
    index = names.index(label)
    return labels.f1_of(label, index, rule) if target.kind == labels.KIND else ONE_OF[target.kind](label, index)
