"""Have a fresh process open a model, which starts while this one goes on.

It ends before this process does, however this one ends: it is killed at the end of the block that it is asked in, and
one that lost its parent sees the end of its input and leaves.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

LIMIT_SECONDS = 600.0
"""How long a process may take to open a model and predict a few rows."""
MODULE = "fmray.inference.reopen"


@contextmanager
def fresh_process(hidden: str = "") -> Iterator[Callable[[Path], str]]:
    """Start a process that answers what lies in a folder; see `fmray.inference.reopen`.

    It imports what it needs at once, and opens nothing before it is asked, so that this process may still need memory.

    Args:
        hidden: Folder whose modules it shall not find: those that a model brings lie in the folder of the model.

    Yields:
        Asks about a folder, waits, and says why no answer was left there; "" if one was.

    Raises:
        OSError: On entering, if no process can be started.
    """
    with tempfile.TemporaryFile() as printed:  # a file, since a pipe that nobody reads would stop it
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_folders_of_modules(hidden))},
            start_new_session=True,  # Ctrl-C is for this process, which ends the other one
        )
        try:
            yield partial(_ask, process, printed)
        finally:
            process.kill()  # nothing happens if it has ended
            process.communicate()


def _folders_of_modules(hidden: str) -> list[str]:
    """List the folders that this process finds modules in, which may be others than its environment says."""
    folders = [Path(name).absolute() for name in sys.path]
    home = Path(__file__).parents[2]  # fmray may lie beside the job
    return [str(folder) for folder in folders if folder == home or not hidden or folder != Path(hidden).absolute()]


def _ask(process: "subprocess.Popen[bytes]", printed: IO[bytes], folder: Path) -> str:
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # it has ended; how, is said below
            process.stdin.write(f"{folder}\n".encode())
            process.stdin.flush()
    try:
        code = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it gave no answer within {LIMIT_SECONDS:g} s"
    if code == 0:
        return ""
    printed.seek(0)
    lines = printed.read().decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"it {ended}: {last:.500}"
