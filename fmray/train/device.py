"""Make this process ready to train: device, threads, determinism, memory.

What is chosen here is recorded with the run, because another choice gives other bits.
"""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fmray.errors import SpecError
from fmray.spec.sections import RunOptions, Train

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def set_up(run: RunOptions, train: Train, threads: int | None = None) -> torch.device:
    """Choose the device and set threads and flags for this process.

    Args:
        threads: Of a worker that shares its machine; by default what the job says.

    Raises:
        SpecError: If a GPU or bfloat16 is demanded where there is none.
    """
    if run.gpu is True and not torch.cuda.is_available():
        raise SpecError("true, but no CUDA device is visible. Set it to auto or false.", "run.gpu")
    device = torch.device("cuda" if run.gpu in (True, "auto") and torch.cuda.is_available() else "cpu")
    if train.precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SpecError(f"bfloat16, but {torch.cuda.get_device_name()} lacks it. Set float32.", "train.precision")
    torch.set_num_threads(threads or num_threads(run))
    _set_deterministic(run.deterministic)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _keep_heap()
    return device


def circumstances(num_workers: int, device: torch.device) -> dict[str, Any]:
    """Name what decides the last bits of a training, and may differ where it is continued."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"workers": num_workers, "threads": torch.get_num_threads(), "device": kind, "torch": torch.__version__}


def computing() -> dict[str, int]:
    """Say how this process computes, as far as that decides the last bits of a prediction."""
    return {"threads": torch.get_num_threads(), "deterministic": int(torch.are_deterministic_algorithms_enabled())}


def compute_as(asked: Mapping[str, int]) -> None:
    """Compute as another process does, which `computing` describes."""
    torch.set_num_threads(asked["threads"])
    _set_deterministic(bool(asked["deterministic"]))


def _set_deterministic(is_deterministic: bool) -> None:
    """Let operations without a deterministic implementation raise, or no longer.

    `torch.use_deterministic_algorithms` would set the same flag, and one for `torch.compile`, whose import takes two
    seconds; here nothing is compiled.
    """
    torch.set_deterministic_debug_mode("error" if is_deterministic else "default")


def num_threads(run: RunOptions) -> int:
    """Give the threads torch may use."""
    return num_cores() if run.threads == "auto" else run.threads


def num_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def share_cores(num_threads: int) -> Iterator[None]:
    """Let so many threads compute side by side: each leaves cores to the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, num_cores() // max(1, num_threads)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_bytes(device: torch.device) -> int:
    """Give the free memory of a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def release(device: torch.device) -> None:
    """Give back the memory of what is no longer used, before the same is tried with less."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _keep_heap() -> None:
    """Have malloc keep large blocks instead of returning each to the system.

    A tensor of 1-30 MB otherwise costs its page faults at every step: 32 packed members ran at half the speed.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30) or libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most old ones take
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
