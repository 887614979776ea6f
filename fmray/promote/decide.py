"""Promote, approve and roll back, one process at a time for each job.

Everything is written down before it has an effect: an attempt before a row is looked at, a decision before the champion
moves. Whoever is killed in between finds the line and goes on from it, so no decision is made twice.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from fmray.data.session import run_here, run_over_ray, session
from fmray.errors import ClusterError, DataError, SpecError
from fmray.inference.model import open_model
from fmray.metrics.find import find_metric
from fmray.promote.evidence import Evidence, compare, fresh_rows, sealed_rows
from fmray.promote.history import ANCHOR, CHAMPION, History, Standing
from fmray.promote.registry import Registry, tell
from fmray.records import Json, Run
from fmray.report.card import Card, read_card
from fmray.rigour.gates import failed
from fmray.rigour.ledger import Ledger
from fmray.rigour.promotion import FEWEST, judge, level, without_looking
from fmray.spec.job import Job
from fmray.spec.promotion import Promote
from fmray.store import Store, fingerprint
from fmray.train.capacity import num_workers

Verdict = Literal["promoted", "pending", "kept", "inconclusive", "refused", "spent", "rolled back"]
SAYS_YES = ("promote", "first")


@dataclass(frozen=True)
class Outcome:
    """Say what became of a run.

    Args:
        job, run: Which.
        verdict: "promoted" (it is champion), "pending" (waits for a person), "kept" (the champion stays),
            "inconclusive" (nothing was looked at), "refused" (not to be promoted at all), "spent" (the sealed rows
            are), "rolled back".
        champion: The run in use now.
        text: Why, in words.
        evidence: What it rests on; of sealed rows nothing.
        notes: What else a person should read.
    """

    job: str
    run: str
    verdict: Verdict
    champion: str | None
    text: str
    evidence: Json = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """Give it as plain values."""
        return asdict(self)


def promote(run: Run, store: Store, rule: Promote | None = None, registry: Registry | None = None) -> Outcome:
    """Decide whether a finished run becomes champion of its job, and let it; decided before, it is not decided anew.

    Args:
        rule: When; by default as the run's job says.
        registry: Is told who is champion.

    Raises:
        DataError: If the run is unfinished, a model is damaged, or what was predicted is not of the same rows.
        SpecError: If the rule differs from the one that sealed rows were promised under.
    """
    if run.status != "finished":
        raise DataError(f"{run.root}: the run is {run.status}. Finish it first: only a scored run can be promoted.")
    card = read_card(run.root, store)
    asked = rule or Job.from_json(card.job).promote or Promote()
    history = History(store, run.job)
    with history.alone():
        outcome = _Case(card, asked, history, store).decide()
        return _told(outcome, history, registry)


def approve(run: Run, store: Store, by: str, registry: Registry | None = None) -> Outcome:
    """Let a run become champion that was found better, and waits for a person or was rolled back.

    Args:
        by: Who approves.

    Raises:
        DataError: If nothing speaks for the run, or the champion is another one than it was compared with.
    """
    history = History(store, run.job)
    with history.alone():
        standing = history.standing()
        if standing.champion == run.id:
            return _told(
                Outcome(run.job, run.id, verdict="promoted", champion=run.id, text="it is champion already"),
                history,
                registry,
            )
        found = [event for event in history.events("decision", run=run.id) if event["verdict"] in SAYS_YES]
        if not found:
            raise DataError(f"nothing speaks for run {run.id} yet. Have it decided: fmray promote {run.root}")
        if found[-1]["champion"] != standing.champion:
            raise DataError(
                f"run {run.id} was compared with {found[-1]['champion'] or 'nobody'}, and {standing.champion} is "
                f"champion now. Have it compared anew: fmray promote {run.root}"
            )
        history.require_evidence(found[-1])
        history.add("approval", run=run.id, by=by, decision=found[-1]["number"])
        outcome = _moved(found[-1], standing, history, f"approved by {by}", by=by)
        return _told(outcome, history, registry)


def rollback(job: str, store: Store, by: str, registry: Registry | None = None) -> Outcome:
    """Bring the champion before the present one back.

    Args:
        by: Who says so.

    Raises:
        DataError: If there is none, or its model is damaged.
    """
    history = History(store, job)
    with history.alone():
        standing = history.standing()
        if not standing.before:
            raise DataError(
                f"'{job}' has {standing.champion or 'no champion'} and none before it. Nothing to go back to."
            )
        to, anchor = standing.before[-1]
        open_model(f"{_folder(history)}/{to}/model")
        _move(history, standing.champion, to=to, anchor=anchor, why="rollback", by=by)
        text = f"run {standing.champion} was champion; {to} is again, said {by}"
        return _told(Outcome(job, to, verdict="rolled back", champion=to, text=text), history, registry)


@dataclass(frozen=True)
class _Case:
    """Decide about one run; the caller is alone with the history."""

    card: Card
    rule: Promote
    history: History
    store: Store

    def decide(self) -> Outcome:
        """Find what was decided or decide, and follow it."""
        standing = self.history.standing()
        if standing.champion == self.card.run_id:
            return self._outcome("promoted", standing, "it is champion", self._shown(self._newest()))
        decision = self._newest(champion=standing.champion)
        self.history.require_evidence(decision)
        if decision is None or decision["verdict"] in ("inconclusive", "spent"):
            decision = self._decide(standing, decision)
        if decision["verdict"] not in SAYS_YES:
            verdict: Verdict = "kept" if decision["verdict"] == "keep" else decision["verdict"]
            return self._outcome(verdict, standing, decision["text"], self._shown(decision))
        if self._was_champion(decision):
            text = f"it was champion and was rolled back; fmray approve {self.card.root} brings it back"
            return self._outcome("kept", standing, text)
        if self.rule.approval == "required" and not self.history.events("approval", decision=decision["number"]):
            text = f"{decision['text']}; it waits for: fmray approve {self.card.root}"
            return self._outcome("pending", standing, text, self._shown(decision))
        return _moved(decision, standing, history=self.history, text=decision["text"], evidence=self._shown(decision))

    def _decide(self, standing: Standing, before: Json | None) -> Json:
        if why := _unfit(self.card):
            return self._record("refused", standing, why, before)
        if standing.champion is None:
            open_model(f"{self.card.root}/model")
            return self._record("first", standing, "the first run of the job whose gates pass", before)
        attempt = self._attempt(standing)
        if attempt["level"] is None:
            text = f"{self.rule.attempts} decisions and {self.rule.promotions} promotions were promised on these test "
            text += "rows, and they are spent. Set split.redefine: true for others."
            return self._record("spent", standing, text, before)
        begun = replace(self, rule=Promote(**attempt["rule"]))  # an attempt ends under the rule it began with
        return begun._compare(standing, attempt, before)

    def _rivals(self, standing: Standing) -> dict[str, Card]:
        """Give the cards of those the run is compared with."""
        names = {CHAMPION: standing.champion}
        if self.rule.mode == "refresh":
            names[ANCHOR] = standing.anchor
        return {name: read_card(f"{_folder(self.history)}/{run_id}", self.store) for name, run_id in names.items()}

    def _compare(self, standing: Standing, attempt: Json, before: Json | None) -> Json:
        card = self.card
        rule = self.rule
        metric = find_metric(self.card.scores.primary, self.card.prepared.target)
        rivals = self._rivals(standing)
        others = list(rivals.values())
        self._refuse_other_metric(rivals[CHAMPION])
        workers, _ = num_workers(Job.from_json(card.job).run)
        run = run_here if workers == 0 else run_over_ray
        place: AbstractContextManager[None] = nullcontext() if workers == 0 else session()
        with place:
            rows = (
                fresh_rows(card, others, self.store, run)
                if rule.evidence == "fresh"
                else sealed_rows(card, others, self.store)
            )
            if len(rows) < FEWEST:
                text = (
                    f"there are {len(rows)} {rule.evidence} test rows, and {FEWEST} or more are needed. {_more(rule)}"
                )
                return self._record("inconclusive", standing, text, before)
            found = compare(card, rows, rivals=rivals, store=self.store, run=run)
        told = (rule, metric, attempt["level"], found.challenger, found.others[CHAMPION])
        if "number" not in attempt:
            if why := without_looking(*told):
                return self._record("inconclusive", standing, f"{why} {_more(rule)}", before)
            attempt = self.history.add(
                "attempt", **attempt, number=len(self.history.events("attempt")) + 1, rows=found.rows
            )
        if attempt["rows"] != found.rows:
            raise DataError(f"run {card.run_id}: attempt {attempt['number']} began with other rows. Train another run.")
        subject = fingerprint("promotion", attempt["number"], found.rows)
        Ledger(self.store).look(
            card.prepared.test_identity, card.run_id, f"promotion in {self.history.job}", subject, job=self.history.job
        )
        judged = judge(*told, found.others.get(ANCHOR), card.prepared.slices)
        return self._record(
            "promote" if judged.promotes else "keep", standing, text=judged.reason, before=before,
            evidence={"attempt": attempt, **found.to_json(), **judged.evidence}, notes=self._warning(found),
        )  # fmt: skip

    def _attempt(self, standing: Standing) -> Json:
        """Give the attempt that was begun, or the one to begin; it counts once it is written."""
        begun = {"run": self.card.run_id, CHAMPION: standing.champion, ANCHOR: standing.anchor}
        if found := self.history.events("attempt", **begun):
            return found[-1]
        rule = self.rule
        same: Json = {"evidence": rule.evidence}
        if rule.evidence == "sealed":  # the rows that one split definition keeps for the test, however many they become
            same["set"] = fingerprint(self.card.prepared.split)
        earlier = self.history.events("attempt", **same)
        if rule.evidence == "sealed" and earlier:
            _refuse_other_promise(rule, Promote(**earlier[0]["rule"]))
        numbers = {event["number"] for event in earlier}
        promoted = [d for d in self.history.events("decision", verdict="promote") if d["attempt"] in numbers]
        t = len(earlier) + 1
        k = len(promoted)
        return {**begun, **same, "rule": asdict(rule), "t": t, "k": k, "level": level(rule, t, k)}

    def _record(
        self, verdict: str, standing: Standing, text: str, before: Json | None, evidence: Json | None = None,
        notes: tuple[str, ...] = (),
    ) -> Json:  # fmt: skip
        """Write a decision down, unless it is the one before; of sealed rows only what it is, its numbers apart."""
        number = len(self.history.events("decision")) + 1
        if before is not None and (before["verdict"], before["text"]) == (verdict, text):
            return before
        shown = text
        attempt = None
        path = ""
        digest = ""
        if evidence is not None:
            attempt = evidence["attempt"]["number"]
            path = f"{self.rule.evidence}/{number:06d}.json"
            self.store.write_json(f"{self.history.folder}/{path}", {"verdict": verdict, "reason": text, **evidence})
            digest = self.history.digest(path)
            if self.rule.evidence == "sealed":
                shown = f"decided by sealed test rows, attempt {evidence['attempt']['t']} of {self.rule.attempts}"
        return self.history.add(
            "decision", number=number, run=self.card.run_id, champion=standing.champion, verdict=verdict, text=shown,
            mode=self.rule.mode, attempt=attempt, evidence=path, digest=digest, notes=list(notes),
            rule=asdict(self.rule),
        )  # fmt: skip

    def _warning(self, found: Evidence) -> tuple[str, ...]:
        notes = []
        if found.left_out:
            notes.append(f"{found.left_out} rows were left out, which the champion or anchor cannot read")
        looks = Ledger(self.store).looks(self.card.prepared.test_identity)
        shown = {look["run"] for look in looks if not look["purpose"].startswith("promotion in ")}
        if self.rule.evidence == "sealed":
            notes.append(
                f"reports of {len(shown)} runs show scores of these test rows: the level holds only if no challenger "
                "was chosen by them"
            )
        return tuple(notes)

    def _refuse_other_metric(self, champion: Card) -> None:
        ours = self.card.scores.primary
        theirs = champion.scores.primary
        if ours != theirs:
            raise DataError(
                f"run {self.card.run_id} is judged by {ours}, champion {champion.run_id} by {theirs}. "
                f"Give evaluate.primary: {theirs}, or the job another name."
            )

    def _was_champion(self, decision: Json) -> bool:
        events = self.history.events()
        return any(
            event["event"] == "move" and event["to"] == self.card.run_id for event in events[events.index(decision) :]
        )

    def _newest(self, **values: str | None) -> Json | None:
        found = self.history.events("decision", run=self.card.run_id, **values)
        return found[-1] if found else None

    def _shown(self, decision: Json | None) -> Json:
        """Give the evidence behind a decision, unless it is sealed."""
        if decision is None or not decision["evidence"].startswith("fresh/"):
            return {}
        found: Json = self.store.read_json(f"{self.history.folder}/{decision['evidence']}")
        return found

    def _outcome(self, verdict: Verdict, standing: Standing, text: str, evidence: Json | None = None) -> Outcome:
        newest = self._newest() or {"notes": []}
        return Outcome(
            self.history.job,
            self.card.run_id,
            verdict=verdict,
            champion=standing.champion,
            text=text,
            evidence=evidence or {},
            notes=tuple(newest["notes"]),
        )


def _unfit(card: Card) -> str:
    """Say why a run is not to be promoted whatever it predicts; empty if nothing speaks against it."""
    if gates := failed(card.gates):
        return f"gates that failed: {', '.join(gates)}"
    return "it is a draft" if card.job["rigour"]["profile"] == "draft" else ""


def _refuse_other_promise(rule: Promote, first: Promote) -> None:
    """Refuse to change what the level of sealed decisions follows from, once the first was made."""
    for key in ("alpha", "attempts", "promotions"):
        given = getattr(rule, key)
        promised = getattr(first, key)
        if given != promised:
            raise SpecError(
                f"{given:g}, and decisions on these test rows began under {promised:g}. Restore that, or set "
                "split.redefine: true for other rows.",
                f"promote.{'horizon' if key == 'attempts' else key}",
            )


def _more(rule: Promote) -> str:
    if rule.evidence == "fresh":
        return "Wait for new rows, or decide by promote.evidence: sealed."
    return "Set split.redefine: true for other test rows."


def _moved(
    decision: Json, standing: Standing, history: History, text: str, evidence: Json | None = None, by: str = ""
) -> Outcome:
    """Let the run of a decision become champion."""
    run = decision["run"]
    open_model(f"{_folder(history)}/{run}/model")  # a damaged one must not come into use
    anchor = standing.anchor if decision["mode"] == "refresh" and standing.anchor else run
    _move(history, decision["champion"], to=run, anchor=anchor, why=decision["verdict"], by=by)
    return Outcome(
        history.job,
        run,
        verdict="promoted",
        champion=run,
        text=text,
        evidence=evidence or {},
        notes=tuple(decision["notes"]),
    )


def _move(history: History, expected: str | None, to: str, anchor: str, why: str, by: str) -> None:
    if not history.move(expected, to, anchor, why, by=by):
        raise ClusterError(f"'{history.job}': another process moved the champion meanwhile. Repeat the command.")


def _told(outcome: Outcome, history: History, registry: Registry | None) -> Outcome:
    """Tell the registry who is champion, and who would be."""
    if registry is None:
        return outcome
    names = {CHAMPION: history.standing().champion}
    names["challenger"] = outcome.run if outcome.verdict in ("pending", "kept", "inconclusive") else None
    if problem := tell(registry, names, _folder(history), history.store):
        history.require_alone()
        notes = (*outcome.notes, f"the registry was not told, and will be the next time: {problem}")
        return Outcome(**{**asdict(outcome), "notes": notes})
    return outcome


def _folder(history: History) -> str:
    return history.store.path("runs", history.job)
