"""Resolve the folders of pretrained models that a job names: where they lie, and what they hold.

What a folder holds decides a result, and where it lies does not. So a job is completed before it is run: beside each
folder stands a digest of its content, which names runs and records in its place; and the description of a model stands
in the job itself, so that a trained member is built again without the folder.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fmray.catalogue import MODELS, TASKS
from fmray.errors import SpecError
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store.regular import MOST_JSON_BYTES, open_regular

CONFIG, TENSORS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
MODEL, STEP, WORDS, FROZEN = "hf", "tokenize", "tokenize_words", "embed"
FOLDERS = {MODEL: "folder", STEP: "pretrained", WORDS: "pretrained", FROZEN: "folder"}
"""Name of a component -> its parameter that names a folder."""
SAVED = "model.json"
"""Describes a model of fmray in its folder; see `fmray.train.saved`."""
CONTENT = "content"
PACKAGE = "package:"
DEPTH = 3
"""Folders below a package in which a model is looked for."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def with_pretrained(job: Job) -> Job:
    """Give the job with whole paths of the folders of pretrained models, their digests and the model's description.

    A job that names none is given as it is.

    Raises:
        SpecError: If a folder is missing or lacks a file, or ids would not be those that the model was trained with.
    """
    for keys in job.ranges:
        if len(keys) > 1 and FOLDERS.get(str(keys[-2])) == keys[-1]:
            text = "is a range, and folders are not searched. Give one, and run a job for each of the others."
            raise SpecError(text, dotted(keys))
    steps = tuple(_resolved_step(step, job.folder) for step in job.steps)
    if job.task.name in TASKS and TASKS.params(job.task.name).fills_masks:
        _refuse_foreign_masks(steps)
    model = _resolved_model(job.model, job.folder)
    if steps == job.steps and model == job.model:
        return job
    if model.name == MODEL and "folder" in model.params:
        _refuse_foreign_ids(model, steps)
    return replace(job, steps=steps, model=model)


def by_content(ref: Ref) -> Ref:
    """Give a component without the place of a folder whose content is known."""
    key = FOLDERS.get(ref.name)
    if key is None or CONTENT not in ref.params:
        return ref
    return Ref(ref.name, {name: value for name, value in ref.params.items() if name != key})


def _resolved_step(ref: Ref, home: str) -> Ref:
    key = FOLDERS.get(ref.name, "")
    named = ref.params.get(key)
    if not isinstance(named, str):
        return ref
    where = f"steps.{ref.name}.{key}"
    folder = folder_of(named, home, where)
    if ref.name in (STEP, WORDS):
        digest = hashlib.sha256(tokenizer_in(folder, where)).hexdigest()
    else:
        _description(_required(folder, CONFIG, where), where)
        digest = content_of(folder, where, (CONFIG, TENSORS, TOKENIZER))
    _refuse_other_content(ref, folder, digest=digest, where=where)
    return Ref(ref.name, {**ref.params, key: folder, CONTENT: digest})


def _resolved_model(ref: Ref, home: str) -> Ref:
    named = ref.params.get(FOLDERS[MODEL]) if ref.name == MODEL else None
    if not isinstance(named, str):
        return ref
    where = f"model.{MODEL}.{FOLDERS[MODEL]}"
    folder = folder_of(named, home, where)
    config = _description(_required(folder, CONFIG, where), where)
    digest = content_of(folder, where)
    _refuse_other_content(ref, folder, digest=digest, where=where)
    return Ref(ref.name, {**ref.params, FOLDERS[MODEL]: folder, "config": config, CONTENT: digest})


def _refuse_other_content(ref: Ref, folder: str, digest: str, where: str) -> None:
    """Refuse a folder that does not hold what the job says, which it may say itself or has been told when it began.

    Raises:
        SpecError: If it does not.
    """
    asked = ref.params.get(CONTENT)
    if asked is not None and asked != digest:
        raise SpecError(
            f"{folder} holds {digest[:12]}, and content {asked!s:.12} is asked for: it was changed since the run "
            "began, or the job names another. Run the job again, or leave content out.",
            where,
        )


