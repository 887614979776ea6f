"""Alter model folders, jobs and stores as a stranger would, and see that nothing runs, hangs or ends in a traceback.

    python tests/chaos/strangers.py --runs 120 --seed 0

Every payload would write a file and open a connection to a listener on 127.0.0.1; both are watched.
"""

import argparse
import base64
import json
import os
import pickle
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray import job_from, run
from fmray.store import fingerprint
from fmray.store.regular import MOST_JSON_BYTES

ROOT = Path(__file__).resolve().parents[2]
MOST_SECONDS = 120
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
NET = "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self, schema, num_outputs):\n        super().__init__(schema.width, num_outputs)\n\n    def forward(self, x):\n        return super().forward(x)\n"


class Canary:
    """Know whether a payload ran: by a file it would write, and by a listener it would connect to."""

    def __init__(self, folder: Path) -> None:
        self.file, self.calls = folder / "canary", 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def payload(self) -> str:
        text = f"import socket\nopen({str(self.file)!r}, 'w').close()\n"
        return text + f"socket.create_connection(('127.0.0.1', {self.port})).close()\n"

    def ran(self) -> bool:
        """Tell whether a payload ran since this was asked last."""
        found = self.file.exists() or self.calls > 0
        self.file.unlink(missing_ok=True)
        self.calls = 0
        return found

    def _listen(self) -> None:
        while True:
            self._listener.accept()[0].close()
            self.calls += 1


@dataclass
class World:
    """Hold what is altered: a model of fmray alone, one with a module of the user's, a job and a store."""

    home: Path
    canary: Canary

    def make(self) -> None:
        drawn = np.random.default_rng(0)
        x = drawn.normal(size=(400, 3))
        table = pa.table({**{f"f{i}": c for i, c in enumerate(x.T)}, "y": np.where(x[:, 0] > 0, "yes", "no")})
        (self.home / "job/data").mkdir(parents=True)
        pq.write_table(table, self.home / "job/data/a.parquet")
        (self.home / "job/own_net.py").write_text(NET)
        for name, model in (("plain", {"mlp": {"width": 4}}), ("own", "own_net:Net")):
            value = {"data": {"path": "data", "target": "y"}, "model": model, "train": {"epochs": 1}}
            done = run(job_from({"name": name, **value}, self.home / "job"), str(self.home / "store"))
            shutil.copytree(f"{done.root}/model", self.home / name)
            (self.home / f"run-{name}").write_text(done.root)
        call(
            ["predict", str(self.home / "plain"), str(self.home / "job/data"), "--out", str(self.home / "said")],
            self.home,
        )


@dataclass
class Trial:
    """Hold the copies that one alteration may change, and the command that meets it."""

    world: World
    place: Path
    random: random.Random

    def model(self, name: str = "plain") -> Path:
        shutil.copytree(self.world.home / name, self.place / "model")
        return self.place / "model"

    def job(self, **changes: object) -> Path:
        shutil.copytree(self.world.home / "job", self.place / "job")
        value = {"data": {"path": "data", "target": "y"}, "train": {"epochs": 1}, **changes}
        (self.place / "job/job.yaml").write_text(json.dumps(value))
        return self.place / "job/job.yaml"

    def store(self) -> Path:
        shutil.copytree(self.world.home / "store", self.place / "store")
        return self.place / "store"

    def predict(self, *more: str) -> list[str]:
        data = str(self.world.home / "job/data")
        return ["predict", str(self.place / "model"), data, "--out", str(self.place / "out"), *more]

    def edit(self, change: Callable[[dict], object], name: str = "plain") -> list[str]:
        """Change `model.json` and seal it again, as whoever knows the format can."""
        path = self.model(name) / "model.json"
        value = json.loads(path.read_text())
        change(value)
        value.pop("checksum", None)
        path.write_text(json.dumps({**value, "checksum": fingerprint(value)}))
        return self.predict()

    def sabotage(self) -> list[str]:
        """Put the payload into the user's own module, with every digest right again."""
        model = self.model("own")
        (model / "code/own_net.py").write_text(self.world.canary.payload + NET)
        path = model / "model.json"
        value = json.loads(path.read_text())
        import hashlib

        from fmray.store.sources import module_digest

        source = model / "code/own_net.py"
        value["modules"]["own_net"] = module_digest("own_net", source)
        value["code"]["own_net.py"] = hashlib.sha256(source.read_bytes()).hexdigest()
        value.pop("checksum")
        path.write_text(json.dumps({**value, "checksum": fingerprint(value)}))
        return self.predict()


