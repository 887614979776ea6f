"""What commands share: the application they belong to, their options, where they print, and exit codes."""

from typing import Annotated, Literal

import typer

from fmray.console import PlainConsole

DONE, FAILED, GATE_FAILED, BAD_INPUT = 0, 1, 2, 5
DEFAULT_STORE = "fmray-store"

app = typer.Typer(
    name="fmray",
    help="Train populations of PyTorch models from sharded Parquet on Ray, and prove what is reported.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
out = PlainConsole()
error_console = PlainConsole(stderr=True)

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file, e.g. jobs/quickstart.yaml.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")]
StorePath = Annotated[str, typer.Option("--store", envvar="FMRAY_STORE", help="Folder that keeps records and runs.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. train.epochs=3.")]
Place = Annotated[
    Literal["auto", "local", "ray"], typer.Option("--place", help="This process or Ray; auto decides by size.")
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the author's own modules that the model needs.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]
