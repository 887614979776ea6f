"""Stop members that score worse than others, by asynchronous successive halving.

A rung is an epoch at which members are compared by their best score so far; each member is compared there once. There
is one table of rungs for all packs. A decision is written before anyone acts on it, so a pack that was killed and asks
again gets the same answer, and a sweep that is restarted keeps the comparisons it made.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (first at arXiv, 2018).
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fmray.errors import DataError
from fmray.records import Json
from fmray.spec.job import Job
from fmray.store import Store
from fmray.train.decision import Decision

DECISIONS_FILE = "judgements.jsonl"
"""Every decision; the name of the file is that of earlier versions, whose searches can then be resumed."""
NUM_RUNGS = 3
"""Number of rungs that `first_rung: auto` leaves room for."""
Scores = Mapping[int, float]
"""Member -> score, higher is better."""
RungScores = Mapping[int, Scores]
"""Epoch of a rung -> the scores there."""


@dataclass(frozen=True)
class StoppingRules:
    """The rules by which members stop.

    Args:
        rungs: Epochs at which members are compared.
        eta: At each rung, the best 1/eta of the members continue.
        synchronous: Members that reach a rung wait until all others have reached it or stopped, so that the order of
            arrival does not matter.
        deterministic: Check budgets only while all packs wait, so that timing cannot change a decision.
        epochs: Budget of epochs, summed over members; None for no limit.
        seconds: Time budget, after which every member stops; None for no limit.
    """

    rungs: tuple[int, ...] = ()
    eta: int = 3
    synchronous: bool = False
    deterministic: bool = False
    epochs: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, job: Job, synchronous: bool) -> "StoppingRules":
        """Read the rules of a job's search."""
        search = job.search
        return cls(
            rungs_of(job),
            search.eta,
            synchronous,
            deterministic=job.run.deterministic,
            epochs=search.epochs,
            seconds=search.time,
        )

    def epochs_until_compared(self, epochs: int) -> int:
        """Return how many of its epochs a member trains before it is compared with others."""
        return self.rungs[0] if self.rungs else epochs

    def applies_at(self, epoch: int) -> bool:
        """Return whether anything is decided after this epoch."""
        return epoch in self.rungs or self.epochs is not None or self.seconds is not None


