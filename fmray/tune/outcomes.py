"""Write and read the outcomes of trials: tensors, predictions on a validation sample, and last the member records.

A pack that has an outcome is never trained again, so a trial may be killed at any point and resumed by another process.
Only a process that holds the lease writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch

from fmray.data.hashing import sample_of
from fmray.ragged import Ragged
from fmray.records import HISTORY, Json, Member
from fmray.store.copies import to_write
from fmray.store.manifest import measure
from fmray.train.artefacts import FILES, file_of
from fmray.train.group import ALONE, Group
from fmray.train.ingest import Rows
from fmray.train.learner import Learner
from fmray.train.loop import predict_rows
from fmray.train.pack import Plan
from fmray.tune.trial import Trial, TrialContext

Status = Literal["finished", "stopped", "failed"]
Failures = Mapping[int, Json]
"""Index of a member whose training did not finish -> {"reason", "class" of the error}."""
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "val.npy"
PREDICTIONS_KEY = "said"
"""Key under which records name their file of predictions; records of earlier versions have it, so it stays."""
NO_FAILURES: Failures = MappingProxyType({})


def is_finished(context: TrialContext, trial: Trial) -> bool:
    """Return whether the outcome of a trial is complete."""
    return context.store.exists(f"{context.folder(trial.number)}/{RESULT_FILE}")


def has_begun(context: TrialContext, trial: Trial) -> bool:
    """Return whether members of a trial have been trained for some steps, which a later attempt continues."""
    return trial.waited or bool(context.store.list(context.folder(trial.number)))


def read_packs(context: TrialContext, number: int) -> list[Json]:
    """Read the outcomes of a finished trial's packs; members that are in no pack form one more."""
    result = context.store.read_json(f"{context.folder(number)}/{RESULT_FILE}")
    homes = [f"{context.folder(number)}/{pack:05d}" for pack in result["packs"]]
    packs = [_with_absolute_paths(context.store.read_json(f"{home}/{RESULT_FILE}"), home) for home in homes]
    return [*packs, *([result["lost"]] if result["lost"] else [])]


def read_pack(context: TrialContext, trial: Trial, number: int) -> Json | None:
    """Read the outcome of a pack; None if it is not finished."""
    path = f"{context.pack_folder(trial, number)}/{RESULT_FILE}"
    return context.store.read_json(path) if context.store.exists(path) else None


def best_val_score(context: TrialContext, trial: Trial) -> float | None:
    """Return a finished trial's best validation score, with a sign so that higher is better; None if there is none."""
    sign = 1 if context.metric_of(trial).higher_is_better else -1
    scores = [member["val_score"] for pack in read_packs(context, trial.number) for member in pack["members"]]
    return max((sign * score for score in scores if score is not None), default=None)


def finish_trial(context: TrialContext, trial: Trial, packs: Sequence[int], untrained: Json | None = None) -> None:
    """Complete the outcome of a trial.

    Args:
        packs: Numbers of the packs that have an outcome.
        untrained: Pack-like outcome of the members that are in no pack; see `outcome_of_untrained`.
    """
    context.store.write_json(f"{context.folder(trial.number)}/{RESULT_FILE}", {"packs": list(packs), "lost": untrained})


def record_untrained(
    context: TrialContext, trial: Trial, reason: str, status: Status = "failed", error_class: str = ""
) -> None:
    """Record that the training of a trial's members did not finish, and why; finished packs are kept.

    Args:
        error_class: Class of the error, if code or parameters caused it.
    """
    # a trial has at most one pack per member; its true number of packs is not known here
    numbered = ((number, read_pack(context, trial, number)) for number in range(len(trial.plans)))
    packs = {number: pack for number, pack in numbered if pack is not None}
    done = {member["index"] for pack in packs.values() for member in pack["members"]}
    left = [plan for plan in trial.plans if plan.index not in done]
    reasons = {plan.index: {"reason": reason, "class": error_class} for plan in left}
    untrained = outcome_of_untrained(context, trial, left, reasons, status=status) if left else None
    finish_trial(context, trial, list(packs), untrained)


def write_pack(
    context: TrialContext,
    trial: Trial,
    pack: Learner,
    val_rows: Rows,
    number: int = 0,
    group: Group = ALONE,
    left_out: Failures = NO_FAILURES,
) -> None:
    """Write the outcome of a trained pack: tensors, predictions on validation, and last the records.

    Args:
        number: Position of the pack in its trial.
        left_out: Members that were removed from the pack because their code failed.
    """
    predictions = _predictions_on_sample(pack, val_rows, group)
    if not group.is_first:
        return
    folder = context.pack_folder(trial, number)
    with to_write(f"{folder}/{PREDICTIONS_FILE}") as path:
        np.save(path, predictions, allow_pickle=False)
    members = [
        _write_member(context, trial, pack, row=row, pack_number=number, predictions=predictions[row])
        for row in range(len(pack.plans))
    ]
    left_out_plans = [plan for plan in trial.plans if plan.index in left_out]
    others = outcome_of_untrained(context, trial, left_out_plans, left_out)
    files = [PREDICTIONS_FILE, *(f"{member.index:05d}/{file_of(member)}" for member in members)]
    result = {
        "files": measure(folder, files),
        "members": [*(_with_relative_root(member, folder) for member in members), *others["members"]],
        "health": pack.state.health,
        "width": len(pack.plans),
        PREDICTIONS_KEY: PREDICTIONS_FILE,
        "errors": others["errors"],
    }
    context.store.write_json(f"{folder}/{RESULT_FILE}", result)
    context.store.remove(f"{folder}/states")


