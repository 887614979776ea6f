"""Judge the members of a sweep against each other, and remember every judgement for good.

There is one table of rungs for all packs. A judgement is written down before anyone acts on it, so a pack that was
killed and asks again is told the same, and a sweep that is restarted goes on with the comparisons it made.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from fmray.errors import DataError
from fmray.records import Json
from fmray.spec.job import Job
from fmray.store import Store
from fmray.train.loop import Verdict
from fmray.tune.rungs import Table, rungs_of, survivors

LOG = "judgements.jsonl"


@dataclass(frozen=True)
class Rules:
    """Say by which rules members are judged.

    Args:
        rungs: Epochs at which members are compared.
        eta: Of how many one goes on.
        waits: Everyone who reaches a rung waits for all others, so that the order of arrival does not matter.
        exact: Budgets, too, are looked at only when all wait.
        epochs: Epochs to spend on all members together, or None.
        seconds: Time after which nobody goes on, or None.
    """

    rungs: tuple[int, ...] = ()
    eta: int = 3
    waits: bool = False
    exact: bool = False
    epochs: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, job: Job, waits: bool) -> "Rules":
        """Read the rules of a job's search."""
        search = job.search
        exact = job.run.deterministic
        return cls(rungs_of(job), search.eta, waits, exact=exact, epochs=search.epochs, seconds=search.time)

    def ask_at(self, epoch: int) -> bool:
        """Tell whether there is anything to judge after this epoch."""
        return epoch in self.rungs or self.epochs is not None or self.seconds is not None


class Referee:
    """Answer packs that ask who goes on.

    Args:
        store, home: Where judgements are written.
        rules: By which they are made.
        before: Scores at each rung of members judged earlier, whose sweep this one extends.
    """

    def __init__(self, store: Store, home: str, rules: Rules, before: Table) -> None:
        self.rules = rules
        self._store = store
        self._path = f"{home}/{LOG}"
        self._scores: dict[int, dict[int, float]] = defaultdict(dict, {k: dict(v) for k, v in before.items()})
        self._said: dict[tuple[str, int], Json] = {}
        self._closed: dict[int, dict[int, str]] = {}
        self._latest: dict[str, int] = defaultdict(int)
        self.spent = 0  # epochs of members that were asked about
        self._seconds_before = 0.0
        self._opened = time.monotonic()
        for event in store.events(self._path):
            self._learn(event)
            self._seconds_before = float(event["seconds"])

    def judge(self, pack: str, epoch: int, scores: Mapping[int, float]) -> Verdict:
        """Say who of a pack goes on after an epoch.

        Args:
            pack: Names it within the sweep.
            scores: Member -> best score so far, higher for better.
        """
        if not self.rules.ask_at(epoch):
            return Verdict()
        self.require(pack, epoch - 1)
        if (pack, epoch) not in self._said:
            asked = {"pack": pack, "epoch": epoch, "scores": {str(m): s for m, s in scores.items()}}
            self._learn(asked)
            self._write({**asked, "dropped": self._dropped(epoch, list(scores))})
        said = self._said[pack, epoch]
        if said["dropped"] is not None:
            return Verdict({int(member): reason for member, reason in said["dropped"].items()})
        known = self._closed.get(epoch)
        if known is None:
            return Verdict(waits=True)
        return Verdict({member: known[member] for member in scores if member in known})

    def require(self, pack: str, epoch: int) -> None:
        """Make sure that all is still there that was judged of a pack up to an epoch.

        Raises:
            DataError: If judgements that it was trained by are gone.
        """
        for rung in self.rules.rungs:
            if rung <= epoch and (pack, rung) not in self._said:
                raise DataError(
                    f"{self._path} is damaged: what was judged of pack {pack} at epoch {rung} is gone. Restore it, or "
                    "remove its folder to have the search trained anew."
                )

    def close(self) -> bool:
        """Decide about everyone who waits; say whether there was anyone.

        To be called when no pack trains: then all that will ever reach the first open rung have reached it.
        """
        for epoch in self.rules.rungs:
            waiting = [
                int(member)
                for (_, at), said in self._said.items()
                if at == epoch and said["dropped"] is None
                for member in said["scores"]
            ]
            if waiting and epoch not in self._closed:
                reasons = self._at_rung(epoch, waiting) if not self.exhausted else self._all(waiting)
                self._write({"closed": epoch, "dropped": reasons})
                return True
        return False

    @property
    def exhausted(self) -> str:
        """Say in words which budget is spent, or nothing."""
        rules = self.rules
        seconds = self._seconds
        if rules.epochs is not None and self.spent >= rules.epochs:
            return f"search.epochs: {self.spent} of {rules.epochs} are spent"
        if rules.seconds is not None and seconds >= rules.seconds:
            return f"search.time: {seconds:.0f} of {rules.seconds:.0f} seconds are over"
        return ""

    def table(self) -> dict[int, dict[int, float]]:
        """Give the scores at each rung."""
        return {epoch: dict(scores) for epoch, scores in self._scores.items() if epoch in self.rules.rungs}

    def _dropped(self, epoch: int, members: list[int]) -> Json | None:
        """Decide at once, or give None where the members have to wait."""
        if self.exhausted and not self.rules.exact:
            return self._all(members)
        if epoch not in self.rules.rungs:
            return {}
        return None if self.rules.waits else self._at_rung(epoch, members)

    def _all(self, members: list[int]) -> Json:
        return dict.fromkeys(map(str, members), self.exhausted)

    def _at_rung(self, epoch: int, members: list[int]) -> Json:
        scores = self._scores[epoch]
        eta = self.rules.eta
        reason = f"not among the best 1/{eta} of {len(scores)} members at epoch {epoch}"
        going_on = survivors(scores, members, eta)
        return {str(member): reason for member in members if member not in going_on}

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._opened

    def _write(self, event: Json) -> None:
        event = {**event, "seconds": round(self._seconds, 3)}
        self._store.append(self._path, event)
        self._learn(event)

    def _learn(self, event: Json) -> None:
        if "closed" in event:
            self._closed[event["closed"]] = {int(m): reason for m, reason in event["dropped"].items()}
            return
        pack = event["pack"]
        epoch = event["epoch"]
        if (pack, epoch) not in self._said:
            self.spent += len(event["scores"]) * (epoch - self._latest[pack])
            self._latest[pack] = epoch
        self._said[pack, epoch] = {"dropped": None, **event}
        self._scores[epoch] |= {int(m): float(score) for m, score in event["scores"].items()}
