"""Account for every entry of a folder: a file to read, or one that is left out with the reason.

Links are followed, a folder that leads back to itself is not, and a file that is reached by two links is read once.
Nothing but regular files is ever opened, for opening a named pipe waits for ever.
"""

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fsspec import AbstractFileSystem

from fmray.data.kinds import ENCRYPTED, HEAD_BYTES, PLAIN, kind_of
from fmray.data.partitions import pairs_of
from fmray.errors import DataError

SUFFIXES = (".parquet", ".parq", ".pq")
NUM_THREADS = 16
SHOWN = 3
NOT_READ = "data.path: "
"""How a note about entries that are left out begins."""


@dataclass(frozen=True)
class Entry:
    """Describe a file that was found.

    Args:
        path: As the filesystem knows it.
        name: Relative to the root.
        size: Bytes.
        info: What a remote filesystem says of it; empty for a local one.
        stat: What the system says of a local one.
    """

    path: str
    name: str
    size: int
    info: dict[str, Any] = field(default_factory=dict)
    stat: os.stat_result | None = None


@dataclass
class Contents:
    """Collect what lies in a folder.

    Args:
        files: To be read.
        left_out: Reason -> names.
        folders: Every folder below the root that was looked into, relative to it.
    """

    files: list[Entry] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that an entry is not read."""
        self.left_out.setdefault(reason, []).append(name)


def is_hidden(name: str) -> bool:
    """Tell names that writers give to what is no data; by Spark's rule `_name=value` is a partition, not hidden."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def hidden_part(name: str) -> str:
    """Give the path up to its first hidden part; empty if none is."""
    parts = name.split("/")
    for number, part in enumerate(parts):
        if is_hidden(part):
            return "/".join(parts[: number + 1])
    return ""


def list_local(root: str, hidden: bool = False) -> Contents:
    """List a local folder with all below it.

    Args:
        hidden: Also what is hidden.

    Raises:
        DataError: If a folder may not be listed.
    """
    found = Contents()
    linked: list[Entry] = []
    start = os.stat(root)
    pending: list[tuple[str, str, tuple[tuple[int, int], ...], bool]]
    pending = [(root, "", ((start.st_dev, start.st_ino),), False)]
    while pending:
        folder, prefix, above, by_link = pending.pop()
        for entry in _scan(folder):
            name = f"{prefix}{entry.name}"
            if not hidden and is_hidden(entry.name):
                found.leave_out(name, "hidden, for the name starts with '_' or '.'")
                continue
            try:
                known = entry.stat()
            except FileNotFoundError:
                found.leave_out(name, "links to nothing")
                continue
            except OSError as error:
                if not entry.is_symlink():
                    raise DataError(f"'{entry.path}' cannot be read: {error.strerror}.", "data.path") from error
                found.leave_out(name, f"links that cannot be followed ({error.strerror})")
                continue
            is_link = by_link or entry.is_symlink()
            if stat.S_ISDIR(known.st_mode):
                place = (known.st_dev, known.st_ino)
                if place in above:
                    found.leave_out(name, "links back to a folder above them")
                else:
                    found.folders.append(name)
                    pending.append((entry.path, f"{name}/", (*above, place), is_link))
            elif not stat.S_ISREG(known.st_mode):
                found.leave_out(name, f"{_special(known.st_mode)}, not regular files")
            else:
                kept = linked if is_link else found.files
                kept.append(Entry(entry.path, name, known.st_size, stat=known))
    _join_linked(found, linked)
    return found


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise DataError(f"folder '{folder}' cannot be listed: {error.strerror}.", "data.path") from error


def _special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "named pipes"
    return "sockets" if stat.S_ISSOCK(mode) else "devices"


def describe_special(mode: int) -> str:
    """Name what a path is that is neither a file nor a folder."""
    return _special(mode).removesuffix("s")


def _join_linked(found: Contents, linked: list[Entry]) -> None:
    """Take files that links lead to, but for those that are there already; in another partition they are others."""
    seen = {_place(entry): entry.name for entry in found.files} if linked else {}
    for entry in sorted(linked, key=lambda entry: entry.name):
        first = seen.setdefault(_place(entry), entry.name)
        if first == entry.name:
            found.files.append(entry)
        else:
            found.leave_out(entry.name, "linked a second time")


def _place(entry: Entry) -> tuple[object, ...]:
    known = entry.stat
    return (known.st_dev, known.st_ino, pairs_of(entry.name)) if known else (entry.path,)


def list_remote(opened: AbstractFileSystem, root: str, hidden: bool = False) -> Contents:
    """List all below a prefix of a remote storage, which has no links."""
    found = Contents()
    for info in opened.find(root, detail=True).values():
        name = posixpath.relpath(info["name"], root)
        if info["type"] != "file" or info["name"].endswith("/"):
            continue
        if not hidden and hidden_part(name):
            found.leave_out(name, "hidden, for the name starts with '_' or '.'")
        else:
            found.files.append(Entry(info["name"], name, int(info["size"] or 0), info))
    return found


def keep_shards(opened: AbstractFileSystem, found: Contents) -> None:
    """Leave out files that are not Parquet: a name that says so is believed, others are known by their first bytes."""
    doubtful = [entry for entry in found.files if not entry.name.lower().endswith(SUFFIXES)]
    if not doubtful:
        return
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        reasons = dict(zip((e.name for e in doubtful), pool.map(lambda e: _stranger(opened, e), doubtful), strict=True))
    for name, reason in reasons.items():
        if reason:
            found.leave_out(name, reason)
    found.files = [entry for entry in found.files if not reasons.get(entry.name)]


def _stranger(opened: AbstractFileSystem, entry: Entry) -> str:
    """Say why a file without a telling name is no shard; empty if it is one."""
    if entry.size == 0:
        return "empty"
    try:
        head = read_head(opened, entry.path, entry.size)
        if head[:4] in (PLAIN, ENCRYPTED):
            return ""
        if kind := kind_of(head):
            return kind.split(";")[0]
        tail = opened.cat_file(entry.path, start=max(0, entry.size - 4), end=entry.size)
    except OSError as error:
        raise DataError(f"{entry.name}: the file cannot be read: {error.strerror or error}.", "data.path") from error
    return "" if tail in (PLAIN, ENCRYPTED) else "not Parquet"


def read_head(opened: AbstractFileSystem, path: str, size: int) -> bytes:
    """Read the first bytes of a file."""
    return bytes(opened.cat_file(path, start=0, end=min(size, HEAD_BYTES)))


def spell_left_out(left_out: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    """Say in one line what of a folder is not read, and why."""
    groups = [(reason, names) for reason, names in left_out if names]
    if not groups:
        return ""
    told = []
    for reason, names in groups:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        told.append(f"{len(names)} {reason} ({', '.join(names[:SHOWN])}{more})")
    count = sum(len(names) for _, names in groups)
    what = "1 entry is" if count == 1 else f"{count} entries are"
    return f"{NOT_READ}{what} not read: {'; '.join(told)}. Rename what holds rows, or name it in data.path."
