"""Say which searched parameters the scores of a sweep depend on."""

import json
from collections.abc import Sequence

import optuna
from optuna.trial import create_trial

from fmray.records import Json, Member

FEWEST_MEMBERS = 10


def importance(space: Json, members: Sequence[Member]) -> dict[str, float]:
    """Give each parameter's share of what a random forest learns from members' parameters about their scores.

    The shares sum to 1, largest first; the rest is noise too, so small ones mean nothing. Members that were stopped
    count with the best score they had. Empty where too few members have scores, or all have the same.

    Args:
        space: As in `SearchAccount`; parameters that some member lacks are left out.

    Source: Breiman, "Random Forests", 2001 (mean decrease in impurity), as Optuna computes it.
    """
    scored = [member for member in members if member.val_score is not None]
    paths = [path for path in space if all(path in member.params for member in scored)]
    if len(scored) < FEWEST_MEMBERS or not paths or len({member.val_score for member in scored}) == 1:
        return {}
    ranges = {path: _distribution(space[path], [member.params[path] for member in scored]) for path in paths}
    trials = [
        create_trial(
            value=member.val_score,
            params={path: _coded(space[path], member.params[path]) for path in paths},
            distributions=ranges,
        )
        for member in scored
    ]
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator as Evaluator  # half a second of scikit-learn
    from optuna.importance import get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(trials)
    found = get_param_importances(study, evaluator=Evaluator(seed=0))
    return {path: float(share) for path, share in found.items()}


def spelled(value: object) -> str:
    """Spell the option of a choice, lists and maps too."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _distribution(range_: Json, values: Sequence[object]) -> optuna.distributions.BaseDistribution:
    """Give the range as far as members fill it; a forest only looks at their order."""
    if range_["kind"] == "choice":
        return optuna.distributions.CategoricalDistribution(sorted({spelled(value) for value in values}))
    numbers = [float(value) for value in values]  # type: ignore[arg-type]
    return optuna.distributions.FloatDistribution(min(numbers), max(numbers))


def _coded(range_: Json, value: object) -> object:
    return spelled(value) if range_["kind"] == "choice" else float(value)  # type: ignore[arg-type]
