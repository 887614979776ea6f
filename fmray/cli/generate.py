"""Let a language model go on with prompts: in the terminal, or for every row of a data set."""

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated, Any, Literal, TextIO

import typer

from fmray.cli.loading import load_torch
from fmray.cli.models import ModelFolder
from fmray.cli.options import DONE, AsJson, Place, TrustCode, app, error_console
from fmray.cli.options import out as stdout
from fmray.errors import SpecError
from fmray.printable import printable

KEPT = "\n\t"
"""What a generated text may do to a terminal beside showing characters."""

Prompts = Annotated[list[str], typer.Option("--prompt", help="Text to go on with; may be given several times.")]
Data = Annotated[str | None, typer.Argument(metavar="[DATA]", help="Parquet file, folder, glob or URI of prompts.")]
Stops = Annotated[list[str], typer.Option("--stop", help="Text that ends a text; may be given several times.")]
Texts = Annotated[list[str], typer.Option("--allowed", help="Text that may be generated; given several times.")]


@app.command()
def generate(
    context: typer.Context,
    model: ModelFolder,
    data: Data = None,
    prompt: Prompts = [],  # noqa: B006  # typer copies it
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="Folder that texts for DATA go to.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a text, at most.")] = 200,
    temperature: Annotated[float | None, typer.Option(help="0 takes the most likely token; 1 by default.")] = None,
    top_k: Annotated[int, typer.Option(help="Draw from so many most likely tokens; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens of this probability.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens seldom come again.")] = 1.0,
    beams: Annotated[int, typer.Option(help="Texts followed side by side; the best wins.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of beams; above 0 prefers longer texts.")] = 1.0,
    stop: Stops = [],  # noqa: B006
    allowed: Texts = [],  # noqa: B006
    beyond: Annotated[
        Literal["slide", "stop"], typer.Option(help="When the context is full: forget the beginning, or end.")
    ] = "slide",
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    num: Annotated[int, typer.Option(help="Texts for each prompt.")] = 1,
    place: Place = "auto",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Go on with prompts by a language model: show the texts, or write those for every row of DATA."""
    if (data is None) == (not prompt) or (data is None) != (out is None):
        raise SpecError("Give --prompt, or DATA and --out.", "generate")
    load_torch()
    from fmray.inference.generation import Generation

    asked = Generation(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, beams=beams, length_penalty=length_penalty, stop=tuple(stop),
        allowed=tuple(allowed), beyond=beyond, seed=seed, num=num,
    )  # fmt: skip
    # what the model's own code prints must not stand where the answer is read
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        if data is not None and out is not None:
            context.obj["out"] = out
            told = _write(model, data, out, asked, place=place, trust_code=trust_code, as_json=as_json)
        else:
            told = _show(model, prompt, asked, trust_code=trust_code)
    return DONE, {"status": "finished", **told}


def _write(
    model: str, data: str, out: str, asked: Any, *, place: Any, trust_code: bool, as_json: bool
) -> dict[str, Any]:
    """Write the texts for every row of a data set."""
    from fmray.inference.predict import generate as generate_rows
    from fmray.inference.predict import spell_summary
    from fmray.progress import Watch

    console = error_console if as_json else stdout
    console.say(f"fmray · generate · {data}")
    with Watch(console) as watch:
        summary = generate_rows(model, data, out, asked, place=place, report=watch, trust_code=trust_code)
    if not as_json:
        console.say(*spell_summary(summary), out)
    return summary


def _show(model: str, prompts: list[str], asked: Any, *, trust_code: bool) -> dict[str, Any]:
    """Show texts on stdout, a single one as it grows; what is to be known of them goes to stderr."""
    from fmray.events import Event, Note
    from fmray.inference.model import open_model

    def note(event: Event) -> None:
        if isinstance(event, Note):
            error_console.say(event.text)

    is_alone = len(prompts) == asked.num == asked.beams == 1 and not asked.allowed
    shown = _Shown(sys.stdout)
    opened = open_model(model, trust_code=trust_code)
    table = opened.generate(prompts, asked, report=note, tell=shown.tell if is_alone else None)
    rows = table.to_pylist()
    for row in rows:
        if is_alone:
            shown.tell(0, 0, row["text"])
        else:
            shown.write(f"[prompt {row['prompt']}, text {row['sample']}]\n{row['text']}")
        shown.write("\n")
    return {"texts": rows}


class _Shown:
    """Write a text as it grows."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._length = 0

    def tell(self, prompt: int, sample: int, settled: str) -> None:
        """Write what is new."""
        self.write(settled[self._length :])
        self._length = len(settled)

    def write(self, text: str) -> None:
        """Write at once."""
        self._file.write(printable(text, keep=KEPT))
        self._file.flush()
