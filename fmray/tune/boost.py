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
"""Parameter of a member: its round."""
KIND = "boost"
Train = Callable[[Plan], Sweep]


def boost(
    plans: Sequence[Plan],
    prepared: Prepared,
    store: Store,
    train: Train,
    params: Adaboost,
    device: str = "cpu",
) -> Sweep:
    """Boost one configuration as `ensemble: adaboost` asks for.

    The driver holds the weights of rows and passes them on in a file of the store, which every worker must see.

    Args:
        plans: The one configuration.
        train: Trains one member, as a sweep of its own.
        params: Of `ensemble: adaboost`.
        device: Where the driver lets members predict the training rows.

    Raises:
        SpecError: If there are several configurations, or the target is numeric.
        TrainError: If a round has no member that can predict, or the first is no better than chance.
    """
    if len(plans) != 1:
        raise SpecError(f"adaboost boosts one configuration, but the job has {len(plans)}. Keep one.", "ensemble")
    refuse_numbers("adaboost", {}, prepared.target.kind)
    lanes = Lanes(prepared, "train")
    found = lanes.load(["target", *["weight"] * prepared.weighted])
    rows = np.arange(lanes.num_rows)
    rounds = list[Sweep]()

    def train_round(weights: np.ndarray) -> np.ndarray:
        plan = _plan(plans[0], len(rounds))
        path = _write_weights(weights, store)
        one = replace(plan, rows={**plan.rows, "weights": path})
        rounds.append(train(one))
        # the path holds a hash of the weights and is part of the round's key: a finished round does not need the file
        store.remove(path)
        return outputs_of(_member_of(rounds[-1]), prepared, split="train", rows=rows, task=one.task, device=device)

    num_classes = len(prepared.target.classes)
    alphas = samme(train_round, found["target"], num_classes=num_classes, params=params, weight=found.get("weight"))
    alphas += [0.0] * (len(rounds) - len(alphas))  # a last round no better than chance was trained, but has no vote
    members = tuple(
        replace(_member_of(one), params={**_member_of(one).params, ALPHA: alpha})
        for one, alpha in zip(rounds, alphas, strict=True)
    )
    return Sweep(
        key=fingerprint(KIND, [one.key for one in rounds]),
        members=members,
        health=tuple(event for one in rounds for event in one.health),
        widths=tuple(width for one in rounds for width in one.widths),
        reused=all(one.reused for one in rounds),
    )


def _plan(plan: Plan, number: int) -> Plan:
    seed = derive(plan.seed, "round", number)
    params = {**plan.params, ROUND: number}
    return replace(plan, index=number, seed=seed, params=params)


def _member_of(sweep: Sweep) -> Member:
    member = sweep.members[0]
    if member.val_score is None:
        raise TrainError(f"a round has no member that can predict: {member.reason}.", "ensemble.adaboost")
    return member


def _write_weights(weights: np.ndarray, store: Store) -> str:
    """Write weights, scaled to a mean of 1, to a file that is named by their hash; return its path."""
    values = (weights * len(weights)).astype(np.float32)
    path = store.path(KIND, f"{hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()}.npy")
    held = io.BytesIO()
    np.save(held, values)
    store.write_bytes(path, held.getvalue())
    return path
