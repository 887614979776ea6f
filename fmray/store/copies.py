"""Give libraries that know only local files a way to write to a store and read from it, wherever it lies.

In a local store nothing is copied; elsewhere a file is made here and put in place when it is whole.
"""

import atexit
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from fmray.store.fences import require_held
from fmray.store.files import TEMPORARY, machine, named_errors
from fmray.store.places import files_of
from fmray.store.regular import require_regular

_PARTIAL = re.compile(r"\.partial(-[0-9a-f]{8})?")  # nothing else beside the folder is ours to remove


@contextmanager
def to_write(path: str) -> Iterator[str]:
    """Give a local path to make a file at; when the block ends well, it lies at `path`, whole."""
    folder, _, name = path.rpartition("/")
    require_held(path)
    if "://" not in path:
        os.makedirs(folder or ".", exist_ok=True)
        partial = os.path.join(folder, f"{TEMPORARY}{machine()}-{os.getpid()}-{name}")
        try:
            yield partial
            require_held(path)
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
        return
    with tempfile.TemporaryDirectory(prefix="fmray-") as here:
        yield f"{here}/{name}"
        files_of(path).put(f"{here}/{name}", path)


@contextmanager
def folder_to_write(path: str) -> Iterator[str]:
    """Give a local folder to make files in; when the block ends well, they lie in the folder `path`, and no others."""
    require_held(path)
    if "://" not in path:
        parent, name = os.path.split(path)
        os.makedirs(parent or ".", exist_ok=True)
        for left in os.listdir(parent or "."):
            # of a process that ended, or that may not go on here
            if left.startswith(name) and _PARTIAL.fullmatch(left, len(name)):
                shutil.rmtree(os.path.join(parent, left), ignore_errors=True)
        # a name of its own: a process that was stopped in here must not write into the folder of its successor
        partial = f"{path}.partial-{secrets.token_hex(4)}"
        os.makedirs(partial)
        try:
            yield partial
            require_held(path)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory(prefix="fmray-") as here:
        yield here
        files = files_of(path)
        files.remove(path)
        for name in files_of(here).sizes(here):
            files.put(f"{here}/{name}", f"{path}/{name}")


@contextmanager
def to_read(path: str) -> Iterator[str]:
    """Give a local path with the content of a file."""
    if "://" not in path:
        with named_errors(path):
            require_regular(path)  # libraries would wait for a named pipe without end
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fmray-") as here:
        copy = f"{here}/{path.rpartition('/')[2]}"
        with open(copy, "wb") as file:
            file.write(files_of(path).read(path))
        yield copy


def folder_to_keep(path: str) -> str:
    """Give a local folder with the content of a folder; where that is a copy, it is there until this process ends."""
    if "://" not in path:
        return path
    here = tempfile.mkdtemp(prefix="fmray-")
    atexit.register(shutil.rmtree, here, ignore_errors=True)
    files = files_of(path)
    for name in files.sizes(path):
        os.makedirs(os.path.dirname(f"{here}/{name}"), exist_ok=True)
        with open(f"{here}/{name}", "wb") as file:
            file.write(files.read(f"{path}/{name}"))
    return here


def copy_file(source: str, path: str) -> None:
    """Copy a file of a store to another place in it."""
    with to_read(source) as here:
        files_of(path).put(here, path)


def source_of(path: str) -> str | BinaryIO:
    """Give what Arrow reads a file from: its path, or where it lies elsewhere an open file that is read in part."""
    if "://" in path:
        return files_of(path).open(path)
    with named_errors(path):
        require_regular(path)
    return path
