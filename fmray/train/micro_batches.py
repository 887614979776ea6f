"""Compute steps in ever smaller parts where memory does not suffice; the global batch stays what it was.

How small they have become is written down, so whoever carries the trial on, on whatever workers, begins there.
"""

from dataclasses import dataclass

from fmray.errors import TrainError
from fmray.failures import HALVED
from fmray.spec.sections import Train
from fmray.store import Fence, Store
from fmray.train.failures import ShortOfMemoryError, failure
from fmray.train.workers import Worker


@dataclass(frozen=True)
class MicroBatches:
    """Know in how many micro-batches each batch of a trial is computed.

    Args:
        store, path: Where it is written down once it is more than the job asked for.
        fence: Whoever stands outside must not write any more.
        train: The job's section.
    """

    store: Store
    path: str
    fence: Fence
    train: Train

    def number(self) -> int:
        """Give how many there are by now."""
        return (
            int(self.store.read_json(self.path)["accumulate"])
            if self.store.exists(self.path)
            else self.train.accumulate
        )

    def halve(self) -> int | None:
        """Halve them from the newest state on, and give their number; None if each holds one row."""
        now = self.number()
        rows = self.train.batch_rows
        if now >= rows:
            return None
        self.fence.check()
        self.store.write_json(self.path, {"accumulate": min(2 * now, rows)})
        return min(2 * now, rows)

    def halve_together(self, worker: Worker, short: ShortOfMemoryError) -> None:
        """Halve them on all workers at once, and tell of it.

        Raises:
            TrainError: If there was one row in each.
        """
        first = worker.group.is_first and short.rows > 1
        number = worker.group.broadcast(self.halve() if first else None)
        text = f"rank {short.rank}: {short.message} at {short.rows} rows at a time"
        if number is None:
            raise TrainError(f"memory does not suffice for a step on one row: {text}. Choose a smaller model.", "model")
        attempt = (number // self.train.accumulate).bit_length() - 1
        text = f"{text}. Each step is computed in {number} micro-batches from now on"
        worker.report(failure(short.kind, text, action=HALVED, attempt=attempt, rank=short.rank))