def write_failed_pack(
    context: TrialContext, trial: Trial, number: int, plans: Sequence[Plan], left_out: Failures
) -> None:
    """Write the outcome of a pack of which no member could be trained."""
    outcome = outcome_of_untrained(context, trial, plans, left_out)
    context.store.write_json(f"{context.pack_folder(trial, number)}/{RESULT_FILE}", outcome)


def outcome_of_untrained(
    context: TrialContext, trial: Trial, plans: Sequence[Plan], reasons: Failures, status: Status = "failed"
) -> Json:
    """Describe members whose training did not finish, as the outcome of a pack."""
    members = [
        _member_without_tensors(context, trial, plan, status=status, reason=reasons[plan.index]["reason"])
        for plan in plans
    ]
    errors = {str(plan.index): reasons[plan.index]["class"] for plan in plans if reasons[plan.index]["class"]}
    records = [member.to_json() for member in members]
    return {"members": records, "health": [], "width": len(records), PREDICTIONS_KEY: "", "errors": errors}


def _member_without_tensors(context: TrialContext, trial: Trial, plan: Plan, status: Status, reason: str) -> Member:
    """Build the record of a member that has no weights; `_write_member` adds what a trained one has."""
    return Member(
        index=plan.index,
        model={"name": plan.model.name, "params": dict(plan.model.params)},
        params=dict(plan.params),
        seed=plan.seed,
        root="",
        status=status,
        best_epoch=0,
        epochs=0,
        val_score=None,
        tensor_hash="",
        reason=reason,
        role=context.role,
        structure=trial.structure,
        prepared="" if trial.fault else trial.prepared.fingerprint,
    )


def _write_member(
    context: TrialContext, trial: Trial, pack: Learner, row: int, pack_number: int, predictions: np.ndarray
) -> Member:
    plan = pack.plans[row]
    state = pack.state
    home = f"{context.pack_folder(trial, pack_number)}/{plan.index:05d}"
    kind, data, digest = pack.artefact(row)
    with to_write(f"{home}/{FILES[kind]}") as path, open(path, "wb") as file:
        file.write(data)
    outcome: dict[str, Any] = state.ends.get(str(row), {"status": "finished", "reason": "", "epochs": state.epoch})
    if not torch.isfinite(state.best_score[row]) and outcome["status"] != "failed":
        scores = [
            event["value"]
            for event in state.history
            if event["member"] == plan.index and event["metric"] == context.metric
        ]
        outcome = {**outcome, "status": "failed", "reason": _why_unscored(context.metric, scores, predictions)}
    score = float(state.best_score[row]) * pack.sign
    member = _member_without_tensors(context, trial, plan, status="failed", reason=outcome["reason"])
    return replace(
        member,
        root=home,
        status=outcome["status"],
        best_epoch=int(state.best_epoch[row]),
        epochs=outcome["epochs"],
        val_score=score if outcome["status"] != "failed" and torch.isfinite(state.best_score[row]) else None,
        tensor_hash=digest,
        artefact=kind,
        history=tuple(
            {name: event[name] for name in HISTORY} for event in state.history if event["member"] == plan.index
        ),
        pack=pack_number,
    )


def _why_unscored(metric: str, scores: Sequence[float], predictions: np.ndarray) -> str:
    """Return why a member that was trained has no score on validation."""
    finite = np.isfinite(predictions)
    if finite.all() and any(np.isinf(scores)):
        return f"{metric} is infinite on the validation rows: check the target values for outliers"
    if finite.all():
        return f"{metric} is undefined on the validation rows: check their class counts or target values"
    count = len(predictions) - finite.all(-1).sum()
    return f"{count} of {len(predictions)} sampled validation predictions are not finite"


def _predictions_on_sample(pack: Learner, rows: Rows, group: Group) -> np.ndarray:
    """Predict a sample of validation rows, in dataset order, with the best weights of every member.

    The sample depends on row ids alone, so members of all packs, on any workers, predict the same rows.

    Shapes:
        returns: (M, n, C or T), float32, one entry per token if tokens have targets; empty on all workers but the
            first.
    """
    ids = rows.lanes.load(["row_id"], rows.share)["row_id"]
    sampled = sample_of(ids, rows.num_rows)
    with pack.at_best() as best_pack:
        predictions, _ = predict_rows(best_pack, rows, group, mask=sampled)
    positions = rows.share.places(0, rows.num_rows, rows.lanes.num_lanes)[sampled]
    target = rows.lanes.load(["target"], rows.share)["target"]
    if isinstance(target, Ragged):
        positions = np.repeat(positions, target.lengths[sampled])
    parts = group.all_gather((positions, predictions.astype(np.float32)))
    if not group.is_first:
        return np.zeros(0, np.float32)
    order = np.argsort(np.concatenate([positions for positions, _ in parts]), kind="stable")
    return np.concatenate([values for _, values in parts], axis=1)[:, order]


def _with_relative_root(member: Member, home: str) -> Json:
    """Return a member as JSON, its folder relative to that of its pack, so that the store can be moved."""
    return {**member.to_json(), "root": member.root.removeprefix(f"{home}/")}


def _with_absolute_paths(pack: Json, home: str) -> Json:
    members = [{**member, "root": f"{home}/{member['root']}" if member["root"] else ""} for member in pack["members"]]
    predictions = f"{home}/{pack[PREDICTIONS_KEY]}" if pack[PREDICTIONS_KEY] else ""
    return {**pack, "folder": home, "members": members, PREDICTIONS_KEY: predictions}
