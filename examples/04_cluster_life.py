"""Live on a cluster: submit, watch, stop, go on, promote, predict; when new rows land train again, promote, roll back.

It starts a cluster of its own by `ray start --head`, types what a person would type, and stops the cluster.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

JOB = """
data: {path: rows, target: digit}
model: {mlp: {width: 64, depth: 2, dropout: 0.1}}
train: {epochs: 60, batch_rows: 24, optimizer: {adamw: {lr: 0.002}}, early_stop: null}
evaluate: {baselines: [dummy]}
run: {workers: 2, checkpoint_seconds: 1}
"""
RUNS = "fmray-store/runs/digits"


def rows_land(name: str, some: slice) -> None:
    """Write images of digits, as a source would that delivers now and then."""
    digits = load_digits()
    pixels = pa.FixedSizeListArray.from_arrays(digits.data[some].astype(np.float32).ravel(), 64)
    table = pa.table({"pixels": pixels, "digit": digits.target[some]})
    Path("rows").mkdir(exist_ok=True)
    pq.write_table(table, f"rows/{name}.parquet")
    print(f"\n# {name}: {len(table)} rows have landed", flush=True)


def fmray(*arguments: str, until: str = "") -> str:
    """Type a command, show what it prints and give it; press Ctrl-C once it has printed a certain word."""
    print(f"\n$ fmray {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "fmray.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        said += line
        if until and until in line:
            process.send_signal(signal.SIGINT)
    if process.wait() not in (0, 2, 130):  # 2: a gate failed, which is a result; 130: Ctrl-C
        raise SystemExit(process.returncode)
    return said


@contextmanager
def head() -> Iterator[None]:
    """Start a head of two cores with a token, tell fmray its address, and stop it."""
    port, dashboard = _free_ports(2)
    url = f"http://127.0.0.1:{dashboard}"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= {"RAY_API_SERVER_ADDRESS": url, "RAY_USAGE_STATS_ENABLED": "0"}
    print(f"$ ray start --head --port {port} --dashboard-port {dashboard} --num-cpus 2 --block", flush=True)
    options = ["--head", "--port", port, "--dashboard-port", dashboard, "--num-cpus", 2, "--block"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *map(str, options)]
    with open("ray.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        asked = urllib.request.Request(f"{url}/api/version")
        asked.add_header("Authorization", f"Bearer {os.environ['RAY_AUTH_TOKEN']}")
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(asked, timeout=5):
                break
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # as Ctrl-C does
        process.wait(30)


def _free_ports(number: int) -> list[int]:
    doors = [socket.socket() for _ in range(number)]
    for door in doors:
        door.bind(("127.0.0.1", 0))
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


def main() -> None:
    Path("digits.yaml").write_text(JOB)
    rows_land("week-1", slice(0, 700))
    with head():
        first = name_of(fmray("submit", "digits.yaml"))
        fmray("logs", first, "--follow", until="epochs")
        fmray("stop", first)
        fmray("submit", "digits.yaml", "--wait")
        fmray("promote", f"{RUNS}/{first}")
        fmray("predict", f"{RUNS}/{first}", "rows", "--out", "predictions")
        rows_land("week-2", slice(700, 1797))
        second = name_of(fmray("submit", "digits.yaml", "--wait"))
        fmray("jobs")
    fmray("runs")
    fmray("promote", f"{RUNS}/{second}")
    fmray("rollback", "digits")
    fmray("approve", f"{RUNS}/{second}")
    print(f"\n{RUNS}/{second}/report.html")


def name_of(told: str) -> str:
    """Find the run in what `fmray submit` prints."""
    return re.search(r"· run (\S+)", told)[1]


if __name__ == "__main__":
    main()
