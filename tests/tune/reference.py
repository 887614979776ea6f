"""Halve a field of members slowly and plainly, to compare rung tables with.

Asynchronous: members arrive at a rung in packs; one survives if it is among the best max(1, floor(n / eta)) of the n that
have arrived there so far, itself and its pack included, and that is never revised. Synchronous: the same once, among all
that reach the rung. Higher scores are better; of equal ones the earlier member wins.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (the rule that stops and never
promotes); Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
"""

from collections.abc import Iterable, Sequence

import numpy as np

LATE_BLOOMER, FIRST_HOPELESS = 0, 1


def halve_in_packs(
    curves: np.ndarray, arrivals: Sequence[tuple[int, Iterable[int]]], rungs: Sequence[int], eta: int
) -> list[list[int]]:
    """List who survives each rung, decided on arrival.

    Args:
        curves: Best score so far.
        arrivals: Which rung (counted from 0) which members come to, one pack after another. Those who did not survive
            the rung before, or came before, do not count.
        rungs: 1-based epochs, rising.

    Shapes:
        curves: (members, epochs).
        returns: one list of members per rung, rising.
    """
    reached: list[list[int]] = [[] for _ in rungs]
    survivors: list[list[int]] = [[] for _ in rungs]
    for rung, pack in arrivals:
        new = [m for m in pack if (rung == 0 or m in survivors[rung - 1]) and m not in reached[rung]]
        reached[rung] += new
        best = top(curves[:, rungs[rung] - 1], reached[rung], eta)
        survivors[rung] += [member for member in new if member in best]
    return [sorted(members) for members in survivors]


def halve_together(curves: np.ndarray, rungs: Sequence[int], eta: int) -> list[list[int]]:
    """List who survives each rung, decided once all who reach it are there; shapes as of `halve_in_packs`."""
    alive, survivors = list(range(len(curves))), []
    for rung in rungs:
        alive = sorted(top(curves[:, rung - 1], alive, eta))
        survivors.append(alive)
    return survivors


def top(scores: np.ndarray, members: Sequence[int], eta: int) -> list[int]:
    """List the best max(1, floor(n / eta)) of n members, best first; NaN is worst."""
    filled = np.where(np.isnan(scores), -np.inf, scores)
    ranked = sorted(members, key=lambda member: (-filled[member], member))
    return ranked[: max(1, len(members) // eta)] if members else []


def one_after_another(packs: Sequence[Sequence[int]], num_rungs: int) -> list[tuple[int, list[int]]]:
    """Give the order of arrivals if each pack passes all rungs before the next begins."""
    return [(rung, list(pack)) for pack in packs for rung in range(num_rungs)]


def side_by_side(packs: Sequence[Sequence[int]], num_rungs: int) -> list[tuple[int, list[int]]]:
    """Give the order of arrivals if all packs reach a rung before any reaches the next."""
    return [(rung, list(pack)) for rung in range(num_rungs) for pack in packs]


def at_random(packs: Sequence[Sequence[int]], num_rungs: int, seed: int) -> list[tuple[int, list[int]]]:
    """Give an order of arrivals as chance has it: each pack passes its rungs in order."""
    turns = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(packs)), num_rungs))
    passed = [0] * len(packs)
    order = []
    for number in turns.tolist():
        order.append((passed[number], list(packs[number])))
        passed[number] += 1
    return order


def curves(num_members: int, epochs: int, first_rung: int, seed: int, num_hopeless: int = 0) -> np.ndarray:
    """Draw curves of scores in (0, 1) that rise and level off, best so far.

    Member 0 is a late bloomer: the worst of all up to the first rung, the best of all at the end. The next `num_hopeless`
    members learn nothing: below all others but the late bloomer in every epoch.

    Shapes:
        returns: (num_members, epochs).
    """
    rng = np.random.default_rng(seed)
    epoch = np.arange(1, epochs + 1)
    limit, speed = rng.uniform(0.5, 0.9, (num_members, 1)), rng.uniform(0.2, 2.0, (num_members, 1))
    scores = 0.3 + (limit - 0.3) * (1 - np.exp(-speed * epoch)) + rng.normal(0, 0.01, (num_members, epochs))
    scores = scores.clip(0.25, 0.95)
    hopeless = slice(FIRST_HOPELESS, FIRST_HOPELESS + num_hopeless)
    scores[hopeless] = rng.uniform(0.1, 0.2, scores[hopeless].shape)
    late = np.where(epoch <= first_rung, 0.01, 0.99 - 0.3 * np.exp(-(epoch - first_rung)))
    scores[LATE_BLOOMER] = late
    return np.maximum.accumulate(scores, axis=1)
