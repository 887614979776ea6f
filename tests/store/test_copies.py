import errno

import numpy as np
import pytest

from fmray.data.scratch import load, save
from fmray.errors import ClusterError, DataError
from fmray.store.copies import folder_to_write
from fmray.store.files import is_short_of_memory, named_errors


@pytest.mark.parametrize("length", [0, 5, 60, 127, 130])
def test_an_array_that_was_cut_short_is_named(tmp_path, length):
    path = tmp_path / "val.npy"
    save(str(path), np.arange(8))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"val\.npy is damaged"):
        load(str(path))


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_a_file_that_memory_does_not_suffice_for_is_named(error):
    words = r"/store/a\.json cannot be (read|opened): memory does not suffice"
    with pytest.raises(ClusterError, match=words), named_errors("/store/a.json"):
        raise error
    assert is_short_of_memory(error)
    assert is_short_of_memory(ImportError("libarrow.so: failed to map segment from shared object"))
    assert not is_short_of_memory(OSError(errno.ENOENT, "no such file"))


def test_nothing_but_what_a_copy_left_behind_is_removed_beside_a_folder(tmp_path):
    kept = ["out.partial-notes", "out.partials", "other.partial"]
    for name in (*kept, "out.partial", "out.partial-0123abcd"):
        (tmp_path / name).mkdir()
    with folder_to_write(str(tmp_path / "out")):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "out"])
