"""Interrupt commands in every stage, and see that they answer within three seconds and continue to the same result.

    python tests/chaos/signals.py --seed 1 --work /tmp/signals
    python tests/chaos/signals.py --work /tmp/signals --stages scan submit logs --signal TERM

One run is carried to its end without interruption. Then, for each signal, the same job is run in an empty store and
interrupted in one stage after the other, each time by the same command, until it has finished; what it came to must be
the same. Other commands are interrupted once, and carried out again; those that talk to a cluster start one of their
own, only if they are named. A stage is known by what the process shows, never
by the time that has passed; the seed decides how far into the stage the signal comes. One line a signal tells the time
until the process has ended, its exit code, and whether it said so in words and in JSON.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = r"^interrupted; run the same command again to continue$|^\S+ goes on: "
HANG_SECONDS = 120.0
Cue = Callable[["Process"], bool]


@dataclass(frozen=True)
class Found:
    """Say how a command took a signal.

    Args:
        stage, within: In which stage it was to come, and the last one that the command had shown by then.
        seconds: From the signal to the end of the process.
        message, answer: Whether the last line on stderr, and the one on stdout, said that it was interrupted.
        load: Processes that waited for a processor, or had one, over the last minute.
    """

    stage: str
    signal: str
    within: str
    seconds: float
    code: int
    message: bool
    answer: bool
    traceback: bool
    load: float

    def is_over(self) -> bool:
        """Tell whether the command had done its work when the signal came."""
        return self.code == 0

    def is_right(self) -> bool:
        return self.is_over() or (self.code == 130 and self.message and self.answer and not self.traceback)

    def __str__(self) -> str:
        told = "over" if self.is_over() else "right" if self.is_right() else "WRONG"
        said = f"message {_yes(self.message)}  json {_yes(self.answer)}"
        return (
            f"{self.signal:8} {self.stage:10} in {self.within:10} {self.seconds:6.2f} s  exit {self.code:4}  "
            f"{said}  load {self.load:5.1f}  {told}"
        )


class Process:
    """Carry out a command whose streams are files.

    Args:
        home: Folder that it is started in, and that the streams lie in.
        words: The command without `fmray`; `--json` is added.
        environment: Its variables; by default those of this process.
    """

    def __init__(self, home: Path, *words: str, environment: dict[str, str] | None = None) -> None:
        self.home = home
        command = [sys.executable, "-m", "fmray.cli", *words, "--json"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FMRAY_")}
        environment = environment or {**inherited, "PYTHONPATH": str(ROOT)}
        with (home / "stdout").open("wb") as out, (home / "stderr").open("wb") as errors:
            self.popen = subprocess.Popen(command, cwd=home, env=environment, stdout=out, stderr=errors)

    @property
    def said(self) -> str:
        return (self.home / "stdout").read_text()

    @property
    def errors(self) -> str:
        return (self.home / "stderr").read_text()

    def wait(self) -> int:
        try:
            return self.popen.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def interrupt(self, cue: Cue, after_seconds: float, number: signal.Signals) -> tuple[float, str]:
        """Send a signal into a stage; give the time until the process ended, and the last stage that it showed."""
        until = time.monotonic() + HANG_SECONDS
        while self.popen.poll() is None and time.monotonic() < until and not cue(self):
            time.sleep(0.002)
        time.sleep(after_seconds)
        within = ([*re.findall(r"^([a-z]+) +\S", self.errors, re.M)] or ["-"])[-1]
        sent = time.monotonic()
        self.popen.send_signal(number)
        self.wait()
        return time.monotonic() - sent, within

    def answer(self) -> dict[str, Any]:
        lines = self.said.splitlines()
        return dict(json.loads(lines[-1])) if lines and lines[-1].startswith("{") else {}


def shows(pattern: str) -> Cue:
    """See a line on stderr."""
    return lambda process: re.search(pattern, process.errors, re.M) is not None


def has(pattern: str, text: str = "") -> Cue:
    """See a file below the folder of the process, with a text in it."""
    return lambda process: any(text in path.read_text(errors="replace") for path in process.home.glob(pattern))


def maps(library: str) -> Cue:
    """See a library in the memory of the process."""
    return lambda process: library in _proc(process, "maps")


def catches(number: signal.Signals) -> Cue:
    """See the process handle a signal, as it does from the first instant that is its own."""

    def does(process: Process) -> bool:
        caught = re.search(r"SigCgt:\s*(\w+)", _proc(process, "status"))
        return caught is not None and bool(int(caught[1], 16) & 1 << (number - 1))

    return does


def _proc(process: Process, name: str) -> str:
    try:
        return Path(f"/proc/{process.popen.pid}/{name}").read_text()
    except OSError:
        return ""


RUN: dict[str, Cue] = {
    "start": catches(signal.SIGTERM),
    "scan": shows("^scan "),
    "prepare": shows("^ +preparing "),
    "lanes": shows("^ +lanes: "),
    "train": shows("^train "),
    "epochs": has("store/runs/job/*/events.jsonl", '"event":"epoch"'),
    "baseline": shows("^baseline "),
    "combine": shows("^combine "),
    "evaluate": shows("^evaluate "),
    "report": shows("^report "),
}
"""Stages of a run in their order -> how one sees it begin."""
ELSE: dict[str, tuple[tuple[str, ...], Cue]] = {
    "predict": (("predict", "../reference/model", "../data", "--out", "out"), shows("^predict ")),
    "export": (("export", "../reference/model", "--out", "out"), maps("libtorch_python")),
    "check": (("check", "../job.yaml", "--deep", "--store", "store"), shows("^ +preparing ")),
    "schedule": (("schedule", "run", "../timed.yaml", "--once", "--store", "store"), has("store/runs/*/*/run.json")),
}
"""Other commands, and how one sees them at work."""
CLUSTER = ("submit", "logs")
"""Commands that follow a run on a cluster."""


class Campaign:
    """Hold what signals are tried on.

    Args:
        work: Folder for data, jobs and stores; what is there is removed.
        seed: Of the data, and of how far into a stage signals come.
        num_files, num_rows: Of the data.
        spread_seconds: How far into a stage at most.
    """

    def __init__(self, work: Path, seed: int, *, num_files: int, num_rows: int, spread_seconds: float) -> None:
        self.work, self.random, self.spread_seconds = work, random.Random(seed), spread_seconds
        shutil.rmtree(work, ignore_errors=True)
        (work / "data").mkdir(parents=True)
        write_data(work / "data", seed, num_files, num_rows)
        (work / "job.yaml").write_text(JOB)
        (work / "timed.yaml").write_text(JOB + SCHEDULE)

    def refer(self) -> dict[str, Any]:
        """Run the job without interruption; give what it comes to."""
        done = self._finish(self._home("whole"), *RUN_WORDS)
        shutil.copytree(done["run_dir"], self.work / "reference")
        return outcome(done)

    def interrupt(self, stages: list[str], number: signal.Signals) -> Iterator[Found]:
        """Interrupt commands in stages of all kinds."""
        yield from self.interrupt_run([stage for stage in RUN if stage in stages], number)
        yield from (self.interrupt_other(stage, number) for stage in ELSE if stage in stages)
        if following := [stage for stage in CLUSTER if stage in stages]:
            yield from self.interrupt_following(following, number)

    def interrupt_run(self, stages: list[str], number: signal.Signals) -> Iterator[Found]:
        """Interrupt one run in one stage after the other, and carry it to its end."""
        home = self._home(f"run-{number.name}")
        for stage in stages:
            yield self._interrupt(stage, number, Process(home, *RUN_WORDS), RUN[stage])
        self.last = outcome(self._finish(home, *RUN_WORDS))

    def interrupt_other(self, stage: str, number: signal.Signals) -> Found:
        """Interrupt another command, and carry it out again."""
        home = self._home(f"{stage}-{number.name}")
        words, cue = ELSE[stage]
        if stage == "schedule":
            self._due(home / "store")
        found = self._interrupt(stage, number, Process(home, *words), cue)
        self._finish(home, *words)
        return found

    def interrupt_following(self, stages: list[str], number: signal.Signals) -> Iterator[Found]:
        """Interrupt commands that follow a run on a cluster, which goes on; then stop it."""
        sys.path.insert(0, str(ROOT / "tests"))
        from live_ray import LiveRay

        home, live = self._home(f"cluster-{number.name}"), LiveRay(2)
        place = ("--address", live.address)
        long = ("--set", "train.epochs=5000", "--store", str(home / "store"), "--no-preflight")
        try:
            process = Process(home, "submit", "../job.yaml", *long, "--wait", *place, environment=live.environment())
            yield self._interrupt("submit", number, process, shows("^train "))
            name = process.answer()["submission_id"]
            if "logs" in stages:
                process = Process(home, "logs", name, "--follow", *place, environment=live.environment())
                yield self._interrupt("logs", number, process, shows("^train "))
            Process(home, "stop", name, *place, environment=live.environment()).wait()
        finally:
            live.close()

    def _interrupt(self, stage: str, number: signal.Signals, process: Process, cue: Cue) -> Found:
        seconds, within = process.interrupt(cue, self.random.uniform(0, self.spread_seconds), number)
        errors = process.errors
        return Found(
            stage=stage,
            signal=number.name,
            within=within,
            seconds=round(seconds, 2),
            code=process.wait(),
            message=re.search(MESSAGE, errors, re.M) is not None,
            answer=process.answer().get("status") in ("interrupted", "left"),
            traceback="Traceback" in errors,
            load=os.getloadavg()[0],
        )

    def _home(self, name: str) -> Path:
        home = self.work / name
        home.mkdir()
        return home

    def _finish(self, home: Path, *words: str) -> dict[str, Any]:
        process = Process(home, *words)
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(words)} did not finish in {home}: {process.said}{process.errors}")
        return process.answer()

    def _due(self, store: Path) -> None:
        """Let the schedule have begun some minutes ago, so that a run is due."""
        from fmray.schedule.book import Book
        from fmray.store import Store

        Book(Store(str(store)), "job").open(datetime.now(UTC) - timedelta(minutes=3))


RUN_WORDS = ("run", "../job.yaml", "--store", "store")
JOB = """
name: job
data: {path: data, target: y}
model: {mlp: {width: 32}}
train: {epochs: 6, batch_rows: 64, seeds: 4, early_stop: null}
ensemble: greedy
rigour: {profile: draft}
run: {deterministic: true, threads: 1, workers: 0, checkpoint_seconds: 0.2}
"""
SCHEDULE = 'schedule: {cron: "* * * * *", catch_up: false, when: always}\n'


def outcome(done: dict[str, Any]) -> dict[str, Any]:
    """Give what a run came to: tensors, rows, and scores without the number of looks."""
    facts = json.loads(Path(done["run_dir"], "run.json").read_text())
    scores = {name: value for name, value in done["scores"].items() if name != "looks"}
    return {"scores": scores, "tensors": facts["tensor_hashes"], "rows": facts["rows"]}


def write_data(folder: Path, seed: int, num_files: int, num_rows: int) -> None:
    """Write rows over many small files."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.random.default_rng(seed)
    for number in range(num_files):
        x = values.normal(size=(num_rows // num_files, 12))
        y = np.where(x[:, 0] + x[:, 1] * x[:, 2] + values.normal(size=len(x)) > 0, "yes", "no")
        pq.write_table(
            pa.table({f"f{i}": column for i, column in enumerate(x.T)} | {"y": y}), folder / f"{number}.parquet"
        )


def main() -> int:
    """Run the campaign; 1 if a signal was not answered rightly or in time, or a result changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="folder for stores; what is there is removed")
    parser.add_argument("--stages", nargs="+", choices=[*RUN, *ELSE, *CLUSTER], default=[*RUN, *ELSE])
    parser.add_argument("--signal", nargs="+", choices=["TERM", "INT"], default=["TERM", "INT"])
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--spread-seconds", type=float, default=0.1, help="how far into a stage, at most")
    parser.add_argument("--within-seconds", type=float, default=3.0, help="the time in which a signal is answered")
    asked = parser.parse_args()
    sizes = {"num_files": asked.files, "num_rows": asked.rows}
    campaign = Campaign(asked.work.resolve(), asked.seed, **sizes, spread_seconds=asked.spread_seconds)
    whole = campaign.refer()
    found, changed = list[Found](), 0
    for name in asked.signal:
        for one in campaign.interrupt(asked.stages, signal.Signals[f"SIG{name}"]):
            found.append(one)
            print(one, flush=True)
        changed += campaign.last != whole
    return show(found, changed, asked.within_seconds)


def show(found: list[Found], changed: int, within_seconds: float) -> int:
    """Print the counts as one line of JSON; 1 if any of them is a fault."""
    answered = [one for one in found if not one.is_over()]
    counts = {
        "signals": len(found),
        "over": len(found) - len(answered),
        "wrong": sum(not one.is_right() for one in found),
        "late": sum(one.seconds > within_seconds for one in answered),
        "slowest_seconds": max((one.seconds for one in answered), default=0.0),
        "changed_results": changed,
    }
    print(json.dumps(counts))
    return int(bool(counts["wrong"] or counts["late"] or counts["changed_results"]))


def _yes(value: bool) -> str:
    return "yes" if value else "no "


if __name__ == "__main__":
    sys.exit(main())
