"""Choose members one by one, each the one that helps most, and often more than once.

A smooth loss decides (log loss, squared error): under a stepwise one, ties let harmful members in. Sums over the rows
are kept from step to step, so a step costs one pass over the members' numbers, or none at all for squared error.
Shape legend: M members, N rows.
"""

from typing import Protocol

import numpy as np

from fmray.ensemble.candidates import Candidates
from fmray.records import Ensemble
from fmray.seeding import stream
from fmray.spec.components import ensembles as declared
from fmray.targets.codec import codec_named
from fmray.train.combine import LEAST_PROBABILITY

BLOCK_ROWS = 4096  # keeps the temporary array of a block in the core's own cache


class Loss(Protocol):
    """Say what the mean of the members taken so far would lose with one more."""

    def with_each(self) -> np.ndarray:
        """Give the loss once each of the members is taken as well (M,)."""
        ...

    def take(self, place: int) -> None:
        """Take a member, maybe again."""
        ...

    def of(self, some: np.ndarray) -> "Loss":
        """Give the loss of some of the members (m,), none of them taken."""
        ...


def greedy(candidates: Candidates, params: declared.Greedy = declared.Greedy()) -> Ensemble:
    """Weight each member by how often it is the best one to add next.

    In each bag a random share of the members may be taken. It starts from the first few in the order of their own loss,
    as many as lose least together; then members are added, again and again the same one if that helps. The step at
    which the bag lost least counts, and weights are the mean over bags.

    Source: Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.
    """
    loss = loss_of(candidates)
    num = len(candidates.members)
    weights = np.zeros(num)
    for bag in range(params.bags):
        some = np.arange(num)
        if params.bags > 1:
            order = stream(params.seed, "bag", bag).permutation(num)
            some = np.sort(order[: max(1, round(params.share * num))])
        weights[some] += select(loss.of(some), params.rounds, params.start) / params.bags
    kept = np.flatnonzero(weights)
    return Ensemble(
        "greedy",
        tuple(candidates.indices[place] for place in kept),
        tuple((weights[kept] / weights.sum()).tolist()),
        reason=f"{len(kept)} of {num} members, chosen in {params.bags} bags of {params.rounds} rounds",
    )


def select(loss: Loss, rounds: int, start: int) -> np.ndarray:
    """Choose from the members of one bag; give the weight of each (M,), which sum to 1."""
    own = loss.with_each()
    path = []
    lost = []
    trial = loss.of(np.arange(len(own)))
    for place in np.argsort(own, kind="stable")[:start].tolist():
        path.append(place)
        lost.append(float(trial.with_each()[place]))
        trial.take(place)
    first = 1 + int(np.argmin(lost))
    path = path[:first]
    lost = lost[:first]
    for place in path:
        loss.take(place)
    for _ in range(rounds):
        now = loss.with_each()
        place = int(np.argmin(now))
        path.append(place)
        lost.append(float(now[place]))
        loss.take(place)
    best = 1 + int(np.argmin(lost))
    return np.bincount(path[:best], minlength=len(own)) / best


def loss_of(candidates: Candidates) -> Loss:
    """Give log loss where classes are predicted, squared error where numbers are."""
    if codec_named(candidates.metric.kind).names_classes:
        weights = candidates.weights()
        return LogLoss(np.maximum(candidates.true_class(), LEAST_PROBABILITY), weights / weights.sum())
    return SquaredError(candidates.residual_gram())


class LogLoss:
    """Give the log loss of a mean of probabilities: only those of the true classes matter.

    Args:
        true_MN: Probability that each member gave to the class of each row.
        weight_N: Of each row; they sum to 1.
    """

    def __init__(self, true_MN: np.ndarray, weight_N: np.ndarray) -> None:
        self._true_MN = true_MN
        self._weight_N = weight_N
        self._sum_N = np.zeros(len(weight_N))
        self._taken = 0

    def with_each(self) -> np.ndarray:
        """Give the loss once each of the members is taken as well (M,)."""
        found = np.full(len(self._true_MN), np.log(self._taken + 1))
        buffer = np.empty((len(found), BLOCK_ROWS))
        for first in range(0, len(self._sum_N), BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            weight_N = self._weight_N[block]
            terms = np.add(self._true_MN[:, block], self._sum_N[block], out=buffer[:, : len(weight_N)])
            found -= np.log(terms, out=terms) @ weight_N
        return found

    def take(self, place: int) -> None:
        """Take a member, maybe again."""
        self._sum_N += self._true_MN[place]
        self._taken += 1

    def of(self, some: np.ndarray) -> "LogLoss":
        """Give the loss of some of the members (m,), none of them taken."""
        return LogLoss(self._true_MN[some], self._weight_N)


class SquaredError:
    """Give the squared error of a mean of numbers, from the products of the members' errors.

    Args:
        gram_MM: As `Candidates.residual_gram` gives it.
    """

    def __init__(self, gram_MM: np.ndarray) -> None:
        self._gram_MM = gram_MM
        self._counts_M = np.zeros(len(gram_MM))

    def with_each(self) -> np.ndarray:
        """Give the loss once each of the members is taken as well (M,)."""
        with_taken_M = self._gram_MM @ self._counts_M
        sums_M = self._counts_M @ with_taken_M + 2 * with_taken_M + np.diag(self._gram_MM)
        lost: np.ndarray = sums_M / (self._counts_M.sum() + 1) ** 2
        return lost

    def take(self, place: int) -> None:
        """Take a member, maybe again."""
        self._counts_M[place] += 1

    def of(self, some: np.ndarray) -> "SquaredError":
        """Give the loss of some of the members (m,), none of them taken."""
        return SquaredError(self._gram_MM[np.ix_(some, some)])
