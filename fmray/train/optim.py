"""Step every member with its own learning rate and decay, by any torch optimizer whose update is linear in lr.

The optimizer steps a zero shadow of the parameters with lr = 1, so the shadow holds the update exactly; it is scaled
per member and added. Everything is element-wise on the flat (K, P) tensor, so members do not see each other.
Shape legend: K members, P parameters per member, C columns of these that are stepped together.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fmray.catalogue import OPTIMIZERS
from fmray.errors import SpecError
from fmray.spec.components.optimizers import PACKABLE
from fmray.spec.components.optimizers import Optimizer as Declared
from fmray.spec.ref import Ref
from fmray.train.groups import WHOLE, Columns
from fmray.train.population import LARGE, Population

PIECE = 1 << 20
"""Columns that are stepped at a time, of a member that is large."""


class Optimizer:
    """Turn gradients of a population into new parameters.

    Args:
        name: adadelta, adagrad, adam, adamw, rmsprop, sgd, or one of the user's own.
        members: Parameters of the optimizer per member; all but lr and weight_decay must be equal.
        population: Whose flat parameters are stepped.
        columns: Which of these.

    Raises:
        SpecError: If a parameter is unknown, out of range, or differs between members though it may not.
    """

    def __init__(
        self, name: str, members: Sequence[Mapping[str, Any]], population: Population, columns: Columns = WHOLE
    ) -> None:
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
        self.columns = columns
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
        columns = self.columns
        lr_KC = self.lr_K1 * factor_K1
        if columns.lr_scale is not None:
            lr_KC = lr_KC * columns.lr_scale
        with torch.no_grad():
            flat_KC = columns.of(population.flat)
            grad_KC = self._grad_KC
            if not columns.is_whole:
                grad_KC.copy_(columns.of(population.grad))
            if self._decays and self.decoupled:
                flat_KC.mul_(1 - lr_KC * self._decay_KC)
            elif self._decays:
                grad_KC.addcmul_(flat_KC, self._decay_KC)
            if self._pieces is not None:
                self._pieces.step(flat_KC, grad_KC, lr_KC)
            else:
                self._inner.step()
                flat_KC.addcmul_(self._shadow, lr_KC)
                self._shadow.zero_()
            columns.put(flat_KC, population.flat)
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
        if self._pieces is not None:
            return dict(self._pieces.memory)
        return {name: value for name, value in self._inner.state.get(self._shadow, {}).items() if value is not None}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` gave; the tensors are taken over."""
        if state:
            counters = self._shadow.device if "fused" in self._options else "cpu"  # where torch itself keeps them
            known = {k: v if v.dim() else v.to(counters) for k, v in state.items()}
            if self._pieces is not None:
                self._pieces.memory = known
            else:
                self._inner.state[self._shadow] = known

    def _open(self, population: Population) -> None:
        own = self.columns.weight_decay
        self._decay_KC = self.decay_K1 if own is None else torch.where(own.isnan(), self.decay_K1, own)
        self._decays = bool((self._decay_KC != 0).any())
        flat_KC = self.columns.of(population.flat)
        by_pieces = self.columns.is_whole and len(flat_KC) == 1 and flat_KC.shape[1] >= LARGE
        like = flat_KC[:, :PIECE] if by_pieces else flat_KC
        self._shadow = torch.zeros_like(like, memory_format=torch.contiguous_format)
        # a torch optimizer needs a dense gradient: that of some columns is copied at every step
        self._grad_KC = population.grad if self.columns.is_whole else torch.zeros_like(self._shadow)
        self._shadow.grad = self._grad_KC[:, : self._shadow.shape[1]]
        try:
            self._inner = self._build([self._shadow], **self._options)
        except (TypeError, ValueError) as error:
            raise SpecError(f"{error}. Parameters given: {self._options}.", "train.optimizer") from error
        self._pieces = _Pieces(self._inner, self._shadow, flat_KC.shape[1]) if by_pieces else None


