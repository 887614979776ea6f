"""Damage every kind of file that fmray reads, and see that no result changes without a word.

    python tests/chaos/damage.py --seed 1 --count 600 --where in-process --work /tmp/chaos

One small store is made, with copies of it as a kill would have left it at several instants. Each trial copies one of
them, damages one file, and calls commands on it. A command must answer as on an undamaged copy, or end in an error that
names the file. Anything else is counted: an answer that changed silently, a traceback, a hang, an error without a name.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HANG_SECONDS = 240.0
WAYS = ("byte", "bit", "tail", "older", "other", "emptied", "deleted")
KINDS: dict[str, str] = {
    "store format": r"store\.json",
    "footers": r"scans/[^/]+\.json",
    "split": r"splits/[^/]+\.json",
    "prepared manifest": r"prepared/[^/]+/manifest\.json",
    "prepared": r"prepared/[^/]+/data-[^/]+/prepared\.json",
    "weights manifest": r"weights/[^/]+/manifest\.json",
    "weights": r"weights/[^/]+/data-[^/]+/.*\.(json|safetensors)",
    "lanes": r"prepared/[^/]+/data-[^/]+/.*\.arrow",
    "rows manifest": r"rows/[^/]+/manifest\.json",
    "rows": r"rows/[^/]+/data-[^/]+/.*\.(npy|json)",
    "fits": r"fits/[^/]+\.json",
    "members manifest": r"members/[^/]+/manifest\.json",
    "members tensors": r"members/[^/]+/data-.*\.safetensors",
    "members booster": r"members/[^/]+/data-.*/model\.txt",
    "members said": r"members/[^/]+/data-.*\.npy",
    "checkpoint manifest": r"checkpoints/.*/states/[^/]+/manifest\.json",
    "checkpoint tensors": r"checkpoints/.*/states/.*\.safetensors",
    "checkpoint state": r"checkpoints/.*/states/[^/]+/state\.json",
    "width": r"checkpoints/[^/]+/width-\d+\.json",
    "cut": r"checkpoints/[^/]+/cut\.json",
    "judgements": r"checkpoints/[^/]+/judgements\.jsonl",
    "proposals": r"checkpoints/[^/]+/proposals\.jsonl",
    "pack result": r"checkpoints/[^/]+/trials/\d+/\d+/result\.json",
    "trial result": r"checkpoints/[^/]+/trials/\d+/result\.json",
    "pack tensors": r"checkpoints/[^/]+/trials/\d+/\d+/\d+/model\.safetensors",
    "pack booster": r"checkpoints/[^/]+/trials/\d+/\d+/\d+/model\.txt",
    "pack said": r"checkpoints/[^/]+/trials/\d+/\d+/val\.npy",
    "run.json": r"runs/[^/]+/[^/]+/run\.json",
    "finished.json": r"runs/[^/]+/[^/]+/finished\.json",
    "job.yaml": r"runs/[^/]+/[^/]+/job\.yaml",
    "events": r"runs/[^/]+/[^/]+/events\.jsonl",
    "history": r"runs/[^/]+/[^/]+/history\.parquet",
    "members.parquet": r"runs/[^/]+/[^/]+/members\.parquet",
    "predictions": r"runs/[^/]+/[^/]+/predictions/.*\.parquet",
    "sealed": r"runs/[^/]+/[^/]+/sealed/.*\.parquet",
    "model.json": r"runs/[^/]+/[^/]+/model/model\.json",
    "model weights": r"runs/[^/]+/[^/]+/model/weights/.*",
    "model tensors": r"runs/[^/]+/[^/]+/model/.*\.safetensors",
    "model booster": r"runs/[^/]+/[^/]+/model/\d+/model\.txt",
    "model code": r"runs/[^/]+/[^/]+/model/code/.*\.py",
    "example": r"runs/[^/]+/[^/]+/model/example\.parquet",
    "scores": r"runs/[^/]+/[^/]+/scores\.json",
    "gates": r"runs/[^/]+/[^/]+/gates\.json",
    "card": r"runs/[^/]+/[^/]+/card\.json",
    "report": r"runs/[^/]+/[^/]+/report\.html",
    "ledger": r"ledger/[^/]+\.jsonl",
    "ledger head": r"ledger/[^/]+\.head\.json",
    "promotions": r"promotions/[^/]+/.*\.jsonl",
    "promotions head": r"promotions/[^/]+/.*\.head\.json",
    "witness": r"runs/[^/]+/[^/]+/witness/.*\.json",
    "sample": r"samples/[^/]+(/.*\.parquet|\.json)",
    "schedule": r"schedules/[^/]+/log/\d+\.json",
    "schedule head": r"schedules/[^/]+/head\.json",
    "predicted list": r"\.\./out/predictions\.json",
    "predicted rows": r"\.\./out/part-\d+\.parquet",
    "predicted state": r"\.\./out/_state/(begun\.json|scratch/.*)",
}
"""Kind of file -> its path in a store; predictions lie beside it."""

AFTER = ("run", "runs", "report", "ledger", "why", "schedule", "predict", "predict again", "export", "promote", "fresh")
"""Commands that read a finished run, in the order in which they are called."""
READERS: dict[str, tuple[str, ...]] = {
    r"store format|run\.json|finished\.json": ("run", "runs", "report", "ledger", "why", "promote", "fresh"),
    r"card|ledger.*": ("run", "report", "ledger", "promote", "fresh"),
    r"model.*|example": ("run", "predict", "export", "promote"),
    r"promotion.*|sealed|witness": ("run", "report", "promote", "fresh"),
    r"predicted.*": ("predict again",),
    r"schedule.*": ("schedule",),
    r"(footers|split|prepared|lanes|rows|fits|sample|members (manifest|tensors|booster|said)).*": ("promote", "fresh"),
    r".*": ("run", "runs", "report", "why"),
}
"""Kinds of files of a finished run -> commands that read them, or might."""
PLAIN = {
    "name": "plain", "data": {"path": "../data", "target": "y"}, "split": {"test": 0.3}, "schedule": {"cron": "0 3 * * *"},
    "model": {"mlp": {"width": 4}},
    "train": {"epochs": 3, "batch_rows": 32, "seeds": 3, "optimizer": {"adam": {"lr": 0.01}}, "early_stop": None},
    "evaluate": {"baselines": ["dummy"]}, "ensemble": "greedy",
    "run": {"deterministic": True, "threads": 1, "workers": 0, "checkpoint_seconds": 0},
}  # fmt: skip
SEARCH = PLAIN | {
    "name": "search", "model": {"mlp": {"width": {"choice": [3, 4]}, "dropout": {"uniform": [0, 0.5]}}},
    "search": {"members": 6, "first_rung": 1, "eta": 2, "finalists": 1, "by": "optuna", "structures": 2},
    "train": PLAIN["train"] | {"seeds": 1},
}  # fmt: skip
SAMPLE = PLAIN | {"name": "sample", "data": {"path": "sample:iris", "target": "target"}}
SOBOL = SEARCH | {"name": "sobol", "search": SEARCH["search"] | {"by": "sobol"}}
RIVAL = PLAIN | {"data": {"path": "../rival", "target": "y"}, "train": PLAIN["train"] | {"epochs": 2}}
"""The job `plain` on other data: its files are swapped in, and never damaged."""
TREES = PLAIN | {"name": "trees", "model": {"lightgbm": {"num_leaves": 4}},
                 "train": {"epochs": 4, "seeds": 2, "early_stop": None}}  # fmt: skip
OWN = PLAIN | {"name": "own", "model": "chaos_net:Net"}
TEXT = PLAIN | {"data": {"path": "../texts", "target": "y"},
                "train": {"epochs": 2, "batch_rows": 32, "seeds": 2, "early_stop": None}}  # fmt: skip
EMBED = TEXT | {"name": "embed", "steps": [{"embed": {"columns": "text", "folder": "../bert", "max_tokens": 16}}]}
TUNED = TEXT | {"name": "tuned", "steps": [{"tokenize": {"columns": "text", "pretrained": "../bert", "max_tokens": 16}}],
                "model": {"hf": {"folder": "../bert", "tune": "head"}}}  # fmt: skip
JOBS = {
    "plain": PLAIN, "search": SEARCH, "sobol": SOBOL, "sample": SAMPLE, "rival": RIVAL, "trees": TREES, "own": OWN
} | ({"embed": EMBED, "tuned": TUNED} if find_spec("transformers") else {})  # fmt: skip
"""Those that start from pretrained weights are left out where the extra `hf` is not installed."""
COMMANDS_OF = {
    "sample": (), "search": (), "sobol": (), "trees": ("predict",), "own": ("predict",), "embed": ("predict",),
    "tuned": ("predict",),
}  # fmt: skip
"""Job -> commands beside `run`, `runs` and `fresh` that are called on its snapshots; those not named have all."""


@dataclass(frozen=True)
class Trial:
    """Say what is damaged, and how.

    Args:
        snapshot: Which copy of the store.
        path: The file, relative to the store.
        seed: Of the place and the bits.
        changes: Whether the bytes of the file become others.
    """

    number: int
    snapshot: str
    kind: str
    path: str
    way: str
    seed: int
    changes: bool = True


@dataclass(frozen=True)
class Finding:
    """Say how fmray took a damage.

    Args:
        verdict: "same", "named", or a fault: "silent", "traceback", "hang", "unnamed".
        text: What was answered where it was not the same.
    """

    trial: Trial
    verdict: str
    command: str = ""
    text: str = ""


DRAWS = 50
FAULTS = ("silent", "traceback", "hang", "unnamed")


def main() -> int:
    """Run the campaign; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--where", choices=["in-process", "ray"], default="in-process")
    parser.add_argument("--work", type=Path, required=True, help="folder for stores; what is there is used again")
    parser.add_argument("--only", default="", help="pattern of kinds")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    return campaign(asked.work, asked.seed, asked.count, asked.where, asked.only, asked.processes)


