"""Hold everything a training needs to go on exactly where it stood, and write it so that a kill cannot hurt it.

What is saved is generated from the fields of `State`; a test leaves each out in turn and must notice. A checkpoint is
complete when its manifest exists, and a damaged newest one gives way to the one before, with a notice.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from fmray.errors import DataError
from fmray.records import Json
from fmray.seeding import RNG_LOCK
from fmray.store import Store, read_atomic_folder, write_atomic_folder

log = logging.getLogger("fmray")

_TENSORS = dict[str, Tensor]


@dataclass
class State:
    """Describe a pack between two steps.

    Shapes, with M members in the pack at its start, K still training, P parameters each:
        epoch, step, global_step: Epochs finished, steps finished in the current one, steps finished in all.
        alive: (K,), which members the rows of `flat` belong to.
        flat, buffers, optimizer: (K, P), (K, ...) and the optimizer's memory.
        ema: (K, P), running averages of the parameters, or (0,) where none are kept.
        best, best_buffers: (M, P), (M, ...), the state with the best validation score.
        best_score, best_epoch, bad_epochs: (M,), early stopping.
        plateau_factor, plateau_best, plateau_bad: (M,), the plateau schedule.
        loss_sum, weight_sum: (K,), over the current epoch.
        rng: Torch's generators of each worker, by "rank/kind", for modules that draw from them.
        history: [{member, epoch, metric, value}].
        ends: Member -> {"status", "reason", "epochs"} once it no longer trains.
        health: Numeric events: a member, step, parameter and rows that went wrong.
    """

    epoch: int
    step: int
    global_step: int
    alive: Tensor
    flat: Tensor
    buffers: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ema: Tensor
    best: Tensor
    best_buffers: dict[str, Tensor]
    best_score: Tensor
    best_epoch: Tensor
    bad_epochs: Tensor
    plateau_factor: Tensor
    plateau_best: Tensor
    plateau_bad: Tensor
    loss_sum: Tensor
    weight_sum: Tensor
    rng: dict[str, Tensor]
    history: list[dict[str, Any]]
    ends: dict[str, dict[str, Any]]
    health: list[dict[str, Any]]

    def to_files(self) -> dict[str, bytes]:
        """Give the state as safetensors and JSON."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                tensors[field.name] = value
            elif field.type == _TENSORS:
                tensors |= {f"{field.name}/{key}": tensor for key, tensor in value.items()}
            else:
                plain[field.name] = value
        packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return {"state.safetensors": write_tensors(packed), "state.json": json.dumps(plain).encode()}

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> "State":
        """Read back what `to_files` gave.

        Raises:
            DataError: If a field is missing.
        """
        value: dict[str, Any] = json.loads(files["state.json"])
        for field in fields(cls):
            if field.type == _TENSORS:
                value[field.name] = {}
        for name, tensor in read_tensors(files["state.safetensors"]).items():
            field_name, _, key = name.partition("/")
            if key:
                value[field_name][key] = tensor
            else:
                value[field_name] = tensor
        missing = {field.name for field in fields(cls)} - value.keys()
        if missing:
            raise DataError(f"{', '.join(sorted(missing))} missing. It was written by another version.", "checkpoint")
        return cls(**value)


class Checkpoints:
    """Write the states of one pack, and find the newest whole one.

    Args:
        store: Where the folder lies.
        folder: Of this pack alone.
        seconds: Least time between two checkpoints inside an epoch.
        check: Called before each write; raises if another process has taken over.
        keep: How many newest are kept.
        circumstances: What decides the last bits of a state: workers, threads, kind of processor.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        seconds: float,
        check: Callable[[], None] = lambda: None,
        keep: int = 2,
        circumstances: Json | None = None,
    ) -> None:
        self.store = store
        self.folder = folder
        self.seconds = seconds
        self.check = check
        self.keep = keep
        self.circumstances = circumstances or {}
        self._written_at = time.monotonic()

    def due(self) -> bool:
        """Tell whether enough time has passed since the last one."""
        return time.monotonic() - self._written_at >= self.seconds

    def save(self, state: State) -> None:
        """Write a checkpoint, then drop those no longer kept."""
        self.check()
        name = f"{state.global_step:012d}-{state.epoch:06d}"
        about = {"global_step": state.global_step, "circumstances": self.circumstances}
        write_atomic_folder(f"{self.folder}/{name}", state.to_files(), about)
        self._written_at = time.monotonic()
        for old in self.names()[: -self.keep]:
            self.store.remove(f"{self.folder}/{old}")

    def names(self) -> list[str]:
        """List the checkpoints, oldest first, complete or not."""
        return sorted(name.rsplit("/", 1)[-1] for name in self.store.list(self.folder))

    def latest(self) -> State | None:
        """Read the newest checkpoint that is whole, or give None if there is none."""
        found = self.newest()
        return None if found is None else self.read(found[0])

    def newest(self) -> tuple[str, Json] | None:
        """Name the newest checkpoint that is whole, with the circumstances it was written under."""
        for name in reversed(self.names()):
            try:
                manifest, files = read_atomic_folder(f"{self.folder}/{name}")
                State.from_files(files)
                return name, manifest["circumstances"]
            except DataError as error:
                log.warning("checkpoint %s is unusable, falling back to the one before: %s", name, error)
        return None

    def read(self, name: str) -> State:
        """Read a checkpoint.

        Raises:
            DataError: If it is not whole.
        """
        return State.from_files(read_atomic_folder(f"{self.folder}/{name}")[1])

    def clear(self) -> None:
        """Remove all checkpoints of the pack."""
        self.store.remove(self.folder)


def rng_states_of(device: torch.device) -> dict[str, Tensor]:
    """Give the state of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Bring torch's generators back to what `rng_states_of` returned."""
    with RNG_LOCK:
        torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
