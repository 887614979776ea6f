"""Models of a user that fail on purpose, in the ways a model may."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from fmray.schema import Schema


class Linear(nn.Module):
    def __init__(self, schema: Schema, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(schema.width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Narrow(Linear):
    """Run out of memory on more than `most` rows, after so many passes; on worker `rank` alone if one is named."""

    calls = 0

    def __init__(
        self, schema: Schema, num_outputs: int, most: int = 1, after: int = 0, rank: int | None = None
    ) -> None:
        super().__init__(schema, num_outputs)
        self.most, self.after, self.rank = most, after, rank

    def forward(self, x: Tensor) -> Tensor:
        Narrow.calls += 1
        here = self.rank is None or self.rank == torch.distributed.get_rank()
        if here and len(x) > self.most and Narrow.calls > self.after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)


class Marked(Linear):
    """Do something in one forward pass of training, on one worker: once for each of so many marks in a folder."""

    def __init__(self, schema: Schema, num_outputs: int, folder: str, way: str, times: int = 1, rank: int = 1) -> None:
        super().__init__(schema, num_outputs)
        self.folder, self.way, self.times, self.rank, self.calls = Path(folder), way, times, rank, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else self.rank
        if self.calls == 20 and rank == self.rank and self._mark():
            self._fail()
        return super().forward(x)

    def _mark(self) -> bool:
        marks = len(list(self.folder.glob(f"mark-{self.way}-*")))
        if marks < self.times:
            (self.folder / f"mark-{self.way}-{marks}").touch()
        return marks < self.times

    def _fail(self) -> None:
        match self.way:
            case "hang":
                time.sleep(3600)  # stands here for ever
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case "bug":
                raise ValueError("the user's own mistake")
