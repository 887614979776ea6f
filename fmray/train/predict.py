"""Turn trained members into a table of predictions, each row of a split exactly once."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from fmray.catalogue import MODELS, TASKS
from fmray.data.lanes import Lanes
from fmray.data.session import run_over_ray, session
from fmray.errors import DataError
from fmray.records import Member, Predictions, Prepared, Split
from fmray.spec.ref import Ref
from fmray.tasks.task import Batch, Task
from fmray.train.population import Blueprint, Population, enter

CHUNK_ROWS = 65_536
TASK_ROWS = 4 * CHUNK_ROWS
"""Rows that a task predicts; fewer in all are not worth a task."""
TENSORS = "model.safetensors"


def predict(
    members: Sequence[Member],
    weights: Sequence[float],
    prepared: Prepared,
    split: Split,
    task: Ref,
    path: str,
    device: torch.device | str = "cpu",
    over_ray: bool = False,
) -> Predictions:
    """Write the weighted mean of the members' predictions on every row of a split.

    Args:
        members, weights: Whose word counts how much.
        prepared, split: Which rows.
        task: What turns outputs into predictions.
        path: Parquet file to write; columns as `records.Predictions` says.
        over_ray: Let tasks of Ray Data predict, some rows each; they write what the driver puts together in order.

    Raises:
        DataError: If a member's tensors are missing or do not fit, or a row was lost.
        ClusterError: If Ray fails.
    """
    total, partial_path = Lanes(prepared, split).num_rows, f"{path}.partial"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    speaker = _Speaker(tuple(members), tuple(weights), prepared, split, task, str(device))
    tables = _over_ray(speaker, total, f"{path}.parts") if over_ray and total > TASK_ROWS else speaker.tables(0, total)
    num_rows = 0
    writer: pq.ParquetWriter | None = None
    for table in tables:
        writer = writer or pq.ParquetWriter(partial_path, table.schema)
        writer.write_table(table)
        num_rows += len(table)
    if writer is None:
        raise DataError(f"predict: the {split} split has no rows. See the row accounting.")
    writer.close()
    if num_rows != total:
        raise DataError(f"predict: {num_rows} of the {total} rows of {split} were predicted. Run the job again.")
    Path(partial_path).replace(path)
    return Predictions(path, split, output_names(prepared), num_rows)


@dataclass(frozen=True)
class _Speaker:
    """Hold what is needed to predict some rows of a split, here or in a task."""

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    prepared: Prepared
    split: Split
    task: Ref
    device: str

    def tables(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Give the predictions of the rows from `start` up to `stop`, in sequence order."""
        prepared, lanes = self.prepared, Lanes(self.prepared, self.split)
        objective: Task = TASKS.find(self.task.name)(prepared.target, [self.task.params])
        populations = [load_member(member, prepared, objective.num_outputs, self.device) for member in self.members]
        for first in range(start, stop, CHUNK_ROWS):
            arrays = lanes.take(np.arange(first, min(first + CHUNK_ROWS, stop)))
            mean = _mean(populations, self.weights, objective, arrays["x"], self.device)
            yield as_table(arrays, dict(zip(output_names(prepared), mean.T, strict=True)), prepared)


def _over_ray(speaker: _Speaker, num_rows: int, folder: str) -> Iterator[pa.Table]:
    """Have tasks write the predictions of a few rows each, and read them back in order."""
    cuts = range(0, num_rows, TASK_ROWS)
    own = [
        (f"{folder}/{number:06d}.parquet", start, min(start + TASK_ROWS, num_rows)) for number, start in enumerate(cuts)
    ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with session():
            run_over_ray(lambda event: None, "predict", _write_part, (replace(speaker, device="cpu"),), own)
        for path, _, _ in own:
            yield pq.read_table(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_part(speaker: _Speaker, path: str, start: int, stop: int) -> None:
    """Predict some rows in a task, which has one core."""
    torch.set_num_threads(1)
    pq.write_table(pa.concat_tables(speaker.tables(start, stop)), path)


def load_member(member: Member, prepared: Prepared, num_outputs: int, device: torch.device | str) -> Population:
    """Build a member again from its record.

    Raises:
        DataError: If its tensors are missing, damaged or do not fit its description.
    """
    path = f"{member.root}/{TENSORS}"
    blueprint = Blueprint(MODELS.find(member.model["name"]), member.model["params"], member.seed)
    module = blueprint.module(prepared.schema, num_outputs)
    try:
        module.load_state_dict(load_file(path))
    except Exception as error:  # safetensors raises its own errors, of several kinds
        raise DataError(f"{path} cannot be read as member {member.index}: {error}.") from error
    population = enter([blueprint], prepared.schema, num_outputs, device, [module])
    population.prepare_step(0, None)
    return population


def output_names(prepared: Prepared) -> tuple[str, ...]:
    """Name the output columns: p_<class> or y_<target>."""
    classes = prepared.target.classes
    return tuple(f"p_{i}" for i in range(len(classes))) or tuple(f"y_{i}" for i in range(len(prepared.target.columns)))


def as_table(arrays: dict[str, np.ndarray], outputs: dict[str, np.ndarray], prepared: Prepared) -> pa.Table:
    """Lay rows and outputs out as `records.Predictions` says."""
    ids = np.ascontiguousarray(arrays["row_id"]).view(np.uint8).reshape(-1)
    columns: dict[str, pa.Array] = {
        "row_id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(arrays["row_id"]), [None, pa.py_buffer(ids)])
    }
    target = arrays["target"]
    columns |= (
        {f"target_{i}": pa.array(c) for i, c in enumerate(target.T)}
        if target.ndim == 2
        else {"target": pa.array(target)}
    )
    beside = [name for name in ("weight", "group") if name in arrays] + [f"slice_{name}" for name in prepared.slices]
    return pa.table(columns | {name: pa.array(arrays[name]) for name in beside} | outputs)


def _mean(
    populations: Sequence[Population], weights: Sequence[float], task: Task, x: np.ndarray, device: torch.device | str
) -> np.ndarray:
    """Average predictions (N, C or T) in float64."""
    inputs = torch.from_numpy(x).to(device)
    batch = Batch({"x": inputs}, torch.zeros(len(x)), None, torch.arange(len(x)))
    with torch.no_grad():
        parts = (task.predict(p(batch))[0] * w for p, w in zip(populations, weights, strict=True))
        total = next(parts)
        for part in parts:
            total = total + part
    result: np.ndarray = total.cpu().numpy()
    return result
