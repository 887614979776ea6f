"""Say in plain words what a run waits for or why it failed."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from fmray.cli.cluster import LOCAL
from fmray.cli.options import DEFAULT_STORE, DONE, AsJson, StorePath, app, out
from fmray.errors import DataError, SpecError
from fmray.events import Driver

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run, its id, or the id of a submission.")]
ClusterAddress = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="URL of the cluster's dashboard; by default the one that the run itself names.",
    ),
]
FIND_SECONDS = 15.0
_SUBMISSION = re.compile(r"fmray-(.+)-\d+")


@app.command()
def why(
    name: RunName, store: StorePath = DEFAULT_STORE, address: ClusterAddress = "", as_json: AsJson = False
) -> tuple[int, dict[str, Any]]:
    """Say what a run waits for or why it failed: the cause first, then what shows it, last what to do."""
    from fmray.why import Contact, collect, judge

    opened, root = _find(name, store)
    asked = address or (_named_address(opened, root) if root else LOCAL)
    contact, is_unknown = _contact(asked, name, root) if asked else (Contact(), False)
    attempt = contact.attempt
    if attempt and not root:
        opened, root = _find(f"{attempt['job']}/{attempt['run_id']}", attempt["store"])
    if contact.error and not root and (is_unknown or not address):
        there = f"no submission on {asked}" if is_unknown else f"no cluster answers at {asked}"
        raise SpecError(f"'{name}' is no run in {store}, and {there}. Give the --store or --address it has.", "RUN")
    evidence = collect(name, root, opened, contact)
    findings = judge(evidence)
    status = attempt["status"].lower() if attempt and not evidence.run else evidence.status
    if not as_json:
        _show(evidence, status, findings)
    first, *others = [finding.to_json() for finding in findings]
    answer = {"status": status, **first, "also": others, "run_dir": root}
    return DONE, answer | ({"submission_id": attempt["submission_id"]} if attempt else {})


def _find(name: str, store: str) -> tuple[Any, str]:
    """Give the store and the directory of a run; None and "" where it cannot be found here."""
    from fmray.store import Store

    if "://" in name:
        return Store(name.rpartition("/runs/")[0] or store), name.rstrip("/")
    folder = Path(name).resolve()
    if folder.is_dir():
        inside = next((str(parent) for parent in folder.parents if (parent / "store.json").exists()), None)
        if inside is None or folder.parent.parent != Path(inside, "runs"):
            raise DataError(f"{name} is no directory of a run in a store. `fmray runs` lists runs.", "RUN")
        return Store(inside), str(folder)
    if "://" not in store and not Path(store, "store.json").exists():
        return None, ""
    opened = Store(store)
    job, _, run = name.rpartition("/")
    told = _SUBMISSION.fullmatch(run)
    for candidate in [run, *([told[1]] if told else [])]:
        for folder_name in [job] if job else opened.list("runs"):
            if opened.exists(opened.path("runs", folder_name, candidate)):
                return opened, opened.path("runs", folder_name, candidate)
    return opened, ""


def _named_address(store: Any, root: str) -> str:
    """Give the dashboard of the Ray that a run says it runs on; "" if it does not."""
    from fmray.why.evidence import ask, events_of, of_class

    path = f"{root}/events.jsonl"
    read = ask({"events": lambda: store.read_bytes(path) if store.exists(path) else b""}, FIND_SECONDS)["events"]
    drivers = of_class(Driver, events_of(read.get("value", b"").decode(errors="replace")))
    return str((drivers[-1].event.ray or {}).get("dashboard", "")) if drivers else ""


def _contact(address: str, name: str, root: str) -> tuple[Any, bool]:
    """Reach the cluster, and look for the submission; tell also whether it answers and knows of none."""
    from fmray.submit import Cluster
    from fmray.why import Contact
    from fmray.why.evidence import ask

    def find() -> tuple[Any, bool]:
        cluster = Cluster(address)
        try:
            attempt = cluster.find(name if _SUBMISSION.fullmatch(name) else Path(root or name).name)
        except SpecError as error:
            if root:  # it was not submitted, and may run there all the same
                return Contact(address, ask=cluster.ask), False
            return Contact(address, str(error)), True
        told = attempt.to_json() | {"message": attempt.message}
        return Contact(address, "", attempt=told, log=lambda: cluster.logs(attempt.id), ask=cluster.ask), False

    found = ask({"contact": find}, FIND_SECONDS)["contact"]
    if "error" not in found:
        contact, is_unknown = found["value"]
        return contact, is_unknown
    return Contact(address, found["error"].removeprefix("ClusterError: ")), False


def _show(evidence: Any, status: str, findings: Any) -> None:
    """Print the page: the cause on its first line, the fix on its last."""
    from fmray.store import redact

    first, *others = findings
    job = evidence.run.get("job") or evidence.attempt.get("job") or ""
    run = evidence.run.get("run_id") or evidence.attempt.get("run_id") or evidence.name
    lines = [f"{job + '/' if job else ''}{run} · {status} · {first.cause}", ""]
    width = min(28, max((len(where) for where, _ in first.evidence), default=0))
    lines += [f"  {where:{width}}  {text}" for where, text in first.evidence]
    if others:
        lines += ["", "  also", *(f"  - {one.cause}. {one.fix}." for one in others)]
    lines += ["", f"fix: {first.fix}."]
    out.say(*map(redact, lines))
