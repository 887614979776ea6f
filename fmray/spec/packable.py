"""Tell parameters that members of one pack may differ in from those that call for another structure.

Models and tasks say it themselves, in `packable`; of an optimizer, only what scales its update can differ. Read from
source, so that a job is previewed without importing torch.
"""

from fmray import catalogue
from fmray.registry import Registry
from fmray.spec.job import Job
from fmray.spec.params import packable_of, source_of
from fmray.spec.ranges import Keys, Range

OPTIMIZER = ("lr", "weight_decay")
"""Of any optimizer whose update is linear in lr."""


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
            return name in OPTIMIZER
        case ("model", str(), str(name)):
            return name in _declared(catalogue.MODELS, job.model.name, job.folder)
        case ("task", str(), str(name)):
            return name in _declared(catalogue.TASKS, job.task.name, job.folder)
    return False


def _declared(registry: Registry, name: str, folder: str) -> tuple[str, ...]:
    if registry is catalogue.TASKS and name == "auto":  # whichever it will be, the parameter is that one's
        return sum((_declared(registry, each, folder) for each in registry), ())
    module, _, attribute = registry.path(name).partition(":")
    file = source_of(module, folder)
    return packable_of(file, attribute) if file else ()
