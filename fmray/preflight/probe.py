"""Look at every node of a cluster from inside: the text of this file is sent there and run as it is.

It imports nothing of fmray, so it answers also where fmray is missing or another one, and it judges nothing: one line
of JSON says what each node saw. Every look has its own time limit, so a node that hangs is a finding.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from shutil import disk_usage
from tempfile import gettempdir
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # public calls add up all nodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Json = dict[str, Any]
Answers = dict[str, Json]

LOOK_SECONDS, READ_SECONDS, LOAD_SECONDS, MEET_SECONDS = 8.0, 4.0, 14.0, 5.0
"""How long a node may take to start and look, to read what others wrote, to import torch since the start, to meet."""
HELD = ("CPU", "GPU")
MOST_LISTED = 10_000
LIST_SECONDS = 3
PARQUET = (".parquet", ".parq", ".pq")
THREADS = 8


class Scout:
    """Answer for one node; every method is one look, and a look that hangs holds up no other."""

    def versions(self, modules: list[str]) -> Json:
        """Give what must be equal everywhere, which modules are missing, and where to meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "torch": _version("torch"),
            "fmray": _source("fmray"),
            "missing": [name for name in modules if importlib.util.find_spec(name) is None],
            "meet": f"{ray.util.get_node_ip_address()}:{port}",
        }

    def disks(self, store: str) -> Json:
        """Give the free bytes of the disk a local store lies on; nothing for a remote one."""
        if "://" in store:
            return {}
        place = Path(store)
        while not place.exists():
            place = place.parent
        return {"path": str(place), "free": disk_usage(place).free}

    def data(self, path: str) -> Json:
        """Give how many files lie there, how many bytes, and whether the last one can be read."""
        import fsspec

        disk, root = fsspec.core.url_to_fs(path)
        root = root.rstrip("/") or root
        if any(sign in root for sign in "*?[") and not disk.exists(root):
            found = disk.glob(root, detail=True).values()
            sizes = {i["name"]: i["size"] for i in found if i["type"] == "file" and not _is_hidden(i["name"], root)}
        else:
            sizes = _sizes(disk, root)
        if not sizes:
            raise FileNotFoundError(f"no Parquet file lies at {path}")
        last = max(sizes)
        tail = disk.cat_file(last, start=max(0, sizes[last] - 4), end=sizes[last])
        return {"files": len(sizes), "bytes": sum(sizes.values()), "last": os.path.basename(last), "tail": tail.hex()}

    def write(self, folder: str, name: str) -> list[str]:
        """Write a file and read it back, as `read` does."""
        import fsspec

        disk, root = fsspec.core.url_to_fs(folder)
        disk.makedirs(root, exist_ok=True)
        disk.pipe_file(f"{root}/{name}", name.encode())
        return self.read(folder, [name])

    def read(self, folder: str, names: list[str]) -> list[str]:
        """Give the names of the files that do not read as they were written."""
        import fsspec

        disk, root = fsspec.core.url_to_fs(folder)
        disk.invalidate_cache()
        lost = []
        for name in names:
            with suppress(FileNotFoundError):
                if disk.cat_file(f"{root}/{name}") == name.encode():
                    continue
            lost.append(name)
        return lost

    def clear(self, folder: str) -> None:
        """Remove what was written, and the store's folder if nothing else lies there."""
        import fsspec

        disk, root = fsspec.core.url_to_fs(folder)
        with suppress(FileNotFoundError):
            disk.rm(root, recursive=True)
        with suppress(OSError, NotImplementedError):
            disk.rmdir(root.rpartition("/")[0])

    def load(self) -> None:
        """Import what it takes to meet."""
        import torch.distributed  # noqa: F401

    def meet(self, place: str, rank: int, size: int, seconds: float) -> float:
        """Add up ones over all nodes, as gradients are, within so many seconds."""
        import torch
        from torch import distributed

        distributed.init_process_group("gloo", f"tcp://{place}", timedelta(seconds=seconds), size, rank)
        try:
            ones = torch.ones(())
            distributed.all_reduce(ones)
            return float(ones)
        finally:
            distributed.destroy_process_group()


