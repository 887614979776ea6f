"""Write what a run came to."""

from fmray.records import Ensemble, Json, Run, Scores
from fmray.report.card import Card, write_card
from fmray.report.folder import environment, finish_run, write_members
from fmray.rigour.ledger import Ledger
from fmray.stages.context import Context
from fmray.stages.reopening import reopening
from fmray.track.optuna import write_study
from fmray.train.device import num_threads
from fmray.train.saved import write_model
from fmray.tune.summary import summarise_search
from fmray.tune.sweep import Sweep


def write_results(
    context: Context, trained: Sweep, linear: Sweep, ensemble: Ensemble, scores: Scores, gates: tuple[Json, ...]
) -> Run:
    """Write the model, the scores and the report, and finish the run."""
    root = context.run.root
    prepared = context.prepared
    searched = (context.job, trained, prepared, context.metric, ensemble)
    chosen = [trained.members[index] for index in ensemble.members]
    with reopening(context, chosen, ensemble) as judge_model:  # in a process that starts while this one goes on
        write_model(
            f"{root}/model",
            chosen,
            ensemble=ensemble,
            prepared=prepared,
            task=context.task,
            dataset=context.dataset,
            job=context.job,
            store=context.store,
        )
        account = summarise_search(*searched) if context.job.ranges else None
        write_members(root, [*trained.members, *linear.members])
        context.store.write_json(f"{root}/scores.json", scores.to_json())
        gates = (*gates, *judge_model())
    context.store.write_json(f"{root}/gates.json", list(gates))
    card = Card(
        job=context.job.to_json(),
        run_id=context.run.id,
        root=root,
        prepared=prepared,
        members=trained.members,
        baselines=linear.members,
        ensemble=ensemble,
        scores=scores,
        gates=gates,
        environment=environment(context.device, num_threads(context.job.run)),
        timings=dict(context.journal.seconds),
        ledger=tuple(Ledger(context.store).verify(prepared.test_identity)),
        notes=context.journal.notes,
        search=account,
        failures=tuple(context.journal.failures()),
    )
    write_card(card, context.store)
    if context.job.track.tensorboard:
        from fmray.track.tensorboard import write_events  # a quarter of a second, which few jobs need

        write_events(f"{root}/tensorboard", [*trained.members, *linear.members], context.metric.name)
    if account is not None:
        asked = (context.job.name, context.metric.name, account.space)
        write_study(f"{root}/optuna.log", *asked, trained.members, context.metric.higher_is_better)
    return finish_run(context.run, card, trained.widths, context.store)