def folder_of(named: str, home: str, where: str) -> str:
    """Give the whole path of a folder, of the model in a package, or of one in the local cache of the hub.

    Args:
        named: As the job names it: a path, `package:NAME`, or the name of a model on the hub.
        home: Folder that relative paths start from.
        where: Key of the job, for messages.

    Raises:
        SpecError: If there is none. Nothing is fetched.
    """
    if named.startswith(PACKAGE):
        return _in_package(named.removeprefix(PACKAGE), where)
    if "://" in named:
        text = f"'{named}' is no folder here, and these are read from local ones. Copy it, and name the copy."
        raise SpecError(text, where)
    path = Path(home, os.path.expanduser(named)).absolute()
    if path.is_dir():
        return os.path.normpath(path)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise SpecError(f"'{named}' is no folder. Names of models need fmray[hf].", where) from error
    try:
        return str(snapshot_download(named, local_files_only=True))
    except (OSError, ValueError) as error:  # the hub's own errors derive from them
        text = f"'{named}' is no folder, and no model of that name is in the local cache of the hub. Fetch it first."
        raise SpecError(text, where) from error


def _in_package(name: str, where: str) -> str:
    """Find the one model inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    homes = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not homes:
        raise SpecError(f"'{PACKAGE}{name}': no such package is installed. Install it, or name a folder.", where)
    found = [
        str(path.parent)
        for home in homes
        for path in sorted(Path(home).rglob(CONFIG))
        if len(path.relative_to(home).parts) <= DEPTH and (path.parent / TOKENIZER).is_file()
    ]
    if len(found) != 1:
        text = f"'{PACKAGE}{name}' holds {len(found)} models: {', '.join(found) or 'none'}. Name a folder."
        raise SpecError(text, where)
    return found[0]


def tokenizer_in(folder: str, where: str) -> bytes:
    """Read the tokenizer of a pretrained model, or the one that a run of fmray has learned, as JSON.

    Args:
        folder: Of a run, of its model, or one that holds `tokenizer.json`.

    Raises:
        SpecError: If there is none, or a run has learned several.
    """
    own = learned_in(folder, where)
    if own is not None:
        return own
    if not os.path.isfile(f"{folder}/{TOKENIZER}"):
        text = f"{folder} has no {TOKENIZER}, and is no run of fmray. Give a run, or a folder of save_pretrained."
        raise SpecError(text, where)
    with open(f"{folder}/{TOKENIZER}", "rb") as file:
        return file.read()


def learned_in(folder: str, where: str) -> bytes | None:
    """Read the tokenizer that a run has learned, None where the folder is not that of a run or of its model.

    Raises:
        SpecError: If its members read no text by tokenize, or by several.
    """
    path = description_in(folder)
    if path is None:
        return None
    try:
        with open_regular(os.path.realpath(path), MOST_JSON_BYTES) as file:
            told = json.loads(file.read())
        ways = {member["prepared"] or told["prepared"] for member in told["members"]}
        steps = [step for way in sorted(ways) for step in told["ways"][way]["steps"] if step["name"] == STEP]
        found = [step["state"]["tokenizer"] for step in steps]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path} cannot be read: {error}. Name the folder of a run or of its model.", where) from error
    if not found or len(found) > len(ways):
        text = "several steps of" if found else "no step of"
        raise SpecError(f"{text} {path} {'are' if found else 'is'} tokenize. Name a run whose model has one.", where)
    if len(set(found)) > 1:
        text = f"members of {path} have {len(set(found))} vocabularies. Name a run whose members share one."
        raise SpecError(text, where)
    return str(found[0]).encode()


def description_in(folder: str) -> str | None:
    """Give the path of the description of a model in the folder of a run or a model, None where there is none."""
    paths = (f"{home}/{SAVED}" for home in (folder, f"{folder}/model"))
    return next((path for path in paths if os.path.isfile(path)), None)


def said_of_pretrained(job: Job) -> list[str]:
    """Say which weights members begin with, and what is decided about them."""
    model = job.model
    if model.name != MODEL:
        return []
    dropout = MODELS.read(MODEL, model.params).dropout
    own = f"where the encoder trains it drops by model.hf.dropout ({dropout}), whatever {CONFIG} says, no attention"
    if CONTENT not in model.params:
        return [f"hf: no folder is named, so weights are drawn; {own}"]
    return [f"hf: weights of {model.params['folder']} ({model.params[CONTENT][:12]}), without its pooler; {own}"]


def content_of(folder: str, where: str, names: Sequence[str] = (CONFIG, TENSORS)) -> str:
    """Digest what decides a pretrained model (SHA-256).

    Args:
        names: Files that count: its description and its tensors.

    Raises:
        SpecError: If one of them is missing.
    """
    digests = [_digest(_required(folder, name, where)) for name in names]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _required(folder: str, name: str, where: str) -> str:
    path = f"{folder}/{name}"
    if os.path.isfile(path):
        return path
    others = sorted(other for other in os.listdir(folder) if other.endswith(PICKLES))
    if name == TENSORS and others:
        text = f"{others[0]} may run code by being read, and is not taken. Save the model as {TENSORS}."
        raise SpecError(f"{folder} has no {name}; {text}", where)
    raise SpecError(f"{folder} has no {name}. Give a folder that save_pretrained of transformers wrote.", where)


def _description(path: str, where: str) -> dict[str, Any]:
    """Read the description of a model.

    Raises:
        SpecError: If it cannot be read, or is of a model whose numbers are quantised.
    """
    try:
        with open_regular(os.path.realpath(path), MOST_JSON_BYTES) as file:
            value = json.loads(file.read())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read: {error}.", where) from error
    if not isinstance(value, Mapping) or not isinstance(value.get("model_type"), str):
        text = f"{path} has no model_type. Give a config.json of transformers."
        raise SpecError(text, where)
    if value.get("quantization_config"):
        raise SpecError(f"{path} describes quantised weights. Save the model in float32 or bfloat16.", where)
    return {name: given for name, given in value.items() if not name.startswith("_")}


def _refuse_foreign_ids(model: Ref, steps: tuple[Ref, ...]) -> None:
    """Refuse ids of another tokenizer than the model's: they would name other words than it was trained with."""
    where = f"model.{MODEL}"
    folder = model.params["folder"]
    named = model.params.get("block")
    makers = [step for step in steps if _makes_ids(step) and (named is None or _may_make(step, str(named)))]
    in_pieces = [step for step in makers if step.name == WORDS]
    if named is None and in_pieces:
        makers = in_pieces  # which is what hf reads then
    if not any(FOLDERS[step.name] in step.params for step in makers):
        text = (
            f"hf reads ids of its own tokenizer. Give steps: [{{tokenize: {{columns: TEXT, pretrained: {folder}}}}}]."
        )
        raise SpecError(text, where)
    own = f"{folder}/{TOKENIZER}"
    for step in makers:
        if os.path.isfile(own) and step.params.get(CONTENT) != _digest(own):
            key = FOLDERS[step.name]
            text = f"{step.params.get(key, step.name)} has another {TOKENIZER} than {folder}. Name the model's own."
            raise SpecError(text, f"steps.{step.name}.{key}")


