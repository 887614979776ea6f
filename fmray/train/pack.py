"""Hold the members that train together: population, optimizer, task, and what the loop remembers of each.

Members never touch each other: dropping some changes nothing for the others.
"""

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from fmray.catalogue import SCHEDULES
from fmray.errors import SpecError
from fmray.records import TENSORS, Target
from fmray.schema import Schema
from fmray.seeding import derive
from fmray.spec.ref import Ref
from fmray.spec.sections import Train
from fmray.tasks.task import Task, task_of
from fmray.train.artefacts import tensor_hash
from fmray.train.groups import columns_of
from fmray.train.ingest import Steps
from fmray.train.live import Live, Mixup, build_live
from fmray.train.optim import Optimizers
from fmray.train.population import Blueprint, enter
from fmray.train.pretrained import Pretrained
from fmray.train.rowweights import RowWeights
from fmray.train.schedule import Plateau, Schedule, warmup
from fmray.train.state import State, rng_states_of, set_rng_states
from fmray.train.warm import Start


@dataclass(frozen=True)
class Plan:
    """Say how one member is built and trained.

    Args:
        index: Position in the sweep.
        seed: Of its initialisation and dropout.
        model, optimizer, task: Name and parameters.
        params: What sets it apart from its siblings, by dotted path.
        rows: How much each training row counts for it, as `train.rowweights` reads it; empty where all count the same.
        start: Tensors that it begins with; None draws them.
    """

    index: int
    seed: int
    model: Ref
    optimizer: Ref
    task: Ref
    params: Mapping[str, Any]
    rows: Mapping[str, Any] = field(default_factory=dict)
    start: Start | Pretrained | None = None

    @property
    def blueprint(self) -> Blueprint:
        """Say how its module is built."""
        return Blueprint.of(self.model.name, self.model.params, self.seed)

    def module(self, schema: Schema, num_outputs: int) -> nn.Module:
        """Build its module, as it is before it learns.

        Raises:
            SpecError: If the class refuses its parameters, or the tensors it begins with are of another model.
        """
        if self.start is None:
            return self.blueprint.module(schema, num_outputs)
        return self.start.module(self.blueprint, schema, num_outputs)


