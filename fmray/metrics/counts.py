"""Count rows per score, which is all that the order of scores depends on.

A table is as large as its number of distinct pairs of score and weight, 32 bytes each: up to its number of rows where
scores are fine. Merged tables are sorted, so numbers made of them are the same however rows were cut into parts.
Shape legend: N rows, C classes, D distinct pairs of score and weight, S distinct scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmray.metrics.metric import weights_of


@dataclass(frozen=True)
class ScoreTable:
    """Count positives and negatives per distinct pair of score and weight, ascending.

    Shapes:
        score, weight: (D,), float64; positive, negative: (D,), int64.
    """

    score: np.ndarray
    weight: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def count(cls, score: np.ndarray, weight: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> "ScoreTable":
        """Group rows, or entries of tables, that have score and weight in common.

        Shapes:
            each (n,).
        """
        order = np.lexsort((weight, score))
        score = score[order]
        weight = weight[order]
        if not len(order):
            return cls(score, weight, positive, negative)
        starts = np.flatnonzero(np.r_[True, (score[1:] != score[:-1]) | (weight[1:] != weight[:-1])])
        sums = (np.add.reduceat(numbers[order], starts) for numbers in (positive, negative))
        return cls(score[starts], weight[starts], *sums)

    @classmethod
    def merge(cls, tables: Sequence["ScoreTable"]) -> "ScoreTable":
        """Give the table of all rows of one table or more."""
        columns = ([getattr(t, name) for t in tables] for name in ("score", "weight", "positive", "negative"))
        return cls.count(*(np.concatenate(column) for column in columns))

    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give distinct scores, ascending, with the weight of positives and of negatives at each.

        Shapes:
            returns: (S,), float64, each.
        """
        if not len(self.score):
            return self.score, self.score, self.score
        starts = np.flatnonzero(np.r_[True, self.score[1:] != self.score[:-1]])
        positive_S, negative_S = (np.add.reduceat(self.weight * n, starts) for n in (self.positive, self.negative))
        return self.score[starts], positive_S, negative_S


class HeldScores:
    """Keep the scores of rows until all are there: the order of scores depends on every one of them.

    A row takes 8 bytes per class that is ranked, once for two classes; a table of counts would take 32. Targets and
    weights are kept as views of those given, which the caller holds anyway.

    Args:
        counts: Whose tables are made in the end.
    """

    def __init__(self, counts: "ScoreCounts") -> None:
        self._counts = counts
        self._classes: list[int] = []
        self._scores: list[np.ndarray] = []
        self._beside: list[tuple[np.ndarray, np.ndarray | None]] = []

    def add(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> None:
        """Take some rows."""
        self._classes = self._counts.ranked(output)
        self._scores.append(np.ascontiguousarray(output[:, self._classes].T))
        self._beside.append((target, weight))

    def total(self) -> list["ScoreTable"]:
        """Count all rows that were taken, and let go of them."""
        scores = np.concatenate(self._scores, axis=1)
        target = np.concatenate([target for target, _ in self._beside])
        weights = [weight for _, weight in self._beside if weight is not None]
        self._scores = []
        self._beside = []
        return self._counts.tables(self._classes, list(scores), target, np.concatenate(weights) if weights else None)


@dataclass(frozen=True)
class ScoreCounts:
    """Count rows per score: of the positive class of two, else of each class against the rest.

    Args:
        positive: Index of the positive class.
    """

    positive: int

    @property
    def counts(self) -> object:
        """Tell what is counted."""
        return self.positive

    def partial(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> list[ScoreTable]:
        """Count over some rows, possibly none: one table, or one per class."""
        classes = self.ranked(output)
        return self.tables(classes, [output[:, c] for c in classes], target, weight)

    def ranked(self, output: np.ndarray) -> list[int]:
        """Name the columns whose order counts: that of the positive class of two, else all."""
        return [self.positive] if output.shape[1] == 2 else list(range(output.shape[1]))

    def tables(
        self, classes: Sequence[int], scores: Sequence[np.ndarray], target: np.ndarray, weight: np.ndarray | None
    ) -> list[ScoreTable]:
        """Count the rows of each class, given their scores.

        Shapes:
            scores: (N,) per class.
        """
        w = weights_of(len(target), weight)
        hits = (np.asarray(target == c, np.int64) for c in classes)
        pairs = zip(scores, hits, strict=True)
        return [ScoreTable.count(score.astype(np.float64), w, hit, 1 - hit) for score, hit in pairs]

    def accumulator(self) -> "HeldScores":
        """Give what takes rows batch by batch."""
        return HeldScores(self)

    def merge(self, parts: Sequence[list[ScoreTable]]) -> list[ScoreTable]:
        """Give the tables over all rows of one part or more."""
        return [ScoreTable.merge(tables) for tables in zip(*parts, strict=True)]
