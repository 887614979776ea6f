"""Judge the texts that `generate` wrote for the rows of a data set as programs, by running the rows' unit tests.

One file of verdicts is put in place for each file of texts; what is there is not done again. The summary comes last,
so a folder without one is unfinished.
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pyarrow as pa

from fmray.data.files import find_files, read_footers
from fmray.data.preparation import Run as RunPass
from fmray.data.scratch import is_local
from fmray.data.session import MOST_THREADS, run_here, run_over_ray, session
from fmray.errors import DataError, SpecError
from fmray.events import Note, Report, Stage, ignore
from fmray.inference.intake import same_rows
from fmray.inference.judge_parts import Asked, Tally, Work, judge_part, sandbox_of
from fmray.inference.predict import MANIFEST as TEXTS
from fmray.inference.predict import Place, broken, read_manifest
from fmray.records import Json
from fmray.store import fingerprint, redact
from fmray.store.lease import hold
from fmray.store.manifest import measure
from fmray.store.places import files_of
from fmray.store.sealed import open_text, seal_text
from fmray.train.device import num_cores

MANIFEST, BEGUN = "verdicts.json", "_state/begun.json"
FORMAT = 1
SMALL_TEXTS = 20_000
"""So many texts are judged in one process; more go to Ray."""


def judge(
    texts: str, data: str, out: str, asked: Asked = Asked(), *, place: Place = "auto", report: Report = ignore
) -> Json:
    """Write a verdict on every text, and give the shares that parse and pass; an interrupted call is continued.

    Args:
        texts: Folder that `generate` wrote.
        data: The rows it wrote them for.
        out: Folder for files of verdicts, named as those of the texts, and last `verdicts.json`. Columns: `file`,
            `row`, `row_id` and `sample`, as of the text, `parsed`, `passed` (null without tests) and `reason`.
        place: As of `predict`; "auto" decides by the number of texts.

    Raises:
        SpecError: If columns or settings do not fit, or tests cannot be run in a sandbox here.
        DataError: If texts or rows are not as they must be, or `out` holds something else.
        ClusterError: If Ray fails, or another process writes to `out`.
    """
    told = _texts_of(texts)
    root = _rows_of(data, told, asked, report)
    names = [part["file"] for part in told["parts"]]
    num_texts = sum(part["rows"] for part in told["parts"]) * told["asked"]["num"]
    is_here = place == "local" or (place == "auto" and num_texts <= SMALL_TEXTS)
    cores = num_cores()
    work = Work(
        texts=_resolved(texts),
        root=root,
        out=_resolved(out),
        prompt="" if asked.is_alone else told["prompts"]["column"],
        num=told["asked"]["num"],
        threads=max(1, cores // max(1, min(len(names), MOST_THREADS))) if is_here else 1,
        asked=asked,
    )
    if asked.tests:
        sandbox_of(asked.limits, asked.is_confined)  # refused before anything is written
        if not asked.is_confined:
            report(Note("no sandbox, as asked: programs run as you, and can read and change all that you can"))
    begun = _begun(told, asked)
    files = files_of(work.out)
    _refuse_strange(work.out, begun)
    with hold(f"{work.out}/_state", wait_seconds=0, covers=[work.out]):
        _refuse_strange(work.out, begun)  # again, since another may have begun meanwhile
        files.write(f"{work.out}/{BEGUN}", seal_text(begun, BEGUN))
        for path in files.temporaries(work.out):
            files.remove(path)
        if files.exists(f"{work.out}/{MANIFEST}") and (found := _finished(work.out, report)):
            return found
        rule = f"over {SMALL_TEXTS:,} go to Ray" if place == "auto" else f"asked for {place}"
        at_once = work.threads * min(len(names), MOST_THREADS)
        where = f"in this process, at most {at_once} programs at a time" if is_here else "over Ray Data"
        report(Stage("judge", f"{num_texts:,} texts, {where} ({rule})"))
        with _runner(is_here, report) as run:
            counts = run("judge", judge_part, (work,), [(name,) for name in names])
        summary = _summary(work, told, names, counts)
        files.write(f"{work.out}/{MANIFEST}", seal_text(summary, MANIFEST, indent=1))
    return summary


def _begun(told: Json, asked: Asked) -> Json:
    """Say what decides verdicts: texts, settings, and the Python that reads and runs programs."""
    settings = json.loads(json.dumps(asdict(asked)))
    return {"format": FORMAT, "python": platform.python_version(), "texts": _identity(told), "asked": settings}


def _finished(out: str, report: Report) -> Json | None:
    """Give the summary of finished verdicts; where files are damaged, remove those and give None."""
    path = f"{out}/{MANIFEST}"
    found: Json = open_text(files_of(out).read(path), MANIFEST, path, is_sealed=True)
    damaged = broken(out, found)
    if not damaged:
        report(Stage("found", f"{out} is complete"))
        return found
    report(Note(f"{'; '.join(damaged[:3])}. All {len(found['parts'])} files are made anew"))
    for name in [MANIFEST, *(part["file"] for part in found["parts"])]:
        files_of(out).remove(f"{out}/{name}")
    return None


def _texts_of(folder: str) -> Json:
    """Read what a folder of texts says of itself."""
    if not files_of(folder).exists(f"{folder.rstrip('/')}/{TEXTS}"):
        raise DataError(f"{folder} has no {TEXTS}: texts are not there, or not all. Run fmray generate.", "TEXTS")
    told = read_manifest(folder.rstrip("/"))
    if "generated" not in told:
        raise DataError(f"{folder} holds predictions. Give a folder that fmray generate wrote.", "TEXTS")
    if "prompts" not in told:
        raise DataError(f"{folder} is of an earlier version, which did not say for which rows. Generate anew.", "TEXTS")
    if damaged := broken(folder.rstrip("/"), told):
        raise DataError(f"{'; '.join(damaged[:3])}. Generate anew.", "TEXTS")
    return told


def _rows_of(data: str, told: Json, asked: Asked, report: Report) -> str:
    """Find the rows that texts were written for; give the folder that their files are relative to."""
    listing = find_files(data, ".")
    found, schemas, _ = read_footers(listing)
    if same_rows(found) != told["prompts"]["rows"]:
        raise DataError(f"'{redact(data)}' are not the rows that the texts were written for. Give those.", "DATA")
    if told["repeats"]:
        report(
            Note(f"{told['repeats']:,} rows repeat an earlier one, and have its texts: intervals count them as others")
        )
    kinds = {"tests": _is_text_or_list, "setup": _is_text, "reference": _is_text}
    for name, fits in kinds.items():
        column = getattr(asked, name)
        for file, schema in zip(found, schemas, strict=True):
            if column and column not in schema.names:
                raise SpecError(
                    f"column '{column}' is not in {file.path}. It has: {', '.join(schema.names)}.", f"--{name}"
                )
            if column and not fits(schema.field(column).type):
                accepted = "text" + (" or lists of it" if name == "tests" else "")
                raise SpecError(
                    f"column '{column}' holds {schema.field(column).type}. Accepted: {accepted}.", f"--{name}"
                )
    return listing.root


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_text_or_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _is_text(kind.value_type if is_list else kind)


def _identity(told: Json) -> str:
    return fingerprint([[part["file"], part["crc32"]] for part in told["parts"]])


def _resolved(folder: str) -> str:
    return str(Path(folder).resolve()) if is_local(folder) else folder.rstrip("/")


def _refuse_strange(out: str, begun: Json) -> None:
    """Refuse a folder that holds anything but the beginning of the same verdicts."""
    files = files_of(out)
    path = f"{out}/{BEGUN}"
    if files.exists(path):
        if open_text(files.read(path), BEGUN, path, is_sealed=True) != begun:
            raise DataError(
                f"{out} holds verdicts on other texts, with other settings or of another Python. Give an empty folder.",
                "--out",
            )
    elif held := [name for name in files.names(out) if name != "_state"]:
        raise DataError(f"{out} holds {', '.join(held[:3])}. Give an empty folder.", "--out")


@contextmanager
def _runner(is_here: bool, report: Report) -> Iterator[RunPass]:
    if is_here:
        yield partial(run_here, report)
        return
    with session():
        yield partial(run_over_ray, report)


def _summary(work: Work, told: Json, names: Sequence[str], counts: Sequence[Json]) -> Json:
    tally = Tally(work.num)
    for part in counts:
        tally.add(part)
    found: Json = {
        "format": FORMAT,
        "texts": {"folder": work.texts, "identity": _identity(told)},
        "python": platform.python_version(),
        "asked": asdict(work.asked),
        "repeats": told["repeats"],
        "prompts": tally.shares.prompts,
        "num": work.num,
        "judged": tally.texts,
        "left_out": tally.left_out,
        "shares": {name: asdict(interval) for name, interval in tally.shares.intervals().items()},
        "reasons": tally.shares.most_reasons(),
        "parts": [{"file": name, **entry} for name, entry in measure(work.out, names).items()],
    }
    if work.asked.reference:
        shares = tally.references.intervals()
        found["references"] = {
            "passed": asdict(shares["pass@1"]) if shares else None,
            "reasons": tally.references.most_reasons(),
            "absent": tally.shares.prompts - tally.references.prompts,
            "vacuous": tally.vacuous,
        }
    return found


def spell_verdicts(summary: Json) -> list[str]:
    """Say in a few lines what a person should know of verdicts: first whether the tests themselves are sound."""
    lines = []
    if found := summary.get("references"):
        if found["passed"]:
            lines.append(f"reference programs pass their tests: {_spelled(found['passed'])}{_why(found['reasons'])}")
        if found["absent"]:
            lines.append(f"{found['absent']:,} rows have no reference program, and are not among them")
        lines.append(f"an empty program passes the tests of {found['vacuous']:,} of {summary['prompts']:,} rows")
    each = f", {summary['num']} for each" if summary["num"] > 1 else ""
    lines.append(f"{summary['judged']:,} texts judged, of {summary['prompts']:,} prompts{each}")
    lines += [f"{name}: {_spelled(share)}" for name, share in summary["shares"].items()]
    if summary["reasons"]:
        lines.append(f"why not{_why(summary['reasons'])}")
    lines += [f"{number:,} prompts left out: {reason}" for reason, number in summary["left_out"].items()]
    return lines


def _spelled(share: Json) -> str:
    return f"{share['value']:.4f} [{share['low']:.4f}, {share['high']:.4f}] ({share['method']}, n = {share['n']:,})"


def _why(reasons: Mapping[str, int]) -> str:
    told = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    return f": {told}" if told else ""
