"""Combine members into a model and score it: on validation, and with one counted look on test; run the gates."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

from fmray.data.lanes import Lanes
from fmray.data.session import run_here, run_over_ray
from fmray.ensemble.candidates import ensemble_outputs
from fmray.ensemble.combine import combine, settled
from fmray.evaluate.baselines import dummy
from fmray.evaluate.intervals import Array, paired
from fmray.evaluate.learning import about_learning, loss_of_tokens
from fmray.evaluate.score import score
from fmray.metrics.find import defaults
from fmray.metrics.metric import Metric
from fmray.records import Ensemble, Interval, Json, Member, Predictions, Scores, Split
from fmray.report.gates import require_passed, with_overlap
from fmray.rigour.gates import Evidence, TrainingEvidence, judge, run_gates
from fmray.rigour.ledger import Ledger
from fmray.stages.context import Context
from fmray.store import fingerprint
from fmray.targets.codec import codec_of
from fmray.train.combine import alone
from fmray.tune.sweep import Sweep


def combine_members(context: Context, trained: Sweep) -> Ensemble:
    """Combine members as the job asks, by what they predict on validation."""
    gain = partial(_gain, context)
    asked = (context.job, trained.members, context.prepared, context.task, context.metric, gain, context.device)
    ensemble = combine(*asked, trained.predictions_of if trained.predictions else None)
    context.journal.note(
        f"{ensemble.name}: {ensemble.reason}, {context.metric.name} {ensemble.val_score:.4f} on validation"
    )
    if loss := loss_of_tokens(context.prepared):
        score = _on_validation(context, ensemble, trained.members, loss)
        context.journal.note(about_learning(score, context.prepared, loss))
    if text := codec_of(context.prepared.target).about_settings(ensemble.params):
        context.journal.note(text)
    return ensemble


def _on_validation(context: Context, ensemble: Ensemble, members: Sequence[Member], metric: Metric) -> float | None:
    """Score an ensemble by a metric that need not be the one that decides."""
    if metric.name == context.metric.name:
        return ensemble.val_score
    rows, found = Lanes(context.prepared, "val").sample()
    chosen = [members[index] for index in ensemble.members]
    output = ensemble_outputs(ensemble, chosen, context.prepared, rows=rows, task=context.task, device=context.device)
    return metric.value(output, found["target"], found.get("weight"))


def judge_training(context: Context, trained: Sweep, ensemble: Ensemble) -> Context:
    """Run the gates of the training, which may stop the run before its test set is looked at.

    Raises:
        GateError: If a gate fails.
    """
    evidence = TrainingEvidence(trained.members, ensemble, trained.health)
    found = run_gates("training", evidence, context.job.rigour)
    require_passed(found, context.gates, root=context.run.root, store=context.store, note=context.journal.note)
    return replace(context, gates=(*context.gates, *found))


def _gain(
    context: Context, ours: Array, theirs: Array, target: Array, weight: Array | None, group: Array | None
) -> Interval:
    """Compare two predictions of the same rows."""
    flat = [output[:, 0] if output.shape[1] == 1 else output for output in (ours, theirs)]
    rows = [(output, target, weight) for output in flat]
    return paired(context.metric, rows[0], theirs=rows[1], group=group, level=context.job.evaluate.level)[0]


def score_model(context: Context, trained: Sweep, linear: Sweep, ensemble: Ensemble) -> tuple[Scores, tuple[Json, ...]]:
    """Score the model and its baselines, with one look at the test set, and judge the gates."""
    chosen = [trained.members[index] for index in ensemble.members]
    job = context.job
    prepared = context.prepared

    @cache
    def predict_split(subject: str, split: Split) -> Predictions:
        if subject == "dummy":
            return dummy(prepared, split, context.table(subject, split), dict(context.task.params))
        if subject == "linear":
            best = linear.best(context.metric)
            own = settled(alone(best), [best], prepared=prepared, task=context.task, device=context.device)
            return context.predict([best], own, subject, split)
        return context.predict(chosen, ensemble, subject, split)

    def look() -> int:
        subject = fingerprint(
            [member.tensor_hash for member in chosen], ensemble.weights, ensemble.combine, ensemble.params
        )
        return Ledger(context.store).look(
            prepared.test_identity, context.run.id, f"score of {job.name}", subject, job=job.name
        )

    metrics = job.evaluate.metrics or defaults(prepared.target)[1]
    run = run_over_ray if context.workers != 0 else run_here
    judgement = score(
        job.evaluate, context.metric.name, metrics=metrics, prepared=prepared, predict=predict_split, look=look, run=run
    )
    evidence = Evidence(
        scores=judgement.scores,
        facts=judgement.facts,
        shown=judgement.shown,
        num_classes=len(prepared.target.classes),
        members=trained.members,
        chosen=ensemble.members,
        model=job.model.name,
        health=trained.health,
        positive=prepared.target.positive,
    )
    before = with_overlap(context.gates, prepared, judgement.shown, context.metric)
    return judgement.scores, (*before, *judge(evidence, job.rigour))
