"""Refuse what pydantic cannot see: unknown names and parameters, values without effect.

Parameters are read from the source of fmray's own classes, so that checking a job imports neither torch nor ray. A key
without effect is an error, because whoever wrote it believes that it has one.
"""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmray import catalogue
from fmray.errors import SpecError
from fmray.registry import Registry, nearest
from fmray.spec.explain import LATER, Keys, Origin
from fmray.spec.job import Job
from fmray.spec.ref import Ref, is_range
from fmray.spec.sections import Split

OPTIMIZER_PARAMS = {
    "sgd": ("lr", "weight_decay", "momentum", "dampening", "nesterov"),
    "adam": ("lr", "weight_decay", "betas", "eps", "amsgrad"),
    "adamw": ("lr", "weight_decay", "betas", "eps", "amsgrad"),
}
TASK_PARAMS = {
    "auto": ("label_smoothing", "class_weights", "loss", "delta"),
    "classification": ("label_smoothing", "class_weights"),
    "regression": ("loss", "delta"),
}
GIVEN_BY_FMRAY = ("self", "schema", "num_outputs")


def check(job: Job, value: Mapping[str, Any], origin: Origin) -> None:
    """Refuse names, parameters and combinations that do not fit.

    Args:
        value: The job as written, to tell what was said from what is default.

    Raises:
        SpecError: Naming file, line and key.
    """
    named: list[tuple[Registry, Ref, Keys]] = [
        (catalogue.MODELS, job.model, ("model",)),
        (catalogue.OPTIMIZERS, job.train.optimizer, ("train", "optimizer")),
        (catalogue.SCHEDULES, job.train.schedule, ("train", "schedule")),
        (catalogue.ENSEMBLES, job.ensemble, ("ensemble",)),
        *((catalogue.STEPS, step, ("steps", place)) for place, step in enumerate(job.steps)),
    ]
    if job.task.name != "auto":
        named.append((catalogue.TASKS, job.task, ("task",)))
    for registry, ref, keys in named:
        _check_name(registry, ref, keys, origin)
    for keys, ref in (*((keys, ref) for _, ref, keys in named), (("task",), job.task)):
        _refuse_ranges(ref.params, (*keys, ref.name), origin)
    _check_params(OPTIMIZER_PARAMS.get(job.train.optimizer.name), job.train.optimizer, ("train", "optimizer"), origin)
    _check_params(TASK_PARAMS.get(job.task.name), job.task, ("task",), origin)
    for registry, ref, keys in named:
        if registry not in (catalogue.OPTIMIZERS, catalogue.TASKS):
            skipped = ("members", "higher_is_better", "score") if registry is catalogue.ENSEMBLES else GIVEN_BY_FMRAY
            _check_params(_params_of(registry, ref, skipped), ref, keys, origin)
    _check_metrics(job, origin)
    _refuse_without_effect(job, value, origin)


def _check_name(registry: Registry, ref: Ref, keys: Keys, origin: Origin) -> None:
    try:
        registry.path(ref.name)
    except SpecError as error:
        raise SpecError(error.message, origin.where(keys)) from error


def _refuse_ranges(params: Mapping[str, Any], keys: Keys, origin: Origin) -> None:
    for name, given in params.items():
        if is_range(given):
            raise SpecError(
                f"{dict(given)} is a range, and {LATER['search']}. Give one value.", origin.where((*keys, name))
            )


def _check_params(known: Sequence[str] | None, ref: Ref, keys: Keys, origin: Origin) -> None:
    for name in ref.params:
        if known is not None and name not in known:
            hint = nearest(name, known) if known else "It takes none."
            raise SpecError(f"'{ref.name}' has no parameter '{name}'. {hint}", origin.where((*keys, ref.name, name)))


