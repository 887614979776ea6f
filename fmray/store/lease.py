"""Let one process at a time write to a place in the store, and notice at once when it is no longer the one.

Holders take numbered files `lease-<fence>.json`, each created exclusively; the highest number holds the lease. It is
never deleted while its place exists, so numbers only grow, and whoever sees a higher one than its own has lost.
"""

import json
import logging
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fmray.errors import ClusterError, DataError, FmrayError
from fmray.store.fences import guard, is_lease, unguard
from fmray.store.files import Files, machine
from fmray.store.places import files_of
from fmray.store.redaction import redact

STALE_SECONDS = 30.0
"""A holder that gives no sign of life for this long may be replaced."""

SUBMISSION = "FMRAY_SUBMISSION"
"""Variable that names the submission whose driver a process is."""

_BEATS = 6  # signs of life per STALE_SECONDS
_POLL_SECONDS = 0.1
_LONG_DEAD = 10  # multiples of STALE_SECONDS without a sign of life after which nobody is waited for

_KINDS = {"fence": int, "pid": int, "heartbeat": float, "released": bool}  # of the fields that are no text

_thread_of: dict[str, int] = {}  # token of a lease of this process -> the thread that holds it
_held: dict[str, "Lease"] = {}  # likewise, the leases themselves

log = logging.getLogger("fmray")


@dataclass(frozen=True)
class Holder:
    """Say who holds a lease, as written in its file.

    Args:
        fence: Number of the lease.
        token: Tells two holders of one number apart, should the place have been removed in between.
        owner: Submission whose driver it is, or what the process was started as.
        host, pid, started, machine: Which process; `started` guards against a reused pid.
        heartbeat: Time of the last sign of life.
        released: True once the holder has let go.
    """

    fence: int
    token: str
    owner: str
    host: str
    pid: int
    started: str
    machine: str
    heartbeat: float
    released: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    def is_gone(self) -> bool:
        """Tell whether its process is known to have ended; only this machine's processes can be known."""
        return self.machine == machine() and process_start(self.pid) != self.started


@dataclass(frozen=True)
class Fence:
    """Let processes that work for the holder of a lease see whether it still is the one; it can be sent to them.

    Args:
        place: What is held.
        number: Of the lease; it grows with every holder.
        token: Of the holder.
        covers: Paths that only the holder may write to or below.
    """

    place: str
    number: int
    token: str
    covers: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[type["Fence"] | Any, tuple[Any, ...]]:
        return _received, (self.place, self.number, self.token, self.covers)

    def check(self) -> None:
        """Make sure that no other process has taken over.

        Raises:
            ClusterError: If one has, or the place was removed.
        """
        if now := self.loss():
            raise ClusterError(
                f"{redact(self.place)}: lease {self.number} was lost, {now}. "
                "This process must not write there any more."
            )

    def loss(self) -> str:
        """Say how the lease was lost, "" if it was not."""
        holder = _newest(files_of(self.place), self.place)
        if holder is None:
            return "the place was removed"
        return "" if holder.token == self.token else f"{holder} took over as number {holder.fence}"


def _received(place: str, number: int, token: str, covers: tuple[str, ...]) -> Fence:
    """Give a fence that another process sent, and hold the writes of this one to it."""
    fence = Fence(place, number, token, covers)
    for path in covers:
        guard(path, fence)
    return fence


