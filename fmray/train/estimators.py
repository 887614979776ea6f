"""Train an estimator where the loop would train a pack of networks: all of its rows at once, round by round.

An epoch is a block of rounds, so that what counts in epochs elsewhere counts here too: validation, early stopping,
rungs, budgets, progress. Its state is the file it would leave, so a resumed training grows on to the same bits.
Shape legend: N rows of this worker's share, O outputs.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmray.catalogue import ESTIMATORS, SCHEDULES
from fmray.data.session import address_of_node
from fmray.errors import DataError, SpecError
from fmray.models.estimator import Estimator, Table
from fmray.records import Member, Prepared, Target
from fmray.schema import Schema
from fmray.spec.inputs import require_inputs
from fmray.spec.sections import Train
from fmray.tasks.task import Batch, Places, Task, task_of
from fmray.train.artefacts import digest_of, file_of, read_bytes
from fmray.train.group import ALONE, Group
from fmray.train.heartbeat import beat
from fmray.train.ingest import Rows
from fmray.train.pack import Plan
from fmray.train.rowweights import RowWeights
from fmray.train.schedule import Schedule
from fmray.train.state import State, rng_states_of

BOOSTER = "estimator"
Due = Callable[[], bool]
Save = Callable[[], float]


class Fitted:
    """Predict by an estimator, as a population of one.

    Args:
        estimator: That has learned.
        rounds: How many of its first rounds count; all by default.
    """

    def __init__(self, estimator: Estimator, rounds: int | None = None) -> None:
        self.estimator = estimator
        self.rounds = rounds

    def __call__(self, batch: Batch) -> Tensor:
        """Give outputs (1, N, O), float64."""
        outputs = self.estimator.outputs(batch.inputs["x"].cpu().numpy(), self.rounds)
        return torch.from_numpy(np.ascontiguousarray(outputs))[None]

    def prepare_step(self, step: int, places: Places | None) -> None:
        """Do nothing: prediction draws nothing."""

    @property
    def num_parameters(self) -> int:
        """Count the numbers that were learned."""
        return self.estimator.num_parameters


class Estimators:
    """Hold an estimator in training, for the loop to treat as it treats a pack of one network.

    Args:
        plan: Of the member.
        schema, target: Of the prepared data.
        train: The job's section.
        higher_is_better: Direction of the validation score.

    Raises:
        SpecError: If its package is missing, or it does not minimise what the task asks for.
    """

    def __init__(self, plan: Plan, schema: Schema, target: Target, train: Train, higher_is_better: bool) -> None:
        declared = ESTIMATORS.params(plan.model.name)
        require_inputs(plan.model.name, declared.reads, declared.needs, schema)
        self.plans = [plan]
        self.train = train
        self.device = torch.device("cpu")
        self.sign = 1.0 if higher_is_better else -1.0
        self.task: Task = task_of(plan.task.name, target, [plan.task.params])
        self.schedule: Schedule = SCHEDULES.build("constant", params={})
        self.max_batch_rows = torch.iinfo(torch.int64).max
        self.estimator = build(plan.model.name, plan.model.params, seed=plan.seed, task=self.task)
        self.population = Fitted(self.estimator)
        self.state = _fresh_state()
        self._width = schema.width
        self._row_weights = RowWeights([plan.rows])
        self._weight_sum: float | None = None

    def __len__(self) -> int:
        return len(self.state.alive)

    @property
    def num_steps(self) -> int:
        """Rounds of an epoch."""
        return self.estimator.rounds_per_epoch

    def run_epoch(self, rows: Rows, due: Due, save: Save, group: Group = ALONE) -> dict[str, float]:
        """Grow the rounds of the current epoch, from the state's step on; give the seconds spent on checkpoints.

        Args:
            rows: This worker's share of the training rows.
            due: Tells, before a round that is not the last, whether a checkpoint is to follow.
            save: Writes it; called on all workers.
        """
        state = self.state
        saved = 0.0
        if self._weight_sum is None:
            self._start(rows, group)
        while state.step < self.num_steps:
            is_due = group.broadcast(state.step + 1 < self.num_steps and due())
            self.estimator.grow(state.global_step)
            beat()
            state.step += 1
            state.global_step += 1
            if is_due:
                saved += save()
        weight = self._weight_sum or 0.0
        sums = group.all_reduce(torch.tensor([[self.estimator.train_loss() * weight], [weight]], dtype=torch.float64))
        state.loss_sum += sums[0]
        state.weight_sum += sums[1]
        return {"rows": 0.0, "checkpoints": saved}

    def snapshot(self) -> State:
        """Give the whole state, as of between two rounds."""
        state = self.state
        state.buffers = {BOOSTER: _tensor(self.estimator.save())}
        state.rng = {f"0/{name}": value for name, value in rng_states_of(self.device).items()}
        return state

    def restore(self, state: State, rank: int = 0) -> None:
        """Go on from a state that `snapshot` gave for the same plan."""
        self.estimator.load(bytes(state.buffers[BOOSTER].numpy().tobytes()), self._width)
        self._weight_sum = None
        self.state = state

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let it predict as it is: no averages are kept."""
        yield

    def drop(self, rows: Sequence[int], status: str, reasons: Sequence[str]) -> None:
        """Let it train no further, if it is named."""
        for row, reason in zip(rows, reasons, strict=True):
            member = str(int(self.state.alive[row]))
            self.state.ends[member] = {"status": status, "reason": reason, "epochs": self.state.epoch}
            self.state.alive = self.state.alive[:0]

    def keep_best(self, rows: Tensor) -> None:
        """Remember how many rounds it has now as its best."""
        if len(rows):
            self.state.best_buffers = {"rounds": torch.tensor([self.estimator.rounds])}

    @contextmanager
    def at_best(self) -> Iterator["Estimators"]:
        """Be as it was at its best, to predict with; it learns no more."""
        self.estimator.close()
        self._weight_sum = None
        self.population = Fitted(self.estimator, self._best_rounds)
        self.state.alive = torch.arange(1)
        yield self

    def artefact(self, member: int) -> tuple[str, bytes, str]:
        """Give the kind, the content and the digest of the file that it leaves, at its best."""
        data = self.estimator.save(self._best_rounds)
        return self.estimator.artefact, data, digest_of(data)

    @property
    def _best_rounds(self) -> int:
        return int(self.state.best_buffers["rounds"][0])

    def _start(self, rows: Rows, group: Group) -> None:
        """Hand over the rows that count.

        Raises:
            SpecError: If they do not fit into memory.
        """
        if not rows.in_memory:
            text = f"the {rows.num_rows:,} training rows do not fit, and {self.plans[0].model.name} learns from all"
            raise SpecError(f"{text} at once. Give more memory, or train on more workers.", "run.memory")
        table = self._table(rows)
        if 0 in group.all_gather(len(table.x)):
            which = "" if group.size == 1 else f" on one of {group.size} workers"
            text = f"0 rows are left to learn from{which}. See the row accounting; check split and folds."
            raise DataError(text, "train")
        weight = float(len(table.x)) if table.weight is None else float(table.weight.sum(dtype=np.float64))
        self.estimator.start(table, torch.get_num_threads(), _meet(group))
        self._weight_sum = weight

    def _table(self, rows: Rows) -> Table:
        """Gather the rows of the share whose weight is above 0, weighed as the task weighs them."""
        inputs: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        is_weighted = False
        for batch in rows.in_sequence():
            weighed = self._row_weights.weigh(batch)
            silent = torch.zeros(1, len(batch), self.task.num_outputs)
            weight = self.task.loss(lambda _: silent, weighed, self.task.phases[0]).weight  # noqa: B023
            is_weighted |= weight is not None
            counts = np.ones(len(batch), np.float32) if weight is None else weight.expand(1, len(batch))[0].numpy()
            kept = counts > 0  # a row of weight 0 would still count as one of the rows a leaf must have
            inputs.append(batch.inputs["x"].numpy()[kept])
            targets.append(batch.target.numpy()[kept])
            weights.append(counts[kept])
            beat()
        if not inputs:
            return Table(np.zeros((0, self._width), np.float32), np.zeros(0), None)
        target = np.concatenate(targets)
        return Table(
            np.concatenate(inputs),
            target[:, 0] if target.ndim == 2 else target,
            np.concatenate(weights) if is_weighted else None,
        )