NAMES = ("os:system", "subprocess:run", "builtins:eval", "posix:system", "torch.hub:load", "fmray.registry:nearest", "evil_code:Net", "evil_package.inner:Net", "..x:C", "a b:C", "pandas:read_pickle", "", "é:C", "mlflow.pyfunc:load_model")  # fmt: skip
ODD: tuple[object, ...] = (None, True, -1, 10**400, 2**63, 1.5, "x", [], {}, [[]], "../../etc/passwd", "/etc/passwd", {"uniform": [0, 1]}, {"a": {"uniform": [1]}})  # fmt: skip


def keys_of(value: object, path: tuple = ()) -> list[tuple]:
    """List where values stand in plain values."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in inside for found in [(*path, key), *keys_of(inner, (*path, key))]]


def put(value: dict, keys: tuple, new: object) -> None:
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = new


def plant(folder: Path, payload: str) -> None:
    """Put modules with the payload where an import would find them."""
    (folder / "evil_package").mkdir(parents=True, exist_ok=True)
    for name in ("evil_code.py", "evil_package/__init__.py", "evil_package/inner.py", "sitecustomize.py", "torch.py"):
        (folder / name).write_text(payload + NET)


def named(trial: Trial) -> list[str]:
    """A name in the model leads to code that is not fmray's, listed as its own module or not."""
    name, spot, listed = trial.random.choice(NAMES), trial.random.randrange(3), trial.random.random() < 0.5
    command = str(trial.world.canary.file)

    def change(value: dict) -> None:
        if spot == 0:
            next(iter(value["ways"].values()))["steps"][0].update(name=name, params={"command": f"touch {command}"})
        elif spot == 1:
            value["members"][0]["model"] = {"name": name, "params": {}}
        else:
            value["task"] = {"name": name, "params": {}}
        if listed:
            value["modules"][name.partition(":")[0]] = "0" * 32

    asked = trial.edit(change)
    plant(trial.place / "model/code", trial.world.canary.payload)
    return asked


def sabotaged(trial: Trial) -> list[str]:
    """The model's own module holds a payload, and every digest is right."""
    return trial.sabotage()


def sabotaged_export(trial: Trial) -> list[str]:
    """The same, exported."""
    trial.sabotage()
    return ["export", str(trial.place / "model"), "--out", str(trial.place / "out")]


def changed_code(trial: Trial) -> list[str]:
    """The code was changed since, and trust was given to what it was."""
    model = trial.model("own")
    plant(model / "code", trial.world.canary.payload)
    (model / "code/own_net.py").write_text(trial.world.canary.payload + NET)
    return trial.predict("--trust-code")


def odd_value(trial: Trial) -> list[str]:
    """Some value of the description is of another type or size."""

    def change(value: dict) -> None:
        put(value, trial.random.choice(keys_of(value)), trial.random.choice(ODD))

    return trial.edit(change)


def missing_key(trial: Trial) -> list[str]:
    """Some key of the description is missing."""

    def change(value: dict) -> None:
        keys = trial.random.choice(keys_of(value))
        for key in keys[:-1]:
            value = value[key]
        del value[keys[-1]]

    return trial.edit(change)


def huge_params(trial: Trial) -> list[str]:
    """A model of fmray is asked for layers without end."""
    params = trial.random.choice([{"depth": 10**9}, {"width": 10**9}, {"width": -4}, {"depth": float("1e300")}, {"width": [1] * 10**6}])  # fmt: skip
    return trial.edit(lambda value: value["members"][0]["model"]["params"].update(params))


def odd_json(trial: Trial) -> list[str]:
    """The description is no JSON that anybody should read."""
    path = trial.model() / "model.json"
    text = trial.random.choice(["[" * 10**7, '{"a":' * 10**6, '{"format": NaN}', "1" * 10**5, "{}", "[]", '{"format": true}', '{"format": 1, "format": 1}', "\0" * 100, '"' + "x" * 10**7])  # fmt: skip
    path.write_text(text)
    return trial.predict()


