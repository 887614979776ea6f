"""Bring prepared rows to the device: in memory where they fit, window by window where they do not.

Which rows form batch s of epoch e depends on the data, the seed, e and s alone; both ways give the same batches.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fmray.data.lanes import Lanes
from fmray.data.order import epoch_order
from fmray.errors import DataError
from fmray.records import Prepared, Split
from fmray.spec.sections import Order
from fmray.tasks.task import Batch
from fmray.train.device import free_bytes

Arrays = dict[str, np.ndarray]
EVALUATION_ROWS = 8192


class Rows:
    """Serve the rows of one split.

    Args:
        prepared, split: Which rows.
        device: Where batches are needed.
        memory_bytes: Rows are kept in memory if they need no more than this; by default half of what is free.
    """

    def __init__(
        self, prepared: Prepared, split: Split, device: torch.device | str, memory_bytes: int | None = None
    ) -> None:
        self.lanes = Lanes(prepared, split)
        self.device = torch.device(device)
        self.num_rows = self.lanes.num_rows
        self.columns = ["x", "target", *(["weight"] if prepared.weighted else [])]
        self.schema = prepared.schema
        self._target = prepared.target
        self._kept: Arrays = {}
        needed = self.num_rows * (4 * prepared.schema.width + 16)
        self.in_memory = needed <= (free_bytes(self.device) // 2 if memory_bytes is None else memory_bytes)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="fmray-order")
        self._next: tuple[object, Future[np.ndarray] | None] = (None, None)
        self._whole = self._tensors(self.lanes.load(self.columns)) if self.in_memory else None

    def batches(self, order: Order, seed: int, epoch: int, batch_rows: int, first_step: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch in its order, from a step on; the last one may be shorter."""
        if self._whole is None:
            yield from self._streamed(order, seed, epoch, batch_rows, first_step)
            return
        places = torch.from_numpy(self._places(order, seed, epoch)).to(self.device)
        for start in range(first_step * batch_rows, self.num_rows, batch_rows):
            rows = places[start : start + batch_rows]
            picked = {name: value.index_select(0, rows) for name, value in self._whole.items()}
            yield _batch(picked, rows)

    def in_sequence(self, chunk_rows: int = EVALUATION_ROWS) -> Iterator[Batch]:
        """Give every row exactly once, in sequence order."""
        if self._whole is not None:
            for start in range(0, self.num_rows, chunk_rows):
                stop = min(start + chunk_rows, self.num_rows)
                yield _batch({k: v[start:stop] for k, v in self._whole.items()}, torch.arange(start, stop))
            return
        for arrays in self.lanes.sequence(chunk_rows, self.columns):
            yield _batch(self._tensors(arrays), torch.from_numpy(arrays["position"]))

    def targets(self) -> np.ndarray:
        """Give the target of every row in sequence order, in its own units (N,) or (N, T)."""
        return self._given("target")

    def weights(self) -> np.ndarray | None:
        """Give the weight of every row in sequence order (N,), or None where all count the same."""
        return self._given("weight") if "weight" in self.columns else None

    def _given(self, column: str) -> np.ndarray:
        if column not in self._kept:
            self._kept[column] = self.lanes.load([column])[column]
        return self._kept[column]

    def _places(self, order: Order, seed: int, epoch: int) -> np.ndarray:
        """Give the order of an epoch, and have the next one's worked out on the side."""
        key = (self.num_rows, order, seed, epoch)
        known, future = self._next
        places = future.result() if future is not None and known == key else epoch_order(*key)
        following = (self.num_rows, order, seed, epoch + 1)
        self._next = (following, self._aside.submit(epoch_order, *following))
        return places

    def _streamed(self, order: Order, seed: int, epoch: int, batch_rows: int, first_step: int) -> Iterator[Batch]:
        left: dict[str, Tensor] = {}
        for arrays in self.lanes.stream(order, seed, epoch, first_step * batch_rows):
            fresh = self._tensors(arrays) | {"rows": torch.from_numpy(arrays["row"])}
            left = {k: torch.cat([left[k], v]) if left else v for k, v in fresh.items()}
            whole = len(left["rows"]) // batch_rows * batch_rows
            for start in range(0, whole, batch_rows):
                yield _batch(
                    {k: v[start : start + batch_rows] for k, v in left.items() if k != "rows"},
                    left["rows"][start : start + batch_rows],
                )
            left = {k: v[whole:] for k, v in left.items()}
        if left and len(left["rows"]):
            yield _batch({k: v for k, v in left.items() if k != "rows"}, left["rows"])

    def _tensors(self, arrays: Arrays) -> dict[str, Tensor]:
        given = {name: arrays[name] for name in self.columns}
        if self._target.kind == "number":
            numbers = given["target"].reshape(len(given["target"]), -1).astype(np.float64)
            given["target"] = ((numbers - self._target.mean) / self._target.scale).astype(np.float32)
        return {name: torch.from_numpy(value).to(self.device) for name, value in given.items()}


def num_steps(num_rows: int, batch_rows: int) -> int:
    """Count the steps of an epoch, the short last batch included.

    Raises:
        DataError: If there is no row to learn from.
    """
    if num_rows == 0:
        raise DataError("train: 0 rows are left to learn from. See the row accounting; check split and quarantine.")
    return -(-num_rows // batch_rows)


def _batch(tensors: dict[str, Tensor], rows: Tensor) -> Batch:
    return Batch({"x": tensors["x"]}, tensors["target"], tensors.get("weight"), rows)