class _Pieces:
    """Step a large member some columns after others, so that the shadow need not be as large as the member.

    Updates are element-wise, so the numbers are those of one step of all columns.

    Args:
        inner: Steps a shadow.
        shadow: As wide as a piece (1, C).
        num_columns: Of the member (P).
    """

    def __init__(self, inner: torch.optim.Optimizer, shadow: Tensor, num_columns: int) -> None:
        self._inner = inner
        self._shadow = shadow
        repeats = -(-num_columns // shadow.shape[1])
        self.memory = {
            name: value.repeat(1, repeats)[:, :num_columns].contiguous() if value.dim() else value
            for name, value in inner.state.get(shadow, {}).items()  # what an optimizer remembers from the start on
        }

    def step(self, flat_1P: Tensor, grad_1P: Tensor, lr_1P: Tensor | float) -> None:
        """Move all columns."""
        before = {name: value.clone() for name, value in self.memory.items() if not value.dim()}
        moments = {name: value for name, value in self.memory.items() if value.dim()}
        num_columns = flat_1P.shape[1]
        for start in range(0, num_columns, self._shadow.shape[1]):
            some = slice(start, min(start + self._shadow.shape[1], num_columns))
            shadow = self._shadow[:, : some.stop - start].zero_()
            shadow.grad = grad_1P[:, some]
            known = {name: value.clone() for name, value in before.items()}
            known |= {name: value[:, some] for name, value in moments.items()}
            self._inner.param_groups[0]["params"] = [shadow]
            self._inner.state.clear()
            if known:
                self._inner.state[shadow] = known
            self._inner.step()
            self._remember(self._inner.state[shadow], some, known, flat_1P)
            lr = lr_1P[:, some] if isinstance(lr_1P, Tensor) and lr_1P.shape[1] > 1 else lr_1P
            flat_1P[:, some].addcmul_(shadow, torch.as_tensor(lr, dtype=flat_1P.dtype))
        self._inner.state.clear()

    def _remember(
        self, found: Mapping[str, Tensor | None], some: slice, known: Mapping[str, Tensor], flat_1P: Tensor
    ) -> None:
        """Keep what the optimizer remembers of some columns; what it changed in place is kept already."""
        for name, value in found.items():
            if value is None or (value.dim() and known.get(name) is value):
                continue
            if not value.dim():
                self.memory[name] = value
                continue
            if name not in self.memory:
                self.memory[name] = torch.zeros_like(flat_1P)
            self.memory[name][:, some] = value


class Optimizers:
    """Step the parameters of a population, each part of its columns by an optimizer of its own.

    Args:
        name, members: As for `Optimizer`.
        population: Whose flat parameters are stepped.
        parts: Columns that are stepped together; each column is in one.
        others: Phase -> its optimizer, where that is another one.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Mapping[str, Any]],
        population: Population,
        parts: Sequence[Columns],
        others: Mapping[str, Ref] = MappingProxyType({}),
    ) -> None:
        self.columns = list(parts)
        # what never moves needs no memory of how it moved
        moving = [columns for columns in parts if columns.freeze_epochs != "all"]
        self.parts = []
        for columns in moving:
            own = others.get(columns.phase)
            by = name if own is None else own.name
            params = members if own is None else [own.params] * len(members)
            self.parts.append(Optimizer(by, params, population, columns))

    def silence(self, grad: Tensor, epoch: int, phase: str = "") -> None:
        """Clear the gradient (K, P) of columns that do not move now, so that they do not count in its norm either."""
        for columns in self.columns:
            if not columns.moves(epoch, phase):
                columns.clear(grad)

    def step(self, population: Population, factor_K1: Tensor | float, epoch: int, phase: str = "") -> None:
        """Move the columns of a phase that are not frozen in this epoch; see `Optimizer.step`."""
        for part in self.parts:
            if part.columns.moves(epoch, phase):
                part.step(population, factor_K1)

    def select(self, keep: Tensor, population: Population) -> None:
        """Follow the population in dropping all members but those at these positions (n,)."""
        for part in self.parts:
            part.select(keep, population)

    def state(self) -> dict[str, Tensor]:
        """Give everything the optimizers remember; of several, under the number of each."""
        if len(self.parts) == 1:
            return self.parts[0].state()
        return {f"{n}/{name}": value for n, part in enumerate(self.parts) for name, value in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` gave; the tensors are taken over."""
        if len(self.parts) == 1:
            self.parts[0].load(state)
            return
        for number, part in enumerate(self.parts):
            own = {name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{number}/")}
            part.load(own)


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