def huge_json(trial: Trial) -> list[str]:
    """The description is larger than any that fmray writes."""
    with open(trial.model() / "model.json", "wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)
    return trial.predict()


def odd_types(trial: Trial) -> list[str]:
    """The Arrow schema is crafted, one of them naming a type that unpickles."""
    payload = pickle.dumps(print)
    meta = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    crafted = pa.schema([pa.field("f0", pa.float64(), metadata=meta)]).serialize().to_pybytes()
    text = trial.random.choice([base64.b64encode(crafted).decode(), "!!!", "", base64.b64encode(b"\xff" * 64).decode()])
    return trial.edit(lambda value: value.update(types=text))


def odd_file(trial: Trial) -> list[str]:
    """A file of the model is a pipe, a socket, a device, a folder or a link."""
    model = trial.model()
    path = model / trial.random.choice(["model.json", "00000/model.safetensors", "example.parquet"])
    shutil.move(path, trial.place / "outside")
    match trial.random.randrange(6):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.mkdir()
        case 4:
            path.symlink_to(trial.place / "outside")
        case 5:
            here = os.getcwd()
            os.chdir(path.parent)
            socket.socket(socket.AF_UNIX).bind(path.name)
            os.chdir(here)
    return ["export", str(model), "--out", str(trial.place / "out")]


def odd_tensors(trial: Trial) -> list[str]:
    """The tensors' header lies about its length, or is no header."""
    path = trial.model() / "00000/model.safetensors"
    head = trial.random.choice([b"\xff" * 8, (10**9).to_bytes(8, "little"), b"\x80\x04", b""])
    path.write_bytes(head + path.read_bytes()[8:] if trial.random.random() < 0.5 else head)
    return trial.predict()


def odd_job(trial: Trial) -> list[str]:
    """A job names what is no step, model, task, metric, ensemble or sample."""
    name = trial.random.choice(NAMES)
    spots = [{"steps": [name]}, {"steps": [{name: {"command": "true"}}]}, {"model": name}, {"task": name}, {"ensemble": name}, {"evaluate": {"metrics": [name]}}, {"train": {"optimizer": name}}, {"train": {"schedule": name}}, {"data": {"path": f"sample:{name}", "target": "y"}}]  # fmt: skip
    job = trial.job(**trial.random.choice(spots))
    plant(job.parent, trial.world.canary.payload)
    return ["check", str(job), "--store", str(trial.place / "new")]


def job_pipe(trial: Trial) -> list[str]:
    """The job file, or the one it extends, is a pipe, a device or a knot."""
    path = trial.place / "job.yaml"
    match trial.random.randrange(4):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to("/dev/zero")
        case 2:
            path.write_text("[" * 10**5)
        case 3:
            path.write_text("data: !!python/object/apply:os.system ['true']")
    return ["check", str(path)]


def odd_store(trial: Trial) -> list[str]:
    """A file of the store or of a run is a pipe, a knot or of another shape."""
    store = trial.store()
    root = store / Path((trial.world.home / "run-plain").read_text()).relative_to(trial.world.home / "store")
    path = trial.random.choice([store / "store.json", root / "run.json", root / "card.json"])
    path.unlink()
    match trial.random.randrange(4):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.write_text("[" * 10**6)
        case 3:
            path.mkdir()
    (root / "evil.pkl").write_bytes(pickle.dumps(print))
    return ["report", str(root), "--store", str(store)]


def odd_pixels(trial: Trial) -> list[str]:
    """Images of a job claim, or unpack to, far more than they are; their rows are set aside, or the job is refused."""
    job, images = trial.job(), [_png(4, 4, (b"\0" + bytes([number % 256] * 4)) * 4) for number in range(400)]
    bombs = [_png(60_000, 60_000, bytes(1000)), _png(10_000, 9_500, bytes(9_500 * 10_001)), _png(4, 4, bytes(20), bytes(1 << 26))]  # fmt: skip
    for place in range(trial.random.choice([1, 3, 40])):
        images[place * 7] = trial.random.choice(bombs)
    pq.write_table(pa.table({"photo": images, "y": ["no", "yes"] * 200}), job.parent / "data/a.parquet")
    job.write_text(json.dumps({"data": {"path": "data", "target": "y"}, "steps": [{"decode_image": {"columns": ["photo"], "size": [4, 4]}}]}))  # fmt: skip
    return ["check", str(job), *trial.random.choice([["--deep"], []]), "--store", str(trial.place / "new")]


def _png(width: int, height: int, pixels: bytes, text: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    words = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text)) if text else b""
    return b"\x89PNG\r\n\x1a\n" + head + words + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")


