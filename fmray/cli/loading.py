"""Load what takes long to load while signals are still heard."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

# as torch loads them itself: what the second one needs is there for all
_LIBRARIES = (("libtorch_global_deps.so", os.RTLD_NOW | os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_NOW))


def load_torch() -> None:
    """Load the libraries below torch, which is imported next, without keeping other threads from running.

    An import holds Python's lock while the system loads a library, so the thread that hears of signals waits: for more
    than a second where torch is loaded on a busy machine. A call through ctypes lets go of the lock.
    """
    spec = find_spec("torch")
    if "torch" in sys.modules or spec is None or not spec.submodule_search_locations:
        return
    load = ctypes.CDLL(None).dlopen
    load.restype = ctypes.c_void_p
    for name, mode in _LIBRARIES:
        path = Path(spec.submodule_search_locations[0], "lib", name)
        if not path.exists() or not load(os.fsencode(path), mode):
            return  # the import tries other places, and says what is wrong
