"""Tell parameters that members of one pack may differ in from those that call for another structure.

Parameter classes say it in `packable`; of the user's own models and tasks, their source does, so that a job is
previewed without importing torch.
"""

from fmray import catalogue
from fmray.registry import Registry
from fmray.spec.components.optimizers import PACKABLE
from fmray.spec.job import Job
from fmray.spec.params import packable_of, source_of
from fmray.spec.ranges import Keys, Range


def split_ranges(job: Job) -> tuple[dict[Keys, Range], dict[Keys, Range]]:
    """Give the ranges that are structural, and those that are packable."""
    kinds: tuple[dict[Keys, Range], dict[Keys, Range]] = {}, {}
    for keys, found in job.ranges.items():
        kinds[is_packable(job, keys)][keys] = found
    return kinds


def is_packable(job: Job, keys: Keys) -> bool:
    """Tell whether members of one pack may differ in the parameter that stands at these keys of a job."""
    match keys:
        case ("train", "optimizer", _, str(name)):
            return name in _declared(catalogue.OPTIMIZERS, job.train.optimizer.name, job.folder)
        case ("model", str(), str(name)):
            return name in _declared(catalogue.MODELS, job.model.name, job.folder)
        case ("task", str(), str(name)):
            return name in _declared(catalogue.TASKS, job.task.name, job.folder)
    return False


def _declared(registry: Registry, name: str, folder: str) -> tuple[str, ...]:
    if ":" not in name:
        declared: tuple[str, ...] = registry.params(name).packable
        return declared
    if registry is catalogue.OPTIMIZERS:  # of any, the update is linear in lr
        return PACKABLE
    module, _, attribute = registry.path(name).partition(":")
    file = source_of(module, folder)
    return packable_of(file, attribute) if file else ()