SPELLED = ("\x1b]0;title\x07", "\x1b[2J", "[red]x[/red]", "a\nerror: b", "../../x", "\u202ex", "\x00", "a" * 5000, ":warning:", "%s{0}", "", "\r", "${HOME}", "$(touch x)")  # fmt: skip


def odd_spelling(trial: Trial) -> list[str]:
    """Columns, files, classes, keys or the name of a job hold escapes, markup, paths or nothing."""
    job, odd, spot = trial.job(), trial.random.choice(SPELLED), trial.random.randrange(5)
    data = job.parent / "data/a.parquet"
    value, table = json.loads(job.read_text()), pq.read_table(data)
    match spot:
        case 0:
            table = table.rename_columns([odd, *table.column_names[1:]])
        case 1:
            table = table.rename_columns([*table.column_names[:-1], odd])
            value["data"]["target"] = odd
        case 2:
            table = table.set_column(3, "y", pa.array([odd, "no"] * 200))
        case 3:
            value = {**value, trial.random.choice(["name", odd]): odd}
        case 4:
            name = "".join(sign for sign in odd if sign not in "/\0")[:200]
            data = job.parent / f"data/{name}.parquet"
    pq.write_table(table, data)
    job.write_text(json.dumps(value))
    return ["check", str(job), *trial.random.choice([["--deep"], []]), "--store", str(trial.place / "new")]


CASES = (named, sabotaged, sabotaged_export, changed_code, odd_value, missing_key, huge_params, odd_json, huge_json, odd_types, odd_file, odd_tensors, odd_job, job_pipe, odd_store, odd_pixels, odd_spelling)  # fmt: skip
WEIGHTS = (18, 3, 2, 3, 18, 10, 6, 8, 1, 4, 12, 4, 18, 4, 9, 4, 14)


def call(arguments: list[str], place: Path) -> tuple[int | None, str]:
    """Run a command of fmray; its code, None where it did not end, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FMRAY_STORE": str(place / "new")}
    environment.pop("FMRAY_TRUST_CODE", None)
    command = [sys.executable, "-m", "fmray.cli", *arguments]
    try:
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def answered(trial: Trial) -> str:
    """Say what became of the rows where a command ended well."""
    made = trial.place / "out/part-000000.parquet"
    if not made.exists():
        return "nothing predicted"
    same = pq.read_table(made).equals(pq.read_table(trial.world.home / "said/part-000000.parquet"))
    return "predictions as before" if same else "other predictions"


def campaign(runs: int, seed: int, home: Path, show: Callable[[str], None] = print) -> Counter:
    """Alter and run; count what ran, hung, ended in a traceback or with another code than 0 or 5, printed escapes."""
    canary, counts = Canary(home), Counter()
    world = World(home, canary)
    world.make()
    canary.ran()
    trial = Trial(world, home / "positive", random.Random(seed))
    trial.place.mkdir()
    trial.sabotage()
    call(trial.predict("--trust-code"), trial.place)
    counts["ran with --trust-code"] = canary.ran()
    drawn = random.Random(seed)
    order = [*CASES, *drawn.choices(CASES, WEIGHTS, k=max(0, runs - len(CASES)))][:runs]
    for number, case in enumerate(order):
        trial = Trial(world, home / f"trial-{number}", random.Random(f"{seed}-{number}"))
        trial.place.mkdir()
        code, said = call(case(trial), trial.place)
        counts["altered"] += 1
        counts[f"exit {code}"] += 1
        counts[f"{case.__name__}: exit {code}"] += 1
        found = {"executed": canary.ran(), "hung": code is None, "traceback": "Traceback" in said}
        found["other code"] = code not in (0, 5, None)
        found["control characters"] = CONTROL.search(said) is not None
        if code == 0:
            counts[f"exit 0, {answered(trial)}"] += 1
        counts.update(name for name, wrong in found.items() if wrong)
        if any(found.values()):
            show(f"{number} {case.__name__}: {[n for n, wrong in found.items() if wrong]}\n{said[-1500:]}")
        shutil.rmtree(trial.place, ignore_errors=True)
    return counts


def main() -> int:
    """Run the campaign and print the counts; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fmray-strangers-") as home:
        counts = campaign(asked.runs, asked.seed, Path(home))
    print(json.dumps(dict(counts), indent=1))
    return int(any(counts[name] for name in ("executed", "hung", "traceback", "other code", "control characters")))


if __name__ == "__main__":
    sys.exit(main())
