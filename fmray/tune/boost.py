"""Train members one after another, each on rows weighted by the mistakes of those before it.

Every round is a sweep of its own, so boosting that was killed resumes in the round it had reached.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fmray.data.lanes import Lanes
from fmray.ensemble.adaboost import ALPHA, samme
from fmray.ensemble.candidates import outputs_of
from fmray.ensemble.voting import refuse_numbers
from fmray.errors import SpecError, TrainError
from fmray.records import Member, Prepared
from fmray.seeding import derive
from fmray.spec.components.ensembles import Adaboost
from fmray.store import Store, fingerprint
from fmray.train.pack import Plan
from fmray.tune.sweep import Sweep

ROUND = "ensemble.adaboost.round"
"""Key in `Member.params`: the member's round."""
KIND = "boost"
"""Folder of the store for row weights."""
Train = Callable[[Plan], Sweep]


def boost(
    plans: Sequence[Plan],
    prepared: Prepared,
    store: Store,
    train: Train,
    params: Adaboost,
    device: str = "cpu",
) -> Sweep:
    """Train the rounds of AdaBoost for one configuration.

    The driver computes row weights and passes them to workers in a file of the store, so all workers must have access
    to the store.

    Args:
        plans: One plan: the configuration to boost.
        train: Trains one member, as a sweep of its own.
        params: Parameters of `ensemble: adaboost`.
        device: Device on which the driver predicts the training rows.

    Raises:
        SpecError: If there are several configurations, or the target is numeric.
        TrainError: If the member of a round could not be trained, or the first is no better than chance.
    """
    if len(plans) != 1:
        raise SpecError(f"adaboost boosts one configuration, but the job has {len(plans)}. Keep one.", "ensemble")
    refuse_numbers("adaboost", {}, prepared.target.kind)
    lanes = Lanes(prepared, "train")
    columns = lanes.load(["target", *["weight"] * prepared.weighted])
    rows = np.arange(lanes.num_rows)
    rounds = list[Sweep]()

    def train_round(weights: np.ndarray) -> np.ndarray:
        plan = _plan(plans[0], len(rounds))
        path = _write_weights(weights, store)
        weighted_plan = replace(plan, rows={**plan.rows, "weights": path})
        rounds.append(train(weighted_plan))
        # the path holds a hash of the weights and is part of the round's key: a finished round does not need the file
        store.remove(path)
        member = _member_of(rounds[-1])
        return outputs_of(member, prepared, split="train", rows=rows, task=weighted_plan.task, device=device)

    num_classes = len(prepared.target.classes)
    alphas = samme(train_round, columns["target"], num_classes=num_classes, params=params, weight=columns.get("weight"))
    alphas += [0.0] * (len(rounds) - len(alphas))  # a last round no better than chance was trained, but has no vote
    members = tuple(
        replace(_member_of(sweep), params={**_member_of(sweep).params, ALPHA: alpha})
        for sweep, alpha in zip(rounds, alphas, strict=True)
    )
    return Sweep(
        key=fingerprint(KIND, [sweep.key for sweep in rounds]),
        members=members,
        health=tuple(event for sweep in rounds for event in sweep.health),
        widths=tuple(width for sweep in rounds for width in sweep.widths),
        reused=all(sweep.reused for sweep in rounds),
    )


def _plan(plan: Plan, number: int) -> Plan:
    seed = derive(plan.seed, "round", number)
    params = {**plan.params, ROUND: number}
    return replace(plan, index=number, seed=seed, params=params)


def _member_of(sweep: Sweep) -> Member:
    member = sweep.members[0]
    if member.val_score is None:
        raise TrainError(f"the member of a round could not be trained: {member.reason}.", "ensemble.adaboost")
    return member


def _write_weights(weights: np.ndarray, store: Store) -> str:
    """Write weights, scaled to a mean of 1, to a file that is named by their hash; return its path."""
    values = (weights * len(weights)).astype(np.float32)
    path = store.path(KIND, f"{hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()}.npy")
    buffer = io.BytesIO()
    np.save(buffer, values)
    store.write_bytes(path, buffer.getvalue())
    return path
