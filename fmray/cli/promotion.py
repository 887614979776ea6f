"""Say which run of a job is in use: promote one, approve one, go back to the one before."""

from typing import Annotated, Any

import typer

from fmray.cli.options import DEFAULT_STORE, DONE, GATE_FAILED, AsJson, RunFolder, StorePath, TrustCode, app, out
from fmray.cli.runs import _open_run
from fmray.errors import DataError
from fmray.registry import trusting

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of a job that has runs in the store.")]
By = Annotated[str, typer.Option("--by", help="Who decides; by default who runs the command.")]
To = Annotated[
    str, typer.Option("--to", metavar="URI", help="MLflow to tell; by default the one that the run was told to.")
]


@app.command()
def promote(
    run_folder: RunFolder,
    store: StorePath = DEFAULT_STORE,
    to: To = "",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Decide whether a run becomes champion of its job, as the job's promote section says, and let it."""
    from fmray.promote import promote as decide

    run, opened, registry = _opened(run_folder, store, to)
    with trusting(trust_code):
        return _show(decide(run, opened, registry=registry), as_json)


@app.command()
def approve(
    run_folder: RunFolder,
    by: By = "",
    store: StorePath = DEFAULT_STORE,
    to: To = "",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Let a run become champion that was found better and waits for a person, or was rolled back."""
    from fmray.promote import approve as let
    from fmray.rigour.ledger import who

    run, opened, registry = _opened(run_folder, store, to)
    with trusting(trust_code):
        return _show(let(run, opened, by or who(), registry), as_json)


@app.command()
def rollback(
    job: JobName,
    by: By = "",
    store: StorePath = DEFAULT_STORE,
    to: To = "",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Bring the champion before the present one back."""
    from fmray.promote import champion_of
    from fmray.promote import rollback as back
    from fmray.promote.registry import registry_of
    from fmray.rigour.ledger import who
    from fmray.store import Store

    opened = Store(store)
    if not opened.exists(opened.path("runs", job)):
        known = ", ".join(opened.list(opened.path("runs"))) or "none"
        raise DataError(f"'{job}' has no runs in {store}. Jobs there: {known}.", "JOB")
    root = opened.path("runs", job, champion_of(job, opened) or "none")
    with trusting(trust_code):
        return _show(back(job, opened, by or who(), registry_of(job, root, opened, to)), as_json)


def _opened(run_folder: str, store: str, to: str) -> tuple[Any, Any, Any]:
    """Give a run, its store, and the registry that is told of it."""
    from fmray.promote.registry import registry_of
    from fmray.report.folder import read_run

    opened, root = _open_run(run_folder, store)
    run = read_run(root, opened)
    return run, opened, registry_of(run.job, root, opened, to)


def _show(outcome: Any, as_json: bool) -> tuple[int, dict[str, Any]]:
    if not as_json:
        lines = (f"{outcome.verdict}: {outcome.text}", *outcome.notes, f"champion: {outcome.champion or 'nobody'}")
        out.say(*lines)
    return (GATE_FAILED if outcome.verdict == "refused" else DONE), {"status": outcome.verdict, **outcome.to_json()}
