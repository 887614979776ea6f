"""Check that arrays come back as they were left, on a disk and elsewhere."""

import errno

import numpy as np
import pytest

from fmray.data.scratch import is_local, load, save, write_file
from fmray.store.places import files_of

ARRAYS = [
    np.arange(6, dtype=np.int8),
    np.zeros((0, 2), np.uint64),
    np.arange(12, dtype=np.uint64).reshape(3, 4),
    np.arange(12).reshape(3, 4)[:, 1:3],
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
@pytest.mark.parametrize("place", ["disk", "elsewhere"])
def test_an_array_comes_back_as_it_was_left(tmp_path, array, place):
    path = f"{tmp_path}/a.npy" if place == "disk" else "memory://fmray-scratch/a.npy"
    save(path, array)
    loaded = load(path)
    assert np.array_equal(loaded, array)
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert is_local(path) == (place == "disk")


def test_bytes_are_written_wherever_the_path_says(tmp_path):
    write_file(f"{tmp_path}/f", b"here")
    write_file("memory://fmray-scratch/f", memoryview(b"there"))
    assert (tmp_path / "f").read_bytes() == b"here"
    assert files_of("memory://fmray-scratch/f").read("memory://fmray-scratch/f") == b"there"


def test_a_full_disk_is_told_by_its_number():
    with pytest.raises(OSError, match="No space left") as caught:
        save("/dev/full", np.zeros(100_000))
    assert caught.value.errno == errno.ENOSPC
