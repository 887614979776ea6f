"""Keep the pretrained weights that steps compute by in the store, and beside a model, under a digest of their content.

Only the description, the tensors as safetensors and the tokenizer are kept; see `fmray.spec.pretrained`.
"""

import os
from collections.abc import Sequence
from functools import lru_cache

from safetensors import SafetensorError, safe_open

from fmray.catalogue import STEPS
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.spec.pretrained import CONFIG, CONTENT, TENSORS, TOKENIZER, content_of
from fmray.spec.ref import Ref
from fmray.store import MANIFEST, Store
from fmray.store.copies import copy_file, folder_to_keep
from fmray.store.places import files_of

KIND = "weights"
"""Kind of the store's records, and name of the folder in a model's."""
STATE = "weights"
"""Key of a step's state that holds the digest."""
FILES = (CONFIG, TENSORS, TOKENIZER)
PLAIN = ("F16", "BF16", "F32", "F64")


def keep_weights(refs: Sequence[Ref], store: Store) -> dict[int, str]:
    """Copy the weights that steps compute by into the store, unless they are there.

    Returns:
        Folders in the store, by the step's place.

    Raises:
        DataError: If a folder was changed since the job was read.
    """
    kept = {}
    for place, folder in folders_of(refs).items():
        digest = str(refs[place].params[CONTENT])
        _forget_damaged(store, digest)
        with store.create(KIND, digest) as draft:
            if draft.existing is None:
                for name in FILES:
                    copy_file(f"{folder}/{name}", f"{draft.folder}/{name}")
                if _content_of(draft.folder) != digest:
                    raise DataError(f"{folder} was changed since the run began. Run the job again.", "steps")
                draft.commit({})
        kept[place] = _kept_in(store, digest)
    return kept


def _forget_damaged(store: Store, digest: str) -> None:
    """Have weights made anew that are no longer what they were when they were kept."""
    try:
        found = store.find(KIND, digest)
        if found is None or _content_of(str(found["folder"])) == digest:
            return
    except DataError:
        pass
    store.remove(f"{store.path(KIND, digest)}/{MANIFEST}")  # what has no manifest is no record


def folders_of(refs: Sequence[Ref]) -> dict[int, str]:
    """Give the folders of the weights that steps compute by, as a job was completed, by the step's place."""
    return {
        place: str(ref.params["folder"])
        for place, ref in enumerate(refs)
        if ref.name in STEPS and STEPS.params(ref.name).keeps_weights
    }


def records_of(refs: Sequence[Ref]) -> list[tuple[str, str]]:
    """Name the records of the weights that steps compute by: kind and digest."""
    return [(KIND, str(refs[place].params[CONTENT])) for place in folders_of(refs)]


def beside_model(steps: Sequence[Json], folder: str) -> dict[int, str]:
    """Give the folders of the weights that fitted steps use, in the folder of a model, by the step's place.

    Raises:
        DataError: If they are missing or damaged.
    """
    found = {}
    for place, digest in _digests(steps).items():
        here = f"{folder}/{KIND}/{digest}"
        if not os.path.isdir(here) or _content_of(here) != digest:
            raise DataError(f"{here}{_damage_of(here)}. Copy the model folder again.")
        found[place] = here
    return found


def _digests(steps: Sequence[Json]) -> dict[int, str]:
    """Give the digests of the weights that fitted steps use, by the step's place; others may keep what they like."""
    return {
        place: str(step["state"].get(STATE))
        for place, step in enumerate(steps)
        if step["name"] in STEPS and STEPS.params(step["name"]).keeps_weights
    }


def refuse_unfit(tensors: str, where: str) -> None:
    """Refuse tensors that are not plain floating point numbers, which only their own code could read.

    Args:
        tensors: Path of a file of safetensors.

    Raises:
        DataError: If one is quantised, or the file cannot be read.
    """
    try:
        with safe_open(tensors, "np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{tensors} cannot be read as safetensors: {error}. Save the model again.", where) from error
    odd = {name: kind for name, kind in kinds.items() if kind not in PLAIN and not name.endswith("position_ids")}
    for name, kind in odd.items():
        raise DataError(
            f"{tensors} holds '{name}' as {kind}. Accepted: {', '.join(PLAIN)}. Save it unquantised.", where
        )


def write_weights(steps: Sequence[Json], store: Store, home: str) -> None:
    """Copy the weights that fitted steps use from the store into the local folder of a model, each once."""
    for digest in set(_digests(steps).values()):
        here = f"{home}/{KIND}/{digest}"
        folder = _kept_in(store, digest)
        for name in files_of(folder).sizes(folder) if not os.path.isdir(here) else ():
            copy_file(f"{folder}/{name}", f"{here}/{name}")


def _damage_of(folder: str) -> str:
    """Say what is wrong with a folder that has not the content it is named after."""
    missing = [name for name in FILES if not os.path.isfile(f"{folder}/{name}")]
    if len(missing) == len(FILES):
        return " is missing"
    return f" lacks {', '.join(missing)}" if missing else f": {', '.join(FILES[:-1])} or {FILES[-1]} is damaged"


def _content_of(folder: str) -> str:
    """Digest what is in a folder that was kept, here or in a store elsewhere; empty where a file is missing."""
    try:
        return content_of(local_copy(folder), "", FILES)
    except SpecError:
        return ""


@lru_cache(maxsize=8)
def local_copy(folder: str) -> str:
    """Give a local folder with the content of one that was kept; what was kept never changes, so one copy will do."""
    return folder_to_keep(folder)


def _kept_in(store: Store, digest: str) -> str:
    manifest = store.find(KIND, digest)
    if manifest is None or _content_of(str(manifest["folder"])) != digest:
        raise DataError(f"{store.path(KIND, digest)} is missing or damaged. Run the job again to have it made anew.")
    return str(manifest["folder"])
