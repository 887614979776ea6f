"""Step every member with its own learning rate and decay, by any torch optimizer whose update is linear in lr.

The optimizer steps a zero shadow of the parameters with lr = 1, so the shadow holds the update exactly; it is scaled
per member and added. Everything is element-wise on the flat (K, P) tensor, so members do not see each other.
Shape legend: K members, P parameters per member.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fmray.catalogue import OPTIMIZERS
from fmray.errors import SpecError
from fmray.spec.components.optimizers import PACKABLE
from fmray.spec.components.optimizers import Optimizer as Declared
from fmray.train.population import Population


class Optimizer:
    """Turn gradients of a population into new parameters.

    Args:
        name: adadelta, adagrad, adam, adamw, rmsprop, sgd, or one of the user's own.
        members: Parameters of the optimizer per member; all but lr and weight_decay must be equal.
        population: Whose flat parameters are stepped.

    Raises:
        SpecError: If a parameter is unknown, out of range, or differs between members though it may not.
    """

    def __init__(self, name: str, members: Sequence[Mapping[str, Any]], population: Population) -> None:
        shared = [{k: v for k, v in params.items() if k not in PACKABLE} for params in members]
        if any(params != shared[0] for params in shared):
            text = f"{shared} differ within a pack. Only {', '.join(PACKABLE)} may."
            raise SpecError(text, f"train.optimizer.{name}")
        plain: Declared = OPTIMIZERS.params(name)() if name in OPTIMIZERS else Declared()
        device = population.flat.device
        rates = [float(params.get("lr", plain.lr)) for params in members]
        decays = [float(params.get("weight_decay", plain.weight_decay)) for params in members]
        self.lr_K1 = _column(rates, "lr", name, population.flat)
        self.decay_K1 = _column(decays, "weight_decay", name, population.flat)
        self.decoupled = name == "adamw"
        self._build = OPTIMIZERS.find(name)
        self._options = {**shared[0], "lr": 1.0, "weight_decay": 0.0, **_kernels(self._build, name, device)}
        if "betas" in self._options:
            self._options["betas"] = tuple(self._options["betas"])
        self._open(population)

    def step(self, population: Population, factor_K1: Tensor | float) -> None:
        """Move every member against its gradient.

        Args:
            factor_K1: Share of each member's learning rate that its schedule grants now.
        """
        lr_K1 = self.lr_K1 * factor_K1
        with torch.no_grad():
            if self._decays and self.decoupled:
                population.flat.mul_(1 - lr_K1 * self.decay_K1)
            elif self._decays:
                population.grad.addcmul_(population.flat, self.decay_K1)
            self._inner.step()
            population.flat.addcmul_(self._shadow, lr_K1)
            self._shadow.zero_()
            population.write_back()

    def select(self, keep: Tensor, population: Population) -> None:
        """Follow the population in dropping all members but those at these positions (n,)."""
        state = {name: value[keep] if value.dim() == 2 else value for name, value in self.state().items()}
        self.lr_K1 = self.lr_K1[keep]
        self.decay_K1 = self.decay_K1[keep]
        self._open(population)
        self.load(state)

    def state(self) -> dict[str, Tensor]:
        """Give everything the optimizer remembers: (K, P) moments, and counters of no dimension."""
        return {name: value for name, value in self._inner.state.get(self._shadow, {}).items() if value is not None}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` gave; the tensors are taken over."""
        if state:
            counters = self._shadow.device if "fused" in self._options else "cpu"  # where torch itself keeps them
            self._inner.state[self._shadow] = {k: v if v.dim() else v.to(counters) for k, v in state.items()}

    def _open(self, population: Population) -> None:
        self._decays = bool((self.decay_K1 != 0).any())
        self._shadow = torch.zeros_like(population.flat)
        self._shadow.grad = population.grad
        try:
            self._inner = self._build([self._shadow], **self._options)
        except (TypeError, ValueError) as error:
            raise SpecError(f"{error}. Parameters given: {self._options}.", "train.optimizer") from error


def clip(grad: Tensor, max_norm: float) -> Tensor:
    """Shrink each member's gradient to at most this norm, in place.

    Shapes:
        grad: (K, P).
        returns: (K, 1), norms before clipping.

    Source: Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    norm_K1: Tensor = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    grad.mul_((max_norm / (norm_K1 + 1e-6)).clamp_max(1.0))
    return norm_K1


def _kernels(build: Callable[..., Any], name: str, device: torch.device) -> dict[str, bool]:
    """Ask for one kernel per step where torch has one on this device, else for one per operation."""
    taken = inspect.signature(build).parameters
    if "fused" in taken and (name != "adagrad" or device.type == "cpu"):  # adagrad's is on the CPU in every torch
        return {"fused": True}
    return {"foreach": True} if "foreach" in taken else {}


def _column(values: list[float], key: str, name: str, like: Tensor) -> Tensor:
    if min(values) < 0 or (key == "lr" and min(values) == 0):
        raise SpecError(f"{min(values):g}. Give a number above zero.", f"train.optimizer.{name}.{key}")
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
