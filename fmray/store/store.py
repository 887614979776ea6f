"""Keep records where every stage finds them again: by fingerprint, whole or not at all, on any fsspec filesystem.

    <root>/store.json                          the format, and whether all that lies here carries checksums
    <root>/<kind>/<fingerprint>/manifest.json  a complete record; its data lie in a folder beside it
    <root>/runs/<job>/<run id>/                one run: run.json, events.jsonl, lease-<fence>.json ...

A record exists once its manifest does, and the manifest is written last, by the one process that holds its lease.
"""

import builtins  # `list` is also a method of the store
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

from fmray.errors import ClusterError, DataError, FmrayError, SpecError
from fmray.records import Json
from fmray.store import garbage
from fmray.store.files import MANIFEST, Files, is_disk_full, machine
from fmray.store.lease import Lease, hold, is_held, newest_holder, require_exclusive
from fmray.store.manifest import measure, seal, unseal
from fmray.store.places import files_of
from fmray.store.plain import to_plain, write_text
from fmray.store.redaction import redact
from fmray.store.sealed import has_checksum, open_text, parse, seal_text, unsealed

FORMAT = 1
"""Number of the layout; a store with a higher one is refused, with a lower one only read."""
SEALED_FORMAT = 2
"""That of a store in which every record carries a checksum: earlier versions, which write none, refuse it."""

CHAINED = "hash"
"""Key of events that their log chains itself, as the ledger does; they carry no other checksum."""

_OWN_KEYS = frozenset({"record", "folder", "files", "checksum"})


class Draft:
    """Hold a record that is being made.

    Args:
        folder: Where its data files go; the name is unique to this attempt.
        existing: The manifest, if another process has finished the record: then there is nothing to make.
    """

    def __init__(self, folder: str, existing: Json | None, lease: Lease | None = None) -> None:
        self.folder = folder
        self.existing = existing
        self.committed = existing is not None
        self._lease = lease

    def commit(self, manifest: Json) -> Json:
        """Make the record complete and give its manifest, with `folder` and `files` filled in.

        Raises:
            ClusterError: If another process has taken over.
            DataError: If the disk is full.
        """
        if self._lease is None:
            raise ClusterError(f"{redact(self.folder)}: this record is complete already. Use `existing`.")
        if taken := _OWN_KEYS & manifest.keys():
            raise DataError(f"{', '.join(sorted(taken))} are the store's own keys. Use other names.", "manifest")
        disk = files_of(self.folder)
        (record, _, name) = self.folder.rpartition("/")
        names = list(disk.sizes(self.folder))
        disk.sync(self.folder, names)
        about = {"record": record.rpartition("/")[2], "folder": name}
        value = {**manifest, **about, "files": measure(self.folder, names)}
        path = f"{record}/{MANIFEST}"
        self._lease.check()
        # exclusive, so that a process that was stopped right here cannot replace what its successor wrote
        if not disk.create(path, seal(value)):
            raise ClusterError(f"{redact(record)}: another process has completed this record. Read that one.")
        self.committed = True
        return _opened(disk.read(path), record)


