"""Judge generated programs by running their unit tests."""

from typing import Annotated, Any

import typer

from fmray.cli.options import DONE, AsJson, Place, app, error_console
from fmray.cli.options import out as stdout


@app.command()
def judge(
    context: typer.Context,
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="Folder that fmray generate wrote.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="The rows it wrote them for.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder that verdicts go to.")],
    tests: Annotated[
        str, typer.Option(metavar="COLUMN", help="Tests of each row; without, texts are parsed only.")
    ] = "",
    setup: Annotated[str, typer.Option(metavar="COLUMN", help="What runs before the program.")] = "",
    reference: Annotated[str, typer.Option(metavar="COLUMN", help="A right program, which tries the tests.")] = "",
    alone: Annotated[bool, typer.Option("--alone", help="The text without its prompt is the program.")] = False,
    cpu_seconds: Annotated[int, typer.Option(min=1, help="Processor time of each process; four times that pass.")] = 5,
    memory_mb: Annotated[int, typer.Option(min=64, help="Memory of a program.")] = 512,
    no_sandbox: Annotated[
        bool, typer.Option("--no-sandbox", help="Run programs as yourself: they can change what you can.")
    ] = False,
    place: Place = "auto",
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Say which share of generated programs parses, and which passes the unit tests of their rows."""
    console = error_console if as_json else stdout
    console.say(f"fmray · judge · {texts}")
    from fmray.evaluate.sandbox import Limits
    from fmray.inference.judge import judge as judge_texts
    from fmray.inference.judge import spell_verdicts
    from fmray.inference.judge_parts import Asked
    from fmray.progress import Watch

    limits = Limits(cpu_seconds=cpu_seconds, wall_seconds=4.0 * cpu_seconds, memory_bytes=memory_mb << 20)
    asked = Asked(
        tests=tests, setup=setup, reference=reference, is_alone=alone, limits=limits, is_confined=not no_sandbox
    )
    context.obj["out"] = out
    with Watch(console) as watch:
        summary = judge_texts(texts, data, out, asked, place=place, report=watch)
    if not as_json:
        console.say(*spell_verdicts(summary), out)
    return DONE, {"status": "finished", **summary}
