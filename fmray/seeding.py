"""Derive independent random streams from one job seed.

A stream is named by what it is for (stage, member, epoch, lane ...), never by when it was asked for. So nothing that
runs earlier, later or on another machine can shift it.
"""

import hashlib
import threading

import numpy as np

RNG_LOCK = threading.RLock()
"""Held by whoever sets or draws from a generator that all threads of this process share, as torch's own is."""


def derive(seed: int, *names: str | int) -> int:
    """Give a 63-bit seed for one named purpose.

    Source: BLAKE2b (RFC 7693) over the canonical text of seed and names.
    """
    text = "\x1f".join([f"{type(part).__name__}:{part}" for part in (int(seed), *names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Open a counter-based generator for one named purpose.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    """
    return np.random.Generator(np.random.Philox(key=derive(seed, *names)))


def raw_bits(num: int, seed: int, *names: str | int) -> np.ndarray:
    """Draw raw 64-bit Philox words, whose sequence no library version changes.

    Shapes:
        returns: (num,), uint64.
    """
    return np.random.Philox(key=derive(seed, *names)).random_raw(num)
