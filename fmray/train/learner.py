"""Build what trains members of one structure: a pack of networks, or an estimator.

Networks step over batches side by side; an estimator grows on whole blocks of rows. The loop treats both alike.
"""

from collections.abc import Sequence

import torch

from fmray.catalogue import ESTIMATORS
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.train.estimators import Estimators
from fmray.train.pack import Pack, Plan

Learner = Pack | Estimators


def is_estimator(plan: Plan) -> bool:
    """Tell whether a member learns from whole blocks of rows, and so trains alone."""
    return plan.model.name in ESTIMATORS


def build_learner(
    plans: Sequence[Plan], job: Job, prepared: Prepared, higher_is_better: bool, device: torch.device, *, fresh: bool
) -> Learner:
    """Build what trains members, untrained; see `Pack` for `fresh`.

    Args:
        plans: One per member; an estimator takes one.
        higher_is_better: Direction of the validation score.
    """
    if is_estimator(plans[0]):
        return Estimators(plans[0], prepared.schema, prepared.target, job.train, higher_is_better=higher_is_better)
    return build_pack(plans, job, prepared=prepared, higher_is_better=higher_is_better, device=device, fresh=fresh)


def build_pack(
    plans: Sequence[Plan], job: Job, prepared: Prepared, higher_is_better: bool, device: torch.device, *, fresh: bool
) -> Pack:
    """Build a pack of networks, untrained; see `build_learner`."""
    return Pack(
        plans,
        prepared.schema,
        target=prepared.target,
        train=job.train,
        higher_is_better=higher_is_better,
        device=device,
        live=job.live_steps,
        fresh=fresh,
    )
