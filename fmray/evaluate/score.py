"""Judge a result: metrics with intervals on validation and test, against baselines on the same rows.

The test set is looked at once, after everything has been chosen, and the look is counted before it happens.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fmray.evaluate.figures import figures
from fmray.evaluate.intervals import detectable, interval, paired
from fmray.evaluate.table import Table, read, require_same_rows
from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric
from fmray.records import Interval, Predictions, Prepared, Scores, Split
from fmray.spec.sections import Evaluate

FEWEST_ROWS = 30
"""Slices with fewer rows are counted, not scored."""

Predict = Callable[[str, Split], Predictions]


def score(
    evaluate: Evaluate,
    primary: str,
    metrics: Sequence[str],
    prepared: Prepared,
    predict: Predict,
    look: Callable[[], int],
) -> Scores:
    """Score the chosen model and the baselines.

    Args:
        primary: The metric that decides.
        metrics: Further metrics.
        predict: (subject, split) -> predictions; subjects are "model" and the baselines.
        look: Counts a look at the test set, and says the how many-th it is; called once, before the first test row.

    Raises:
        DataError: If predictions are not of the same rows.
    """
    found = [find_metric(name, prepared.target) for name in dict.fromkeys([primary, *metrics])]
    val = read(predict("model", "val"))
    looks = look()
    ours = read(predict("model", "test"))
    theirs = {name: read(predict(name, "test")) for name in evaluate.baselines}
    for name, table in theirs.items():
        require_same_rows(ours, table, f"model and {name}")
    versus = {name: _versus(found[0], ours, table, evaluate.level) for name, table in theirs.items()}
    return Scores(
        primary=primary,
        higher_is_better=found[0].higher_is_better,
        test=_intervals(found, ours, evaluate.level),
        val=_intervals(found, val, evaluate.level),
        baselines={name: _intervals(found, table, evaluate.level) for name, table in theirs.items()},
        paired={name: gain for name, (gain, _) in versus.items()},
        slices=_slices(found, ours, prepared, evaluate.level),
        looks=looks,
        figures=figures(ours, prepared.target, evaluate.level),
        extra={
            "level": evaluate.level,
            "p_values": {name: p for name, (_, p) in versus.items()},
            "detectable": {name: _detectable(found[0], ours, table) for name, table in theirs.items()},
            "min_effect": evaluate.min_effect,
            "gap": _gap(found[0], val, ours),
        },
    )


def _rows(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    return table.output, table.target, table.weight


def _intervals(metrics: Sequence[Metric], table: Table, level: float) -> dict[str, Interval]:
    return {metric.name: interval(metric, _rows(table), table.group, level) for metric in metrics}


def _versus(metric: Metric, ours: Table, theirs: Table, level: float) -> tuple[Interval, float]:
    return paired(metric, _rows(ours), _rows(theirs), ours.group, level)


def _detectable(metric: Metric, ours: Table, theirs: Table) -> float:
    """Give the smallest true gain these rows would have shown four times out of five."""
    gain = paired(metric, _rows(ours), _rows(theirs), ours.group, 0.6827)[0]
    return detectable((gain.high - gain.low) / 2)


def _gap(metric: Metric, val: Table, test: Table) -> float:
    """Give validation minus test in the primary metric, positive where test is worse."""
    gap = metric.value(*_rows(val)) - metric.value(*_rows(test))
    return gap if metric.higher_is_better else -gap


def _slices(
    metrics: Sequence[Metric], table: Table, prepared: Prepared, level: float
) -> dict[str, dict[str, Interval]]:
    scored: dict[str, dict[str, Interval]] = {}
    for column, levels in prepared.slices.items():
        for code, name in enumerate(levels):
            rows = np.flatnonzero(table.slices[column] == code)
            if len(rows) >= FEWEST_ROWS:
                scored[f"{column}={name}"] = _intervals(metrics, table.some(rows), level)
            else:
                scored[f"{column}={name}"] = {m.name: _unscored(len(rows)) for m in metrics}
    return scored


def _unscored(num_rows: int) -> Interval:
    nan = float("nan")
    return Interval(nan, nan, nan, num_rows, f"fewer than {FEWEST_ROWS} rows")
