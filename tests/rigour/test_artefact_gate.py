"""Damage the folders of models, over families of data: gate G31 must see it, and leave whole ones alone."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import network_source
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference.made import Trained, mean, rows, train, write_data

from fmray.catalogue import GATES
from fmray.errors import SpecError
from fmray.inference import fresh
from fmray.inference.golden import GOLDEN_ROWS, GoldenRows, choose_rows
from fmray.inference.reopen import Asked, ask, pickles_in, reopen
from fmray.records import Ensemble
from fmray.rigour.gates import ArtefactEvidence, Golden, run_gates
from fmray.spec.load import job_from
from fmray.spec.sections import Rigour
from fmray.stages.reopening import DRAFT, evidence_of
from fmray.store import Store, fingerprint
from fmray.store.manifest import measure
from fmray.train.device import computing
from fmray.workflow import run

SEEDS = range(20)
ROOT = Path(__file__).resolve().parents[2]
WORDS = np.array(["red", "green", "blue", "yellow", "black", "white"])


@dataclass(frozen=True)
class Family:
    """Hold members on data of a kind, of which each seed makes a model of its own."""

    name: str
    trained: Trained
    golden: GoldenRows

    def ensemble(self, seed: int) -> Ensemble:
        share = float(np.random.default_rng(seed).uniform(0.2, 0.8))
        return mean(share, 1 - share)

    def write(self, seed: int, folder: Path) -> Path:
        return self.trained.write(self.ensemble(seed), folder / "model")

    def judge(self, seed: int, model: Path, folder: Path, files: dict | None = None) -> dict:
        """Open a model as a run does, by default one that was damaged before its files were measured."""
        ensemble = self.ensemble(seed)
        trained = self.trained
        chosen = [trained.members[index] for index in ensemble.members]
        here = self.golden.predicted(chosen, ensemble, trained.prepared, trained.task)
        trained.said(ensemble, folder)
        said = self.golden.said(str(folder / "val.parquet"), trained.prepared)
        asked = Asked(str(model), files or sizes(model), False, computing(), trained.prepared.target.to_json())
        ask(folder, asked, self.golden.as_read)
        reopen(folder)
        golden = Golden(self.golden.as_read.num_rows, here, fresh=here, said=said)
        (found,) = run_gates("artefact", evidence_of(folder, "", golden), Rigour())
        return found


def sizes(model: Path) -> dict:
    return measure(str(model), [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()])


def texts(num_rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    words = [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(num_rows)]
    return pa.table({"text": words, "id": np.arange(num_rows), "y": ["abc"[len(w) % 3] for w in words]})


@pytest.fixture(scope="module", params=["classes", "numbers", "texts"])
def family(request, tmp_path_factory) -> Family:
    folder = tmp_path_factory.mktemp(request.param)
    match request.param:
        case "classes":  # a key, dates, text of three levels, and the steps of `auto`
            some = rows(800)
            words = [["a", "b", "c"][number % 3] for number in some["n"].to_pylist()]
            write_data(folder / "data", some.drop(["y"]).append_column("y", pa.array(words)))
            trained = train(folder, data={"path": "data", "target": "y", "key": "id", "ignore": ["z", "w"]})
        case "numbers":  # two targets, no key, and rows that are equal
            some = rows(500).drop(["id", "day"])
            write_data(folder / "data", some, some.slice(400))
            steps = [{"one_hot": {"columns": ["city", "y"]}}, "standardise"]
            trained = train(folder, data={"path": "data", "target": ["z", "w"]}, steps=steps)
        case _:  # rows of different lengths
            write_data(folder / "data", texts(800))
            steps = [{"tokenize": {"columns": ["text"], "kind": "words"}}]
            model = {"bag_of_embeddings": {"width": 4}}
            trained = train(folder, data={"path": "data", "target": "y", "key": "id"}, steps=steps, model=model)
    return Family(request.param, trained, choose_rows(trained.dataset, trained.prepared))


def described(model: Path, change: Callable[[dict], None]) -> None:
    """Change what a model says of itself, as a fault of the code that wrote it would: its checksum fits."""
    path = model / "model.json"
    value = json.loads(path.read_text())
    del value["checksum"]
    change(value)
    path.write_text(json.dumps({**value, "checksum": fingerprint(value)}))


def flip_a_byte(name: str) -> Callable[[np.random.Generator, Path], None]:
    def flip(random: np.random.Generator, model: Path) -> None:
        path = model / name
        data = bytearray(path.read_bytes())
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)

    return flip


def forget_what_a_step_learned(random: np.random.Generator, model: Path) -> None:
    def forget(value: dict) -> None:
        (way,) = value["ways"].values()
        learned = [step for step in way["steps"] if step["state"]]
        learned[random.integers(len(learned))]["state"] = {}

    described(model, forget)


def leave_a_step_out(random: np.random.Generator, model: Path) -> None:
    def leave(value: dict) -> None:
        (way,) = value["ways"].values()
        learned = [place for place, step in enumerate(way["steps"]) if step["state"]]
        del way["steps"][learned[random.integers(len(learned))]]

    described(model, leave)


def change_a_learned_number(random: np.random.Generator, model: Path) -> None:
    """Scale every number that steps learned by a thousandth."""

    def changed(value: object) -> object:
        if isinstance(value, dict):
            return {name: changed(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [changed(inner) for inner in value]
        return value * 1.001 if isinstance(value, float) else value

    def change(value: dict) -> None:
        (way,) = value["ways"].values()
        for step in way["steps"]:
            step["state"] = changed(step["state"])

    described(model, change)


def swap_classes(random: np.random.Generator, model: Path) -> None:
    def swap(value: dict) -> None:
        names = ("classes", "counts") if value["target"]["classes"] else ("columns", "mean", "scale")
        number = len(value["target"][names[0]])
        order = np.roll(np.arange(number), random.integers(1, number))
        for name in names:
            value["target"][name] = [value["target"][name][place] for place in order]

    described(model, swap)


def take_the_weights_of_another_member(random: np.random.Generator, model: Path) -> None:
    ours, theirs = random.permutation(2).tolist()
    shutil.copyfile(model / f"{theirs:05d}/model.safetensors", model / f"{ours:05d}/model.safetensors")

    def claim(value: dict) -> None:
        value["members"][ours]["tensor_hash"] = value["members"][theirs]["tensor_hash"]

    described(model, claim)


def swap_the_weights_of_an_ensemble(random: np.random.Generator, model: Path) -> None:
    described(model, lambda value: value["ensemble"]["weights"].reverse())


def plant_a_pickle(random: np.random.Generator, model: Path) -> None:
    names = ("weights.pkl", "00000/optimizer.bin", "00001/extra", "state.pt")
    data = pickle.dumps({"a": 1}, protocol=int(random.integers(2, 6)))
    (model / names[random.integers(len(names))]).write_bytes(data)


def statuses(family: Family, damage: Callable, folder: Path, is_later: bool = False) -> list[str]:
    found = []
    for seed in SEEDS:
        own = folder / str(seed)
        own.mkdir()
        model = family.write(seed, own)
        files = sizes(model) if is_later else None
        damage(np.random.default_rng(seed), model)
        found.append(family.judge(seed, model, own, files)["status"])
    return found


@pytest.mark.slow
def test_whole_models_are_left_alone(family, tmp_path):
    found = statuses(family, lambda random, model: None, tmp_path)
    print(f"G31, {family.name}, whole: {found.count('fail')} of 20 fail")
    assert found.count("fail") <= 1
    assert found.count("pass") >= 19


LATER = (
    *(flip_a_byte(name) for name in ("model.json", "example.parquet", "00000/model.safetensors")),
    plant_a_pickle,
)
BEFORE = (
    forget_what_a_step_learned,
    leave_a_step_out,
    swap_classes,
    take_the_weights_of_another_member,
    swap_the_weights_of_an_ensemble,
    plant_a_pickle,
)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(LATER)), ids=["json", "example", "tensors", "pickle"])
def test_what_was_damaged_since_it_was_written_is_seen(family, place, tmp_path):
    found = statuses(family, LATER[place], tmp_path, is_later=True)
    print(f"G31, {family.name}, damaged since, {place}: {found.count('fail')} of 20 fail")
    assert found.count("fail") >= 19


@pytest.mark.slow
@pytest.mark.parametrize("damage", BEFORE, ids=lambda damage: damage.__name__)
def test_what_was_written_wrongly_is_seen(family, damage, tmp_path):
    found = statuses(family, damage, tmp_path)
    print(f"G31, {family.name}, {damage.__name__}: {found.count('fail')} of 20 fail")
    assert found.count("fail") >= 19


@pytest.mark.slow
def test_numbers_that_a_step_learned_and_that_are_off_by_a_thousandth_are_seen(family, tmp_path):
    if family.name == "texts":
        pytest.skip("its step learned words, and no numbers")
    assert statuses(family, change_a_learned_number, tmp_path).count("fail") >= 19


def test_golden_rows_are_rows_as_read_of_the_positions_that_are_named(family):
    trained = family.trained
    golden = family.golden
    held = pq.read_table(trained.folder / "data").to_pylist()
    assert golden.as_read.num_rows == len(golden.positions) <= GOLDEN_ROWS
    assert all(any(one.items() <= row.items() for row in held) for one in golden.as_read.slice(0, 5).to_pylist())
    again = choose_rows(trained.dataset, trained.prepared)
    assert again.as_read.equals(golden.as_read)
    assert np.array_equal(again.positions, golden.positions)


GIVEN = np.random.default_rng(0).random((256, 3))


def found_of(**changed) -> dict:
    golden = replace(Golden(256, here=GIVEN, fresh=GIVEN, said=GIVEN), **changed)
    return run_gates("artefact", ArtefactEvidence(golden), Rigour())[0]


def test_what_is_compared_is_said_with_its_tolerance():
    assert found_of()["text"].endswith("predicts for 256 validation rows what the run does, to the bit.")
    near = found_of(fresh=GIVEN + 5e-7)
    assert near["status"] == "pass"
    assert "within 5e-07, of which 1e-06 is accepted" in near["text"]
    assert found_of(fresh=GIVEN + 2e-6)["status"] == "fail"
    assert found_of(fresh=GIVEN[:, :2])["status"] == "fail"
    assert found_of(faulty=1)["status"] == "fail"


def test_numbers_are_compared_as_a_share_of_the_largest_of_their_column():
    large = GIVEN * [1, 1, 1e6]
    assert found_of(here=large, said=large, fresh=large + np.array([0, 0, 0.1]))["status"] == "pass"
    assert found_of(here=large, said=large, fresh=large + np.array([0.1, 0, 0]))["status"] == "fail"


def test_outputs_that_are_none_equal_each_other_only():
    none = np.where(np.arange(256)[:, None] == 3, np.nan, GIVEN)
    assert found_of(here=none, fresh=none, said=none)["status"] == "pass"
    assert found_of(fresh=none)["status"] == "fail"


def test_what_was_scored_may_differ_by_the_order_of_sums_and_by_a_tie_of_votes():
    jumped = GIVEN.copy()
    jumped[:2] += 0.5
    assert found_of(said=GIVEN + 5e-5)["status"] == "pass"
    assert found_of(said=jumped)["status"] == "pass"
    jumped[:4] += 0.5
    assert found_of(said=jumped)["status"] == "fail"
    assert found_of(said=GIVEN + 5e-3)["status"] == "fail"
    assert found_of(said=GIVEN + 5e-3, device="cuda")["status"] == "pass"


def test_without_rows_it_is_not_run_and_never_passes():
    (found,) = run_gates("artefact", ArtefactEvidence(reason="there are none."), Rigour())
    assert (found["status"], found["text"]) == ("not_run", "there are none.")


def test_nothing_excuses_it():
    with pytest.raises(SpecError, match="G31 cannot be waived"):
        run_gates("artefact", ArtefactEvidence(reason="."), Rigour(waive={"G31": "in a hurry"}))


def test_every_gate_of_the_artefact_has_a_planted_fault():
    assert {name for name in GATES if GATES.find(name).stage == "artefact"} == {"G31"}


def test_pickles_are_known_by_their_name_and_by_how_they_begin(tmp_path):
    import zipfile

    (tmp_path / "a.json").write_text("{}")
    np.save(tmp_path / "numbers", np.arange(3))
    np.save(tmp_path / "objects", np.array([{}], object), allow_pickle=True)
    (tmp_path / "b").write_bytes(pickle.dumps([1]))
    (tmp_path / "c.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "d", "w") as archive:
        archive.writestr("d/data.pkl", b"")
    assert pickles_in(str(tmp_path)) == ("b", "c.pt", "d", "objects.npy")


def test_a_pickle_beside_the_code_of_the_author_is_told():
    golden = Golden(256, here=GIVEN, fresh=GIVEN, said=GIVEN)
    (found,) = run_gates("artefact", ArtefactEvidence(golden, pickles=("code/net/table.pkl",)), Rigour())
    assert found["status"] == "warn"
    assert "code/net/table.pkl, which fmray never reads" in found["text"]


NET = network_source.NET.replace(
    "from torch import nn\n", 'import os, time\nfrom torch import nn\n\nexec(os.environ.get("TEST_OF_G31", ""))\n'
)


def own_job(folder: Path, net: str = NET, **changed) -> dict:
    folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        write_data(folder / "data", rows())
    (folder / "net.py").write_text(net)
    steps = [{"drop": {"columns": ["day"]}}, {"one_hot": {"columns": ["city"]}}, "standardise"]
    data = {"path": "data", "target": "y", "key": "id", "ignore": ["z", "w"]}
    return {"name": "own", "data": data, "steps": steps, "model": "net:Net", "train": {"epochs": 2}, **changed}


def ran(folder: Path, **changed) -> tuple[dict, Path]:
    done = run(job_from(own_job(folder, **changed), folder), str(folder / "store"))
    gates = {gate["gate"]: gate for gate in Store(str(folder / "store")).read_json(f"{done.root}/gates.json")}
    assert ("G31" in done.failed_gates) == (gates["G31"]["status"] == "fail")
    return gates["G31"], Path(done.root)


def test_a_draft_is_not_opened_again(tmp_path):
    found, _ = ran(tmp_path, rigour={"profile": "draft"})
    assert (found["status"], found["text"]) == ("not_run", DRAFT)


@pytest.mark.slow
@pytest.mark.fresh_process
def test_a_model_of_the_users_own_code_is_opened_by_a_process_that_finds_that_code_in_its_folder(tmp_path):
    found, root = ran(tmp_path)
    assert found["status"] == "pass"
    assert found["stage"] == "artefact"
    assert "same when reopened" in (root / "report.html").read_text()


@pytest.mark.slow
def test_two_jobs_of_a_process_may_each_bring_a_module_of_one_name(tmp_path):
    assert ran(tmp_path / "one")[0]["status"] == "pass"
    found, _ = ran(tmp_path / "two", net=NET.replace("return self.last(x)", "return self.last(x).tanh()"))
    assert found["status"] == "pass"


@pytest.mark.slow
@pytest.mark.fresh_process
def test_a_module_that_the_users_own_one_imports_comes_along_and_one_that_fmray_cannot_see_is_noticed(tmp_path):
    for name in ("seen", "unseen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_beside.py").write_text("from torch.nn import Linear\n")
    imported = NET.replace("from torch import nn", "import seen_beside\nfrom torch import nn")
    found, root = ran(tmp_path / "seen", net=imported)
    assert found["status"] == "pass"
    assert (root / "model/code/seen_beside.py").is_file()
    hidden = "import importlib\nimportlib.import_module('unseen_' + 'beside')\nfrom torch import nn"
    found, _ = ran(tmp_path / "unseen", net=NET.replace("from torch import nn", hidden))
    assert found["status"] == "fail"
    assert "No module named 'unseen_beside'" in found["text"]


@pytest.mark.slow
@pytest.mark.fresh_process
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("time.sleep(300)", "it gave no answer within 10 s"),
        ("os.kill(os.getpid(), 9)", "it was killed by SIGKILL: it said nothing"),
        ("print('so long'); os._exit(3)", "it ended with code 3: "),
        ("raise ValueError('no luck')", "ValueError('no luck')"),
    ],
)
def test_a_process_that_hangs_or_dies_is_a_finding(tmp_path, monkeypatch, does, said):
    if "sleep" in does:
        monkeypatch.setattr(fresh, "LIMIT_SECONDS", 10.0)
    monkeypatch.setenv("TEST_OF_G31", f"if 'fmray.workflow' not in __import__('sys').modules: {does}")
    found, _ = ran(tmp_path)
    assert found["status"] == "fail"
    assert said in found["text"]


def test_a_machine_that_starts_no_more_processes_ends_no_run_for_it(tmp_path, monkeypatch):
    @contextmanager
    def refused(hidden):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        yield

    monkeypatch.setattr(fresh, "fresh_process", refused)
    found, _ = ran(tmp_path)
    assert found["status"] == "not_run"
    assert found["text"] == "no fresh process could be started: Resource temporarily unavailable."


def fresh_processes(folder: Path) -> list[int]:
    """List the processes that open a model for a run whose temporary files lie in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_fresh = fresh.MODULE.encode() in (entry / "cmdline").read_bytes()
            if is_fresh and f"TMPDIR={folder}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended, or is no process
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_meanwhile_leaves_no_process_behind(tmp_path, number):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "job.yaml").write_text(json.dumps(own_job(tmp_path)))
    sleeps = f"open({str(tmp_path / 'asleep')!r}, 'w').close(); time.sleep(300)"
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path / "temporary"),
        "TEST_OF_G31": f"if 'fmray.workflow' not in __import__('sys').modules: {sleeps}",
    }
    command = [sys.executable, "-m", "fmray.cli", "run", "job.yaml", "--store", "store"]
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (tmp_path / "asleep").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert len(fresh_processes(tmp_path / "temporary")) == 1
    parent.send_signal(number)
    assert parent.wait(30) == (-number if number == signal.SIGKILL else 130)
    until = time.monotonic() + 10
    while fresh_processes(tmp_path / "temporary") and time.monotonic() < until:
        time.sleep(0.1)
    assert fresh_processes(tmp_path / "temporary") == []


@pytest.mark.slow
def test_the_quickstart_shows_that_its_model_was_opened_again(tmp_path):
    command = [sys.executable, "-m", "fmray.cli", "run", str(ROOT / "jobs/quickstart.yaml"), "--store", str(tmp_path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    root = Path(json.loads(done.stdout.splitlines()[-1])["run_dir"])
    found = next(gate for gate in json.loads((root / "gates.json").read_text()) if gate["gate"] == "G31")
    assert found["status"] == "pass"
    assert "gate G31, same when reopened: pass" in done.stderr
    assert "same when reopened" in (root / "report.html").read_text()
