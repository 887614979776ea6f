"""Keep the pretrained weights that steps compute by in the store, and beside a model, under a digest of their content.

Only the description, the tensors as safetensors and the tokenizer are kept; see `fmray.spec.pretrained`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fmray.catalogue import STEPS
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.spec.pretrained import CONFIG, CONTENT, TENSORS, TOKENIZER, content_of
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.store.copies import copy_file
from fmray.store.places import files_of

KIND = "weights"
"""Kind of the store's records, and name of the folder in a model's."""
STATE = "weights"
"""Key of a step's state that holds the digest."""
FILES = (CONFIG, TENSORS, TOKENIZER)


@dataclass(frozen=True)
class Weights:
    """Name pretrained weights.

    Args:
        digest: Of their content.
        folder: Where they lie, in the store.
    """

    digest: str
    folder: str


def keep_weights(refs: Sequence[Ref], store: Store) -> dict[int, Weights]:
    """Copy the weights that steps compute by into the store, unless they are there, and give them by the step's place.

    Raises:
        DataError: If a folder was changed since the job was read.
    """
    kept = {}
    for place, folder in folders_of(refs).items():
        digest = str(refs[place].params[CONTENT])
        with store.create(KIND, digest) as draft:
            if draft.existing is None:
                for name in FILES:
                    copy_file(f"{folder}/{name}", f"{draft.folder}/{name}")
                if _content_of(folder) != digest:
                    raise DataError(f"{folder} was changed since the run began. Run the job again.", "steps")
                draft.commit({})
        kept[place] = Weights(digest, _kept_in(store, digest))
    return kept


def folders_of(refs: Sequence[Ref]) -> dict[int, str]:
    """Give the folders of the weights that steps compute by, as a job was completed, by the step's place."""
    return {
        place: str(ref.params["folder"])
        for place, ref in enumerate(refs)
        if ref.name in STEPS and STEPS.params(ref.name).keeps_weights
    }


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
            if not os.path.isdir(here) or _content_of(here) != digest:
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


def _content_of(folder: str) -> str:
    """Digest what is in a folder that was kept; empty where a file is missing."""
    try:
        return content_of(folder, "", FILES)
    except SpecError:
        return ""


def _kept_in(store: Store, digest: str) -> str:
    manifest = store.find(KIND, digest)
    if manifest is None:
        raise DataError(f"{store.path(KIND, digest)} is missing. Run the job again to have it made.")
    return str(manifest["folder"])