def _meet(group: Group) -> dict[str, Any]:
    """Have the workers agree where each listens, as LightGBM's parameters say it; empty for one alone.

    Ports are chosen anew for every training: that of the one before may still be in use.
    """
    if group.size == 1:
        return {}
    with socket.socket() as held:  # until all have chosen: several may share a machine
        held.bind(("", 0))
        places = group.all_gather((address_of_node(), held.getsockname()[1]))
    return {
        "machines": ",".join(f"{host}:{port}" for host, port in places),
        "num_machines": group.size,
        "local_listen_port": places[group.rank][1],
    }


def build(name: str, params: Mapping[str, Any], seed: int, task: Task) -> Estimator:
    """Build an estimator, as it is before it learns.

    Raises:
        SpecError: If its package is missing, or it does not minimise what the task asks for.
    """
    objective = getattr(task, "objective", None)
    if objective is None:
        text = f"does not say what {name} is to minimise. Give it the method objective, or take another model."
        raise SpecError(f"{type(task).__name__} {text}", "task")
    asked = objective(0)
    if "classes" not in asked and task.num_outputs > 1:
        raise SpecError(f"{task.num_outputs} targets at once. {name} learns one; give one.", "data.target")
    made: Estimator = ESTIMATORS.find(name)(ESTIMATORS.read(name, params), asked, seed)
    return made


def load_estimator(member: Member, prepared: Prepared, task: Task) -> Fitted:
    """Build a trained estimator again from its record.

    Raises:
        SpecError: If its package is missing.
        DataError: If its file is missing, damaged or does not fit its description.
    """
    estimator = build(member.model["name"], member.model["params"], seed=member.seed, task=task)
    try:
        estimator.load(read_bytes(member), prepared.schema.width)
    except DataError as error:
        path = f"{member.root}/{file_of(member)}"
        raise error if error.message.startswith(path) else DataError(f"{path} {error.message}") from error
    return Fitted(estimator)


def _tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _fresh_state() -> State:
    worst = torch.full((1,), float("-inf"), dtype=torch.float64)
    zeros = torch.zeros(1, dtype=torch.long)
    return State(
        epoch=0,
        step=0,
        global_step=0,
        alive=torch.arange(1),
        flat=torch.zeros(1, 0),
        buffers={},
        optimizer={},
        ema=torch.zeros(0),
        best=torch.zeros(1, 0),
        best_buffers={},
        best_score=worst,
        best_epoch=zeros.clone(),
        bad_epochs=zeros.clone(),
        plateau_factor=torch.ones(1),
        plateau_best=worst.clone(),
        plateau_bad=zeros.clone(),
        loss_sum=torch.zeros(1, dtype=torch.float64),
        weight_sum=torch.zeros(1, dtype=torch.float64),
        rng={},
        history=[],
        ends={},
        health=[],
    )
