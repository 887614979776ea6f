"""Divide the columns of the flat row into those that are stepped together.

Which columns a group holds follows from names alone: patterns of the job meet the names that the module gives. Within
one part, learning rates and decays differ by column, which is still one operation. Columns that begin to train at
another epoch are a part of their own, since torch's optimizers count the steps of a tensor, not of its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fmray.errors import SpecError
from fmray.registry import nearest
from fmray.spec.sections import ParameterGroup
from fmray.train.layout import ModuleLayout

WHERE = "train.groups"
MOST_NAMES = 20


@dataclass(frozen=True)
class Columns:
    """Name columns of the flat row that are stepped together.

    Args:
        places: Which; None for all, a slice where they lie side by side.
        freeze_epochs: Epochs in which they do not move, from the first.
        lr_scale: Share of the optimizer's learning rate that each has (C,); None where all have all of it.
        weight_decay: Of each (C,), NaN for the optimizer's; None where all have that.
        phase: Of the task, in which alone they move; empty where there is one.
    """

    places: slice | Tensor | None = None
    freeze_epochs: int | Literal["all"] = 0
    lr_scale: Tensor | None = None
    weight_decay: Tensor | None = None
    phase: str = ""

    @property
    def is_whole(self) -> bool:
        """Tell whether these are all columns."""
        return self.places is None

    def moves(self, epoch: int, phase: str = "") -> bool:
        """Tell whether they train in a phase of the task, in an epoch counted from 0."""
        return self.freeze_epochs != "all" and epoch >= self.freeze_epochs and self.phase in ("", phase)

    def of(self, flat: Tensor) -> Tensor:
        """Give these columns (K, C): the tensor itself, a view, or a copy where they are scattered."""
        if self.places is None:
            return flat
        return flat[:, self.places] if isinstance(self.places, slice) else flat.index_select(1, self.places)

    def put(self, values: Tensor, flat: Tensor) -> None:
        """Bring back what `of` gave, once changed."""
        if isinstance(self.places, Tensor):
            flat.index_copy_(1, self.places, values)

    def clear(self, flat: Tensor) -> None:
        """Set these columns to zero."""
        if isinstance(self.places, Tensor):
            flat.index_fill_(1, self.places, 0.0)
        else:
            self.of(flat).zero_()

    def to(self, device: torch.device) -> "Columns":
        """Give the same columns, with what is said of each on a device."""
        places = self.places.to(device) if isinstance(self.places, Tensor) else self.places
        scale = None if self.lr_scale is None else self.lr_scale.to(device)
        decay = None if self.weight_decay is None else self.weight_decay.to(device)
        return replace(self, places=places, lr_scale=scale, weight_decay=decay)


WHOLE = Columns()


def members_of(groups: Sequence[ParameterGroup], layout: ModuleLayout) -> list[list[str]]:
    """Name the parameters that each group holds; a tied one counts under any of its names.

    Raises:
        SpecError: If a pattern matches no parameter that trains, or only those of groups before.
    """
    names: dict[str, list[str]] = {one.name: [one.name] for one in layout.trained}
    for other, first in layout.aliases:
        if first in names:
            names[first].append(other)
    free = list(names)
    found = []
    for place, group in enumerate(groups):
        for pattern in group.match:
            matched = [name for name, known in names.items() if any(fnmatchcase(one, pattern) for one in known)]
            where = f"{WHERE}.{place}.match"
            if not matched:
                raise SpecError(f"{pattern!r} matches no parameter that trains. {_known(pattern, list(names))}", where)
            if not set(matched) & set(free):
                text = f"{pattern!r} matches only parameters of groups before it: {_listed(matched)}"
                raise SpecError(f"{text}. Put the narrower pattern first, or leave one out.", where)
        own = [name for name in free if any(fnmatchcase(n, p) for n in names[name] for p in group.match)]
        free = [name for name in free if name not in own]
        found.append(own)
    if groups and not free and all(group.freeze_epochs for group in groups):
        raise SpecError("leaves no parameter that trains in the first epoch. Leave some unfrozen.", WHERE)
    return found


def columns_of(groups: Sequence[ParameterGroup], layout: ModuleLayout, phases: Sequence[str] = ("",)) -> list[Columns]:
    """Divide all columns into parts that are stepped together; one part where there are neither groups nor phases.

    Args:
        phases: Of the task; where there are several, each steps the parameters whose names begin with its own.

    Raises:
        SpecError: As `members_of`, or if a phase has no parameter, or a parameter no phase.
    """
    phase_of = _phases(layout, phases)
    if not groups and len(phases) == 1:
        return [WHOLE]
    num_columns = sum(one.size for one in layout.trained)
    scale = torch.ones(num_columns, dtype=layout.dtype)
    decay = torch.full((num_columns,), float("nan"), dtype=layout.dtype)
    frozen = dict.fromkeys((one.name for one in layout.trained), 0)
    begins: dict[str, int | Literal["all"]] = dict(frozen)
    for group, names in zip(groups, members_of(groups, layout), strict=True):
        for name in names:
            begins[name] = group.freeze_epochs
            scale[layout.places[name]] = group.lr_scale
            if group.weight_decay is not None:
                decay[layout.places[name]] = group.weight_decay
    parts = []
    for epochs, phase in dict.fromkeys((begin, phase_of[name]) for name, begin in begins.items()):
        held = [layout.places[n] for n, begin in begins.items() if (begin, phase_of[n]) == (epochs, phase)]
        places = None if len(held) == len(begins) else _joined(held)
        whole = slice(None) if places is None else places
        own_scale = _unless(scale[whole], 1.0)
        own_decay = _unless(decay[whole], float("nan"))
        parts.append(Columns(places, epochs, lr_scale=own_scale, weight_decay=own_decay, phase=phase))
    return parts


def _phases(layout: ModuleLayout, phases: Sequence[str]) -> dict[str, str]:
    """Name the phase in which each parameter moves, empty where there is one phase."""
    names = [one.name for one in layout.trained]
    if len(phases) == 1:
        return dict.fromkeys(names, "")
    found = {name: name.partition(".")[0] for name in names}
    if missing := [phase for phase in phases if phase not in found.values()]:
        text = f"the task steps {', '.join(phases)} in turn, and the model has no parameter under {', '.join(missing)}"
        raise SpecError(f"{text}. It has: {_listed(names)}.", "model")
    if others := [name for name, phase in found.items() if phase not in phases]:
        text = f"{_listed(others)} would never train: the task steps {', '.join(phases)}"
        raise SpecError(f"{text}. Put each parameter under one of these names.", "model")
    return found


def described(groups: Sequence[ParameterGroup], layout: ModuleLayout) -> list[str]:
    """Say in a line per group which parameters it holds, and how they are stepped."""
    sizes = {one.name: one.size for one in layout.trained}
    lines = []
    for place, (group, names) in enumerate(zip(groups, members_of(groups, layout), strict=True)):
        how = [f"lr x {group.lr_scale:g}"] if group.lr_scale != 1 else []
        how += [f"weight_decay {group.weight_decay:g}"] if group.weight_decay is not None else []
        if group.freeze_epochs:
            always = group.freeze_epochs == "all"
            how.append("never trained" if always else f"frozen for {group.freeze_epochs} epochs")
        numbers = f"{sum(sizes[name] for name in names):,} numbers in {_listed(names)}"
        lines.append(f"{WHERE}.{place}: {', '.join(how) or 'as the others'}: {numbers}")
    return lines


def _joined(slices: Sequence[slice]) -> slice | Tensor:
    """Give columns as one slice where they lie side by side."""
    if all(one.stop == other.start for one, other in pairwise(slices)):
        return slice(slices[0].start, slices[-1].stop)
    return torch.cat([torch.arange(one.start, one.stop) for one in slices])


def _unless(values: Tensor, plain: float) -> Tensor | None:
    """Give one number per column, or None where all are the plain one."""
    is_plain = values.isnan() if plain != plain else values == plain
    return None if bool(is_plain.all()) else values


def _known(pattern: str, names: Sequence[str]) -> str:
    question = nearest(pattern, names)
    return question if question.startswith("Did") else f"Known: {_listed(names)}."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
