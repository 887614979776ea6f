"""Bring models into the loop as a population of K members with equal shapes.

All parameters of a member that train lie side by side in one row of a flat (K, P) tensor, gradients in another; modules
see views of them. So the optimizer, clipping, best states, checkpoints and reductions are each one operation on flat
tensors. `layout` says which tensor lies where.
How a module enters is decided in `enter` and nowhere else.
Shape legend: K members, P parameters per member, B rows, O outputs.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fmray.catalogue import MODELS
from fmray.data.canonical import mix
from fmray.errors import FmrayError, SpecError, TrainError
from fmray.models import layers
from fmray.models.model import PopulationNative
from fmray.records import Prepared
from fmray.schema import DENSE, Schema
from fmray.seeding import RNG_LOCK, derive
from fmray.spec.inputs import read_by, require_inputs
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_of
from fmray.tasks.task import Batch, Places
from fmray.train.failures import user_frames
from fmray.train.layout import Held, ModuleLayout, Shape

Entry = Literal["native", "solo", "vmap"]
LARGE = 1 << 22
"""Parameters of a member from which on memory counts more than the time to save it."""


@dataclass(frozen=True)
class Blueprint:
    """Say how one member is built.

    Args:
        build: Class behind the model's name.
        params: Keywords that it is called with.
        seed: Of its initialisation and its dropout.
        name: As the job names the model; by default that of the class.
    """

    build: Callable[..., nn.Module]
    params: Mapping[str, Any]
    seed: int
    name: str = ""

    @classmethod
    def of(cls, name: str, params: Mapping[str, Any], seed: int) -> "Blueprint":
        """Say how a model of the catalogue, or of the user's own, is built.

        Raises:
            SpecError: If the name is not found, or its parameters do not fit.
        """
        return cls(MODELS.find(name), MODELS.arguments(name, params), seed, name)

    def module(self, schema: Schema, num_outputs: int) -> nn.Module:
        """Initialise the module as it would be initialised alone.

        Raises:
            SpecError: If the class refuses its parameters.
        """
        name = self.name or getattr(self.build, "__name__", "")
        require_inputs(name, reads_of(self.build), getattr(self.build, "needs", ()), schema)
        with RNG_LOCK:
            before = torch.get_rng_state()
            torch.default_generator.manual_seed(self.seed)  # torch.manual_seed sees to every device, in a millisecond
            try:
                return self.build(schema, num_outputs, **self.params)
            except FmrayError:
                raise
            except TypeError as error:
                if user_frames(error):  # raised inside the constructor, not by the call
                    raise
                raise SpecError(f"{error}. Parameters given: {dict(self.params)}.", "model") from error
            finally:
                torch.set_rng_state(before)


def reads_of(build: Callable[..., Any]) -> tuple[str, ...]:
    """Give the kinds of blocks that a model reads; one that does not say so reads `x`."""
    return tuple(getattr(build, "reads", (DENSE,)))


class Population:
    """Compute the outputs of K members, and hold their parameters and gradients.

    Attributes:
        layout: Which tensor of a member lies where.
        flat, grad: (K, P) parameters that train, and gradients; rows are members.
        buffers: Whatever lies beside the flat rows (K, ...): frozen parameters and buffers, each in its own type.
        reduced: All that workers sum at a step: the gradients, then loss and weight per member, then one flag.
        seeds: Dropout seed per member.
        takes: Inputs of a batch that members read.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        seeds: Sequence[int],
        entry: Entry,
        device: torch.device,
        takes: frozenset[str] = frozenset({DENSE}),
    ) -> None:
        self.entry = entry
        self.takes = takes
        self.seeds = list(seeds)
        self.layout = ModuleLayout.of(modules[0])
        rows = torch.stack([self.layout.row(module) for module in modules])
        named = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
        unite = torch.cat if entry == "native" else torch.stack  # native tensors have the member axis already
        beside = {
            held.name: unite([own[held.name].detach() for own in named]).to(device) for held in self.layout.beside
        }
        self.module = modules[0].to(device)
        self._dropouts = {n: m for n, m in self.module.named_modules() if isinstance(m, layers.Dropout)}
        self._adopt(rows.to(device), beside)

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Give the shape of each parameter of one member."""
        return self.layout.shapes

    def __call__(self, batch: Batch) -> Tensor:
        """Give the outputs of every member on the rows of a batch (K, B, O), or on their tokens (K, B, L, O).

        Raises:
            SpecError: If the module does not take the inputs there are.
            TrainError: If its output has no row axis or no output axis, holds whole numbers, lies elsewhere or carries
                no gradient, or if it changes its input.
        """
        inputs = {name: value for name, value in batch.inputs.items() if name in self.takes}
        inputs |= batch.given  # whether it reads them or not: it is the task that asks
        versions = [value._version for value in inputs.values()]
        try:
            is_mapped = self.entry == "vmap"
            output = self._vmapped(self.leaves, self.buffers, inputs) if is_mapped else self.module(**inputs)
        except TypeError as error:
            self._refuse_signature(inputs, error)
            raise
        if versions != [value._version for value in inputs.values()]:
            # rows are read again in the next epoch, so a change would add up
            raise TrainError(f"{self._named} changes its input in place. Let it work on a copy, as x.clone().", "model")
        single = self.entry == "solo" or (self.entry == "native" and len(self.flat) == 1)
        axes = output.dim() + single if isinstance(output, Tensor) else 0
        if not isinstance(output, Tensor) or axes not in (3, 4) or output.shape[1 - single] != len(batch):
            shape = tuple(output.shape) if isinstance(output, Tensor) else ()
            given = (shape if single else shape[1:]) or type(output).__name__
            raise TrainError(
                f"{self._named} gave {given} for {len(batch)} rows. "
                "Give a tensor (rows, outputs), one row per input row, or (rows, tokens, outputs).",
                "model",
            )
        self._refuse_values(output)
        return output.unsqueeze(0) if single else output

    def _refuse_values(self, output: Tensor) -> None:
        """Refuse outputs that no loss can be computed of, or that no gradient flows through."""
        if not output.is_floating_point():
            raise TrainError(
                f"{self._named} gave outputs of type {output.dtype}. Give floating-point numbers.", "model"
            )
        if output.device.type != self.flat.device.type:
            given = output.device.type
            device = self.flat.device.type
            raise TrainError(
                f"{self._named} gave outputs on {given}. Leave them on {device}, where inputs are.", "model"
            )
        if self.module.training and not output.requires_grad and torch.is_grad_enabled():
            raise TrainError(
                f"no gradient flows from the outputs of {self._named} to its parameters. "
                "Leave out detach(), no_grad() and argmax(), and let some parameters require gradients.",
                "model",
            )

    def _refuse_signature(self, inputs: Mapping[str, Tensor], error: TypeError) -> None:
        """Refuse a module that does not take the inputs there are."""
        takes = inspect.signature(self.module.forward)
        try:
            takes.bind(**inputs)
        except TypeError as wrong:
            names = ", ".join(inputs)
            raise SpecError(
                f"{self._named} has forward{takes}, which cannot be called with {names}: {wrong}. "
                f"Name its inputs {names}, and give all others a default.",
                "model",
            ) from error

    @property
    def _named(self) -> str:
        """Name the class of the module, with file and line where these can be told."""
        kind = type(self.module)
        try:
            file = inspect.getsourcefile(kind)
            line = inspect.getsourcelines(kind)[1]
        except (OSError, TypeError):
            return kind.__name__
        return f"{kind.__name__} ({Path(file).name}:{line})" if file else kind.__name__

    def prepare_step(self, step: int, places: Places | None) -> None:
        """Fix the dropout masks of the coming forward pass.

        Args:
            step: Global step, counted over epochs.
            places: Where the rows to come stand in the global batch; None if members do not learn from them.
        """
        if self.module.training != (places is not None):
            self.module.train(places is not None)
        if places is None:
            return
        for dropout, streams in zip(self._active, self._streams, strict=True):
            keys = (mix(streams, np.uint64(step)) >> np.uint64(33)).astype(np.int32)
            row_axis = int(self.entry == "native" and len(self.flat) > 1)
            dropout.set_keys(torch.from_numpy(keys).to(self.flat.device), places.values, places.key, row_axis)

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        if self._adds_up:
            self.grad.zero_()
        for name, leaf in self.leaves.items():
            leaf.grad = self._adds_up.get(name)

    def gather_grad(self) -> None:
        """Bring what backward left at each parameter together in `grad`."""
        if self._adds_up:
            return  # it was added up there
        rows = len(self.flat)
        grads = [leaf.grad for leaf in self.leaves.values()]
        whole = [
            leaf.new_zeros(leaf.shape) if g is None else g for g, leaf in zip(grads, self.leaves.values(), strict=True)
        ]
        if whole:
            torch.cat([grad.view(rows, -1).to(self.flat.dtype) for grad in whole], dim=1, out=self.grad)

    def write_back(self) -> None:
        """Let parameters of a type other than the flat rows' follow them; called whenever these have changed."""
        for leaf, values in self._rounded:
            leaf.data.copy_(values.view(leaf.shape))

    def select(self, keep: Tensor) -> None:
        """Drop all members but those at these positions (n,); the others compute on as if nothing happened."""
        self.seeds = [self.seeds[int(i)] for i in keep]
        self._adopt(self.flat[keep], {name: value[keep] for name, value in self.buffers.items()})

    def load(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Take over parameters (K, P) and buffers (K, ...)."""
        self.flat.copy_(flat)
        for name, value in buffers.items():
            self.buffers[name].copy_(value)
        self.write_back()

    def tensors(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name the tensors of one member, given its row (P,) and its buffers, as its module alone names them."""
        return self.layout.tensors(flat, buffers)

    def faulty_parameter(self, member: int) -> str:
        """Name the first parameter of a member that is not finite, in values, then in gradients."""
        for kind, flat in (("parameter", self.flat), ("gradient of", self.grad)):
            for held in self.layout.trained:
                if not torch.isfinite(flat[member, self.layout.places[held.name]].to(held.dtype)).all():
                    return f"{kind} {held.name}"
        return "output"

    def _adopt(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Make modules see these parameters; called whenever K changes."""
        self.flat = flat
        self.buffers = dict(buffers)
        self.reduced = flat.new_zeros(flat.numel() + 2 * len(flat) + 1)
        self.grad = self.reduced[: flat.numel()].view_as(flat)
        self._bind()

    @contextmanager
    def showing(self, flat: Tensor, buffers: Mapping[str, Tensor], seeds: Sequence[int]) -> Iterator[None]:
        """Hold other parameters (M, P) and buffers (M, ...) for a while, to predict with; nothing is copied."""
        own = self.flat, self.buffers, self.seeds
        self.flat = flat
        self.buffers = dict(buffers)
        self.seeds = list(seeds)
        self._bind()
        try:
            yield
        finally:
            self.flat, self.buffers, self.seeds = own
            self._bind()

    def _bind(self) -> None:
        """Let modules see the flat rows and buffers."""
        self._adds_up: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        self._rounded: list[tuple[Tensor, Tensor]] = []
        flat = self.flat
        if not len(flat):
            return  # every member has finished; nobody computes any more
        parameters = dict(self.module.named_parameters())
        alone = len(flat) == 1  # one member needs no member axis
        for held in self.layout.trained:
            values = self.flat[:, self.layout.places[held.name]]
            seen = values.view(self._shape_seen(held)).to(held.dtype)  # a view, where the type is that of the rows
            leaf = nn.Parameter(seen) if self.entry == "vmap" else parameters[held.name]
            leaf.data = seen
            leaf.grad = None
            self.leaves[held.name] = leaf
            if held.dtype != self.flat.dtype:
                self._rounded.append((leaf, values))
        if alone and flat.numel() >= LARGE and not self._rounded and self.grad.shape == flat.shape:
            # a second copy of a large gradient would cost more than adding to a cleared one
            views = {held.name: self.grad[:, self.layout.places[held.name]] for held in self.layout.trained}
            self._adds_up = {name: view.view(self.leaves[name].shape) for name, view in views.items()}
        if self.entry != "vmap":
            for held in self.layout.frozen:
                parameters[held.name].data = self.buffers[held.name].view(self._shape_seen(held))
            for held in self.layout.buffers:
                whole = self.buffers[held.name]
                for name in self._names_of(held):
                    module, _, attribute = name.rpartition(".")
                    setattr(self.module.get_submodule(module), attribute, whole[0] if alone else whole)
        rates = {dropout: self.buffers[f"{name}.rate_K11".lstrip(".")] for name, dropout in self._dropouts.items()}
        self._active = [dropout for dropout, rate_K11 in rates.items() if bool((rate_K11 > 0).any())]
        for dropout in rates:
            dropout.enabled = dropout in self._active
        self._streams = [
            np.array([derive(seed, "dropout", place) for seed in self.seeds], np.uint64)
            for place in range(len(self._active))
        ]

    def _shape_seen(self, held: Held) -> Shape:
        """Give the shape in which the module sees a parameter of all members; one member needs no member axis."""
        if self.entry == "native":
            return held.shape[1:] if len(self.flat) == 1 else (len(self.flat), *held.shape[1:])
        return held.shape if self.entry == "solo" else (len(self.flat), *held.shape)

    def _names_of(self, held: Held) -> list[str]:
        return [held.name, *(other for other, first in self.layout.aliases if first == held.name)]

    def _vmapped(
        self, leaves: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> Tensor:
        active = self._active if self.module.training else []  # before the first step there are no keys yet
        keys = [dropout.keys for dropout in active]

        def one(own: Mapping[str, Tensor], state: Mapping[str, Tensor], keys: Sequence[Tensor]) -> Tensor:
            for dropout, key in zip(active, keys, strict=True):
                dropout.keys = key
            output: Tensor = functional_call(self.module, (dict(own), dict(state)), kwargs=dict(inputs))
            return output

        try:
            outputs: Tensor = vmap(one)(dict(leaves), dict(buffers), keys)
        finally:
            for dropout, key in zip(active, keys, strict=True):
                dropout.keys = key
        return outputs


def enter(
    blueprints: Sequence[Blueprint],
    schema: Schema,
    num_outputs: int,
    device: torch.device | str = "cpu",
    modules: Sequence[nn.Module] = (),
) -> Population:
    """Build the members of one pack, each initialised as it would be alone.

    Population-native modules compute all members themselves; a single other module is called as it is; several enter
    through `vmap` over `functional_call`.

    Args:
        modules: The members' modules where they exist already, trained.

    Raises:
        SpecError: If the class refuses its parameters or gives no `nn.Module`.
        TrainError: If the members differ in shape.
    """
    modules = modules or [blueprint.module(schema, num_outputs) for blueprint in blueprints]
    if not isinstance(modules[0], nn.Module):
        raise SpecError(f"{blueprints[0].build!r} gave a {type(modules[0]).__name__}. Give an nn.Module.", "model")
    if not any(True for _ in modules[0].parameters()):
        raise SpecError(f"{type(modules[0]).__name__} has no parameters. Give a module that can learn.", "model")
    lazy = [name for name, p in modules[0].named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        kind = type(modules[0]).__name__
        raise SpecError(f"{kind} has parameters of no size yet ({lazy[0]}). Give its layers their sizes.", "model")
    layouts = {ModuleLayout.of(module) for module in modules}
    if len(layouts) != 1:
        raise TrainError(f"members of one pack have {len(layouts)} different layouts. Pack equal shapes only.", "model")
    seeds = [blueprint.seed for blueprint in blueprints]
    takes = read_by(reads_of(type(modules[0])), schema) or frozenset({DENSE})
    return Population(modules, seeds, _entry(modules), device=torch.device(device), takes=takes)


def num_parameters(model: Ref, prepared: Prepared) -> int:
    """Count the parameters of a model on prepared rows."""
    return layout_of(model, prepared).num_parameters


def layout_of(model: Ref, prepared: Prepared) -> ModuleLayout:
    """Read the layout of a model on prepared rows, without making its numbers where its constructor allows that."""
    num_outputs = codec_of(prepared.target).num_outputs
    blueprint = Blueprint.of(model.name, model.params, 0)
    try:
        with torch.device("meta"):
            module = blueprint.module(prepared.schema, num_outputs)
    except Exception:  # a constructor of the user's own may read the numbers that it draws
        module = blueprint.module(prepared.schema, num_outputs)
    return ModuleLayout.of(module)


def why_not_packable(blueprint: Blueprint, schema: Schema, num_outputs: int, inputs: Mapping[str, Tensor]) -> str:
    """Return why members of this model cannot be packed, "" if they can.

    Two members are built and trained one step, packed and alone; gradients must agree.

    Args:
        inputs: A few rows of every input.
    """
    first = blueprint.module(schema, num_outputs)
    if isinstance(first, PopulationNative):
        return ""
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in first.modules()):
        return "nn.Dropout draws masks that depend on the pack; use fmray.models.layers.Dropout or one member a pack"
    rows = len(next(iter(inputs.values())))
    batch = Batch(inputs, torch.zeros(rows), None, torch.arange(rows))
    pair = [blueprint, Blueprint(blueprint.build, blueprint.params, blueprint.seed + 1)]
    try:
        packed = _probe(enter(pair, schema, num_outputs), batch)
        alone = torch.cat([_probe(enter([one], schema, num_outputs), batch) for one in pair])
    except RuntimeError as error:
        return f"vmap refuses it: {str(error).splitlines()[0]}"
    if not torch.allclose(packed, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max() + 1e-12)):
        return "its packed gradients differ from those of its members alone"
    return ""


def _probe(population: Population, batch: Batch) -> Tensor:
    population.prepare_step(0, Places.counted(0, len(batch)))
    torch.autograd.backward([population(batch).square().flatten(1).mean(1).sum()])
    population.gather_grad()
    return population.grad


def _entry(modules: Sequence[nn.Module]) -> Entry:
    if isinstance(modules[0], PopulationNative):
        return "native"
    return "solo" if len(modules) == 1 else "vmap"
