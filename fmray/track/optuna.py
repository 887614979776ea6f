"""Write the members of a sweep as a study of Optuna, which its dashboard and its plots read.

The file is made anew from the records each time and put in place whole. fmray never reads it: it is for other tools.
"""

import json
from collections.abc import Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.logging import WARNING, set_verbosity
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fmray.records import Json, Member
from fmray.store import named_errors, redact
from fmray.store.copies import to_write

SCALARS = bool | int | float | str | None


def write_study(
    path: str, name: str, metric: str, space: Json, members: Sequence[Member], higher_is_better: bool
) -> None:
    """Replace a file by a journal storage with one study, which has one finished trial per member.

    Members that a rung stopped are PRUNED, those that failed FAIL, all others COMPLETE with their validation score.
    Trials are numbered in the order given; `member` among their attributes says which it is.

    Args:
        path: On a local or mounted disk; created, with its parents, where it is not there.
        name: Of the study.
        metric: Whose values over epochs are the intermediate values.
        space: As in `SearchAccount`; parameters that are not in it become attributes.

    Raises:
        DataError: If the disk is full.
        ClusterError: If the filesystem refuses.
    """
    set_verbosity(WARNING)
    with named_errors(path), to_write(path) as partial:
        storage = JournalStorage(JournalFileBackend(partial))
        direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
        study = storage.create_new_study([direction], name)
        for member in members:
            storage.create_new_trial(study, trial_of(member, metric, space))


def trial_of(member: Member, metric: str, space: Json) -> FrozenTrial:
    """Give a member as a finished trial."""
    searched = {path: value for path, value in member.params.items() if path in space}
    others = {path: value for path, value in redact(member.params).items() if path not in space}
    curve = {int(e["epoch"]): float(e["value"]) for e in member.history if e["metric"] == metric}
    state = _state(member)
    return create_trial(
        state=state,
        value=None if state == TrialState.FAIL else member.val_score,
        params={path: _inside(value, space[path]) for path, value in searched.items()},
        distributions={path: distribution_of(space[path]) for path in searched},
        intermediate_values=curve,
        user_attrs={
            **{path: _plain(value) for path, value in others.items()},
            **{key: getattr(member, key) for key in ("seed", "structure", "pack", "epochs", "best_epoch", "reason")},
            "member": member.index,
        },
    )


def distribution_of(range_: Json) -> BaseDistribution:
    """Give a range of `SearchAccount.space` as Optuna spells it."""
    match range_["kind"]:
        case "uniform" | "log_uniform" as kind:
            return FloatDistribution(range_["low"], range_["high"], log=kind == "log_uniform")
        case "int" | "log_int" as kind:
            return IntDistribution(range_["low"], range_["high"], log=kind == "log_int")
        case _:
            return CategoricalDistribution([_plain(option) for option in range_["options"]])


def _state(member: Member) -> TrialState:
    if member.status == "failed" or member.val_score is None:
        return TrialState.FAIL
    dropped = any(not rung["survived"] for rung in member.rungs)
    return TrialState.PRUNED if dropped else TrialState.COMPLETE


def _inside(value: object, range_: Json) -> object:
    """Give a value as its distribution accepts it: choices as plain values, numbers no rounding error outside."""
    if range_["kind"] == "choice":
        return _plain(value)
    low = range_["low"]
    high = range_["high"]
    if isinstance(value, float) and (abs(value - low) < 1e-6 * abs(low) or abs(value - high) < 1e-6 * abs(high)):
        return min(max(value, low), high)  # drawn in float32, say
    return value


def _plain(value: object) -> SCALARS:
    """Give a value as a trial may hold it; lists and maps as JSON."""
    return value if isinstance(value, SCALARS) else json.dumps(value, default=str)
