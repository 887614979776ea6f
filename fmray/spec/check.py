"""Refuse what pydantic cannot see: unknown names, and parameters that their code does not take.

Checking a job imports neither torch nor ray, nor a line of the user's own code.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fmray import catalogue
from fmray.errors import SpecError
from fmray.registry import Registry, nearest
from fmray.spec.effect import Refusal, without_effect
from fmray.spec.job import Job
from fmray.spec.params import Params, params_of, refusal, refuse_other_kind, source_of
from fmray.spec.ranges import Keys
from fmray.spec.ref import Ref

OPTIMIZER_PARAMS: dict[str, Params] = {
    "adadelta": {"rho": "float", "eps": "float"},
    "adagrad": {"lr_decay": "float", "initial_accumulator_value": "float", "eps": "float"},
    "adam": {"betas": "Sequence[float]", "eps": "float", "amsgrad": "bool"},
    "rmsprop": {"alpha": "float", "eps": "float", "momentum": "float", "centered": "bool"},
    "sgd": {"momentum": "float", "dampening": "float", "nesterov": "bool"},
}
OPTIMIZER_PARAMS["adamw"] = OPTIMIZER_PARAMS["adam"]
OPTIMIZER_PARAMS = {name: {"lr": "float", "weight_decay": "float", **own} for name, own in OPTIMIZER_PARAMS.items()}
TASK_PARAMS: dict[str, Params] = {
    "classification": {
        "loss": "Literal['cross_entropy', 'perceptron']",
        "label_smoothing": "float",
        "class_weights": "Literal['balanced'] | Mapping | None",
    },
    "regression": {"loss": "Literal['mse', 'huber']", "delta": "float"},
}
TASK_PARAMS["auto"] = {
    **TASK_PARAMS["classification"],
    **TASK_PARAMS["regression"],
    "loss": "Literal['cross_entropy', 'perceptron', 'mse', 'huber']",
}
ALL_STEPS = Registry(
    "step",
    {name: table.path(name) for table in (catalogue.STEPS, catalogue.LIVE) for name in table},
    catalogue.STEP,
)
GIVEN_BY_FMRAY = ("self", "schema", "num_outputs")
GIVEN_TO_ENSEMBLES = ("candidates",)
KEEP = "Literal['when_better', 'always']"
ONE_CLASS = re.compile(r"f1\[.+\]")


def check(job: Job, value: Mapping[str, Any]) -> list[Refusal]:
    """List names, parameters and combinations that do not fit.

    Args:
        value: The job as written, to tell what was said from what is default.
    """
    found: list[Refusal] = []
    for registry, ref, keys in (
        (catalogue.MODELS, job.model, ("model",)),
        (catalogue.OPTIMIZERS, job.train.optimizer, ("train", "optimizer")),
        (catalogue.SCHEDULES, job.train.schedule, ("train", "schedule")),
        (catalogue.ENSEMBLES, job.ensemble, ("ensemble",)),
        (catalogue.TASKS, job.task, ("task",)),
        *((ALL_STEPS, step, ("steps", place)) for place, step in enumerate(job.steps)),
    ):
        try:
            known = _known_params(registry, ref, job.folder)
        except SpecError as error:
            found.append((keys, error.message))
        else:
            found += _in_params(known, ref, (*keys, ref.name))
    return [*found, *_in_order_of_steps(job), *_in_metrics(job), *without_effect(job, value)]


def _known_params(registry: Registry, ref: Ref, folder: str) -> Params | None:
    """Give what the code behind a name takes; None if only running it can tell."""
    if registry is catalogue.TASKS and ref.name == "auto":
        return TASK_PARAMS["auto"]
    path = registry.path(ref.name)
    table = {catalogue.OPTIMIZERS: OPTIMIZER_PARAMS, catalogue.TASKS: TASK_PARAMS}.get(registry, {})
    if ref.name in table:
        return table[ref.name]
    module, _, attribute = path.partition(":")
    file = source_of(module, folder)
    skipped = GIVEN_TO_ENSEMBLES if registry is catalogue.ENSEMBLES else GIVEN_BY_FMRAY
    known = params_of(file, attribute, skipped) if file else None
    if file and not registry.is_catalogued(ref.name) and registry.kind is not None:
        refuse_other_kind(file, attribute, registry.kind)
    if registry is catalogue.ENSEMBLES and known is not None and ref.name != "single":
        known = {**known, "keep": KEEP}  # read by what decides whether any method's answer is kept
    # what a user's own task, step or model is given beyond its parameters is not ours to say, but its name must exist
    return known if ref.name in registry or registry is catalogue.MODELS else None


def _in_params(known: Params | None, ref: Ref, keys: Keys) -> Iterator[Refusal]:
    for name, given in () if known is None else ref.params.items():
        if known is not None and name not in known:
            hint = nearest(name, known) if known else "It takes none."
            yield (*keys, name), f"'{ref.name}' has no parameter '{name}'. {hint}"
        elif known is not None and (message := refusal(ref.name, name, given, known[name])):
            yield (*keys, name), message


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
        if gate not in catalogue.GATES:
            yield ("rigour", "waive", gate), f"'{gate}' is no gate. {nearest(gate, catalogue.GATES)}"