class Lease:
    """Hold a place in the store until released; meanwhile every write to what it covers goes through its fence.

    Args:
        place: What is held.
        holder: Who holds it.
        covers: Paths that only the holder may write to or below.
        replaced: Who held it before and why that one was replaced, where it takes explaining.
    """

    def __init__(self, place: str, holder: Holder, covers: Sequence[str] = (), replaced: str = "") -> None:
        self.place = place
        self.number = holder.fence
        self.replaced = replaced
        self.fence = Fence(place, holder.fence, holder.token, tuple(covers))
        self._holder = holder
        self._files = files_of(place)
        for path in covers:
            guard(path, self.fence)
        _thread_of[holder.token] = threading.get_ident()
        _held[holder.token] = self
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {place}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that no other process has taken over.

        Raises:
            ClusterError: If one has, or the place was removed.
        """
        self.fence.check()

    def release(self) -> None:
        """Let the next one in."""
        self._stop()
        with suppress(FmrayError):  # lost, or the disk is full: then the lease goes stale by itself
            self.check()
            self._write(replace(self._holder, released=True))

    close = release

    def vanish(self) -> None:
        """Remove the lease with its place, if nothing else lies there."""
        self._stop()
        self._files.remove(_file(self.place, self.number))
        self._files.drop(self.place)

    def _stop(self) -> None:
        self._ended.set()
        self._thread.join()
        for path in self.fence.covers:
            unguard(path, self.fence)
        _thread_of.pop(self._holder.token, None)
        _held.pop(self._holder.token, None)

    def _beat(self) -> None:
        while not self._ended.wait(STALE_SECONDS / _BEATS):
            try:
                self.check()
                if self._files.touch(_file(self.place, self.number)) is None:
                    self._write(replace(self._holder, heartbeat=time.time()))
            except ClusterError as error:
                log.warning("%s", error)
            except FmrayError as error:  # a network share may come back; until then the lease ages
                log.warning("%s: no heartbeat: %s", redact(self.place), error)

    def _write(self, holder: Holder) -> None:
        self._files.write(_file(self.place, self.number), _encode(holder))


def release_all() -> None:
    """Let go of every lease that this process holds, because it ends now."""
    for lease in list(_held.values()):
        lease.release()


@contextmanager
def hold(
    place: str, *, wait_seconds: float | None = None, single_writer: bool = False, covers: Sequence[str] = ()
) -> Iterator[Lease]:
    """Hold the lease of a place for the length of a `with` block.

    Args:
        wait_seconds: How long to wait for a living holder; None waits until it is done.
        single_writer: Take the user's word that no other process writes here.
        covers: Paths that only the holder may write to or below; by default the place.

    Raises:
        ClusterError: If another process holds it, or the filesystem cannot give out leases.
    """
    lease = acquire(place, wait_seconds=wait_seconds, single_writer=single_writer, covers=covers)
    try:
        yield lease
    except Exception as error:
        # what was noticed first, a folder that is gone, say, may only follow from the loss of the lease
        if not isinstance(error, ClusterError):
            _refuse_lost(lease.fence, error)
        raise
    finally:
        lease.release()


def _refuse_lost(fence: Fence, error: Exception) -> None:
    try:
        fence.check()
    except ClusterError as lost:
        raise lost from error


def acquire(
    place: str, *, wait_seconds: float | None = None, single_writer: bool = False, covers: Sequence[str] = ()
) -> Lease:
    """Take the lease of a place; the caller releases it. See `hold`.

    Raises:
        ClusterError: If another process holds it, or the filesystem cannot give out leases.
    """
    covers = covers or (place,)
    if place.endswith((".json", ".jsonl")):
        place += ".lease"  # a file cannot hold the lease files
    files = files_of(place)
    exclusive = require_exclusive(files, place, single_writer)
    watch = _Watch(files, place, wait_seconds, trusting=not exclusive)
    while True:
        holder = newest_holder(files, place)
        if holder is not None and not watch.may_replace(holder):
            watch.wait(holder)
        elif mine := _take(files, place, _myself(1 if holder is None else holder.fence + 1)):
            return Lease(place, mine, covers, watch.remark(holder))


def require_exclusive(files: Files, folder: str, single_writer: bool) -> bool:
    """Tell whether the filesystem lets one process through when several create a file.

    Raises:
        ClusterError: If it does not, and other processes may write here.
    """
    exclusive = files.can_exclude(folder)
    if not exclusive and not single_writer:
        raise ClusterError(
            f"{redact(folder)}: this filesystem cannot create a file exclusively. Use a local disk or S3, "
            "or run with --single-writer if no other process writes to this store."
        )
    return exclusive


def newest_holder(files: Files, place: str) -> Holder | None:
    """Read who holds, or last held, the lease of a place, with the time of its last sign of life."""
    while holder := _newest(files, place):
        if holder.released or holder.is_gone():
            return holder
        try:
            return replace(holder, heartbeat=files.touched(_file(place, holder.fence)) or holder.heartbeat)
        except DataError:
            continue  # it went while we looked
    return None


def is_held(files: Files, place: str) -> bool:
    """Tell whether a living process holds the lease of a place."""
    holder = newest_holder(files, place)
    if holder is None or holder.released or holder.is_gone():
        return False
    # a stamp in the future says as little as an old one: the clock that wrote it is wrong, or was set back since
    return abs(age_seconds(holder, files, place)) < STALE_SECONDS


def age_seconds(holder: Holder, files: Files, place: str) -> float:
    """Give the time since the last sign of life, by the clock of the store; negative if it is stamped in the future."""
    age = time.time() - holder.heartbeat
    if 0 <= age < STALE_SECONDS:
        return age
    with suppress(FmrayError):  # a store that may only be read has no clock for us
        age = (files.clock(place) or time.time()) - holder.heartbeat
    return age


def _newest(files: Files, place: str) -> Holder | None:
    """Read the newest lease file, without asking when it was touched."""
    while fences := _fences(files, place):
        try:
            return _decode(files.read(_file(place, fences[-1])), fences[-1])
        except DataError:
            continue  # it went while we looked
    return None


def process_start(pid: int) -> str:
    """Give when a process of this machine started, "" if there is none, "?" if the system does not say."""
    if pid <= 0:  # to `kill`, a group of processes
        return ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "?"
    # a killed process stays listed as a zombie until its parent asks for it
    return "" if state in "ZX" else fields[18]


class _Watch:
    """Judge a holder by what is seen of it over time: the clocks of two machines may differ, and may be set."""

    def __init__(self, files: Files, place: str, wait_seconds: float | None, trusting: bool) -> None:
        self._files = files
        self._place = place
        self._wait_seconds = wait_seconds
        self._trusting = trusting
        self._since = time.monotonic()
        self._said_at = -math.inf
        self._seen: Holder | None = None
        self._num_signs = -1  # of life, seen while watching; the first look is none
        self._ahead: float | None = None  # how far the store's clock is ahead of the monotonic one here

    def may_replace(self, holder: Holder) -> bool:
        """Tell whether the holder is done, dead or silent for too long."""
        now = time.monotonic()
        if holder != self._seen:
            self._num_signs += 1
            self._seen = holder
            self._unchanged_since = now
        if holder.released or holder.is_gone():
            return True
        if self._trusting and (holder.machine, holder.pid) != (machine(), os.getpid()):
            return True
        age = self._age(holder)
        unchanged = now - self._unchanged_since
        if age > STALE_SECONDS * _LONG_DEAD or unchanged > STALE_SECONDS:
            return True
        # it may have slept with this laptop, or its clock is wrong: give it two heartbeats to speak up
        return abs(age) > STALE_SECONDS and unchanged > 2 * STALE_SECONDS / _BEATS

    def wait(self, holder: Holder) -> None:
        """Let a little time pass.

        Raises:
            ClusterError: If there is none left, or it would never be enough.
        """
        now = time.monotonic()
        place = redact(self._place)
        if _thread_of.get(holder.token) == threading.get_ident():
            raise ClusterError(f"{place} is held by this very thread. Release it before taking it again.")
        age = self._age(holder)
        is_silent = abs(age) > STALE_SECONDS and self._num_signs == 0  # then its end is near, whatever the limit
        if self._wait_seconds is not None and now - self._since >= self._wait_seconds and not is_silent:
            raise ClusterError(
                f"{place} is held by {holder} ({holder.owner}), {_spell_age(age)}. Wait until it ends, or stop it."
            )
        if now - self._said_at >= STALE_SECONDS:
            self._said_at = now
            log.info("waiting for %s, held by %s (%s), %s", place, holder, holder.owner, _spell_age(age))
        time.sleep(_POLL_SECONDS)

    def remark(self, holder: Holder | None) -> str:
        """Say why a holder was replaced whose sign of life is stamped in the future."""
        if holder is None or holder.released or self._ahead is None or self._age(holder) > -STALE_SECONDS:
            return ""
        return f"{holder} is taken to have ended: {_spell_age(self._age(holder))}, and it does not change"

    def _age(self, holder: Holder) -> float:
        """Give the time since the last sign of life by the store's clock, which is asked once."""
        if self._ahead is None:
            now = None
            with suppress(FmrayError):
                now = self._files.clock(self._place)
            self._ahead = (now or time.time()) - time.monotonic()
        return time.monotonic() + self._ahead - holder.heartbeat


