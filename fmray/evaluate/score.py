"""Judge a result: metrics with intervals on validation and test, against baselines on the same rows.

The test set is looked at once, after everything has been chosen, and the look is counted before it happens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fmray.data.lanes import Lanes
from fmray.data.session import run_here
from fmray.evaluate.facts import Facts
from fmray.evaluate.figures import figures
from fmray.evaluate.intervals import Tally, bounds, detectable, gain, rarest
from fmray.evaluate.parts import Board, First, Pass, Slopes, Squared, count, pull
from fmray.evaluate.samples import samples_of
from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric
from fmray.records import Interval, Predictions, Prepared, Scores, Split
from fmray.spec.sections import Evaluate
from fmray.targets.codec import codec_of

FEWEST_ROWS = 30
"""Slices with fewer rows are counted, not scored."""

Predict = Callable[[str, Split], Predictions]


@dataclass(frozen=True)
class Judgement:
    """Give scores, and what gates look at beside them.

    Args:
        facts: About the model's predictions on validation and test.
        shown: Test rows that figures were drawn from: all, or every so many-th.
    """

    scores: Scores
    facts: Mapping[Split, Facts]
    shown: Table


def score(
    evaluate: Evaluate,
    primary: str,
    metrics: Sequence[str],
    prepared: Prepared,
    predict: Predict,
    look: Callable[[], int],
    run: Pass = run_here,
) -> Judgement:
    """Score the chosen model and the baselines.

    Args:
        primary: The metric that decides.
        metrics: Further metrics.
        predict: (subject, split) -> predictions; subjects are "model" and the baselines.
        look: Counts a look at the test set, and says the how many-th it is; called once, before the first test row.
        run: Has rows looked at, part by part.

    Raises:
        DataError: If predictions are not of the same rows.
    """
    found = tuple(find_metric(name, prepared.target) for name in dict.fromkeys([primary, *metrics]))
    val = _Result.of(_board(("model",), "val", prepared=prepared, metrics=found, predict=predict), evaluate.level, run)
    looks = look()
    ours = _Result.of(
        _board(("model", *evaluate.baselines), "test", prepared=prepared, metrics=found, predict=predict),
        evaluate.level,
        run,
    )
    versus = {name: ours.versus(name, evaluate.level) for name in evaluate.baselines}
    shown = ours.first.shown
    num_rows = ours.board.num_rows
    num_shown = int(codec_of(prepared.target).opens_row(shown.target).sum())
    scores = Scores(
        primary=primary,
        higher_is_better=found[0].higher_is_better,
        test=ours.intervals("model"),
        val=val.intervals("model"),
        baselines={name: ours.intervals(name) for name in evaluate.baselines},
        paired={name: gain for name, (gain, _) in versus.items()},
        slices=ours.slices(prepared),
        looks=looks,
        figures=figures(shown, prepared.target, evaluate.level)
        | samples_of(ours.board.tables["model"])
        | ({} if num_shown == num_rows else {"rows": {"drawn": num_shown, "of": num_rows}}),
        extra={
            "level": evaluate.level,
            "p_values": {name: p for name, (_, p) in versus.items()},
            "detectable": {name: ours.detectable(name) for name in evaluate.baselines},
            "min_effect": evaluate.min_effect,
            "gap": _gap(found[0], val, ours),
        },
    )
    return Judgement(scores, {"val": val.first.facts, "test": ours.first.facts}, shown)


def _board(
    subjects: Sequence[str], split: Split, prepared: Prepared, metrics: tuple[Metric, ...], predict: Predict
) -> Board:
    tables = {subject: predict(subject, split) for subject in subjects}
    ids = partial(_row_ids, prepared, split)
    return Board(
        tables,
        metrics,
        expected_ids=ids,
        num_expected=prepared.num_rows(split),
        target=prepared.target,
        sliced=split == "test",
    )


def _row_ids(prepared: Prepared, split: Split, start: int, stop: int) -> np.ndarray:
    ids: np.ndarray = Lanes(prepared, split).take(np.arange(start, stop), ["row_id"])["row_id"]
    return ids


@dataclass(frozen=True)
class _Result:
    """Make numbers of the sums over all rows of a split.

    Args:
        slopes: Per set of rows and metric; sets with too few rows have none.
    """

    board: Board
    first: First
    slopes: Slopes
    squared: Squared
    level: float

    @classmethod
    def of(cls, board: Board, level: float, run: Pass) -> "_Result":
        first = count(board, run)
        slopes = {
            key: tuple(m.sums.slope(totals) for m, totals in zip(board.metrics, own.totals, strict=True))
            for key, own in first.counts.items()
            if not key[1] or own.num_rows >= FEWEST_ROWS
        }
        # Slopes know all that is needed of the sums, and counts per score are large.
        first = replace(first, counts={key: replace(own, totals=()) for key, own in first.counts.items()})
        groups = f"{board.tables['model'].path}.groups"
        return cls(board, first, slopes, pull(board, slopes, groups, run), level=level)

    @property
    def grouped(self) -> bool:
        return self.first.shown.group is not None

    def intervals(self, subject: str, column: str = "", level: int = 0) -> dict[str, Interval]:
        """Give every metric of a set of rows."""
        key = (subject, column, level)
        own = self.first.counts[key]
        places = range(len(self.board.metrics))
        rows = [Tally(own.num_rows, rarest(own.classes), own.hits[place]) for place in places]
        return {
            metric.name: bounds(
                metric, slope.value, tally=tally, squared=squared, grouped=self.grouped, level=self.level
            )
            for metric, slope, tally, squared in zip(
                self.board.metrics, self.slopes[key], rows, self.squared[key], strict=True
            )
        }

    def versus(self, name: str, level: float) -> tuple[Interval, float]:
        """Give the model's gain over a baseline, and its p-value."""
        counts = self.first.counts["model", "", 0]
        decides = self.board.metrics[0]
        values = (self.value("model"), self.value(name))
        apart = None if counts.hits[0] is None else self.first.apart[name]
        squared = self.squared["versus", name, 0][0]
        return gain(
            decides, values, num_rows=counts.num_rows, squared=squared, apart=apart, grouped=self.grouped, level=level
        )

    def value(self, subject: str) -> float:
        """Give the metric that decides."""
        return self.slopes[subject, "", 0][0].value

    def detectable(self, name: str) -> float:
        """Give the smallest true gain these rows would have shown four times out of five."""
        found = self.versus(name, 0.6827)[0]
        return detectable((found.high - found.low) / 2)

    def slices(self, prepared: Prepared) -> dict[str, dict[str, Interval]]:
        """Give every metric per level of the columns for slicing."""
        scored: dict[str, dict[str, Interval]] = {}
        for column, levels in prepared.slices.items():
            for code, name in enumerate(levels):
                own = self.first.counts.get(("model", column, code))
                if ("model", column, code) in self.slopes:
                    scored[f"{column}={name}"] = self.intervals("model", column, code)
                else:
                    few = _unscored(own.num_rows if own else 0)
                    scored[f"{column}={name}"] = {m.name: few for m in self.board.metrics}
        return scored


def _gap(metric: Metric, val: _Result, test: _Result) -> float:
    """Give validation minus test in the primary metric, positive where test is worse."""
    gap = val.value("model") - test.value("model")
    return gap if metric.higher_is_better else -gap


def _unscored(num_rows: int) -> Interval:
    nan = float("nan")
    return Interval(nan, nan, high=nan, n=num_rows, method=f"fewer than {FEWEST_ROWS} rows")
