"""List runs."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fmray.cli.options import DEFAULT_STORE, DONE, AsJson, StorePath, app, out
from fmray.errors import DataError


@app.command("runs")
def list_runs(
    job: Annotated[str, typer.Option("--job", help="Only runs of the job with this name.")] = "",
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """List the runs of a store, newest first: how they stand, what they reached, how old they are."""
    from fmray.report.listing import list_runs

    lines = list_runs(open_store(store), job)
    if not as_json:
        table = Table("run", "status", "score", "age", box=None, pad_edge=False)
        for line in lines:
            table.add_row(f"{line.job}/{line.run_id}", line.status, _score(line), _age(line.time))
        out.print(table)
    return DONE, {"status": "done", "runs": [line.to_json() for line in lines]}


def open_store(path: str) -> Any:
    """Open a store that must be there.

    Raises:
        DataError: If it is not.
    """
    from fmray.store import Store

    if "://" not in path and not Path(path).is_dir():
        raise DataError(f"'{path}' is no store. Give --store or set FMRAY_STORE.", "--store")
    return Store(path)


def _score(line: Any) -> str:
    if line.value is None:
        return str(line.reason)
    return f"{line.metric} {line.value:.4f} [{line.low:.4f}, {line.high:.4f}]"


def _age(then: float) -> str:
    """Spell the time since then in its largest unit."""
    seconds = time.time() - then
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    unit, size = next(((unit, size) for unit, size in units if seconds >= size), ("s", 1))
    return f"{max(0, seconds) / size:.0f} {unit}" if then else ""
