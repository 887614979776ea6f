"""Say what a job needs of a cluster, and how to ask its nodes for it."""

import base64
import json
import secrets
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fmray.spec.sections import RunOptions

MARK = "fmray-preflight "
"""Begins the line in which the probe answers."""
LEAST_FREE = 1 << 30
"""Bytes that have to be free for a store, however small the data."""


@dataclass(frozen=True)
class Needs:
    """Hold what a job needs of every node, or of all of them together.

    Args:
        run: The job's options.
        searched: It holds ranges, whose trials take whole cores.
        store: Path or URI.
        data: Absolute path or URI; empty for samples, which lie in the store.
        seen: Files and bytes of the data as this machine sees them; None if it does not.
        source: Digest of fmray here; empty if it is sent along.
        free_bytes: To be free on the disk of a local store.
    """

    run: RunOptions
    searched: bool
    store: str
    data: str
    seen: tuple[int, int] | None
    source: str
    free_bytes: int = LEAST_FREE


def probe_command(store: str, data: str, modules: Sequence[str], patience: float = 1.0) -> str:
    """Give the command that has a cluster look at its nodes, and print `MARK` and JSON.

    It holds the probe itself: a command without files starts on workers that are there already, a second sooner.

    Args:
        store, data: As in `Needs`.
        modules: The user's own that are not sent along.
        patience: By what the time that a node may take to answer is multiplied.
    """
    source = Path(__file__).with_name("probe.py").read_bytes()
    code = base64.b64encode(zlib.compress(source, 9)).decode()
    asked = {
        "store": store,
        "data": data,
        "modules": list(modules),
        "patience": patience,
        "nonce": secrets.token_hex(4),
        "mark": MARK,
    }
    load = f"import base64, zlib; exec(zlib.decompress(base64.b64decode('{code}')))"
    return shlex.join(["python", "-c", load, json.dumps(asked)])
