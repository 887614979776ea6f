"""Bring a store of an earlier format to the present one: every JSON file in it gets the checksum that it lacks.

Nothing is lost and nothing is interpreted: the text of a file stays as it was written, and ends in a checksum. Files
are replaced whole, one by one, and `store.json` says last that all are sealed: a migration that was killed is finished
by running it again. A finished run lists its files with their checksums; the list is put in place before the files that
it describes, and a file counts as listed if it is so once it is sealed.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from fmray.errors import ClusterError, DataError
from fmray.records import Json
from fmray.store.fences import is_lease
from fmray.store.files import MANIFEST, TEMPORARY, Files
from fmray.store.garbage import DRAFT
from fmray.store.lease import hold, is_held
from fmray.store.plain import write_text
from fmray.store.redaction import redact
from fmray.store.sealed import has_checksum, parse, seal_body, seal_text, unsealed
from fmray.store.store import CHAINED, SEALED_FORMAT, Store

RUN, EVENTS = "run.json", "events.jsonl"
FOREIGN = ("mlflow/", "samples/")
"""What other programs write, and what can be made again."""
SHOWN = 5


@dataclass
class Plan:
    """Say what a migration does.

    Args:
        seal: Files that get checksums, in the order in which they are replaced.
        sealed: Number of files that have theirs.
        runs: Finished runs whose lists of files are brought up to date.
        damaged: Files that are not as they were written, and why.
        format: Of the store, before.
    """

    seal: list[str] = field(default_factory=list)
    sealed: int = 0
    runs: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    format: int = SEALED_FORMAT

    @property
    def is_done(self) -> bool:
        """Whether the store is of the present format."""
        return self.format == SEALED_FORMAT and not self.seal


def migrate(store: Store, *, dry_run: bool = False) -> Plan:
    """Bring a store to the present format, or only say what that takes.

    Raises:
        ClusterError: If a living process holds a run or a record of the store.
        DataError: If a file is damaged; then nothing is changed.
    """
    files = store.files
    first = plan(store)
    if first.is_done or dry_run:
        return first
    with hold(f"{store.root}/store.json", wait_seconds=0, single_writer=store.single_writer):
        _refuse_held(files, store.root)
        todo = first
        while todo.seal or todo.runs:  # what another process has written in the meantime comes in the next round
            if todo.damaged:
                more = f"; and {len(todo.damaged) - SHOWN} more" if len(todo.damaged) > SHOWN else ""
                shown = "; ".join(todo.damaged[:SHOWN])
                raise DataError(f"{shown}{more}. Restore or remove them first; nothing was changed.", "migrate")
            for run in todo.runs:
                _list_anew(files, store.root, run)
            for name in todo.seal:
                files.write(f"{store.root}/{name}", _sealed(files.read(f"{store.root}/{name}"), name))
            todo = plan(store)
        made = {"format": SEALED_FORMAT, "sealed": True}
        files.write(f"{store.root}/store.json", seal_text(made, "store.json"))
    return first


def plan(store: Store) -> Plan:
    """Find what a store lacks, without changing it."""
    files = store.files
    found = Plan(format=SEALED_FORMAT if store.reads_sealed() else 1)
    if found.format == SEALED_FORMAT:
        return found
    for name in sorted(files.sizes(store.root)):
        if not _is_ours(name):
            continue
        data = files.read(f"{store.root}/{name}")
        try:
            wanted = _sealed(data, name)
        except DataError as error:
            found.damaged.append(str(error))
            continue
        if wanted == data:
            found.sealed += 1
        elif name.rpartition("/")[2] == RUN and _listed(data, name):
            found.runs.append(name)
        else:
            found.seal.append(name)
    for run in _runs_with_lists(files, store.root):
        found.damaged += _damage(files, store.root, run)
    return found


def _is_ours(name: str) -> bool:
    """Tell the JSON files that the store seals from data of records, leases and what carries a checksum of its own."""
    *folders, file = name.split("/")
    if not file.endswith((".json", ".jsonl")) or name.startswith(FOREIGN) or name == "store.json":
        return False
    if file == MANIFEST or file.startswith(TEMPORARY) or is_lease(file):
        return False
    return not any(folder.startswith(DRAFT) or folder in ("model", "stacks") for folder in folders)


def _sealed(data: bytes, place: str) -> bytes:
    """Give the text of a file with the checksums that it lacks; as it is, if it has them.

    Raises:
        DataError: If a checksum that it has does not match, or it is no JSON.
    """
    if not place.endswith(".jsonl"):
        return _sealed_text(data, place)
    lines = data.split(b"\n")
    # what follows the last newline was never finished; a log that chains its lines verifies itself
    return b"\n".join([*(_sealed_line(line, place) for line in lines[:-1]), lines[-1]])


def _sealed_line(line: bytes, place: str) -> bytes:
    is_chained = f'"{CHAINED}":'.encode() in line and not has_checksum(line)
    return line if is_chained else _sealed_text(line, place)


def _sealed_text(data: bytes, place: str) -> bytes:
    if data[:1] != b"{":  # only objects carry checksums
        parse(data, place)
        return data
    if has_checksum(data):
        unsealed(data, place, place, is_sealed=True)
        return data
    parse(data, place)
    return seal_body(data, place)


def _listed(data: bytes, name: str) -> Json:
    """Give the files that a run.json lists."""
    facts = parse(unsealed(data, name, name, is_sealed=False), name)
    listed: Json = facts.get("files", {}) if isinstance(facts, dict) else {}
    return listed


def _runs_with_lists(files: Files, root: str) -> Iterator[str]:
    """Give the run.json of runs that list their files, relative to the root."""
    for job in files.names(f"{root}/runs"):
        for run in files.names(f"{root}/runs/{job}"):
            name = f"runs/{job}/{run}/{RUN}"
            if files.exists(f"{root}/{name}"):
                try:
                    if _listed(files.read(f"{root}/{name}"), name):
                        yield name
                except DataError:
                    continue  # named already


def _damage(files: Files, root: str, run: str) -> list[str]:
    """Name the files that a run lists and that are neither as listed nor so once they are sealed."""
    folder = run.removesuffix(f"/{RUN}")
    found = []
    for name, expected in _listed(files.read(f"{root}/{run}"), run).items():
        place = f"{folder}/{name}"
        if not _is_ours(place) or not files.exists(f"{root}/{place}"):
            continue  # not changed here; whoever reads the run compares it
        data = files.read(f"{root}/{place}")
        try:
            if expected not in (_entry(data, name, expected), _entry(_sealed(data, place), name, expected)):
                found.append(f"{redact(root)}/{place} is not what {RUN} of its run lists")
        except DataError:
            continue  # named already
    return found


def _entry(data: bytes, name: str, expected: Json) -> Json:
    """Give size and checksum as a run lists them; of events, which go on after the end, of the first so many bytes."""
    part = data[: expected["size"]] if name == EVENTS else data
    return {"size": len(part), "crc32": zlib.crc32(part)}


def _list_anew(files: Files, root: str, run: str) -> None:
    """Replace a run.json by one that lists its files as they will be once they are sealed."""
    data = files.read(f"{root}/{run}")
    facts = parse(unsealed(data, run, run, is_sealed=False), run)
    folder = run.removesuffix(f"/{RUN}")
    listed = {}
    for name, entry in facts["files"].items():
        place = f"{folder}/{name}"
        listed[name] = entry
        if _is_ours(place) and files.exists(f"{root}/{place}"):
            own = files.read(f"{root}/{place}")
            part = own[: entry["size"]] if name == EVENTS else own
            sealed = _sealed(part, place)
            listed[name] = {"size": len(sealed), "crc32": zlib.crc32(sealed)}
    text = write_text({**facts, "files": listed}, indent=1).encode()
    files.write(f"{root}/{run}", seal_body(text, run))


def _refuse_held(files: Files, root: str) -> None:
    for kind in files.names(root):
        for name in files.names(f"{root}/{kind}"):
            inside = [f"{root}/{kind}/{name}"]
            if kind == "runs":
                inside = [f"{inside[0]}/{run}" for run in files.names(inside[0])]
            for path in inside:
                if is_held(files, path):
                    raise ClusterError(f"{redact(path)} is held by a living process. Wait for its end, then migrate.")