def _spell_age(age: float) -> str:
    if age < -STALE_SECONDS:
        return f"its last sign of life is stamped {-age:.0f} s in the future"
    return f"last sign of life {max(age, 0.0):.0f} s ago"


def _take(files: Files, place: str, mine: Holder) -> Holder | None:
    path = _file(place, mine.fence)
    if not files.create(path, _encode(mine)):
        return None
    fences = _fences(files, place)
    if fences[-1:] != [mine.fence]:
        # we slept while others came and went, and their cleaning made room for our old number
        files.remove(path)
        return None
    for fence in fences[:-1]:
        files.remove(_file(place, fence))
    return mine


def _myself(fence: int) -> Holder:
    return Holder(
        fence=fence,
        token=secrets.token_hex(8),
        owner=os.environ.get(SUBMISSION) or os.path.basename(sys.argv[0]) or "python",
        host=socket.gethostname(),
        pid=os.getpid(),
        started=process_start(os.getpid()),
        machine=machine(),
        heartbeat=time.time(),
    )


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _decode(data: bytes, fence: int) -> Holder:
    """Read a lease file; of one that a machine lost power over, or is just writing, only its age speaks."""
    try:
        value = json.loads(data)
        kinds = {field.name: type(value[field.name]) for field in fields(Holder) if field.name in value}
        if all(_KINDS.get(name, str) is kind for name, kind in kinds.items()) and math.isfinite(value["heartbeat"]):
            return Holder(**{**value, "fence": fence})
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return Holder(fence, "", owner="unknown", host="unknown", pid=0, started="", machine="", heartbeat=0.0)


def _file(place: str, fence: int) -> str:
    return f"{place}/lease-{fence:08d}.json"


def _fences(files: Files, place: str) -> list[int]:
    numbers = [name[len("lease-") : -len(".json")] for name in files.names(place) if is_lease(name)]
    # a name that is not spelt as ours would never be found under its number
    return sorted(int(number) for number in numbers if number.isascii() and number.isdigit() and len(number) == 8)
