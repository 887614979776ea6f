"""Let every process of a run be asked where it stands: on SIGUSR2 it writes the stacks of its threads to a file.

A process that never asked for the signal would be ended by it, so `here` names the file only where the signal is
listened to, and whoever asks looks for that file first.
"""

import atexit
import faulthandler
import os
import platform
import signal
import socket
import tempfile
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any

from fmray.records import Json
from fmray.store import source_digest
from fmray.store.files import machine
from fmray.store.lease import process_start

SIGNAL = signal.SIGUSR2  # `why.remote` sends it
_open: list[Any] = []  # files that faulthandler writes to must stay open


@cache
def listen() -> str:
    """Write stacks whenever the signal comes, and give the file they go to; "" where that cannot be had."""
    if signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return ""  # somebody else's
    try:
        number, path = tempfile.mkstemp(prefix=f"fmray-stacks-{os.getpid()}-", suffix=".txt")
        _open.append(os.fdopen(number, "w"))
        faulthandler.register(SIGNAL, _open[-1], all_threads=True)
    except (OSError, RuntimeError, ValueError):
        return ""
    atexit.register(_forget, path, os.getpid())
    return path


def here(rank: int | None = None, node: str = "") -> Json:
    """Say which process this is, what it runs on, and where its stacks go.

    Args:
        rank: Among the workers; None for the driver.
        node: Its id, if Ray runs it.
    """
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": process_start(os.getpid()),
        "node": node,
        "stacks": listen(),
        "versions": {"python": platform.python_version(), "torch": version("torch"), "fmray": source_digest("fmray")},
    }


def _forget(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        with suppress(OSError):
            os.remove(path)
