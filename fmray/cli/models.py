"""Use trained models: let one predict new rows, hand one to other tools."""

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated, Any, Literal

import typer

from fmray.cli.loading import load_torch
from fmray.cli.options import DONE, AsJson, Place, TrustCode, app, error_console
from fmray.cli.options import out as stdout

ModelFolder = Annotated[str, typer.Argument(metavar="MODEL", help="Directory of a run, or of a model.")]


@app.command()
def predict(
    context: typer.Context,
    model: ModelFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Parquet file, folder, glob or URI; needs no targets.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder that predictions go to.")],
    place: Place = "auto",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Write what a model says of every row, or continue where that was interrupted."""
    console = error_console if as_json else stdout
    console.say(f"fmray · predict · {data}")
    load_torch()
    from fmray.inference.predict import predict as predict_rows
    from fmray.inference.predict import spell_summary
    from fmray.progress import Watch

    context.obj["out"] = out
    # what the model's own code prints must not stand where the answer is read
    with Watch(console) as watch, redirect_stdout(sys.stderr) if as_json else nullcontext():
        summary = predict_rows(model, data, out, place=place, report=watch, trust_code=trust_code)
    if not as_json:
        console.say(*spell_summary(summary), out)
    return DONE, {"status": "finished", **summary}


@app.command()
def export(
    model: ModelFolder,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder to make.")],
    kind: Annotated[
        Literal["torch", "onnx"], typer.Option("--format", help="A program of torch.export, or of ONNX.")
    ] = "torch",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Write a model as one program that other tools run, and compare it with the model on golden rows."""
    load_torch()
    from fmray.inference.export import export as write

    summary = write(model, kind, out, trust_code=trust_code)
    if not as_json:
        golden = summary["golden"]
        text = f"differs from the model by {golden['difference']:.2g} at most on {golden['rows']} golden rows"
        stdout.say(f"{text}, {golden['tolerance']:g} is accepted", summary["out"])
    return DONE, {"status": "finished", **summary}