class Party:
    """Ask the scouts of many nodes the same, each within a limit; who gives no answer once is not asked again.

    Args:
        scouts: Node -> its scout.
        patience: By what limits are multiplied.
    """

    def __init__(self, scouts: Mapping[str, Any], patience: float) -> None:
        self.patience = patience
        self.scouts = dict(scouts)
        self.started = time.monotonic()
        self.answers: dict[str, Answers] = {}
        self._asked: dict[str, dict[str, Any]] = {}

    def send(self, look: str, arguments: Callable[[str], tuple[Any, ...]], nodes: Iterable[str] | None = None) -> None:
        """Ask nodes for a look, and do not wait."""
        asked = self.scouts if nodes is None else nodes
        self._asked[look] = {node: getattr(self.scouts[node], look).remote(*arguments(node)) for node in asked}

    def gather(self, look: str, until: float) -> Answers:
        """Wait for the answers, {"value"} or {"error"} for each node.

        Args:
            until: Seconds after the start, to be multiplied by the patience.
        """
        until *= self.patience
        refs = {node: ref for node, ref in self._asked.pop(look, {}).items() if node in self.scouts}
        left = max(0.0, self.started + until - time.monotonic())
        done, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=left) if refs else ([], [])
        self.answers[look] = {node: _answer(ref, ref in done, until) for node, ref in refs.items()}
        return self.answers[look]

    def leave(self, nodes: Iterable[str]) -> None:
        """Ask these nodes no more."""
        for node in nodes:
            del self.scouts[node]


def explore(asked: Mapping[str, Any]) -> Json:
    """Give what the nodes say.

    Args:
        asked: {"store", "data" (empty if none), "modules", "patience", "nonce", "mark"}.
    """
    nodes = living_nodes()
    party = Party({node["id"]: _scout(node["id"]) for node in nodes}, asked["patience"])
    folder = f"{asked['store'].rstrip('/')}/.fmray-preflight-{asked['nonce']}"
    working = [node["id"] for node in nodes if node["resources"].get("CPU")]
    party.send("versions", lambda node: (asked["modules"],))
    party.send("disks", lambda node: (asked["store"],))
    party.send("write", lambda node: (folder, node))
    party.send("data", lambda node: (asked["data"],), None if asked["data"] else ())
    party.send("load", lambda node: (), working if len(working) > 1 else ())

    silent = [node for node, answer in party.gather("versions", LOOK_SECONDS).items() if "error" in answer]
    party.leave(silent)
    for look in ("disks", "write", "data"):
        party.gather(look, LOOK_SECONDS)
    written = [node for node, answer in party.answers["write"].items() if "value" in answer]
    party.send("read", lambda node: (folder, written))
    party.gather("read", LOOK_SECONDS + READ_SECONDS)
    party.send("clear", lambda node: (folder,), written)
    loaded = [node for node, answer in party.gather("load", LOAD_SECONDS).items() if "value" in answer]
    if len(loaded) > 1:
        place = party.answers["versions"][loaded[0]]["value"]["meet"]
        party.send(
            "meet", lambda node: (place, loaded.index(node), len(loaded), MEET_SECONDS * party.patience - 1), loaded
        )
    party.gather("meet", LOAD_SECONDS + MEET_SECONDS)
    party.gather("clear", LOAD_SECONDS + MEET_SECONDS)
    told = {"nodes": nodes, "holders": holders() if any(map(is_busy, nodes)) else [], "answers": party.answers}
    return {**told, "seconds": round(time.monotonic() - party.started, 2)}


