"""Train populations of PyTorch models from sharded Parquet on Ray, and prove what is reported.

Names are resolved when they are first used, so importing fmray loads neither torch nor ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmray.errors import ClusterError, DataError, FmrayError, SpecError, TrainError
    from fmray.records import Run
    from fmray.spec.job import Job
    from fmray.spec.load import job_from, load_job
    from fmray.store import Store
    from fmray.workflow import run

__version__ = "0.1.0"

_HOMES = {
    "ClusterError": "fmray.errors",
    "DataError": "fmray.errors",
    "FmrayError": "fmray.errors",
    "Job": "fmray.spec.job",
    "Run": "fmray.records",
    "SpecError": "fmray.errors",
    "Store": "fmray.store",
    "TrainError": "fmray.errors",
    "job_from": "fmray.spec.load",
    "load_job": "fmray.spec.load",
    "run": "fmray.workflow",
}

__all__ = [
    "ClusterError",
    "DataError",
    "FmrayError",
    "Job",
    "Run",
    "SpecError",
    "Store",
    "TrainError",
    "__version__",
    "job_from",
    "load_job",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fmray' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
