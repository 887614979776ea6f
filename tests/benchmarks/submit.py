"""Measure what `fmray submit` takes over `ray job submit` of a bare script, and preflight on three nodes.

Both are timed from the command to the first line that the submitted program prints, on a cluster of `ray start`.
Run as `python tests/benchmarks/submit.py [ROUNDS]`.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from live_ray import LiveRay

JOB = "data: {path: 'sample:iris', target: target}\nmodel: linear\ntrain: {epochs: 1}\nrun: {workers: 0}\n"


def seconds_until(cluster: LiveRay, module: str, arguments: list[str], said: str) -> float:
    """Give the seconds from a command to the line of its output that begins so, and let it end."""
    started, found = time.perf_counter(), 0.0
    command = [sys.executable, "-m", module, *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, text=True, env=cluster.environment(), **streams)
    for line in process.stdout or ():
        if line.startswith(said) and not found:
            found = time.perf_counter() - started
    if process.wait() or not found:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}, '{said}' not seen")
    return found


def main() -> None:
    """Print medians and the overhead."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cluster = LiveRay(2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            job = Path(folder, "bench.yaml")
            job.write_text(JOB)
            there = ["--address", cluster.address]
            bare = ["job", "submit", *there, "--", "python", "-c", "print('begun')"]
            seconds: dict[str, list[float]] = {"ray job submit": [], "without preflight": [], "with preflight": []}
            for number in range(rounds):
                fmray = ["submit", str(job), *there, "--wait", "--store", f"{folder}/{number}"]
                taken = (
                    seconds_until(cluster, "ray.scripts.scripts", bare, "begun"),
                    seconds_until(cluster, "fmray.cli", [*fmray, "--no-preflight"], "fmray ·"),
                    seconds_until(cluster, "fmray.cli", [*fmray[:-1], f"{folder}/{number}b"], "fmray ·"),
                )
                for name, one in zip(seconds, taken, strict=True):
                    seconds[name].append(one)
            base = statistics.median(seconds["ray job submit"])
            for name, all_taken in seconds.items():
                middle = statistics.median(all_taken)
                print(f"{name:20} {middle:5.1f} s to the first line, overhead {middle - base:+5.1f} s (of {rounds})")
            cluster.add_node(1)
            cluster.add_node(1)
            for _ in range(2):
                started = time.perf_counter()
                told = cluster.fmray("preflight", "--job", job, "--store", f"{folder}/p", "--set", "run.workers=3")
                print(f"preflight of {len(told['nodes'])} nodes: {told['seconds']} s there, ", end="")
                print(f"{time.perf_counter() - started:.1f} s in all")
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
