"""Turn trained members into a table of predictions, each row of a split exactly once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from fmray.catalogue import MODELS, TASKS
from fmray.data.lanes import Lanes
from fmray.errors import DataError
from fmray.records import Member, Predictions, Prepared, Split
from fmray.spec.ref import Ref
from fmray.tasks.task import Batch, Task
from fmray.train.population import Blueprint, Population, enter

CHUNK_ROWS = 65_536
TENSORS = "model.safetensors"


def predict(
    members: Sequence[Member],
    weights: Sequence[float],
    prepared: Prepared,
    split: Split,
    task: Ref,
    path: str,
    device: torch.device | str = "cpu",
) -> Predictions:
    """Write the weighted mean of the members' predictions on every row of a split.

    Args:
        members, weights: Whose word counts how much.
        prepared, split: Which rows.
        task: What turns outputs into predictions.
        path: Parquet file to write; columns as `records.Predictions` says.

    Raises:
        DataError: If a member's tensors are missing or do not fit.
    """
    objective: Task = TASKS.find(task.name)(prepared.target, [task.params])
    populations = [load_member(member, prepared, objective.num_outputs, device) for member in members]
    names = output_names(prepared)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    num_rows, partial = 0, f"{path}.partial"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    for arrays in Lanes(prepared, split).sequence(CHUNK_ROWS):
        mean = _mean(populations, weights, objective, arrays["x"], device)
        table = as_table(arrays, dict(zip(names, mean.T, strict=True)), prepared)
        writer = writer or pq.ParquetWriter(partial, table.schema)
        writer.write_table(table)
        num_rows += len(table)
    if writer is None:
        raise DataError(f"predict: the {split} split has no rows. See the row accounting.")
    writer.close()
    Path(partial).replace(path)
    return Predictions(path, split, names, num_rows)


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
