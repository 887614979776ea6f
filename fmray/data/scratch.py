"""Leave arrays and files where later passes and other machines find them: on a local disk, or in any store.

What lies here is written once, by one task, and read by later ones; a pass that is repeated writes the same again.
"""

import io
from typing import BinaryIO

import numpy as np

from fmray.errors import DataError
from fmray.store.files import named_errors
from fmray.store.places import files_of


def is_local(path: str) -> bool:
    """Tell a path of this machine from the URI of a store elsewhere."""
    return "://" not in path


def write_file(path: str, data: bytes | memoryview) -> None:
    """Put bytes in a file; durability is the record's, once it is complete."""
    if is_local(path):
        with open(path, "wb") as file:
            file.write(data)
    else:
        files_of(path).write(path, bytes(data))


def save(path: str, array: np.ndarray) -> None:
    """Put an array in a file."""
    if is_local(path):
        with open(path, "wb") as file:
            _write(file, array)
    else:
        held = io.BytesIO()
        _write(held, array)
        write_file(path, held.getbuffer())


def _write(file: BinaryIO, array: np.ndarray) -> None:
    # numpy's own writer hides that a disk is full behind an error without a number.
    whole = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
    file.write(whole.reshape(-1).view(np.uint8).data)


def load(path: str) -> np.ndarray:
    """Give an array that `save` left; a local one is mapped, so that only what is used is read.

    Raises:
        DataError: If it is missing, cut short, or no array.
        ClusterError: If memory does not suffice to map it.
    """
    try:
        with named_errors(path):
            if is_local(path):
                mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
                return mapped
            read: np.ndarray = np.load(io.BytesIO(files_of(path).read(path)), allow_pickle=False)
            return read
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Remove it to have it made again.") from error
