"""Tell MLflow of runs that it missed."""

from typing import Annotated, Any

from typer import Option

from fmray.cli.options import DEFAULT_STORE, DONE, AsJson, RunFolder, StorePath, TrustCode, app, out
from fmray.cli.runs import _open_run
from fmray.errors import DataError
from fmray.registry import trusting

To = Annotated[str, Option("--to", metavar="URI", help="MLflow server or database; 'default' is SQLite in the store.")]


@app.command()
def track(
    run_folder: RunFolder,
    store: StorePath = DEFAULT_STORE,
    to: To = "",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Tell MLflow of a run that it missed, or was not to be told of; told twice, it knows it once."""
    from fmray.inference.serving import served
    from fmray.report.card import read_card
    from fmray.report.folder import read_run
    from fmray.track.address import address_of
    from fmray.track.notice import read_notice
    from fmray.track.publish import begin, publish

    opened, root = _open_run(run_folder, store)
    run = read_run(root, opened)
    notice = read_notice(root, opened)
    if run.status not in ("failed", "finished"):
        raise DataError(f"this run is {run.status}. Tell of it once it has ended.", "RUN")
    if notice is None and run.status == "failed":
        raise DataError("this run failed, and MLflow was not to be told. Run it again with track.mlflow.", "RUN")
    address = address_of(to or (notice.to if notice else "default"), opened)
    with trusting(trust_code), opened.lease(root, wait_seconds=0):
        begin(run, notice.job if notice else read_card(root, opened).job, modules=(), store=opened, address=address)
        publish(root, opened, address=address, describe=served, most_seconds=None)
    told = read_notice(root, opened)
    answer = {"status": "done", "run_dir": root, "mlflow": address.shown, "mlflow_run": told.run if told else ""}
    if not as_json:
        out.say(f"told {address.shown}: run {answer['mlflow_run']}")
    return DONE, answer
