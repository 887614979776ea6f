"""Collect what a job needs to be run elsewhere: the job, resolved into one file, and the user's own modules.

No data, no version control, nothing that is not named; and no more than a stated number of bytes.
"""

import ast
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fmray
from fmray.errors import SpecError
from fmray.spec.job import Job

JOB_FILE = "job.yaml"
MOST_BYTES = 32 << 20
DATA = frozenset(
    {".parquet", ".parq", ".pq", ".arrow", ".feather", ".csv", ".tsv", ".jsonl", ".npy", ".npz", ".h5", ".sqlite"}
    | {".safetensors", ".pt", ".pth", ".ckpt", ".onnx", ".pkl", ".zip", ".gz", ".zst", ".tar", ".db"}
)
"""Endings of files that hold data or weights, which do not travel with code."""

Files = dict[str, bytes]


@dataclass(frozen=True)
class Package:
    """Hold the files of a working directory, by path in it.

    Args:
        files: Path -> content.
        installed: Modules the job names that do not lie beside it, so nodes must have them.
        left_out: Files beside the modules that hold data.
    """

    files: Mapping[str, bytes]
    installed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def pack(job: Job) -> Package:
    """Collect the job, resolved, and the modules it names, with those they import that lie beside it.

    Raises:
        SpecError: If it is more than `MOST_BYTES`.
    """
    files: Files = {JOB_FILE: _job_file(job)}
    installed = []
    left_out = []
    folder = Path(job.folder)
    waiting = {name.partition(".")[0] for name in job.modules()}
    done = set[str]()
    named = frozenset(waiting)
    while waiting:
        done.add(name := waiting.pop())
        if (place := _place(folder, name)) is None:
            installed += [name] if name in named and name != "fmray" else []
            continue
        for path in _files_below(place):
            relative = path.relative_to(folder).as_posix()
            if path.suffix.lower() in DATA:
                left_out.append(relative)
                continue
            files[relative] = path.read_bytes()
            if path.suffix == ".py":
                waiting |= _imported(files[relative]) - done - sys.stdlib_module_names
    _refuse_large(files)
    return Package(files, tuple(sorted(installed)), tuple(sorted(left_out)))


def pack_fmray() -> Files:
    """Collect fmray itself, as it runs here."""
    folder = Path(fmray.__file__).parent
    return {f"fmray/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in _files_below(folder)}


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _job_file(job: Job) -> bytes:
    asked = {key: value for key, value in job.to_json().items() if key != "folder"}
    # a path is read once more where the job runs; what looks like a variable in it no longer is one
    asked["data"] = {**asked["data"], "path": asked["data"]["path"].replace("$", "$$")}
    return f"# {job.name}, resolved where it was submitted\n{json.dumps(asked, indent=1)}\n".encode()


def _place(folder: Path, name: str) -> Path | None:
    """Give the folder or file of a module beside the job."""
    if (folder / name / "__init__.py").is_file():
        return folder / name
    return path if (path := folder / f"{name}.py").is_file() else None


def _files_below(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for path in sorted(place.rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(place).parts)
        if path.is_file() and not hidden:
            yield path


def _imported(source: bytes) -> set[str]:
    """Give the first names of what a module imports; none if it is not Python, which the run will say."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def _refuse_large(files: Mapping[str, bytes], most: int = MOST_BYTES) -> None:
    total = sum(map(len, files.values()))
    if total > most:
        largest: Sequence[str] = sorted(files, key=lambda name: -len(files[name]))[:3]
        shown = ", ".join(f"{name} ({len(files[name]):,} bytes)" for name in largest)
        raise SpecError(
            f"{total:,} bytes in {len(files)} files would be sent, the largest {shown}. "
            f"At most {most:,} are: keep data out of the folders of modules.",
            "working directory",
        )