def living_nodes() -> list[Json]:
    """Give id, name, resources and free resources of each living node, the head first."""
    available = available_resources_per_node()
    nodes = [
        {
            "id": node["NodeID"],
            "name": f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
            "head": "node:__internal_head__" in node["Resources"],
            "resources": node["Resources"],
            "available": available.get(node["NodeID"], {}),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (not node["head"], node["id"]))


def is_busy(node: Json) -> bool:
    """Tell whether cores or GPUs of a node are taken."""
    return any(node["available"].get(name, 0) < node["resources"].get(name, 0) for name in HELD)


def holders() -> list[Json]:
    """Give who holds cores and GPUs, who holds most first: {"who", "CPU", "GPU"}; nothing if Ray does not say."""
    from ray.util import state

    asked: Json = {"detail": True, "limit": MOST_LISTED, "timeout": LIST_SECONDS, "raise_on_missing_output": False}
    held: dict[str, Counter[str]] = defaultdict(Counter)
    with suppress(Exception):  # the judgement stands without the names
        for group in state.list_placement_groups(filters=[("state", "=", "CREATED")], **asked):
            for bundle in group.bundles or []:
                _hold(held[group.creator_job_id], bundle["unit_resources"])
        # what runs inside a group asks for its bundles by other names, so nothing is counted twice
        for actor in state.list_actors(filters=[("state", "=", "ALIVE")], **asked):
            _hold(held[actor.job_id], actor.required_resources)
        for task in state.list_tasks(filters=[("state", "=", "RUNNING"), ("type", "=", "NORMAL_TASK")], **asked):
            _hold(held[task.job_id], task.required_resources)
        names = {job.job_id: job.submission_id or _short(job.entrypoint) for job in state.list_jobs(**asked)}
        found = [{"who": names.get(job, f"job {job}"), **counts} for job, counts in held.items() if +counts]
        return sorted(found, key=lambda holder: -sum(holder.get(name, 0) for name in HELD))
    return []


def _short(command: str, most: int = 60) -> str:
    line = " ".join(command.split())
    return f"`{line if len(line) <= most else line[: most - 3] + '...'}`"


def _hold(held: Counter[str], resources: Mapping[str, float] | None) -> None:
    held.update({name: (resources or {}).get(name, 0) for name in HELD})


def _scout(node: str) -> Any:
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Scout).options(num_cpus=0, scheduling_strategy=place, max_concurrency=THREADS).remote()


def _answer(ref: Any, is_done: bool, seconds: float) -> Json:
    if not is_done:
        return {"error": f"no answer within {seconds:g} s"}
    try:
        return {"value": ray.get(ref)}
    except Exception as error:  # whatever a node raises is what it saw
        return {"error": _last_line(error)}


def _last_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}".rstrip(": ")


def _sizes(disk: Any, root: str) -> dict[str, int]:
    """Give the size of every file a scan would read: links followed, shards by name or by their first bytes."""
    if "file" not in disk.protocol:
        found = {
            name: int(info["size"]) for name, info in disk.find(root, detail=True).items() if info["type"] == "file"
        }
    elif os.path.isfile(root):
        return {root: os.path.getsize(root)}
    else:
        paths = [f"{folder}/{name}" for folder, _, names in os.walk(root, followlinks=True) for name in names]
        found = {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}  # no pipes, no lost links
    return {path: size for path, size in found.items() if _is_data(disk, path, root, size)}


def _is_hidden(name: str, asked: str = "") -> bool:
    """Tell names that writers give to what is no data, unless a pattern asks for them."""
    last = os.path.basename(name)
    is_asked = os.path.basename(asked).startswith(("_", "."))
    return not is_asked and (last.startswith(".") or (last.startswith("_") and "=" not in last))


def _is_data(disk: Any, path: str, root: str, size: int) -> bool:
    if path != root and any(map(_is_hidden, os.path.relpath(path, root).split("/"))):
        return False
    return (
        path == root or path.lower().endswith(PARQUET) or (size > 0 and disk.cat_file(path, start=0, end=4) == b"PAR1")
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _source(package: str) -> str:
    """Give the digest of a package's sources, as `fmray.store.source_digest` does."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return "missing"
    digest = hashlib.blake2b(digest_size=16)
    folder = Path(spec.origin).parent
    for path in sorted(folder.rglob("*.py")):
        source = path.read_bytes()
        digest.update(f"{package}\0{path.relative_to(folder).as_posix()}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


def main() -> None:
    """Print what the nodes say, on one line."""
    asked = json.loads(sys.argv[1])
    os.chdir(gettempdir())  # all nodes import from where a driver starts, and a run starts elsewhere
    ray.init(log_to_driver=False, logging_level="ERROR")
    print(asked["mark"] + json.dumps(explore(asked)), flush=True)


if __name__ == "__main__":
    main()
