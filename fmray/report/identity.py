"""Name a run by what was asked and by the data, so that asking again finds the same directory."""

import hashlib
import json
import os
import string

from fmray.errors import SpecError
from fmray.spec.job import Job
from fmray.spec.pretrained import by_content, with_pretrained
from fmray.spec.ref import Ref
from fmray.store import Store, code_digest, fingerprint
from fmray.store.copies import to_read
from fmray.store.places import files_of
from fmray.store.regular import MOST_JSON_BYTES, open_regular

NOT_ASKED = ("track", "run", "promote", "schedule", "folder")
"""Parts of a job that say how, where and when it runs and what follows; another run would give the same."""


def name_run(job: Job, data_fingerprint: str, store: Store | None, fresh: bool = False) -> str:
    """Give the id of the newest run of this job on this data, or of the first.

    Args:
        data_fingerprint: Of the files as scanned; empty if they are not seen.
        store: That holds the runs; None if there are none.
        fresh: Name one beside those that are there.

    Raises:
        SpecError: If a step names pretrained weights that are not here.
    """
    job = with_pretrained(job)
    asked = {key: value for key, value in job.to_json().items() if key not in NOT_ASKED}
    if data_fingerprint:  # which says what the data are, wherever they lie and however that is spelled
        asked["data"] = {key: value for key, value in asked["data"].items() if key != "path"}
    if job.train.start is not None:  # what it holds decides, not where it lies
        asked["train"]["start"]["model"] = content_of(origin_of(job.train.start.model, job.folder))
    asked["model"] = by_content(Ref.read(asked["model"])).to_json()  # so it is with pretrained models
    asked["steps"] = [by_content(Ref.read(step)).to_json() for step in asked["steps"]]
    first = fingerprint(asked, data_fingerprint, code_digest(*job.modules()))[:12]
    names = store.list(store.path("runs", job.name)) if store else []
    taken = [name for name in names if name.split("-")[0] == first]
    newest = max(taken, key=lambda name: (len(name), name), default=first)
    return f"{first}-{_letters(len(taken))}" if fresh and taken else newest


def origin_of(model: str, folder: str) -> str:
    """Give the whole path or URI of a folder that a job names.

    Args:
        folder: Of the job file.
    """
    if "://" in model:
        return model.rstrip("/")
    return os.path.abspath(os.path.join(folder, os.path.expanduser(model)))


def content_of(root: str) -> str:
    """Digest the tensors in the folder of a run or a model, or beside nothing else in a `model.safetensors`.

    A model's own checksum covers the hashes of its tensors; both are verified when they are read.

    Raises:
        SpecError: If there is none of these.
    """
    files = files_of(root)
    for path in (f"{root}/model.json", f"{root}/model/model.json"):
        if files.exists(path):
            with to_read(path) as here, open_regular(here, MOST_JSON_BYTES) as file:
                value = json.loads(file.read())
            return str(value.get("checksum", "")) if isinstance(value, dict) else ""
    path = f"{root}/model.safetensors"
    if not files.exists(path):
        others = [name for name in files.names(root) if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        beside = f" {others[0]} may run code by being read, and is not taken: save it as safetensors." if others else ""
        text = f"{root} holds no finished run, no model and no model.safetensors.{beside}"
        raise SpecError(text if others else f"{text} Give a folder that does.", "train.start.model")
    with to_read(path) as here, open(here, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _letters(number: int) -> str:
    """Spell an attempt: b, c ... z, ab, ac ..."""
    rest, last = divmod(number, 26)
    return ("" if rest == 0 else _letters(rest - 1)) + string.ascii_lowercase[last]
