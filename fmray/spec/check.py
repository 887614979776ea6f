"""Refuse what pydantic cannot see: unknown names, and parameters that their code does not take.

Checking a job imports neither torch nor ray, nor a line of the user's own code.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fmray import catalogue
from fmray.errors import SpecError
from fmray.registry import Registry, nearest
from fmray.spec.effect import without_effect
from fmray.spec.job import Job
from fmray.spec.params import accepted, fits, params_of, refuse_other_kind, source_of
from fmray.spec.ranges import Keys
from fmray.spec.ref import Ref
from fmray.spec.refusal import Refusal

ALL_STEPS = Registry(
    "step",
    {name: table.path(name) for table in (catalogue.STEPS, catalogue.LIVE) for name in table},
    catalogue.STEP,
    components=catalogue.STEPS.components,
)
ALL_MODELS = Registry(
    "model",
    {name: table.path(name) for table in (catalogue.MODELS, catalogue.ESTIMATORS) for name in table},
    catalogue.MODEL,
    components=catalogue.MODELS.components,
)
GIVEN_BY_FMRAY = ("self", "schema", "num_outputs")
GIVEN_TO_ENSEMBLES = ("candidates",)
ONE_CLASS = re.compile(r"f1\[.+\]")


def check(job: Job, value: Mapping[str, Any]) -> list[Refusal]:
    """List names, parameters and combinations that do not fit.

    Args:
        value: The job as written, to tell what was said from what is default.
    """
    found: list[Refusal] = []
    for registry, ref, keys in (
        (ALL_MODELS, job.model, ("model",)),
        (catalogue.OPTIMIZERS, job.train.optimizer, ("train", "optimizer")),
        (catalogue.SCHEDULES, job.train.schedule, ("train", "schedule")),
        *_of_phases(job),
        (catalogue.ENSEMBLES, job.ensemble, ("ensemble",)),
        (catalogue.TASKS, job.task, ("task",)),
        *((ALL_STEPS, step, ("steps", place)) for place, step in enumerate(job.steps)),
    ):
        try:
            found += _in_params(registry, ref, keys, job.folder)
        except SpecError as error:
            found.append((keys, error.message))
    return [*found, *_in_order_of_steps(job), *_in_metrics(job), *without_effect(job, value)]


def _of_phases(job: Job) -> Iterator[tuple[Registry, Ref, Keys]]:
    for name, phase in job.train.phases.items():
        for registry, key in ((catalogue.OPTIMIZERS, "optimizer"), (catalogue.SCHEDULES, "schedule")):
            if (ref := getattr(phase, key)) is not None:
                yield registry, ref, ("train", "phases", name, key)


def _in_params(registry: Registry, ref: Ref, keys: Keys, folder: str) -> list[Refusal]:
    """List what is wrong with the parameters of a name.

    Raises:
        SpecError: If the name is unknown, or the user's own code is not what the name stands for.
    """
    if ref.name in registry or (registry is catalogue.TASKS and ref.name == "auto"):
        declared = registry.params(ref.name)
        known = declared.model_fields
        found = [
            (name, message if not name or name in known else _no_parameter(ref.name, name, known))
            for name, message in declared.problems(ref.params)
        ]
    else:
        found = _in_own_code(registry, ref, folder)
    return [((*keys, ref.name, *([name] if name else [])), message) for name, message in found]


def _in_own_code(registry: Registry, ref: Ref, folder: str) -> list[tuple[str, str]]:
    """List what is wrong with the parameters of a user's own code, as far as its source tells."""
    module, _, attribute = registry.path(ref.name).partition(":")
    if (file := source_of(module, folder)) is None:
        return []
    skipped = GIVEN_TO_ENSEMBLES if registry is catalogue.ENSEMBLES else GIVEN_BY_FMRAY
    known = params_of(file, attribute, skipped)
    if registry.kind is not None:
        refuse_other_kind(file, attribute, registry.kind)
    if known is None or registry is not ALL_MODELS:
        return []  # what its own task, step or method is given beyond its parameters is not ours to say
    found = [(name, _no_parameter(ref.name, name, known)) for name in ref.params if name not in known]
    return found + [
        (name, f"{given!r}. Accepted: {accepted(known[name])}.")
        for name, given in ref.params.items()
        if known.get(name) and not fits(given, known[name])
    ]


def _no_parameter(component: str, name: str, known: Collection[str]) -> str:
    return f"'{component}' has no parameter '{name}'. {nearest(name, known) if known else 'It takes none.'}"


def _in_order_of_steps(job: Job) -> Iterator[Refusal]:
    live = ""
    for place, step in enumerate(job.steps):
        keys = ("steps", place)
        if step.name in catalogue.LIVE:
            if step.name == "mixup" and any(other.name == "mixup" for other in job.steps[:place]):
                yield keys, "mixup stands here a second time. Leave one."
            live = live or step.name
        elif live:
            text = f"'{step.name}' prepares rows, and '{live}' before it changes them while training"
            yield keys, f"{text}. Put the steps that prepare first."


def _in_metrics(job: Job) -> Iterator[Refusal]:
    known = [*catalogue.METRICS, "f1[label]"]
    for key, names in (("primary", [job.evaluate.primary]), ("metrics", job.evaluate.metrics or ())):
        for name in names:
            if name is None or name in known[:-1] or ONE_CLASS.fullmatch(name):
                continue
            if ":" not in name:
                yield ("evaluate", key), f"unknown metric '{name}'. {nearest(name, known)}"
                continue
            try:
                catalogue.METRICS.path(name)
            except SpecError as error:
                yield ("evaluate", key), error.message
    for gate in job.rigour.waive:
        if gate in catalogue.UNWAIVABLE:
            yield ("rigour", "waive", gate), catalogue.UNWAIVABLE[gate]
        elif gate not in catalogue.GATES:
            yield ("rigour", "waive", gate), f"'{gate}' is no gate. {nearest(gate, catalogue.GATES)}"