def _makes_ids(step: Ref) -> bool:
    """Tell whether a step makes ids that hf may read: words have some of their own, and pieces where it says so."""
    return step.name == STEP or (step.name == WORDS and FOLDERS[WORDS] in step.params)


def _refuse_foreign_masks(steps: tuple[Ref, ...]) -> None:
    """Refuse ids among which none is free to stand for a hidden token, as 0 is in a vocabulary of fmray."""
    where = f"steps.{STEP}.{FOLDERS[STEP]}"
    for step in steps:
        folder = step.params.get(FOLDERS[STEP]) if step.name == STEP else None
        if folder is not None and not _has_own_specials(tokenizer_in(str(folder), where)):
            text = "tokens are hidden by id 0, which is [PAD] in a vocabulary of fmray, before [UNK], which is 1."
            raise SpecError(f"{folder} has a vocabulary from elsewhere, and {text} Leave it out.", where)


def _has_own_specials(tokenizer: bytes) -> bool:
    """Tell whether ids 0 and 1 stand for no token of a text, and no other special ones stand around a text."""
    told = json.loads(tokenizer)
    ids = {one["content"]: one["id"] for one in told.get("added_tokens") or ()}
    return (ids.get("[PAD]"), ids.get("[UNK]"), told.get("post_processor")) == (0, 1, None)


def _may_make(step: Ref, block: str) -> bool:
    """Tell whether a step of tokens may make a block: one called so, or one of several, called after its column."""
    own = "pieces" if step.name == WORDS else step.params.get("block") or "tokens"
    return block == own or block.startswith(f"{own}_")


def _digest(path: str) -> str:
    status = os.stat(path)
    return _digest_of(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _digest_of(path: str, size: int, changed: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
