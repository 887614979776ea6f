"""Propose trials: from a fixed list, or by learning from the results of earlier ones.

A proposal is written before it is tried, so a search that is restarted tries each of them exactly once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import optuna

from fmray.errors import DataError
from fmray.records import Json
from fmray.seeding import derive
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.packable import split_ranges
from fmray.spec.ranges import Keys, Range
from fmray.tune.outcomes import best_val_score
from fmray.tune.space import TrialGroup, num_structures, packable_draws, shares
from fmray.tune.trial import Trial, TrialContext

BuildTrial = Callable[[int, TrialGroup, int], Trial]
"""(number of the trial, its group, index of its first member) -> the trial."""
PROPOSALS_FILE = "proposals.jsonl"


class Proposals(Protocol):
    """Propose the next trial."""

    def ask(self) -> Trial | None:
        """Return the next trial, or None if nothing is left to try."""
        ...

    def tell(self, trial: Trial) -> None:
        """Receive the result of a finished trial."""
        ...


class ListedProposals:
    """Propose the trials of a list, in order."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._remaining = list(trials)

    def ask(self) -> Trial | None:
        """Return the next trial."""
        return self._remaining.pop(0) if self._remaining else None

    def tell(self, trial: Trial) -> None:
        """Do nothing: the list does not depend on results."""


class TPEProposals:
    """Propose structures with Optuna's TPE sampler; the members are divided equally among them.

    A proposal is a function of the job, the results so far and its position in the sequence.

    Args:
        job: The job, including its ranges.
        build: Builds a trial, see `BuildTrial`.
        context: Where proposals and outcomes of trials are written.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011 (TPE).
    """

    def __init__(self, job: Job, build: BuildTrial, context: TrialContext) -> None:
        self._job = job
        self._build = build
        self._context = context
        self._store = context.store
        self._path = f"{context.home}/{PROPOSALS_FILE}"
        self._structural, self._packable = split_ranges(job)
        self._shares = shares(job.search.members, num_structures(job, job.search.members))
        self._first_members = [sum(self._shares[:number]) for number in range(len(self._shares))]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize")
        self._distributions = {dotted(keys): _distribution(found) for keys, found in self._structural.items()}
        self._written = self._store.events(self._path)
        self._structures: list[Json] = []
        self._asked = 0

    def ask(self) -> Trial | None:
        """Return the next trial: one that was proposed before, or a new one."""
        number = self._asked
        if number == len(self._shares):
            return None
        if number == len(self._written):
            self._require_proposal(number)
            # a sampler per proposal, seeded by its number: a restarted search then proposes the same
            self._study.sampler = optuna.samplers.TPESampler(
                seed=derive(self._job.train.seed, "optuna", number) % (1 << 32),
                n_startup_trials=_num_startup_trials(self._shares),
            )
            # the asked trial stays RUNNING, which TPE ignores; `tell` adds the result as another trial
            drawn = self._study.ask(self._distributions).params
            self._store.append(self._path, event := {"trial": number, "drawn": drawn})
            self._written.append(event)
        self._asked += 1
        return self._build(number, self._group(number, self._written[number]["drawn"]), self._first_members[number])

    def _require_proposal(self, number: int) -> None:
        """Raise if a trial was started but its proposal is missing.

        Raises:
            DataError: If so.
        """
        if self._store.exists(self._context.folder(number)):
            raise DataError(
                f"{self._path} is damaged: trial {number} was started, but its proposal is missing. Restore the "
                f"file, or delete {self._context.home} to run the search again."
            )

    def tell(self, trial: Trial) -> None:
        """Learn from the best score of a trial."""
        if (score := best_val_score(self._context, trial)) is not None:
            drawn = self._written[trial.number]["drawn"]
            self._study.add_trial(optuna.create_trial(params=drawn, distributions=self._distributions, value=score))

    def _group(self, number: int, drawn: Json) -> TrialGroup:
        if drawn not in self._structures:
            self._structures.append(drawn)
        values: dict[Keys, Any] = {
            keys: found.options[drawn[dotted(keys)]] if found.options else drawn[dotted(keys)]
            for keys, found in self._structural.items()
        }
        # 0 is the generation, as in `space.trial_groups`: with Optuna, `search.more` is refused
        members = packable_draws(self._job, self._packable, self._shares[number], 0, number)
        return TrialGroup(self._structures.index(drawn), values, members)


def _num_startup_trials(shares: Sequence[int]) -> int:
    """Return the number of structures that are drawn at random before TPE takes over."""
    return max(2, min(10, len(shares) // 3))


def _distribution(found: Range) -> optuna.distributions.BaseDistribution:
    if found.options:
        return optuna.distributions.CategoricalDistribution(list(range(len(found.options))))
    log = found.kind.startswith("log_")
    if found.kind in ("int", "log_int"):
        return optuna.distributions.IntDistribution(int(found.low), int(found.high), log=log)
    return optuna.distributions.FloatDistribution(found.low, found.high, log=log)
