"""Hold every write of this process to the leases it works under, whichever part of fmray makes the write.

A process that was stopped for longer than its lease lasts does not know it when it goes on: the first it does may be to
write into what another process has finished. So each write below a leased place first makes sure that the lease is
still the newest one there. What remains is the instant between that check and the system call it precedes: a process
stopped right there completes this one call, and no other.
"""

import time
from typing import Protocol

from fmray.errors import ClusterError

TRUSTED_SECONDS = 1.0
"""How long a check holds for another write elsewhere than on a local disk, where asking takes a round trip."""

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


class Guard(Protocol):
    """Know whether a lease is still held; `number` grows with every holder of a place."""

    @property
    def number(self) -> int:
        """Give the number of the lease."""

    def check(self) -> None:
        """Raise a ClusterError if it was lost."""


_guards: dict[str, Guard] = {}
_checked: dict[str, tuple[Guard, float]] = {}


def guard(path: str, fence: Guard) -> None:
    """Check a fence before every write to a path or below it, from now on; a newer lease replaces an older one."""
    known = _guards.get(path)
    # numbers begin again at a place that was removed and made anew: there the higher one is lost
    if known is None or known.number <= fence.number or not _holds(known):
        _guards[path] = fence


def _holds(fence: Guard) -> bool:
    try:
        fence.check()
    except ClusterError:
        return False
    return True


def unguard(path: str, fence: Guard) -> None:
    """Stop checking a fence, unless another one has replaced it."""
    if _guards.get(path) == fence:
        del _guards[path]
        _checked.pop(path, None)


def guards() -> tuple[Guard, ...]:
    """Give the fences that this process works under; sent to another process, they hold there as well."""
    return tuple(dict.fromkeys(list(_guards.values())))  # a list at once: other threads take and release leases


def require_held(path: str) -> None:
    """Make sure that this process still holds what it writes to; fine where it works under no lease.

    Raises:
        ClusterError: If another process has taken over.
    """
    if not _guards or is_lease(path.rpartition("/")[2]):
        return
    place = path
    while place:
        if (fence := _guards.get(place)) is not None:
            _check(place, fence)
        place = place.rpartition("/")[0]


def is_lease(name: str) -> bool:
    """Tell a lease file by its name; a process that lost a lease may still take another."""
    return name.startswith("lease-") and name.endswith(".json")


def _check(place: str, fence: Guard) -> None:
    if "://" in place:
        now = time.clock_gettime(_BOOT_CLOCK)
        known, then = _checked.get(place, (None, 0.0))
        if known is fence and now - then < TRUSTED_SECONDS:
            return
        fence.check()
        _checked[place] = (fence, now)
        return
    fence.check()