def campaign(work: Path, seed: int, count: int, where: str, only: str = "", processes: int = 2) -> int:
    """Make the stores, damage them, print what came of it."""
    load()
    house = House(work.resolve(), where)
    house.build()
    trials = list(draw(house, seed, count, only))
    started, findings = time.monotonic(), list[Finding]()
    called: dict[str, set[str]] = defaultdict(set)
    for trial in trials:
        called[trial.snapshot].update(house.commands(trial.snapshot, trial.kind))
    with ThreadPoolExecutor(processes) as pool:
        expected = dict(zip(called, pool.map(house.expected, called, called.values()), strict=True))
        for finding in pool.map(lambda trial: house.judge(trial, expected[trial.snapshot]), trials):
            findings.append(finding)
            if finding.verdict in FAULTS:
                print(json.dumps(asdict(finding)), flush=True)
    show(findings, time.monotonic() - started)
    return int(any(finding.verdict in FAULTS for finding in findings))


def show(findings: list[Finding], seconds: float) -> None:
    """Print counts per kind and way, and in all."""
    for title, key in (("kind", lambda f: f.trial.kind), ("way", lambda f: f.trial.way)):
        table: dict[str, Counter[str]] = defaultdict(Counter)
        columns = ("unchanged", "same", "named", *FAULTS)
        for finding in findings:
            table[key(finding)][finding.verdict if finding.trial.changes else "unchanged"] += 1
        print(f"{title:22}{'all':>6}" + "".join(f"{name:>11}" for name in columns))
        for name in sorted(table):
            print(f"{name:22}{table[name].total():6}" + "".join(f"{table[name][column]:11}" for column in columns))
        print()
    changed = [finding.verdict for finding in findings if finding.trial.changes]
    counts = {"damages": len(changed), "unchanged": len(findings) - len(changed), "seconds": round(seconds, 1)}
    print(json.dumps(counts | {name: changed.count(name) for name in ("same", "named", *FAULTS)}))


