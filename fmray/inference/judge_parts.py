"""Judge the programs of one file of texts, and write their verdicts into one file, which is there whole or not at all.

What was counted while it was written stands in the file's own footer, so a finished file needs no second look.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.errors import SpecError
from fmray.evaluate.pass_at_k import Shares
from fmray.evaluate.sandbox import Limits, Sandbox
from fmray.evaluate.unit_tests import Verdict
from fmray.evaluate.unit_tests import judge as judge_program
from fmray.inference.parts import COUNTS, FILE, ROW, ROW_ID, opened_part, whole_file
from fmray.records import Json
from fmray.store.places import files_of

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


@lru_cache(maxsize=4)
def sandbox_of(limits: Limits, is_confined: bool) -> Sandbox:
    """Give a sandbox that has been tried, once per process."""
    return Sandbox(limits, is_confined=is_confined)


def judge_part(work: Work, name: str) -> Json:
    """Write the verdicts on a file of texts, unless they are there; give what was counted."""
    path = f"{work.out}/{name}"
    if files_of(work.out).exists(path):
        with (
            suppress(OSError, pa.ArrowException, KeyError, TypeError, ValueError),
            opened_part(path) as part,
        ):  # else it is made anew
            found: Json = json.loads(part.metadata.metadata[COUNTS])
            return found
    tally = Tally(work.num)
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


class Tally:
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


def _judged(work: Work, table: pa.Table, *, beside: pa.Table, tally: Tally) -> pa.Table:
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
            if given[first][work.asked.reference] is not None:
                tally.references.take(own[-2:-1])
            tally.vacuous += bool(own[-1].passed)
        for place, verdict in enumerate(own[: work.num], first):
            columns["parsed"][place] = verdict.parsed
            columns["passed"][place] = verdict.passed
            columns["reason"][place] = verdict.reason or None
    held = {name: table[name] for name in (FILE, ROW, ROW_ID, "sample")}
    return pa.table({**held, **columns}).cast(SCHEMA)


def _verdict(work: Work, program: str, tests: Sequence[str], row: Mapping[str, Any]) -> Verdict:
    sandbox = sandbox_of(work.asked.limits, work.asked.is_confined) if work.asked.tests else None
    return judge_program(program, tests, setup=row.get(work.asked.setup) or "", sandbox=sandbox)


def _tests(value: str | Sequence[str] | None) -> list[str]:
    return [test for test in ([value] if isinstance(value, str) else value or []) if test and test.strip()]
