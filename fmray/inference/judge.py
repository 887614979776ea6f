"""Judge the texts that `generate` wrote for the rows of a data set as programs, by running the rows' unit tests.

One file of verdicts is put in place for each file of texts; what is there is not done again. The summary comes last,
so a folder without one is unfinished.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.files import find_files, read_footers
from fmray.data.preparation import Run as RunPass
from fmray.data.scratch import is_local
from fmray.data.session import MOST_THREADS, run_here, run_over_ray, session
from fmray.errors import DataError, SpecError
from fmray.evaluate.pass_at_k import Shares
from fmray.evaluate.sandbox import Limits, Sandbox
from fmray.evaluate.unit_tests import Verdict
from fmray.evaluate.unit_tests import judge as judge_program
from fmray.events import Note, Report, Stage, ignore
from fmray.inference.intake import same_rows
from fmray.inference.parts import COUNTS, FILE, ROW, ROW_ID, opened_part, whole_file
from fmray.inference.predict import MANIFEST as TEXTS
from fmray.inference.predict import Place, broken, read_manifest
from fmray.records import Json
from fmray.store import fingerprint, redact
from fmray.store.lease import hold
from fmray.store.manifest import measure
from fmray.store.places import files_of
from fmray.store.sealed import open_text, seal_text

MANIFEST, BEGUN = "verdicts.json", "_state/begun.json"
FORMAT = 1
SMALL_TEXTS = 20_000
"""So many texts are judged in one process; more go to Ray."""
NO_TEXT, NO_TESTS = "a text is missing", "there are no tests"
SCHEMA = pa.schema(
    [
        (FILE, pa.string()),
        (ROW, pa.int64()),
        (ROW_ID, pa.binary(16)),
        ("sample", pa.int32()),
        ("parsed", pa.bool_()),
        ("passed", pa.bool_()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Asked:
    """Say how texts are judged.

    Args:
        tests: Column of a row's tests: Python that raises where a program is wrong, or a list of it. None are run
            without it.
        setup: Column of Python that runs before the program.
        reference: Column of a program that should pass the row's tests.
        is_alone: The text is the program; else the prompt and the text are.
        limits: Of each program.
        is_confined: In a sandbox; False runs programs as the user.
    """

    tests: str = ""
    setup: str = ""
    reference: str = ""
    is_alone: bool = False
    limits: Limits = field(default_factory=Limits)
    is_confined: bool = True

    def __post_init__(self) -> None:
        for name in ("setup", "reference"):
            if getattr(self, name) and not self.tests:
                raise SpecError(f"'{getattr(self, name)}' has no effect without tests. Give --tests.", f"--{name}")


@dataclass(frozen=True)
class Work:
    """Hold what every part needs.

    Args:
        texts, root, out: Folders of the texts, of the rows, and for verdicts.
        prompt: Column of the prompts; "" where texts stand alone.
        num: Texts of each prompt.
        threads: Programs that run at a time.
    """

    texts: str
    root: str
    out: str
    prompt: str
    num: int
    threads: int
    asked: Asked

    @property
    def columns(self) -> list[str]:
        """Columns that are read of the rows."""
        named = (self.prompt, self.asked.tests, self.asked.setup, self.asked.reference)
        return list(dict.fromkeys(name for name in named if name))


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
    cores = len(os.sched_getaffinity(0))
    work = Work(
        texts=_resolved(texts),
        root=root,
        out=_resolved(out),
        prompt="" if asked.is_alone else told["prompts"]["column"],
        num=told["asked"]["num"],
        threads=max(1, cores // min(len(names), MOST_THREADS)) if is_here else 1,
        asked=asked,
    )
    if asked.tests:
        _sandbox(asked.limits, asked.is_confined)  # refused before anything is written
        if not asked.is_confined:
            report(Note("no sandbox, as asked: programs run as you, and can read and change all that you can"))
    begun: Json = {"format": FORMAT, "texts": _identity(told), "asked": json.loads(json.dumps(asdict(asked)))}
    files = files_of(work.out)
    _refuse_strange(work.out, begun)
    with hold(f"{work.out}/_state", wait_seconds=0, covers=[work.out]):
        _refuse_strange(work.out, begun)  # again, since another may have begun meanwhile
        files.write(f"{work.out}/{BEGUN}", seal_text(begun, BEGUN))
        rule = f"over {SMALL_TEXTS:,} go to Ray" if place == "auto" else f"asked for {place}"
        where = f"in this process, {min(cores, num_texts)} programs at a time" if is_here else "over Ray Data"
        report(Stage("judge", f"{num_texts:,} texts, {where} ({rule})"))
        with _runner(is_here, report) as run:
            counts = run("judge", judge_part, (work,), [(name,) for name in names])
        summary = _summary(work, told, names, counts)
        files.write(f"{work.out}/{MANIFEST}", seal_text(summary, MANIFEST, indent=1))
    return summary


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
                f"{out} holds verdicts on other texts, or with other settings. Give an empty folder.", "--out"
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


@lru_cache(maxsize=4)
def _sandbox(limits: Limits, is_confined: bool) -> Sandbox:
    """Give a sandbox that has been tried, once per process."""
    return Sandbox(limits, is_confined=is_confined)


def judge_part(work: Work, name: str) -> Json:
    """Write the verdicts on a file of texts, unless they are there; give what was counted."""
    path = f"{work.out}/{name}"
    if files_of(work.out).exists(path):
        with suppress(OSError, pa.ArrowException, KeyError), opened_part(path) as part:  # else it is made anew
            found: Json = json.loads(part.metadata.metadata[COUNTS])
            return found
    tally = _Tally(work.num)
    with opened_part(f"{work.texts}/{name}") as part, whole_file(path) as sink:
        writer = pq.ParquetWriter(sink, SCHEMA)
        for group in range(part.num_row_groups):
            table = part.read_row_group(group)
            beside = _joined(work, table)
            writer.write_table(_judged(work, table, beside=beside, tally=tally))
        writer.add_key_value_metadata({COUNTS: json.dumps(tally.to_json()).encode()})
        writer.close()
    return tally.to_json()


def _joined(work: Work, table: pa.Table) -> pa.Table:
    """Give the columns of the rows that texts were written for, a row for each text."""
    if not work.columns:
        return pa.table({"nothing": pa.nulls(len(table))})
    places = np.asarray(table[ROW])
    files = np.array(table[FILE].to_pylist(), object)
    made = []
    # texts stand in the order of the rows, file by file
    starts = [0, *(np.flatnonzero(files[1:] != files[:-1]) + 1).tolist(), len(files)]
    for start, end in pairwise(starts):
        if end > start:
            made.append(_rows(f"{work.root}/{files[start]}", places[start:end], work.columns))
    return pa.concat_tables(made) if made else pa.table({name: pa.nulls(0) for name in work.columns})


def _rows(path: str, places: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Read rows of a file by their places in it, in ascending order."""
    with opened_part(path) as part:
        ends = np.cumsum([part.metadata.row_group(group).num_rows for group in range(part.num_row_groups)])
        first, last = np.searchsorted(ends, [places[0], places[-1]], side="right").tolist()
        held = part.read_row_groups(range(first, last + 1), columns=list(columns)).select(list(columns))
        before = int(ends[first - 1]) if first else 0
    return held.take(pa.array(places - before))


