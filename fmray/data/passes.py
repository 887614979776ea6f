"""Run one function over many work items: in this process, or as Ray Data tasks.

The same function gets the same arguments either way, and results come back in the order of the items.
"""

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal

import ray
import ray.data

from fmray.data.scan import Dataset
from fmray.errors import FmrayError
from fmray.records import Json

SMALL_BYTES = 256 << 20
Report = Callable[[Json], None]


class Passes:
    """Choose where passes run, and open and close what they need.

    Args:
        where: "local", "ray", or "auto": over Ray if the files hold more than 256 MiB once decoded.
        dataset: Rows they run over.
        report: Gets a note about the choice, and progress.
    """

    def __init__(self, where: Literal["auto", "local", "ray"], dataset: Dataset, report: Report) -> None:
        num_bytes = sum(sum(file.group_bytes) for file in dataset.files)
        self._over_ray = where == "ray" or (where == "auto" and num_bytes > SMALL_BYTES)
        self._report, self._started = report, False
        place = "over Ray Data" if self._over_ray else "in this process"
        rule = f"over {SMALL_BYTES >> 20} MiB goes to Ray" if where == "auto" else f"run.prepare: {where}"
        report({"event": "note", "text": f"preparing {num_bytes / 1e6:,.1f} MB {place} ({rule})"})

    def __enter__(self) -> "Passes":
        if self._over_ray and not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            self._started = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._started:
            ray.shutdown()

    def map(self, name: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function with each tuple of arguments, and give the results in order.

        Raises:
            FmrayError: Whatever the function raises, first item first.
        """
        if not self._over_ray or len(arguments) == 1:
            return self._map_here(name, function, arguments)
        return self._map_over_ray(name, function, arguments)

    def _map_here(self, name: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        results = []
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1))) as pool:
            for result in pool.map(lambda a: function(*a), arguments):
                results.append(result)
                self._report({"event": "progress", "stage": name, "done": len(results), "total": len(arguments)})
        return results

    def _map_over_ray(self, name: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        held = ray.put([pickle.dumps(a) for a in arguments])

        def call(row: dict[str, Any]) -> dict[str, Any]:
            import polars  # noqa: PLC0415, F401  # the pool's size is read at import; set by the task's environment

            given = pickle.loads(ray.get(held)[row["item"]])
            try:
                result: Any = function(*given)
            except FmrayError as error:
                result = error
            return {"item": row["item"], "result": pickle.dumps(result)}

        with _quiet():
            rows = ray.data.from_items([{"item": i} for i in range(len(arguments))], override_num_blocks=len(arguments))
            done = rows.map(call, num_cpus=1).take_all()
        results = [pickle.loads(row["result"]) for row in sorted(done, key=lambda row: row["item"])]
        for result in results:
            if isinstance(result, FmrayError):
                raise result
        self._report({"event": "progress", "stage": name, "done": len(results), "total": len(arguments)})
        return results


@contextlib.contextmanager
def _quiet():  # noqa: ANN202
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        context.enable_progress_bars = before