def _params_of(registry: Registry, ref: Ref, skipped: Sequence[str]) -> list[str] | None:
    """Read the parameters of one of fmray's own classes or functions from its source; None for others."""
    if ref.name not in registry:
        return None
    module, _, attribute = registry.path(ref.name).partition(":")
    spec = importlib.util.find_spec(module)
    if not module.startswith("fmray.") or spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            return _arguments(inits[0], skipped) if inits else []
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return _arguments(node, skipped)
    return None


def _arguments(node: ast.FunctionDef, skipped: Sequence[str]) -> list[str]:
    return [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs) if argument.arg not in skipped]


def _check_metrics(job: Job, origin: Origin) -> None:
    known = [*catalogue.METRICS, "f1[label]"]
    for key, names in (("primary", [job.evaluate.primary]), ("metrics", job.evaluate.metrics or ())):
        for name in names:
            if name and name not in known and not (name.startswith("f1[") and name.endswith("]")) and ":" not in name:
                raise SpecError(f"unknown metric '{name}'. {nearest(name, known)}", origin.where(("evaluate", key)))
    for gate in job.rigour.waive:
        if gate not in catalogue.GATES:
            raise SpecError(
                f"'{gate}' is no gate. {nearest(gate, catalogue.GATES)}", origin.where(("rigour", "waive", gate))
            )


def _refuse_without_effect(job: Job, value: Mapping[str, Any], origin: Origin) -> None:
    """Refuse keys that the other keys leave without effect."""
    plain = Split()
    split = {key for key, given in (value.get("split") or {}).items() if given != getattr(plain, key)}
    for key, by in (
        ("column", ("given",)),
        ("val_from", ("time",)),
        ("test_from", ("time",)),
        ("salt", ("hash", "group", "given")),
    ):
        if key in split and job.split.by not in by:
            raise SpecError(
                f"has no effect with split.by: {job.split.by}. It goes with {' or '.join(by)}.",
                origin.where(("split", key)),
            )
    if job.split.by == "given" and "test" in split:
        raise SpecError(
            "has no effect with split.by: given, whose column names the test rows. Leave it out.",
            origin.where(("split", "test")),
        )
    if job.split.by == "given" and job.split.column is None:
        raise SpecError("is missing; split.by: given reads it. Name the column.", origin.where(("split", "column")))
    if job.split.by in ("group", "time") and getattr(job.data, job.split.by) is None:
        raise SpecError(
            f"is missing; split.by: {job.split.by} reads it. Name the column.", origin.where(("data", job.split.by))
        )
    if job.split.val + job.split.test >= 1 and job.split.by != "given":
        raise SpecError(
            f"val {job.split.val:g} and test {job.split.test:g} leave nothing to train on. Make their sum < 1.",
            origin.where(("split",)),
        )
    if not job.split.val and not (job.split.by == "given" or job.split.val_from):
        raise SpecError("0 leaves nothing to choose by. Give a share, e.g. 0.1.", origin.where(("split", "val")))
    if not job.split.test and job.split.by != "given" and not job.split.test_from:
        raise SpecError("0 leaves nothing to judge by. Give a share, e.g. 0.2.", origin.where(("split", "test")))
    if job.train.seeds.order and job.train.seeds.n == 1:
        raise SpecError("has no effect with one seed. Give train.seeds.n.", origin.where(("train", "seeds", "order")))
    plateau, stop = job.train.schedule, job.train.early_stop
    if plateau.name == "plateau" and stop is not None and plateau.params.get("patience", 3) >= stop.patience:
        raise SpecError(
            f"patience {plateau.params.get('patience', 3)} is never reached: early_stop.patience is {stop.patience}. "
            "Make it smaller.",
            origin.where(("train", "schedule")),
        )
    linear = job.model.name in ("linear", "logistic") or ":" in job.model.name
    if job.rigour.prefer == "simple" and not linear:
        raise SpecError(
            f"simple has no effect on model '{job.model.name}'. It goes with linear.",
            origin.where(("rigour", "prefer")),
        )