class Stopper:
    """Decide which members of a sweep stop.

    Args:
        store, home: Where decisions are written.
        rules: When members stop.
        earlier_scores: Scores at each rung of the sweep that this one extends.
    """

    def __init__(self, store: Store, home: str, rules: StoppingRules, earlier_scores: RungScores) -> None:
        self.rules = rules
        self._store = store
        self._path = f"{home}/{DECISIONS_FILE}"
        self._scores: dict[int, dict[int, float]] = defaultdict(dict, {k: dict(v) for k, v in earlier_scores.items()})
        self._decided: dict[tuple[str, int], Json] = {}
        self._closed_rungs: dict[int, dict[int, str]] = {}  # epoch -> member -> reason
        self._last_epoch: dict[str, int] = defaultdict(int)
        self.spent = 0  # epochs trained so far, summed over members
        self._seconds_before = 0.0
        self._started = time.monotonic()
        for event in store.events(self._path):
            self._remember(event)
            self._seconds_before = float(event["seconds"])

    def decide(self, pack: str, epoch: int, scores: Mapping[int, float]) -> Decision:
        """Decide which members of a pack stop after an epoch.

        Args:
            pack: Name of the pack within the sweep, "TRIAL.PACK".
            scores: Member -> best score so far, higher is better.
        """
        if not self.rules.applies_at(epoch):
            return Decision()
        self.require_decisions(pack, epoch - 1)
        if (pack, epoch) not in self._decided:
            reached = {"pack": pack, "epoch": epoch, "scores": {str(m): s for m, s in scores.items()}}
            # before deciding: the decision compares with these scores. `_write` records it together with the decision
            self._remember(reached)
            self._write({**reached, "dropped": self._members_to_stop(epoch, list(scores))})
        decided = self._decided[pack, epoch]
        if decided["dropped"] is not None:
            return Decision({int(member): reason for member, reason in decided["dropped"].items()})
        stopped = self._closed_rungs.get(epoch)
        if stopped is None:
            return Decision(must_wait=True)
        return Decision({member: stopped[member] for member in scores if member in stopped})

    def require_decisions(self, pack: str, epoch: int) -> None:
        """Raise if a decision about a pack, up to an epoch, is missing.

        Raises:
            DataError: If the file has lost decisions that the pack was trained by.
        """
        for rung in self.rules.rungs:
            if rung <= epoch and (pack, rung) not in self._decided:
                raise DataError(
                    f"{self._path} is damaged: the decision about pack {pack} at epoch {rung} is missing. "
                    "Restore the file, or delete its folder to run the search again."
                )

    def close_rung(self) -> bool:
        """Decide about the members that wait at the first open rung; return whether there were any.

        Call this only while no pack trains: then all members that will ever reach that rung have reached it.
        """
        for epoch in self.rules.rungs:
            waiting = [
                int(member)
                for (_, at), decided in self._decided.items()
                if at == epoch and decided["dropped"] is None
                for member in decided["scores"]
            ]
            if waiting and epoch not in self._closed_rungs:
                reasons = self._stop_at_rung(epoch, waiting) if not self.exhausted_budget else self._stop_all(waiting)
                self._write({"closed": epoch, "dropped": reasons})
                return True
        return False

    @property
    def exhausted_budget(self) -> str:
        """Which budget is exhausted, and how far; "" if none is."""
        return self._exhausted(self.spent)

    def exhausted_for_new(self, planned: int) -> str:
        """Return which budget leaves nothing for a trial that has not begun, "" if none does.

        Args:
            planned: Epochs that the trials proposed before it train until their members are compared. They count where
                deterministic trials run concurrently: how many epochs are spent at that time depends on timing.
        """
        return self._exhausted(planned if self.rules.deterministic and self.rules.synchronous else self.spent)

    def _exhausted(self, spent: int) -> str:
        rules = self.rules
        seconds = self._seconds
        if rules.epochs is not None and spent >= rules.epochs:
            return f"search.epochs: {spent} of {rules.epochs} are spent"
        if rules.seconds is not None and seconds >= rules.seconds:
            return f"search.time: {seconds:.0f} of {rules.seconds:.0f} seconds have passed"
        return ""

    def rung_scores(self) -> dict[int, dict[int, float]]:
        """Return the scores at each rung."""
        return {epoch: dict(scores) for epoch, scores in self._scores.items() if epoch in self.rules.rungs}

    def _members_to_stop(self, epoch: int, members: list[int]) -> Json | None:
        """Return the members that stop, or None if all have to wait."""
        if self.exhausted_budget and not self.rules.deterministic:
            return self._stop_all(members)
        if epoch not in self.rules.rungs:
            return {}
        return None if self.rules.synchronous else self._stop_at_rung(epoch, members)

    def _stop_all(self, members: list[int]) -> Json:
        """Return member -> reason for all members, because a budget is exhausted."""
        return dict.fromkeys(map(str, members), self.exhausted_budget)

    def _stop_at_rung(self, epoch: int, members: list[int]) -> Json:
        """Return member -> reason for the members that are not among the best at a rung."""
        scores = self._scores[epoch]
        eta = self.rules.eta
        reason = f"not among the best 1/{eta} of {len(scores)} members at epoch {epoch}"
        remaining = survivors(scores, members, eta)
        return {str(member): reason for member in members if member not in remaining}

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _write(self, event: Json) -> None:
        event = {**event, "seconds": round(self._seconds, 3)}
        self._store.append(self._path, event)
        self._remember(event)

    def _remember(self, event: Json) -> None:
        if "closed" in event:
            self._closed_rungs[event["closed"]] = {int(m): reason for m, reason in event["dropped"].items()}
            return
        pack = event["pack"]
        epoch = event["epoch"]
        if (pack, epoch) not in self._decided:
            self.spent += len(event["scores"]) * (epoch - self._last_epoch[pack])
            self._last_epoch[pack] = epoch
        self._decided[pack, epoch] = {"dropped": None, **event}
        self._scores[epoch] |= {int(m): float(score) for m, score in event["scores"].items()}


def rungs_of(job: Job) -> tuple[int, ...]:
    """Return the epochs at which a job compares members to stop some; none if no member is stopped."""
    search = job.search
    if not job.ranges or search.stop == "none" or search.by == "pbt":
        return ()
    return rung_epochs(job.train.num_epochs, search.eta, None if search.first_rung == "auto" else search.first_rung)


def rung_epochs(epochs: int, eta: int, first: int | None = None) -> tuple[int, ...]:
    """Return the rung epochs: `first`, then eta times the one before, while below `epochs`."""
    epoch = first or max(1, -(-epochs // eta**NUM_RUNGS))
    rungs = []
    while epoch < epochs:
        rungs.append(epoch)
        epoch *= eta
    return tuple(rungs)


def survivors(scores: Scores, arrived: Sequence[int], eta: int) -> set[int]:
    """Return the members in `arrived` that are among the best 1/eta, at least one, of all members at this rung.

    Ties go to the member with the smaller index.

    Args:
        scores: Scores of all members that have reached the rung, including `arrived`.
    """
    ranked = sorted(scores, key=lambda member: (-scores[member], member))
    return set(ranked[: max(1, len(ranked) // eta)]) & set(arrived)


def expected_epochs(members: int, epochs: int, rungs: Sequence[int], eta: int) -> int:
    """Return the total epochs of all members if members only stop at rungs."""
    total = 0
    alive = members
    previous = 0
    for epoch in (*rungs, epochs):
        total += alive * (epoch - previous)
        alive = max(1, alive // eta)
        previous = epoch
    return total
