"""Notice before training that a module cannot learn from a batch of one row, where an epoch ends with one.

Batch normalisation is the usual reason: it has no variance to divide by. Which rows make up a batch follows from the
seed alone and stays as it is, so the job is refused, with a batch size that leaves no such rest.
"""

from dataclasses import replace

import torch

from fmray.errors import SpecError, TrainError
from fmray.spec.sections import Train
from fmray.tasks.task import Batch, Places
from fmray.train.failures import is_user_error, one_line, place_of
from fmray.train.ingest import Rows
from fmray.train.pack import Pack, Plan
from fmray.train.population import enter


def refuse_single_rows(pack: Pack, plans: list[Plan], rows: Rows) -> None:
    """Try a module on one row in training mode, if it will meet one; it is built anew, so training does not change.

    Args:
        pack: To be trained, built from the plans.
        rows: To learn from.

    Raises:
        SpecError: If it fails on one row and not on two.
    """
    train = pack.train
    num_rows = rows.num_rows
    if pack.population.entry == "native" or smallest_part(num_rows, train.batch_rows, train.accumulate) != 1:
        return
    batch = next(rows.batches(train.order, 0, 0, train.batch_rows))
    error = _tried(pack, plans[0], rows=rows, batch=batch, num_rows=1)
    if error is None or (len(batch) > 1 and _tried(pack, plans[0], rows=rows, batch=batch, num_rows=2) is not None):
        return  # a module that fails on any batch says so itself
    size = _better(num_rows, train)
    cure = f"Set train.batch_rows to {size}, or let" if size else "Give more rows, or let"
    part = "batch of an epoch" if num_rows % train.batch_rows == 1 else "micro-batch of a step"
    raise SpecError(
        f"the last {part} has 1 row ({num_rows:,} training rows in batches of {train.batch_rows}), on which the model "
        f"fails: {one_line(error)}. {cure} the model take a single row: batch normalisation needs two.",
        "train.batch_rows",
    ) from error


def smallest_part(num_rows: int, batch_rows: int, accumulate: int) -> int:
    """Count the rows of the smallest micro-batch of an epoch.

    Args:
        accumulate: Into how many micro-batches a batch is cut.
    """
    found = []
    for size in {min(batch_rows, num_rows), num_rows % batch_rows} - {0}:
        part = max(1, -(-size // accumulate))
        found.append(size % part or part)
    return min(found)


def _better(num_rows: int, train: Train) -> int:
    """Give the nearest larger batch size that leaves no single row; 0 if there is none."""
    sizes = range(train.batch_rows + 1, 2 * train.batch_rows + 3)
    return next((size for size in sizes if smallest_part(num_rows, size, train.accumulate) > 1), 0)


def _tried(pack: Pack, plan: Plan, rows: Rows, batch: Batch, num_rows: int) -> BaseException | None:
    """Give the error that a freshly built module meets on so many rows, None if it meets none."""
    part = replace(batch.slice(0, num_rows), places=None)
    cuda = [pack.device] if pack.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        try:
            module = plan.module(rows.schema, pack.task.num_outputs)
            population = enter(
                [plan.blueprint], rows.schema, num_outputs=pack.task.num_outputs, device=pack.device, modules=[module]
            )
            population.prepare_step(0, Places.counted(0, num_rows))
            population(part)
        except (SpecError, TrainError) as error:
            return error
        except BaseException as error:
            if not is_user_error(error):
                if isinstance(error, Exception):
                    return None  # short of memory, say: training knows what to do
                raise
            error.add_note(place_of(error))
            return error
    return None
