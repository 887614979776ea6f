"""Open the folder of a model as `fmray predict` does, and write down what it predicts for a few rows.

`asked.json` and `rows.arrow` lie in a folder; `found.json` and `said.npy` are put beside them. Nothing is known here
but what these files and the folder of the model say: neither the job nor the members in memory.
"""

import json
import os
import re
import sys
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from fmray.errors import DataError, FmrayError
from fmray.inference.model import SavedModel, open_model
from fmray.ragged import values_of
from fmray.records import Json
from fmray.store.copies import folder_to_keep
from fmray.store.manifest import verify
from fmray.store.places import files_of
from fmray.train.device import compute_as
from fmray.train.saved import FILE

ASKED, ROWS, FOUND, SAID = "asked.json", "rows.arrow", "found.json", "said.npy"
_BY_NAME = re.compile(r".*\.(pkl|pickle|pt|pth|ckpt|joblib|dill)", re.IGNORECASE)
_OPENS_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_OPENS_ARRAY = b"\x93NUMPY"


@dataclass(frozen=True)
class Asked:
    """Say which model is opened, and how.

    Args:
        model: Its folder.
        files: What the run left in it: name -> size and checksum.
        trust: Whether the author's own modules may run: that of a job with such modules, which ran them anyway.
        computing: As `train.device.computing` gives it.
        target: Of the run, as plain values.
    """

    model: str
    files: Mapping[str, Json]
    trust: bool
    computing: Mapping[str, int]
    target: Json


@dataclass(frozen=True)
class Found:
    """Say what was found in the folder of a model.

    Args:
        error: Why it could not be opened, or does not predict; "" if it does.
        pickles: Files in it that may run code by being read.
        faulty: Rows that it cannot read.
    """

    error: str = ""
    pickles: tuple[str, ...] = ()
    faulty: int = 0


def ask(folder: Path, asked: Asked, rows: pa.Table) -> None:
    """Leave what is asked in a folder."""
    (folder / ASKED).write_text(json.dumps(asdict(asked)), encoding="utf-8")
    with pa.OSFile(str(folder / ROWS), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)


def reopen(folder: Path) -> None:
    """Answer what lies in a folder."""
    asked = Asked(**json.loads((folder / ASKED).read_text(encoding="utf-8")))
    compute_as(asked.computing)
    with pa.memory_map(str(folder / ROWS)) as source:
        rows = pa.ipc.open_file(source).read_all()
        found, said = _look(asked, rows)
    np.save(folder / SAID, said, allow_pickle=False)
    (folder / FOUND).write_text(json.dumps(asdict(found)), encoding="utf-8")


def read_answer(folder: Path) -> tuple[Found, np.ndarray]:
    """Read what `reopen` found, and what the model says of the rows; of tokens, for each."""
    plain = json.loads((folder / FOUND).read_text(encoding="utf-8"))
    return Found(**{**plain, "pickles": tuple(plain["pickles"])}), np.load(folder / SAID, allow_pickle=False)


def _look(asked: Asked, rows: pa.Table) -> tuple[Found, np.ndarray]:
    none = np.zeros((0, 0))
    pickles: tuple[str, ...] = ()
    here = asked.model
    try:
        here = folder_to_keep(asked.model)  # what lies elsewhere is fetched once
        pickles = pickles_in(here)
        _require_same_files(here, asked)
        model = open_model(here, trust_code=asked.trust)
        _require_same_target(asked, model)
        predicted = model.outputs(rows)
    except FmrayError as error:
        return Found(str(error).replace(here, asked.model), pickles), none
    said = model.codec.as_in_tables(predicted.said, model.saved.ensemble.params)
    return Found("", pickles, int((predicted.faulty > 0).sum())), values_of(said)


def _require_same_files(here: str, asked: Asked) -> None:
    """Make sure that the folder holds what the run left in it, whether opening the model reads it or not.

    Raises:
        DataError: Naming the file that is missing, damaged, or of somebody else.
    """
    there = files_of(here).sizes(here)
    if strange := there.keys() - asked.files.keys():
        raise DataError(f"{here}/{min(strange)} was not written by the run. Run the job again with --fresh.")
    if missing := asked.files.keys() - there.keys():
        raise DataError(f"{here}/{min(missing)} is missing. Run the job again with --fresh.")
    verify(here, asked.files)


def _require_same_target(asked: Asked, model: SavedModel) -> None:
    """Make sure that outputs are called what the run called them: numbers alone do not tell classes that were swapped.

    Raises:
        DataError: Naming what differs.
    """
    found = json.loads(json.dumps(model.target.to_json()))
    for name, wanted in asked.target.items():
        if found.get(name) != wanted:
            text = f"target.{name} is {found.get(name)!r:.200}, that of the run is {wanted!r:.200}"
            raise DataError(f"{asked.model}/{FILE}: {text}. Run the job again with --fresh.")


def pickles_in(folder: str) -> tuple[str, ...]:
    """Name the files of a local folder that may run code by being read, as pickles do; none of them is read so."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return tuple(path.relative_to(folder).as_posix() for path in paths if _is_pickle(path))


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        begin = file.read(512)
    if _BY_NAME.fullmatch(path.name) or _OPENS_PICKLE.match(begin):
        return True
    if begin.startswith(_OPENS_ARRAY):
        return b"'|O'" in begin
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(_BY_NAME.fullmatch(name) for name in archive.namelist())


def main() -> None:
    """Answer what lies in the folder that is named on stdin; leave when whoever names it is gone."""
    folder = sys.stdin.readline().rstrip("\n")
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if folder:
        reopen(Path(folder))


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, of which the end of the input tells."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
