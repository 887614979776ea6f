"""Let the workers of one training act as one.

Every worker holds the same parameters and state, and its own share of the rows; what they learn from their rows is
summed. All of it happens in the same order on every worker, whatever their number; alone, nothing is exchanged.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch import distributed as dist

from fmray.data.order import Share


@dataclass(frozen=True)
class Group:
    """Exchange what workers know; every worker calls every method, in the same order.

    Sums are made of one flat tensor in the order of registration. Gradients in buckets, which `DistributedDataParallel`
    forms anew after its first step, are summed in another order once a training is resumed, and differ in their last
    bits from three workers on.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "Group":
        """Give the process group of `torch.distributed` that this process has joined, if it has."""
        if not dist.is_initialized():
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def share(self) -> Share:
        """Say which rows are this worker's."""
        return Share(self.rank, self.size)

    @property
    def is_first(self) -> bool:
        """Tell whether this worker writes and reports for all."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, own: Any) -> list[Any]:
        """Give what each worker gave, small picklable things, in the order of ranks."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        return found

    def broadcast(self, own: Any) -> Any:
        """Give every worker what the first one gave."""
        if self.size == 1:
            return own
        found = [own]
        dist.broadcast_object_list(found)
        return found[0]


ALONE = Group()