LOADED = (
    "fmray.cli", "fmray.workflow", "fmray.promote", "fmray.why", "fmray.inference.predict", "fmray.inference.export",
    "fmray.progress", "fmray.catalogue", "fmray.tasks.classification", "fmray.models.mlp", "fmray.data.tabular",
    "fmray.data.samples", "fmray.ensemble.greedy", "fmray.ensemble.averaging", "fmray.metrics.classification",
    "fmray.metrics.probability", "fmray.metrics.ranking", "fmray.promote.registry", "fmray.rigour.ledger",
    "matplotlib.backends.backend_agg", "matplotlib.figure", "optuna.samplers", "scipy.stats", "sklearn.datasets",
    "sklearn.linear_model", "torch._dynamo", "torch.export", "ray", "rich.live", "rich.progress",
)  # fmt: skip
"""What commands import while they run."""


def load() -> None:
    """Import what commands need, and read their code, once: trials are forked from here.

    Nothing may start a thread before that.
    """
    from fmray.inference import fresh
    from fmray.store.sources import code_digest

    sys.path.append(str(Path(__file__).parents[1]))
    for name in (*LOADED, *(("transformers", "fmray.data.embed", "fmray.models.hf") if "embed" in JOBS else ())):
        importlib.import_module(name)
    fresh.fresh_process = importlib.import_module(
        "reopened"
    ).reopened_here  # each of hundreds of runs would start another Python
    code_digest("fmray.workflow")


