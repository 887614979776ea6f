"""Send signals to commands that Python cannot interrupt, before their first line and after their last one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.cli.answer import RESUMABLE

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# stands for a long call into C: Python runs nothing of its main thread until it ends
STUCK = """
import ctypes, signal, sys, time, fmray.data.preview
from fmray.cli import main
from fmray.store import Store
from fmray.store.lease import Lease

def preview(job):
    with Store("store").lease("runs/a"):  # also let go where the signal comes just before the call
        {after}
        signals = {{signal.SIGINT, signal.SIGTERM}}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # poll would return early; another thread takes the signal
        print("stuck", flush=True)
        ctypes.CDLL(None).poll(None, 0, 60_000)

fmray.data.preview.preview = preview
sys.argv = ["fmray", "check", "job.yaml", "--json"]
main()
"""


# an extension whose initialisation runs Python, as those of torch do: an exception from there would abort the process
IMPORTING = """
import sys, threading, time
from fmray.cli import main

class Loader:
    def find_spec(self, name, path, target=None):
        if name != "fmray.cli.app":
            return None
        print("importing", flush=True)
        try:
            end = time.monotonic() + {seconds}
            while time.monotonic() < end:
                time.sleep(0.01)
        except BaseException:
            import os
            os.abort()

sys.meta_path.insert(0, Loader())
sys.argv = ["fmray", "check", "job.yaml", "--json"]
main()
"""


def write_job(folder: Path, text: str = "", num_rows: int = 400) -> None:
    (folder / "data").mkdir()
    x = np.random.default_rng(0).normal(size=num_rows)
    pq.write_table(pa.table({"x": x, "y": np.where(x > 0, "yes", "no")}), folder / "data/a.parquet")
    (folder / "job.yaml").write_text(f"data: {{path: data, target: y}}\n{text}")


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=ENVIRONMENT, text=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
def test_a_command_stuck_in_a_library_ends_as_interrupted_and_lets_its_lease_go(tmp_path, number, times):
    write_job(tmp_path)
    process = start(tmp_path, "-c", STUCK.format(after=""))
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    sent = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.1)
    said, errors = process.communicate(timeout=60)
    print(f"{signal.Signals(number).name} x {times}: answered in {time.monotonic() - sent:.2f} s")
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert json.loads(said.splitlines()[-1]) == {"status": "interrupted"}
    (lease,) = (tmp_path / "store/runs/a").glob("lease-*.json")
    assert json.loads(lease.read_text())["released"]


@pytest.mark.slow
def test_a_command_stuck_in_code_of_a_model_answers_on_stdout(tmp_path):
    write_job(tmp_path)
    redirected = "print('stuck', flush=True); sys.stdout = sys.stderr"
    process = start(tmp_path, "-c", STUCK.format(after=redirected))
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    assert process.stderr is not None
    assert process.stderr.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(said) == {"status": "interrupted"}
    # a signal that comes between the system's write and its return has Python write that line once more
    assert errors.removeprefix("stuck\n") == f"{RESUMABLE}\n"


@pytest.mark.slow
def test_a_store_that_hangs_does_not_cost_a_stuck_command_its_answer(tmp_path):
    write_job(tmp_path)
    process = start(tmp_path, "-c", STUCK.format(after="Lease.release = lambda lease: time.sleep(60)"))
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(said.splitlines()[-1]) == {"status": "interrupted"}
    assert errors == f"{RESUMABLE}\n"


# stands for a signal that comes while libraries are imported, which they may take for an error of their own
EARLY = """
import builtins, os, sys, time

real = builtins.__import__

def importing(name, *rest, **named):
    if name == {name!r}:
        builtins.__import__ = real
        {signalling}
    return real(name, *rest, **named)

builtins.__import__ = importing
from fmray.cli import main
sys.argv = ["fmray", *{arguments}]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["typer", "numpy", "fmray.store"])
@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "ImportError"])
def test_a_signal_while_libraries_are_imported_ends_as_interrupted(tmp_path, number, name, raised):
    signalling = f"os.kill(os.getpid(), {int(number)}); time.sleep(60)"
    if raised == "ImportError":
        signalling = f"""
        try: {signalling}
        except KeyboardInterrupt: raise ImportError
        """
    code = EARLY.format(name=name, signalling=signalling, arguments=["version", "--json"])
    process = start(tmp_path, "-c", code)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert json.loads(said) == {"status": "interrupted"}
    assert errors == f"{RESUMABLE}\n"


def test_signals_are_heard_before_any_library_is_imported():
    code = "import sys, fmray.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-S", "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - sys.stdlib_module_names - {"__main__", "fmray"} == set()


# stands for modules that take long to be taken apart, as torch does on a busy machine
SLOW_END = """
import sys, time
from fmray.cli import main

class Slow:
    def __del__(self, sleep=time.sleep, write=sys.stderr.write):
        sleep(30)

slow = Slow()
sys.argv = ["fmray", *{command}]
{before}
main()
"""
INTERRUPT = """
import os, signal, fmray.data.preview
fmray.data.preview.preview = lambda job: exec('os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)', globals())
"""
AT_END = """
import os, threading
signal = lambda number: (os.kill(os.getpid(), number), time.sleep(0.2))
"""


@pytest.mark.slow
def test_an_interrupted_command_ends_without_waiting_for_modules_to_be_taken_apart(tmp_path):
    write_job(tmp_path)
    code = SLOW_END.format(command=["check", "job.yaml", "--json"], before=INTERRUPT)
    process = start(tmp_path, "-c", code)
    said, errors = process.communicate(timeout=25)
    assert process.returncode == 130, errors  # and not by SIGINT, as where code that is run as text is interrupted
    assert json.loads(said.splitlines()[-1]) == {"status": "interrupted"}
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_answer_changes_neither_exit_code_nor_what_is_said(tmp_path, number):
    before = (
        AT_END + f"threading.Thread(target=lambda: (threading.main_thread().join(), signal({int(number)}))).start()"
    )
    process = start(tmp_path, "-c", SLOW_END.format(command=["version", "--json"], before=before))
    said, errors = process.communicate(timeout=25)
    assert process.returncode == 0, errors
    assert json.loads(said)["status"] == "done"
    assert errors == ""


LOADING = """
import sys, threading, time
from fmray.cli.loading import load_torch

ticks = []
threading.Thread(target=lambda: [ticks.append(1) or time.sleep(0.001) for _ in iter(int, 1)], daemon=True).start()
before = len(ticks)
load_torch()
print(len(ticks) - before, "libtorch_cpu.so" in open("/proc/self/maps").read(), "torch" in sys.modules)
import torch
print(torch.arange(3).sum().item())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="where libraries are loaded otherwise")
def test_threads_that_hear_of_signals_run_while_the_libraries_of_torch_are_loaded(tmp_path):
    process = start(tmp_path, "-c", LOADING)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    ticks, loaded, imported, total = said.split()
    assert int(ticks) > 5
    assert (loaded, imported, total) == ("True", "False", "3")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.5, 60])
def test_a_command_is_never_interrupted_within_an_import_whose_library_would_abort(tmp_path, number, seconds):
    write_job(tmp_path)
    process = start(tmp_path, "-c", IMPORTING.format(seconds=seconds))
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["status"] == "interrupted"
    assert err.splitlines()[-1] == RESUMABLE