class _Tally:
    """Count what a part holds.

    Args:
        num: Texts of each prompt.
    """

    def __init__(self, num: int) -> None:
        self.shares = Shares(per_prompt=num)
        self.references = Shares()
        self.texts = 0
        self.vacuous = 0
        self.left_out: dict[str, int] = {}

    def leave_out(self, reason: str) -> None:
        """Count a prompt whose texts are not judged."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def add(self, told: Json) -> None:
        """Add what `to_json` gave."""
        self.shares.add(Shares(**told["shares"]))
        self.references.add(Shares(**told["references"]))
        self.texts += told["texts"]
        self.vacuous += told["vacuous"]
        for reason, number in told["left_out"].items():
            self.left_out[reason] = self.left_out.get(reason, 0) + number

    def to_json(self) -> Json:
        """Give the counts as plain values."""
        shares = {"shares": asdict(self.shares), "references": asdict(self.references)}
        return {**shares, "texts": self.texts, "vacuous": self.vacuous, "left_out": self.left_out}


def _judged(work: Work, table: pa.Table, *, beside: pa.Table, tally: _Tally) -> pa.Table:
    """Judge texts, prompt by prompt."""
    texts = table["text"].to_pylist()
    given = beside.to_pylist()
    firsts = range(0, len(texts), work.num)
    jobs: list[Callable[[], Verdict]] = []
    judged: list[int] = []  # first text of each prompt that is judged
    for first in firsts:
        row = given[first]
        tests = _tests(row.get(work.asked.tests))
        if None in texts[first : first + work.num]:
            tally.leave_out(NO_TEXT)
        elif work.asked.tests and not tests:
            tally.leave_out(NO_TESTS)
        else:
            judged.append(first)
            programs = [f"{row.get(work.prompt) or ''}{text}" for text in texts[first : first + work.num]]
            if work.asked.reference:
                programs += [row[work.asked.reference] or "", ""]
            jobs += [partial(_verdict, work, program, tests, row) for program in programs]
    pool = ThreadPoolExecutor(work.threads)
    try:
        found = list(pool.map(lambda job: job(), jobs))
    finally:
        pool.shutdown(cancel_futures=True)
    step = work.num + (2 if work.asked.reference else 0)
    columns: dict[str, list[Any]] = {name: [None] * len(texts) for name in ("parsed", "passed", "reason")}
    for number, first in enumerate(judged):
        own = found[number * step :][:step]
        tally.shares.take(own[: work.num])
        tally.texts += work.num
        if work.asked.reference:
            tally.references.take(own[-2:-1])
            tally.vacuous += bool(own[-1].passed)
        for place, verdict in enumerate(own[: work.num], first):
            columns["parsed"][place] = verdict.parsed
            columns["passed"][place] = verdict.passed
            columns["reason"][place] = verdict.reason or None
    held = {name: table[name] for name in (FILE, ROW, ROW_ID, "sample")}
    return pa.table({**held, **columns}).cast(SCHEMA)


def _verdict(work: Work, program: str, tests: Sequence[str], row: Mapping[str, Any]) -> Verdict:
    sandbox = _sandbox(work.asked.limits, work.asked.is_confined) if work.asked.tests else None
    return judge_program(program, tests, setup=row.get(work.asked.setup) or "", sandbox=sandbox)


def _tests(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else [test for test in value or [] if test]


def _summary(work: Work, told: Json, names: Sequence[str], counts: Sequence[Json]) -> Json:
    tally = _Tally(work.num)
    for part in counts:
        tally.add(part)
    found: Json = {
        "format": FORMAT,
        "texts": {"folder": work.texts, "identity": _identity(told)},
        "asked": asdict(work.asked),
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
            "vacuous": tally.vacuous,
        }
    return found


def spell_verdicts(summary: Json) -> list[str]:
    """Say in a few lines what a person should know of verdicts: first whether the tests themselves are sound."""
    lines = []
    if found := summary.get("references"):
        if found["passed"]:
            lines.append(f"reference programs pass their tests: {_spelled(found['passed'])}{_why(found['reasons'])}")
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