class House:
    """Hold the base store and its snapshots.

    Args:
        work: Folder for all of it.
        where: "in-process", or "ray": runs with one worker of Ray, predictions as its tasks.
    """

    def __init__(self, work: Path, where: str) -> None:
        self.work, self.where = work, where
        self.data, self.rival, self.jobs = work / "data", work / "rival", work / "jobs"
        self.texts = work / "texts"
        self.snapshots = work / f"snapshots-{where}"
        self._files: dict[str, list[tuple[str, str]]] = {}

    def build(self) -> None:
        """Make data, jobs and snapshots, unless they are there."""
        from fmray.store import source_digest

        # what another version of the code made is not found again, and damages to it would change nothing
        built = self.work / f"built-{self.where}-{source_digest('fmray')[:12]}"
        if built.exists():
            return
        for folder in (self.data, self.rival, self.texts, self.jobs, self.snapshots):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        _write_data(self.data, 0)
        _write_data(self.rival, 1)
        _write_texts(self.texts)
        if "embed" in JOBS:
            write = importlib.import_module("tiny_bert").write
            in_child(lambda: write(self.work / "bert"), self.work / "build.log", 600)
        for name, job in JOBS.items():
            told = job | {"run": job["run"] | ({"workers": 1} if self.where == "ray" else {})}
            (self.jobs / f"{name}.json").write_text(json.dumps(told))
        (self.jobs / "chaos_net.py").write_text(importlib.import_module("network_source").NET)
        for name in JOBS if self.where == "in-process" else ("plain", "rival"):
            code, text = in_child(lambda name=name: self._build(name), self.work / "build.log", 600)
            if code != 0:
                raise SystemExit(f"building {name} ended with {code}: {text[-3000:]}")
        built.touch()

    def _build(self, name: str) -> None:
        """Run a job, and copy its store at several instants, as a kill would leave it."""
        from fmray.events import Epoch, Stage
        from fmray.spec.load import load_job
        from fmray.workflow import run

        home = self.work / "base" / f"{self.where}-{name}"
        shutil.rmtree(home, ignore_errors=True)
        seen: Counter[str] = Counter()

        def keep(label: str) -> None:
            shutil.copytree(home, self.snapshots / f"{name}-{label}")

        def watch(event: object) -> None:
            if isinstance(event, Stage) and event.name in ("train", "baseline", "evaluate", "report"):
                keep(f"before-{event.name}")
            if isinstance(event, Epoch) and event.place.role == "member":
                seen["epoch"] += 1
                if seen["epoch"] in (2, 4, 6):
                    keep(f"at-epoch-{seen['epoch']}")

        job = load_job(str(self.jobs / f"{name}.json"), [])
        done = run(job, str(home / "store"), report=watch)
        if name in ("plain", "rival"):
            self._build_after(name, done.root, keep)
        keep("finished")

    def _build_after(self, name: str, root: str, keep: Callable[[str], None]) -> None:
        """Have a second run promoted over the first, and rows predicted."""
        from fmray.promote import promote
        from fmray.report.folder import read_run
        from fmray.schedule.book import Book, Decision, State
        from fmray.schedule.ticks import stamp
        from fmray.spec.load import load_job
        from fmray.store import Store
        from fmray.workflow import run

        home = self.work / "base" / f"{self.where}-{name}"
        store = Store(str(home / "store"))
        promote(read_run(root, store), store)
        again = run(load_job(str(self.jobs / f"{name}.json"), []), store, fresh=True)
        promote(again, store)
        book, now = Book(store, name), datetime(2026, 11, 1, tzinfo=UTC)
        book.open(now)
        for event in ("started", "finished", "skipped"):
            book.write(Decision(event, stamp(now)), State(stamp(now)), now)
        self._predict(root, self.rival if name == "rival" else self.data, home / "out", keep)

    def _predict(self, root: str, data: Path, out: Path, keep: Callable[[str], None]) -> None:
        from fmray.inference import predict as module

        real, lock, kept = module.mend_item, threading.Lock(), list[str]()

        def mend(*given: Any) -> None:
            with lock:  # files are mended side by side
                if not kept:
                    keep("predicting")
                    kept.append("predicting")
            real(*given)

        module.mend_item = mend  # the instant between two passes
        module.predict(f"{root}/model", str(data), str(out), place="local", item_bytes=4000)

    def commands(self, snapshot: str, kind: str) -> tuple[str, ...]:
        """Name the commands called on a snapshot in which a file of some kind was damaged."""
        job, _, when = snapshot.partition("-")
        if when == "predicting":
            return ("predict again",)
        if when != "finished":
            return ("run",)
        reading = next(names for pattern, names in READERS.items() if re.fullmatch(pattern, kind))
        if job not in COMMANDS_OF:
            return reading
        return tuple(name for name in reading if name in ("run", "runs", "fresh", *COMMANDS_OF[job]))

    def expected(self, snapshot: str, commands: set[str]) -> dict[str, Any]:
        """Give what each command answers on an undamaged copy, called in the order of `AFTER`."""
        place = self.copy(snapshot, f"expected-{snapshot}")
        found = {command: self.call(command, snapshot, place) for command in AFTER if command in commands}
        shutil.rmtree(place)
        return found

    def names(self) -> list[str]:
        """Name the snapshots."""
        return sorted(path.name for path in self.snapshots.iterdir())

    def of_kind(self, kind: str, names: list[str]) -> list[Path]:
        """Give the files of a kind in some snapshots."""
        for name in names:
            if name not in self._files:
                self._files[name] = sorted(house_files(self.snapshots / name / "store"))
        stores = {name: self.snapshots / name / "store" for name in names}
        return [stores[name] / path for name in names for found, path in self._files[name] if found == kind]

    def copy(self, snapshot: str, name: str) -> Path:
        """Copy a snapshot to a folder of its own."""
        place = self.work / "trials" / self.where / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.snapshots / snapshot, place)
        return place

    def judge(self, trial: Trial, expected: dict[str, Any]) -> Finding:
        """Damage a copy and compare what commands answer; the first fault counts, else the first error."""
        place = self.copy(trial.snapshot, f"{trial.number:05d}")
        damage(place / "store", self, trial)
        worst = Finding(trial, "same")
        for command in self.commands(trial.snapshot, trial.kind):
            found = self.call(command, trial.snapshot, place)
            finding = compared(trial, command, found, expected[command])
            if finding.verdict in FAULTS:
                worst = finding
                break
            if finding.verdict == "named":
                worst = finding
        if worst.verdict not in FAULTS:
            shutil.rmtree(place)
        return worst

    def call(self, command: str, snapshot: str, place: Path) -> dict[str, Any]:
        """Call a command in a process of its own; give its code, its answer and what else it made."""
        job = snapshot.partition("-")[0]
        store, out = place / "store", place / "made"
        shutil.rmtree(out, ignore_errors=True)
        runs = sorted((store / "runs" / job).glob("*")) if (store / "runs" / job).is_dir() else []
        first = str(runs[0]) if runs else "none"
        asked = {
            "run": ["run", str(self.jobs / f"{job}.json"), "--store", str(store)],
            "fresh": ["run", str(self.jobs / f"{job}.json"), "--store", str(store), "--fresh"],
            "runs": ["runs", "--store", str(store)],
            "report": ["report", first],
            "ledger": ["ledger", first],
            "why": ["why", first],
            "promote": ["promote", str(runs[-1]) if runs else "none"],
            "schedule": ["schedule", "show", str(self.jobs / f"{job}.json"), "--store", str(store)],
            "predict": [
                *(
                    "predict",
                    first,
                    str(self.texts if job in ("embed", "tuned") else self.data),
                    "--out",
                    str(out),
                    "--place",
                    _place(self.where),
                ),
                *(["--trust-code"] if job == "own" else []),
            ],
            "predict again": ["predict", first, str(self.data), "--out", str(place / "out"), "--place", "local"],
            "export": ["export", first, "--out", str(out)],
        }[command]

        def answer() -> None:
            from fmray.cli.app import main as command_line

            if command == "predict again":
                _in_small_pieces()
            command_line([*asked, "--json"])

        code, text = in_child(answer, place / "log.txt", HANG_SECONDS * (3 if self.where == "ray" else 1))
        told = _last_json(text)
        made = _made(command, place, out, told)
        return {"code": code, "text": text, "told": told, "made": made, "place": str(place)}