class Store:
    """Open or create the store at a path or URI.

    Paths given to its methods are what `path` gave, or relative to the root; none leaves it.

    Args:
        root: Folder or URI, e.g. `./fmray-store` or `s3://bucket/prefix`.
        single_writer: Promise that no other process writes here, for filesystems that cannot create exclusively.

    Raises:
        DataError: If the store is of a newer format, or damaged.
    """

    def __init__(self, root: str, *, single_writer: bool = False) -> None:
        root = root.removeprefix("file://")
        self.root = root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))
        self.single_writer = single_writer
        self._files = files_of(self.root)
        self.is_read_only = False
        self.is_sealed = False
        """Whether every record in it was written with a checksum: then one without is damaged."""
        self._open()

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[str, bool]]:
        return _reopen, (self.root, self.single_writer)

    def path(self, *parts: str) -> str:
        """Give the absolute path of something in the store.

        Raises:
            SpecError: If the names lead out of it.
        """
        joined = "/".join(parts)
        below = joined[len(self.root) :] if f"{joined}/".startswith(f"{self.root}/") else f"/{joined}"
        below = below.removeprefix("/").removesuffix("/")
        if not below:
            return self.root
        for name in below.split("/"):
            if name in ("", ".", "..") or "\0" in name or "\\" in name or len(name.encode()) > 200:
                raise SpecError(f"{joined!r} is no path inside {redact(self.root)}. Use names without '..'.", "store")
        return f"{self.root}/{below}"

    def read_bytes(self, path: str) -> bytes:
        """Give the content of a file.

        Raises:
            DataError: If it is not there.
        """
        return self._files.read(self.path(path))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all; what is in it is the caller's to `redact`."""
        self._files.write(self._writable(path), data)

    def read_json(self, path: str) -> Any:
        """Read back what `write_json` wrote, NaN included.

        Raises:
            DataError: If it is missing or damaged.
        """
        full = self.path(path)
        return open_text(self._files.read(full), self._place(full), full, is_sealed=self.is_sealed)

    def read_text(self, path: str) -> bytes:
        """Give the verified text of a file that `write_json` wrote, without its checksum, for a faster parser.

        Raises:
            DataError: If it is missing or damaged.
        """
        full = self.path(path)
        return unsealed(self._files.read(full), self._place(full), full, is_sealed=self.is_sealed)

    def write_json(self, path: str, value: object) -> None:
        """Put plain values in place as strict JSON, without secrets, whole or not at all; objects with a checksum."""
        self._files.write(self._writable(path), self._sealed(path, value))

    def create_json(self, path: str, value: object) -> bool:
        """Put plain values in place as `write_json` does, unless a file is there; False if another was first.

        Values must tell their writers apart: where equal ones lie there already, they count as the caller's own.

        Raises:
            ClusterError: If the filesystem cannot tell who was first, and other processes may write here.
        """
        path = self._writable(path)
        require_exclusive(self._files, path.rpartition("/")[0], self.single_writer)
        return self._files.create(path, self._sealed(path, value))

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return self._files.exists(self.path(path))

    def list(self, path: str) -> list[str]:
        """List the names of what lies in a folder, sorted; nothing if there is no folder."""
        return self._files.names(self.path(path))

    def sizes(self, path: str) -> dict[str, int]:
        """Give every file below a folder by relative path, with its size."""
        return self._files.sizes(self.path(path))

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; fine if there is none."""
        self._files.remove(self._writable(path))

    def append(self, path: str, event: Json) -> None:
        """Add one event to a `.jsonl` file, durably and without secrets, after cutting a torn last line."""
        path = self._writable(path)
        self._files.append(path, self._line(path, event))

    def events(self, path: str) -> builtins.list[Json]:
        """Read the events of a `.jsonl` file; none if there is no file. A torn last line is dropped.

        Raises:
            DataError: Naming the line that is damaged.
        """
        if not self.exists(path):
            return []
        path = self.path(path)
        lines = self._files.read(path).split(b"\n")[:-1]  # what follows the last newline was never finished
        return [self.event_of(path, line, number) for number, line in enumerate(lines, start=1)]

    def event_of(self, path: str, line: bytes, number: int) -> Json:
        """Give the event in a line of a `.jsonl` file.

        Raises:
            DataError: If the line is damaged.
        """
        full = self.path(path)
        where = f"{full}:{number}"
        if f'"{CHAINED}":'.encode() in line and not has_checksum(line):
            event = parse(line, where)  # whoever reads the log verifies the chain
        else:
            event = open_text(line, self._place(full), where, is_sealed=self.is_sealed)
        if not isinstance(event, dict):
            raise DataError(f"{redact(full)}:{number} is damaged: {line[:40]!r} is not an event.")
        return event

    def rewrite_events(self, path: str, keep: Callable[[Json], bool]) -> None:
        """Drop the events that lie beyond a resumed cursor, all at once."""
        path = self._writable(path)
        self._files.write(path, b"".join(self._line(path, event) for event in self.events(path) if keep(event)))

    def find(self, kind: str, fingerprint: str) -> Json | None:
        """Give the manifest of a complete record, `folder` as an absolute path, or None if there is none.

        Raises:
            DataError: If its manifest is damaged, or a data file is missing or has another size.
        """
        record = self.path(kind, fingerprint)
        if not self._files.exists(f"{record}/{MANIFEST}"):
            return None
        manifest = _opened(self._files.read(f"{record}/{MANIFEST}"), record)
        sizes = self._files.sizes(manifest["folder"])
        for name, entry in manifest["files"].items():
            if sizes.get(name) != entry["size"]:
                found = f"has {sizes[name]} bytes" if name in sizes else "is missing"
                raise DataError(
                    f"{redact(manifest['folder'])}/{name} {found}, {MANIFEST} says {entry['size']}. "
                    f"Remove {redact(record)} to have the record made again."
                )
        return manifest

    @contextmanager
    def create(self, kind: str, fingerprint: str) -> Iterator[Draft]:
        """Make a record, alone: give a Draft to fill and commit, or one whose `existing` is what another made.

        Waits while another living process makes it. A draft that is not committed is removed.

        Raises:
            DataError: If the disk is full, or an existing record is damaged.
            ClusterError: If the filesystem cannot give out leases.
        """
        if existing := self.find(kind, fingerprint):
            yield Draft(existing["folder"], existing)
            return
        record = self._writable(f"{kind}/{fingerprint}")
        with self.lease(record) as lease:
            if existing := self.find(kind, fingerprint):
                yield Draft(existing["folder"], existing)
                return
            garbage.clear_drafts(record)  # of holders that died: this lease shuts them out
            folder = f"{record}/{garbage.DRAFT}{lease.number:08d}-{secrets.token_hex(4)}"
            self._files.make(folder)
            draft = Draft(folder, None, lease)
            try:
                yield draft
            except Exception as error:
                if is_disk_full(error) and not isinstance(error, FmrayError):
                    raise DataError(_full(folder)) from error
                raise
            finally:
                if not draft.committed:
                    with suppress(FmrayError):
                        self._files.remove(folder)

    def lease(
        self, path: str, *, wait_seconds: float | None = None, covers: Sequence[str] = ()
    ) -> AbstractContextManager[Lease]:
        """Hold a folder of the store exclusively, and what it covers; see `fmray.store.lease`.

        Raises:
            ClusterError: On entering, if another living process holds it for longer than `wait_seconds`.
        """
        place = self._writable(path)
        return hold(place, wait_seconds=wait_seconds, single_writer=self.single_writer, covers=covers)

    def status(self, run_root: str) -> Literal["finished", "failed", "running", "interrupted"]:
        """Derive how a run stands from its run.json and its lease."""
        path = self.path(run_root, "run.json")
        if self.exists(path):
            match self.read_json(path).get("status"):
                case "finished":
                    return "finished"
                case "failed":
                    return "failed"
        return "running" if is_held(self._files, self.path(run_root)) else "interrupted"

    def holder_pid(self, path: str) -> int | None:
        """Give the process that holds a folder, if it lives on this machine."""
        holder = newest_holder(self._files, self.path(path))
        is_here = holder is not None and holder.machine == machine() and not holder.released and not holder.is_gone()
        return holder.pid if holder is not None and is_here else None

    def gc(self, *, dry_run: bool) -> builtins.list[str]:
        """Remove records that no run lists, abandoned drafts and temporary files, and give their paths.

        Runs, samples, split definitions, promotions and the ledger are never removed, nor what a living process holds.
        While a run goes on that has not listed its records yet, records stay.
        """
        self._writable(self.root)
        return garbage.collect(self.root, dry_run=dry_run, single_writer=self.single_writer)

    def _open(self) -> None:
        path = f"{self.root}/store.json"
        if not self._files.exists(path):
            # what lies here already was written without checksums, or this file would be here
            is_new = garbage.KINDS.isdisjoint(self._files.names(self.root))
            made = {"format": SEALED_FORMAT if is_new else FORMAT, "sealed": is_new}
            self._files.create(path, seal_text(made, "store.json"))
        value = self.read_json(path)
        number = value.get("format") if isinstance(value, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise DataError(f"{redact(path)} is damaged: it gives no format number.")
        self.is_sealed = bool(value.get("sealed"))
        newest = SEALED_FORMAT if self.is_sealed else FORMAT
        if number > newest:
            raise DataError(f"{redact(path)}: format {number} is newer than {newest}. Use the fmray that wrote it.")
        self.is_read_only = number < FORMAT

    @property
    def files(self) -> Files:
        """The filesystem that the store lies on."""
        return self._files

    def reads_sealed(self) -> bool:
        """Tell whether `store.json` says, at this moment, that every record carries a checksum."""
        return bool(self.read_json("store.json").get("sealed"))

    def _place(self, path: str) -> str:
        """Name a file relative to the root: a store may be moved as a whole."""
        return path[len(self.root) + 1 :]

    def _sealed(self, path: str, value: object) -> bytes:
        plain = redact(to_plain(value, path))
        if not isinstance(plain, dict):
            return write_text(plain, indent=1).encode()
        return seal_text(plain, self._place(self.path(path)), indent=1)

    def _line(self, path: str, event: Json) -> bytes:
        plain: Json = {key: to_plain(value, f"{path}.{key}") for key, value in event.items()}
        if CHAINED in plain:
            return write_text(redact(plain)).encode() + b"\n"
        return seal_text(redact(plain), self._place(path)) + b"\n"

    def _writable(self, path: str) -> str:
        if self.is_read_only:
            raise DataError(
                f"{redact(self.root)}: this store is of an older format than {FORMAT} and can only be read. "
                "Run `fmray migrate` to write to it."
            )
        return self.path(path)


def _reopen(root: str, single_writer: bool) -> Store:
    return Store(root, single_writer=single_writer)


def _opened(data: bytes, record: str) -> Json:
    manifest = unseal(data, f"{record}/{MANIFEST}")
    # a manifest of another kind, put in the place of this one, has a checksum that matches
    entries = manifest.get("files")
    held = list(entries.values()) if isinstance(entries, dict) else [None]
    sound = all(isinstance(entry, dict) and isinstance(entry.get("size"), int) for entry in held)
    if not sound or not isinstance(manifest.get("folder"), str):
        raise DataError(f"{redact(record)}/{MANIFEST} is not the manifest of a record. Remove {redact(record)}.")
    if manifest.get("record", name := record.rpartition("/")[2]) != name:
        raise DataError(
            f"{redact(record)}/{MANIFEST} is that of another record, {manifest['record']}. Remove {redact(record)} "
            "to have the record made again."
        )
    if "/" in manifest["folder"] or ".." in manifest["folder"]:
        raise DataError(f"{redact(record)}/{MANIFEST}: folder {manifest['folder']!r} leads out of the record.")
    return {**manifest, "folder": f"{record}/{manifest['folder']}"}


def _full(folder: str) -> str:
    num_bytes = sum(files_of(folder).sizes(folder).values())
    return (
        f"disk is full: {num_bytes:,} bytes were written to {redact(folder)} before it was. "
        "They were removed. Free space or choose another store."
    )
