"""Find pretrained weights that a step names, and keep them in the store under a digest of their content.

A folder of weights holds a Hugging Face model: `config.json`, `tokenizer.json` and tensors as safetensors. Pickled
weights and code beside them are never read.
"""

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fmray.catalogue import STEPS
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.store.copies import copy_file
from fmray.store.places import files_of

KIND = "weights"
"""Kind of the store's records, and name of the folder in a model's."""
STATE = "weights"
"""Key of a step's state that holds the digest."""
CONFIG, TOKENIZER, TENSORS, INDEX = "config.json", "tokenizer.json", ".safetensors", "model.safetensors.index.json"
PACKAGE = "package:"
DEPTH = 3
"""Folders below a package in which a model is looked for."""


@dataclass(frozen=True)
class Weights:
    """Name pretrained weights by their content.

    Args:
        digest: SHA-256 over the names and contents of their files.
        folder: Where they lie, in the store.
    """

    digest: str
    folder: str


def keep_weights(refs: Sequence[Ref], home: str, store: Store) -> dict[int, Weights]:
    """Copy the weights that steps name into the store, unless they are there, and give them by the step's place.

    Args:
        home: Folder that relative names start from.

    Raises:
        SpecError: If a name leads to no model.
    """
    kept = {}
    for place, folder in folders_of(refs, home).items():
        digest = digest_of(folder)
        with store.create(KIND, digest) as draft:
            if draft.existing is None:
                for name in _names(folder):
                    copy_file(f"{folder}/{name}", f"{draft.folder}/{name}")
                draft.commit({})
                kept[place] = Weights(digest, _kept_in(store, digest))
            else:
                kept[place] = Weights(digest, draft.folder)
    return kept


def folders_of(refs: Sequence[Ref], home: str) -> dict[int, str]:
    """Give the local folder of the weights that each step names, by the step's place.

    Raises:
        SpecError: If a name leads to no model.
    """
    found = {}
    for place, ref in enumerate(refs):
        key = STEPS.params(ref.name).pretrained if ref.name in STEPS else ""
        name = ref.params.get(key) if key else None
        if isinstance(name, str):  # a search may give a range
            found[place] = find(name, home, where=f"steps.{ref.name}.{key}")
    return found


def copied_weights(steps: Sequence[Json], store: Store) -> dict[str, str]:
    """Give the folders in the store of the weights that fitted steps use, by digest."""
    digests = {step["state"][STATE] for step in steps if STATE in step["state"]}
    return {digest: _kept_in(store, digest) for digest in sorted(digests)}


def beside_model(steps: Sequence[Json], folder: str) -> dict[int, str]:
    """Give the folders of the weights that fitted steps use, in the folder of a model, by the step's place.

    Raises:
        DataError: If they are missing or damaged.
    """
    found = {}
    for place, step in enumerate(steps):
        if digest := step["state"].get(STATE):
            here = f"{folder}/{KIND}/{digest}"
            if not os.path.isdir(here) or digest_of(here) != digest:
                raise DataError(f"{here} is missing or damaged. Copy the model folder again.")
            found[place] = here
    return found


def write_weights(folders: Mapping[str, str], home: str) -> None:
    """Copy weights into the folder of a model.

    Args:
        folders: Digest -> folder in the store.
    """
    for digest, folder in folders.items():
        for name in files_of(folder).sizes(folder):
            copy_file(f"{folder}/{name}", f"{home}/{KIND}/{digest}/{name}")


def find(name: str, home: str, where: str) -> str:
    """Give the local folder of a model.

    Args:
        name: A folder, `package:NAME` for the one inside an installed Python package, or the name of a model on the
            Hugging Face hub, with `@REVISION` behind it for another revision than the newest.
        home: Folder that relative names start from.
        where: Key of the job, for messages.

    Raises:
        SpecError: If there is none, or it has no tokenizer or no safetensors.
    """
    if name.startswith(PACKAGE):
        folder = _in_package(name.removeprefix(PACKAGE), where)
    else:
        path = Path(home, os.path.expanduser(name))
        folder = str(path) if path.is_dir() else _from_hub(name, where)
    missing = [file for file in (CONFIG, TOKENIZER) if not Path(folder, file).is_file()]
    if not any(file.endswith(TENSORS) for file in os.listdir(folder)):
        missing.append(f"*{TENSORS}")
    if missing:
        raise SpecError(f"{folder} has no {', no '.join(missing)}. Save the model there with save_pretrained.", where)
    return folder


def digest_of(folder: str) -> str:
    """Digest the names and contents of the files that a model consists of."""
    marks = []
    for name in _names(folder):
        status = os.stat(f"{folder}/{name}")
        marks.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    return _digest(folder, tuple(marks))


@lru_cache(maxsize=16)
def _digest(folder: str, marks: tuple[tuple[str, int, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, size, *_ in marks:
        whole.update(f"{name}\0{size}\0".encode())
        with open(f"{folder}/{name}", "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _names(folder: str) -> list[str]:
    named = (CONFIG, TOKENIZER, INDEX)
    return sorted(name for name in os.listdir(folder) if name in named or name.endswith(TENSORS))


def _kept_in(store: Store, digest: str) -> str:
    manifest = store.find(KIND, digest)
    if manifest is None:
        raise DataError(f"{store.path(KIND, digest)} is missing. Run the job again to have it made.")
    return str(manifest["folder"])


def _in_package(name: str, where: str) -> str:
    """Find the one model inside an installed package, without importing it."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise SpecError(f"'{PACKAGE}{name}': no such package is installed. Install it, or name a folder.", where)
    found = []
    for root in spec.submodule_search_locations:
        for path in sorted(Path(root).rglob(CONFIG)):
            if len(path.relative_to(root).parts) <= DEPTH and (path.parent / TOKENIZER).is_file():
                found.append(str(path.parent))
    if len(found) != 1:
        shown = ", ".join(found) or "none"
        raise SpecError(f"'{PACKAGE}{name}' holds {len(found)} models: {shown}. Name a folder.", where)
    return found[0]


def _from_hub(name: str, where: str) -> str:
    """Fetch a model from the hub, or find it among those that were fetched before."""
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise SpecError(f"{name!r} is no folder. Names on the hub need fmray[hf].", where) from error
    try:
        return str(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=[CONFIG, TOKENIZER, INDEX, f"*{TENSORS}"]
            )
        )
    except (OSError, ValueError) as error:  # the hub's own errors derive from them
        reason = str(error).strip().partition("\n")[0]
        raise SpecError(
            f"{name!r} is no folder, and could not be fetched from the hub: {reason}. "
            f"Name a folder, a model on the hub, or {PACKAGE}NAME.",
            where,
        ) from error
