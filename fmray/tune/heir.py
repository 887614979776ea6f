"""Let a member go on from the state of another, with parameters of its own; knows no Ray.

Weights, optimizer, epoch, history and best state pass from one to the other, with the lineage of the weights. Name,
seed and parameters never do, wherever they are held: in columns of the optimizer, the task, or buffers of the model.

Source: Jaderberg et al., "Population Based Training of Neural Networks", 2017.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from fmray.events import Report
from fmray.metrics.metric import Metric
from fmray.records import Json, Prepared
from fmray.seeding import derive, stream
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.ranges import Keys, Range
from fmray.spec.ref import Ref
from fmray.store import read_atomic_folder, write_atomic_folder
from fmray.train.ingest import Rows
from fmray.train.loop import Verdict, fit
from fmray.train.pack import Pack
from fmray.train.state import State
from fmray.tune.plans import searched_plans
from fmray.tune.space import trial_groups
from fmray.tune.trial import Training, Trial

Lineage = tuple[Json, ...]
"""({epoch, from, params}, ...), oldest first: whose weights these were before, and with what they went on."""
LINEAGE = "search.pbt.lineage"
"""Parameter of a member: its lineage in words."""


@dataclass(frozen=True)
class Left:
    """Hold what a member left at a checkpoint.

    Args:
        state: Of its pack, which has no other member.
        member: Who left it.
        model: What it trained.
        epoch: At whose end it was compared; one that failed trains no more, and is compared on.
        lineage: Of its weights.
    """

    state: State
    member: int
    model: Ref
    epoch: int
    lineage: Lineage = ()

    def write(self, folder: str) -> None:
        """Write it to a folder."""
        model = [self.model.name, dict(self.model.params)]
        about = {"member": self.member, "model": model, "epoch": self.epoch, "lineage": list(self.lineage)}
        write_atomic_folder(folder, self.state.to_files(), about)

    @classmethod
    def read(cls, folder: str) -> "Left":
        """Read back what `write` wrote.

        Raises:
            DataError: If it is not whole.
        """
        about, files = read_atomic_folder(folder)
        name, params = about["model"]
        state = State.from_files(files)
        lineage = tuple(about["lineage"])
        return cls(state, about["member"], Ref(name, params), about["epoch"], lineage=lineage)

    def heir(self, member: int, params: Json) -> Lineage:
        """Give the lineage of weights that go on with a member."""
        if member == self.member:
            return self.lineage
        return (*self.lineage, {"epoch": self.state.epoch, "from": self.member, "params": params})


@dataclass(frozen=True)
class Cohort:
    """Plan the members of a population, whatever their parameters are at the time.

    Args:
        job: With its ranges.
        task: The objective, decided.
        prepared: The rows all learn from.
    """

    job: Job
    task: Ref
    prepared: Prepared

    @property
    def first(self) -> list[Json]:
        """Give the parameters each member begins with, by dotted path."""
        return [{dotted(keys): v for keys, v in values.items()} for values in trial_groups(self.job)[0].members]

    @property
    def interval(self) -> int:
        """Give the epochs between two comparisons."""
        return self.job.search.interval_in(self.job.train.num_epochs)

    def trial(self, index: int, params: Json, lineage: Lineage = ()) -> Trial:
        """Plan the trial of one member.

        Args:
            params: It has now.
        """
        values = {keys: params[dotted(keys)] for keys in self.job.ranges}
        plan = searched_plans(self.job, self.task, structural={}, members=[values], first=index)[0]
        if lineage:
            words = ", ".join(f"epoch {step['epoch']} from member {step['from']}" for step in lineage)
            plan = replace(plan, params={**plan.params, LINEAGE: words})
        return Trial(
            index, 0, job=self.job.at(values), plans=(plan,), prepared=self.prepared, total=self.job.search.members
        )


def mutations(ranges: Mapping[Keys, Range], seed: int) -> Json:
    """Give what Ray Tune changes parameters by: it shifts among options, and scales or draws anew what is a number."""
    return {
        dotted(keys): list(found.options) or partial(_draw, found, stream(seed, "pbt", dotted(keys)))
        for keys, found in ranges.items()
    }


def within(ranges: Mapping[Keys, Range], params: Json) -> Json:
    """Give parameters that were scaled, each brought back into its range."""
    corners = {dotted(keys): found.corners for keys, found in ranges.items() if not found.options}
    limited = {name: min(max(params[name], low), high) for name, (low, high) in corners.items()}
    return {**params, **limited}


def go_on(pack: Pack, left: Left) -> None:
    """Let the member of an untrained pack go on from what another, or itself, has left."""
    own = pack.plans[0]
    state = left.state
    history = [{**event, "member": own.index} for event in state.history]
    pack.adopt(replace(state, history=history), [left.model])
    if left.member != own.index:
        torch.manual_seed(derive(own.seed, "draws", state.epoch))  # or both would draw the same from here on


def train_member(
    training: Training,
    trial: Trial,
    rows: tuple[Rows, Rows],
    device: torch.device,
    report: Report,
    hand_in: Callable[[Left, Json], None],
    interval: int,
    left: Left | None = None,
    lineage: Lineage = (),
) -> None:
    """Train a member to its end, and leave its outcome.

    Args:
        rows: To learn from, and to choose by.
        report: Gets its events.
        hand_in: Gets what it leaves after every interval, and how it stands; may never come back.
        left: What it goes on from.
        lineage: Of its weights.
    """
    pack = training.build(trial, device, trial.plans)
    metric = training.metric_of(trial)
    last = trial.job.train.num_epochs
    scored_rows = rows[1].sample(trial.job.evaluate.val_rows)
    if left is not None:
        go_on(pack, left)
    epoch = 0 if left is None else left.epoch
    while True:
        until = min((epoch // interval + 1) * interval, last)
        order_seed = derive(trial.job.train.seed, "order")
        ended = fit(
            pack,
            rows[0],
            scored_rows,
            metric,
            order_seed=order_seed,
            report=report,
            judge=partial(_wait, until, last),
        )
        failed = any(end["status"] == "failed" for end in pack.state.ends.values())
        if ended and (not failed or until == last):  # one that failed may be given the state of another
            break
        epoch = until
        own = Left(pack.snapshot(), trial.number, model=trial.plans[0].model, epoch=epoch, lineage=lineage)
        hand_in(own, {"score": -math.inf if failed else _score(pack, metric), "epoch": until})
    training.conclude(trial, pack, rows[1])


def _wait(until: int, last: int, epoch: int, scores: Mapping[int, float]) -> Verdict:
    """Leave a training as it stands at the end of an interval."""
    return Verdict(waits=until <= epoch < last)


def _score(pack: Pack, metric: Metric) -> float:
    """Give the score of the newest epoch, higher for better: a good past does not make up for a bad present."""
    values = [event["value"] for event in pack.state.history if event["metric"] == metric.name]
    score = pack.sign * values[-1] if values else -math.inf
    return -math.inf if math.isnan(score) else score


def _draw(found: Range, source: np.random.Generator) -> Any:
    return found.at(float(source.random()))
