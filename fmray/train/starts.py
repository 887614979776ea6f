"""Find the tensors that a training may begin with.

Apart from `train.warm`, which members are built with: how a model folder is read does not decide what a training gives.
"""

from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file

from fmray.errors import DataError, SpecError
from fmray.records import TENSORS as NETWORK
from fmray.store.copies import folder_to_keep, to_read
from fmray.store.places import files_of
from fmray.store.regular import require_inside
from fmray.train.artefacts import TENSORS, tensor_hash
from fmray.train.saved import FILE, Saved, read_model
from fmray.train.warm import Start


@dataclass(frozen=True)
class FoundModel:
    """Hold a model that was found in the folder of a run, or in its own.

    Args:
        root: Its folder.
        saved: What it says of itself.
    """

    root: str
    saved: Saved


def starts_in(root: str, found: FoundModel | None, part: str | tuple[str, ...], where: str) -> tuple[Start, ...]:
    """Give the tensors of the model in a folder, or of a folder that holds nothing but tensors.

    They are safetensors, which run nothing by being read, and no code beside them is imported.

    Args:
        found: The model in the folder, as `model_in` gives it.
        part, where: As for `Start`.

    Raises:
        DataError: If they are missing or damaged.
        SpecError: If the model is not a network.
    """
    if found is not None:
        members = found.saved.members
        if other := next((member.artefact for member in members if member.artefact != NETWORK), ""):
            raise SpecError(f"{root} holds a model of {other}, which has no tensors. Give that of a network.", where)
        return tuple(
            Start(m.index, m.tensor_hash, f"{found.root}/{m.index:05d}", part=part, where=where) for m in members
        )
    path = f"{root}/{TENSORS}"
    if "://" not in path:
        require_inside(path, root)
    try:
        with to_read(path) as here:
            content = tensor_hash(load_file(here))
    except SafetensorError as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}. Copy it again.") from error
    return (Start(0, content, root, part=part, where=where),)


def model_in(root: str) -> FoundModel | None:
    """Read the model in the folder of a run or a model, if there is one.

    Raises:
        DataError: If it is damaged.
    """
    files = files_of(root)
    home = next((home for home in (root, f"{root}/model") if files.exists(f"{home}/{FILE}")), None)
    return None if home is None else FoundModel(home, read_model(folder_to_keep(home)))
