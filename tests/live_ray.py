"""Start real clusters for tests: `ray start` with a token, ports and a folder of its own, stopped by process id."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PORTS = iter(range(26379, 28000, 40))


class LiveRay:
    """Run a head, and nodes beside it, each with an environment of its own.

    Args:
        cpus: Of the head.
        variables: Of its environment, and of every head that takes its place.
    """

    def __init__(self, cpus: int, **variables: str) -> None:
        # sockets lie in it, whose paths may have 107 characters
        self._folder = tempfile.TemporaryDirectory(prefix="fmr-", dir="/tmp", ignore_cleanup_errors=True)
        self.folder, self.port = Path(self._folder.name), next(port for port in PORTS if _is_free(port))
        self.address = f"http://127.0.0.1:{self.port + 1}"
        self.token = secrets.token_hex(32)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._num_nodes = 0
        self._cpus, self._variables = cpus, {"FSSPEC_DIR": self.disk("head"), **variables}
        self.head = self.start_head()

    def start_head(self) -> subprocess.Popen[bytes]:
        """Start the head, or another one where one was: it knows nothing of what was before."""
        places = ["--port", self.port, "--dashboard-port", self.port + 1, "--ray-client-server-port", self.port + 2]
        self.head = self._start(["--head", *places, "--temp-dir", self.folder / "n0"], self._cpus, self._variables)
        try:
            self.wait_for(1)
        except TimeoutError:
            self.close()
            raise
        return self.head

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FMRAY_"))}
        # answers are what is tested, not how soon a busy machine gives them
        own = {
            "FMRAY_PATIENCE": "10",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        home = {"HOME": str(self.folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**kept, **own, **home, "PATH": binaries, **variables}

    def disk(self, name: str) -> str:
        """Give the setting of fsspec by which `dir://` means a folder of its own."""
        (self.folder / name).mkdir(exist_ok=True)
        return json.dumps({"path": str(self.folder / name)})

    def add_node(self, cpus: int, **variables: str) -> subprocess.Popen[bytes]:
        before = len(self.processes)
        # of its own, or one node unpacks code anew that another one on this machine is reading
        self._num_nodes += 1
        place = ["--address", f"127.0.0.1:{self.port}", "--temp-dir", self.folder / f"n{self._num_nodes}"]
        process = self._start(place, cpus, variables)
        self.wait_for(before + 1)  # two that start at once on one machine get in each other's way
        return process

    def fmray(self, *arguments: object, code: int | None = 0, **variables: str) -> dict[str, Any]:
        """Answer a command line of fmray with what it says in JSON, `text` with all else."""
        command = [sys.executable, "-m", "fmray.cli", *map(str, arguments), "--address", self.address, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(**variables), timeout=1200)
        assert code is None or done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        assert self.token not in done.stdout + done.stderr
        return {**json.loads(done.stdout.splitlines()[-1]), "text": done.stderr, "code": done.returncode}

    def wait_for(self, num_nodes: int, seconds: float = 240) -> None:
        end, alive = time.monotonic() + seconds, -1
        asked = urllib.request.Request(f"{self.address}/nodes?view=summary")
        asked.add_header("Authorization", f"Bearer {self.token}")
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(asked, timeout=10) as answer:
                nodes = json.load(answer)["data"]["summary"]
                alive = sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
                if alive == num_nodes:
                    return
            time.sleep(0.2)
        said = "".join(log.read_text() for log in self.folder.glob("*.log"))
        raise TimeoutError(f"{alive} nodes, not {num_nodes}: {said}")

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a node and all its processes, which are in a session of their own."""
        process.send_signal(signal.SIGINT)  # as Ctrl-C does; SIGTERM drains it for half a minute
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.remove(process)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Lose a node: all that runs on it dies at once."""
        for pid in below(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(15)
        self.processes.remove(process)

    def close(self) -> None:
        for process in reversed(list(self.processes)):
            self.stop(process)
        self._folder.cleanup()

    def _start(self, arguments: list[object], cpus: int, variables: dict[str, str]) -> subprocess.Popen[bytes]:
        more = ["--block", "--num-cpus", cpus, "--object-store-memory", 80_000_000, "--disable-usage-stats"]
        more += ["--dashboard-agent-listen-port", self.port + 3 + len(self.processes)]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *map(str, [*arguments, *more])]
        given = self.environment(**variables)
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            options = {"stdout": log, "stderr": subprocess.STDOUT, "cwd": self.folder, "start_new_session": True}
            process = subprocess.Popen(command, env=given, **options)
        self.processes.append(process)
        return process


def below(pid: int, title: bytes = b"") -> list[int]:
    """List a process and those that it, or one of them, has started, if their title holds this."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
    found, size = {pid}, 0
    while len(found) > size:
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return sorted(one for one in found if title in titles.get(one, b""))


def _is_free(port: int) -> bool:
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) != 0