class Pack:
    """Train K members as one.

    Args:
        plans: One per member, equal in everything that changes a shape.
        schema, target: Of the prepared data.
        train: The job's section.
        higher_is_better: Direction of the validation score.
        device: Where parameters and rows live.
        live: Steps that change training rows in every epoch.
        fresh: Initialise every member; else a state is about to be restored, and one stands for all.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        schema: Schema,
        target: Target,
        train: Train,
        higher_is_better: bool,
        device: torch.device | str = "cpu",
        live: Sequence[Ref] = (),
        *,
        fresh: bool = True,
    ) -> None:
        self.plans = list(plans)
        self.train = train
        self.device = torch.device(device)
        self.sign = 1.0 if higher_is_better else -1.0
        self._schema = schema
        self._target = target
        self.live = Live(build_live(live, schema), derive(train.seed, "live"))
        self.task: Task = task_of(plans[0].task.name, target, [plan.task.params for plan in plans])
        self.schedule: Schedule = SCHEDULES.build(train.schedule.name, params=train.schedule.params)
        self.schedules = self._schedules_of_phases()
        self.row_weights = RowWeights([plan.rows for plan in plans])
        blueprints = [plan.blueprint for plan in plans]
        if fresh:
            modules = [plan.module(schema, self.task.num_outputs) for plan in plans]
        else:
            modules = [blueprints[0].module(schema, self.task.num_outputs)] * len(plans)
        self.population = enter(blueprints, schema, num_outputs=self.task.num_outputs, device=device, modules=modules)
        phases = self.task.phases
        parts = [columns.to(self.device) for columns in columns_of(train.groups, self.population.layout, phases)]
        params = [plan.optimizer.params for plan in plans]
        others = {phase: own.optimizer for phase, own in train.phases.items() if own.optimizer is not None}
        self.optimizer = Optimizers(plans[0].optimizer.name, params, self.population, parts, others=others)
        self.ones_K = torch.ones(len(plans), device=self.device)
        self.max_batch_rows = sys.maxsize  # that an evaluation computes at a time
        self.state = self._fresh_state()

    def __len__(self) -> int:
        return len(self.population)

    def snapshot(self) -> State:
        """Give the whole state, as of between two steps."""
        state = self.state
        state.flat = self.population.flat
        state.buffers = self.population.buffers
        state.optimizer = self.optimizer.state()
        state.rng = {f"0/{name}": value for name, value in rng_states_of(self.device).items()}
        return state

    def restore(self, state: State, rank: int = 0) -> None:
        """Go on from a state that `snapshot` gave for the same plans.

        Args:
            rank: Of this worker; one that was not there before draws as the first one did.
        """
        if len(state.alive) < len(self.population):
            self._narrow(state.alive)
        self.population.load(state.flat.to(self.device), {k: v.to(self.device) for k, v in state.buffers.items()})
        self.optimizer.load({k: v.to(self.device) if v.dim() else v for k, v in state.optimizer.items()})
        own = rank if f"{rank}/cpu" in state.rng else 0
        set_rng_states({name: state.rng[f"{own}/{name}"] for name in rng_states_of(self.device)}, self.device)
        for name in ("best", "best_buffers", "loss_sum", "weight_sum", "ema"):
            setattr(state, name, _to(getattr(state, name), self.device))
        self.state = state

    def adopt(self, state: State, models: Sequence[Ref]) -> None:
        """Let the members of an untrained pack go on from the state of others, with parameters of their own.

        Learning rates, decays and smoothing stand in no state. Buffers may hold a parameter, such as a rate of dropout:
        in those two members differ before any training, if only the parameters of their models do.

        Args:
            models: Of the members that left the state.
        """
        others = [replace(plan, model=model).blueprint for plan, model in zip(self.plans, models, strict=True)]
        fresh = enter(others, self._schema, self.task.num_outputs, self.device).buffers
        own = {name: v.clone() for name, v in self.population.buffers.items() if not torch.equal(v, fresh[name])}
        alive = {name: value[state.alive] for name, value in own.items()}
        buffers = {**state.buffers, **alive}
        best = {**state.best_buffers, **own}
        self.restore(replace(state, buffers=buffers, best_buffers=best))

    def factors(self, steps: Steps) -> dict[str, float]:
        """Give the share of the learning rate that the schedule of each phase grants at the coming step."""
        step = self.state.global_step
        rise = warmup(step, self.train.warmup_steps)
        return {phase: own.factor(step, steps.total, steps.per_epoch) * rise for phase, own in self.schedules.items()}

    def step_optimizer(self, factor: float, phase: str) -> None:
        """Move every member against its gradient, and let the averages of its parameters follow.

        Args:
            factor: Share of the learning rate that the schedule grants now.
            phase: Of the task; only its parameters move.
        """
        lr_K1: Tensor | float = factor
        if isinstance(self.schedules[phase], Plateau):
            lr_K1 = self.state.plateau_factor[self.state.alive].to(self.device)[:, None] * factor
        self.optimizer.step(self.population, lr_K1, self.state.epoch, phase)
        if self.train.ema is not None and phase == self.task.phases[-1]:
            # early on, the average forgets faster, or it would long remember the first, random parameters
            step = self.state.global_step
            decay = min(self.train.ema, (1 + step) / (10 + step))
            self.state.ema.lerp_(self.population.flat.detach(), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let every member predict with the average of its parameters, if averages are kept."""
        if self.train.ema is None:
            yield
            return
        flat = self.population.flat.detach()
        trained = flat.clone()
        flat.copy_(self.state.ema)
        self.population.write_back()
        try:
            yield
        finally:
            flat.copy_(trained)
            self.population.write_back()

    def drop(self, rows: Sequence[int], status: str, reasons: Sequence[str]) -> None:
        """Let the members at these rows of the stack train no further."""
        state = self.state
        for row, reason in zip(rows, reasons, strict=True):
            member = int(state.alive[row])
            state.ends[str(member)] = {"status": status, "reason": reason, "epochs": state.epoch}
        keep = torch.tensor([row for row in range(len(self)) if row not in set(rows)], dtype=torch.long)
        self._narrow(keep)
        state.alive = state.alive[keep]
        state.loss_sum = state.loss_sum[keep]
        state.weight_sum = state.weight_sum[keep]
        state.ema = state.ema[keep] if self.train.ema is not None else state.ema

    def keep_best(self, rows: Tensor) -> None:
        """Remember the present parameters of the members at these rows (n,) as their best."""
        members = self.state.alive[rows]
        flat = self.population.flat.detach()
        for row, member in zip(rows.tolist(), members.tolist(), strict=True):  # no copy of all beside
            self.state.best[member].copy_(flat[row])
        for name, value in self.population.buffers.items():
            self.state.best_buffers[name][members] = value[rows]

    @contextmanager
    def at_best(self) -> Iterator["Pack"]:
        """Be a pack of all members as they were at their best, to predict with; no tensor is copied."""
        state = self.state
        every = copy.copy(self)
        every.task = task_of(self.plans[0].task.name, self._target, [plan.task.params for plan in self.plans])
        buffers = {name: value.to(self.device) for name, value in state.best_buffers.items()}
        with self.population.showing(state.best.to(self.device), buffers, [plan.seed for plan in self.plans]):
            yield every

    def artefact(self, member: int) -> tuple[str, bytes, str]:
        """Give the kind, the content and the digest of the file that a member leaves."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.member_tensors(member).items()}
        return TENSORS, write_tensors(tensors), tensor_hash(tensors)

    def member_tensors(self, member: int) -> dict[str, Tensor]:
        """Name the best tensors of a member, as its module alone names them."""
        buffers = {name: value[member] for name, value in self.state.best_buffers.items()}
        if self.population.entry == "native":
            buffers = {name: value[None] for name, value in buffers.items()}
        return self.population.tensors(self.state.best[member], buffers)

    def _schedules_of_phases(self) -> dict[str, Schedule]:
        """Give the schedule of each phase of the task.

        Raises:
            SpecError: If the job names a phase that the task does not have, or mixes rows in a task of several.
        """
        phases = self.task.phases
        asked = self.train.phases
        for name in asked:
            if len(phases) == 1 or name not in phases:
                known = "one phase: give train.optimizer and train.schedule" if len(phases) == 1 else ", ".join(phases)
                raise SpecError(f"the task has no phase '{name}'. It has {known}.", "train.phases")
        if len(phases) > 1 and any(isinstance(step, Mixup) for step in self.live.steps):
            raise SpecError(
                "mixup mixes losses of two rows, and this task steps several losses. Leave it out.", "steps"
            )
        own = {name: given.schedule for name, given in asked.items() if given.schedule is not None}
        built = {name: SCHEDULES.build(ref.name, params=ref.params) for name, ref in own.items()}
        return {phase: built.get(phase, self.schedule) for phase in phases}

    def _narrow(self, keep: Tensor) -> None:
        self.population.select(keep)
        self.optimizer.select(keep, self.population)
        self.task = self.task.select(keep)
        self.row_weights = self.row_weights.select(keep)
        self.ones_K = self.ones_K[keep]

    def _fresh_state(self) -> State:
        num = len(self.plans)
        flat = self.population.flat
        buffers = self.population.buffers
        worst = torch.full((num,), float("-inf"), dtype=torch.float64)
        zeros = torch.zeros(num, dtype=torch.long)
        return State(
            epoch=0,
            step=0,
            global_step=0,
            alive=torch.arange(num),
            flat=flat,
            buffers=buffers,
            optimizer={},
            ema=flat.clone() if self.train.ema is not None else torch.zeros(0),
            best=flat.clone(),
            best_buffers={name: value.clone() for name, value in buffers.items()},
            best_score=worst,
            best_epoch=zeros.clone(),
            bad_epochs=zeros.clone(),
            plateau_factor=torch.ones(num),
            plateau_best=worst.clone(),
            plateau_bad=zeros.clone(),
            loss_sum=torch.zeros(num, dtype=torch.float64, device=self.device),
            weight_sum=torch.zeros(num, dtype=torch.float64, device=self.device),
            rng={},
            history=[],
            ends={},
            health=[],
        )


def _to(value: Any, device: torch.device) -> Any:
    return {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)