def _place(where: str) -> str:
    return "ray" if where == "ray" else "local"


def _in_small_pieces() -> None:
    """Have the command predict as the base did, in pieces of a few rows."""
    from fmray.inference import predict as module

    module.predict.__kwdefaults__["item_bytes"] = 4000


def in_child(do: Callable[[], None], log: Path, seconds: float) -> tuple[int | None, str]:
    """Do something in a forked process; give its exit code (None if it hung) and what it printed."""

    def child() -> None:
        os.setsid()
        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(number, 1)
        os.dup2(number, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = 0
        try:
            do()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(seconds)
    code = process.exitcode
    if code is None:
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            os.killpg(process.pid or 0, 9)
        process.join()
    return code, log.read_text(errors="replace")


def compared(trial: Trial, command: str, found: dict[str, Any], expected: dict[str, Any]) -> Finding:
    """Judge an answer by the undamaged one."""
    if found["code"] is None:
        return Finding(trial, "hang", command, found["text"][-2000:])
    if "Traceback" in found["text"]:
        return Finding(trial, "traceback", command, found["text"][-2000:])
    if (found["code"], found["made"]) == (expected["code"], expected["made"]):
        return Finding(trial, "same", command)
    told = json.dumps(found["told"], default=str)
    is_named = names_file(told, trial.path)
    if found["told"].get("status") == "failed" and found["code"] in (1, 5):
        return Finding(trial, "named" if is_named else "unnamed", command, told[-600:])
    if command in ("runs", "why") and is_named:
        return Finding(trial, "named", command, told[-600:])
    text = f"{found['code']} {found['made']} instead of {expected['code']} {expected['made']}"
    return Finding(trial, "silent", command, text[:1500])


def names_file(text: str, path: str) -> bool:
    """Tell whether a text leads to a file: by its path, or by its name and the path of its folder."""
    folder, name = os.path.split(path.removeprefix("../"))
    return f"{folder}/{name}" in text or (
        f"/{folder}" in text and re.search(rf"(?<![\w.]){re.escape(name)}", text) is not None
    )


def _last_json(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
    return {}


def _made(command: str, place: Path, out: Path, told: dict[str, Any]) -> Any:
    """Give what a command came to: all that decides, nothing that tells times and places."""
    if told.get("status") == "failed":
        return "failed"
    if command in ("run", "fresh"):
        facts = _plain_json(Path(told.get("run_dir", "none"), "run.json"))
        scores = {name: value for name, value in told.get("scores", {}).items() if name != "looks"}
        return [
            told.get("status"),
            told.get("failed_gates"),
            _digest(scores),
            facts.get("tensor_hashes"),
            facts.get("rows"),
        ]
    if command == "runs":
        return [{k: v for k, v in line.items() if k not in ("time", "root")} for line in told.get("runs", [])]
    if command == "report":
        page = Path(told.get("report", "none"))
        return _digest(page.read_text().replace(str(place), "")) if page.exists() else "none"
    if command == "ledger":
        return told.get("looks")
    if command == "schedule":
        return told.get("decisions")
    if command == "why":
        return [told.get("status"), [found.get("cause") for found in told.get("findings", [])]]
    if command == "promote":
        return {name: told.get(name) for name in ("verdict", "champion", "text")}
    if command == "export":
        return sorted((f.name, _digest(f.read_bytes())) for f in out.rglob("*.safetensors"))
    folder = out if command == "predict" else place / "out"
    return [told.get("rows"), told.get("repeats"), told.get("faults"), _tables(folder)]


def _tables(folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    found = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            found.append(_digest(pq.read_table(path, page_checksum_verification=True).to_pylist()))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def _plain_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _digest(value: Any) -> str:
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def draw(house: House, seed: int, count: int, only: str = "") -> Iterator[Trial]:
    """Draw damages: every kind in turn, in every way, of any file of it in any snapshot."""
    files: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for snapshot in house.names():
        for kind, path in house_files(house.snapshots / snapshot / "store"):
            if re.search(only, kind) and not snapshot.startswith("rival"):
                files[kind].append((snapshot, path))
    source = random.Random(seed)
    kinds = [kind for kind in KINDS if kind in files]
    print(f"{len(kinds)} kinds of files; none of: {', '.join(k for k in KINDS if k not in files) or '-'}", flush=True)
    for number in range(count):
        turn, place = divmod(number, len(kinds))
        kind = kinds[place]
        way = WAYS[(turn + place) % len(WAYS)]
        for _ in range(DRAWS):  # an empty file cannot be cut, and some files are the same in every run
            snapshot, path = source.choice(files[kind])
            trial = Trial(number, snapshot, kind, path, way, source.randrange(1 << 30))
            if changes := altered(house, trial) != (house.snapshots / snapshot / "store" / path).read_bytes():
                break
        yield replace(trial, changes=changes)


def house_files(store: Path) -> Iterator[tuple[str, str]]:
    """Give every file of a store that is of a kind, with the kind."""
    for parent, _, names in os.walk(store.parent):
        for name in sorted(names):
            path = os.path.relpath(os.path.join(parent, name), store)
            for kind, pattern in KINDS.items():
                if re.fullmatch(pattern, path):
                    yield kind, path
                    break


def damage(store: Path, house: House, trial: Trial) -> None:
    """Damage one file of a copy."""
    data = altered(house, trial)
    if data is None:
        (store / trial.path).unlink()
    else:
        (store / trial.path).write_bytes(data)


def altered(house: House, trial: Trial) -> bytes | None:
    """Give what a damage leaves of a file; None where it is deleted."""
    source = random.Random(trial.seed)
    data = bytearray((house.snapshots / trial.snapshot / "store" / trial.path).read_bytes())
    match trial.way:
        case "deleted":
            return None
        case "emptied":
            return b""
        case "tail" if data:
            return bytes(data[: source.randrange(len(data))])
        case "byte" if data:
            data[source.randrange(len(data))] ^= source.randrange(1, 256)
        case "bit" if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        case "older" | "other":
            return _another(house, trial, source)
    return bytes(data)


def _another(house: House, trial: Trial, source: random.Random) -> bytes:
    """Give an older version of the file, or another file of its kind; first of the same run, else of another."""
    own = (house.snapshots / trial.snapshot / "store" / trial.path).read_bytes()
    job = trial.snapshot.partition("-")[0]
    names = [name for name in house.names() if name.startswith(job)]
    older = [house.snapshots / name / "store" / trial.path for name in names] if trial.way == "older" else []
    for paths in (older, house.of_kind(trial.kind, [trial.snapshot]), house.of_kind(trial.kind, house.names())):
        different = [data for data in (path.read_bytes() for path in paths if path.exists()) if data != own]
        if different:
            return source.choice(different)
    return own


def _write_data(folder: Path, seed: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.random.default_rng(seed)
    for number in range(3):
        x = values.normal(size=(120, 3))
        y = np.where(x[:, 0] + x[:, 1] + values.normal(size=120) > 0, "yes", "no")
        columns = {f"f{i}": column for i, column in enumerate(x.T)}
        city = np.array(["Bonn", "Oslo", "Rome"])[values.integers(0, 3, 120)]
        rows = pa.table({**columns, "city": city, "y": y})
        pq.write_table(pa.concat_tables([rows, rows.slice(0, 5)]), folder / f"part-{number}.parquet")


def _write_texts(folder: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = np.random.default_rng(0)
    words = ["red", "blue", "green", "black", "white"]
    for number in range(3):
        rows = [" ".join(source.choice(words, source.integers(1, 9))) for _ in range(120)]
        table = pa.table({"text": rows, "y": ["yes" if "red" in row else "no" for row in rows]})
        pq.write_table(table, folder / f"part-{number}.parquet")


if __name__ == "__main__":
    sys.exit(main())
