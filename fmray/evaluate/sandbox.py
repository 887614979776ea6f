"""Run Python programs that nobody has read, where they can do no harm; see `jail.py` for how.

A program sees Python's standard library and one empty folder; it has no network, none of the user's files, processes,
variables or descriptors, and limits on time, memory, files, processes and what it prints. Where the system cannot give
all of this, nothing is run.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fmray.errors import SpecError

JAIL = Path(__file__).with_name("jail.py")
SLACK_SECONDS = 30.0
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
"""What a Python needs of the system."""
HINTS = {
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "the setting kernel.unprivileged_userns_clone is 0"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "the setting kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
    "/proc/sys/user/max_user_namespaces": ("0", "the setting user.max_user_namespaces is 0"),
}
"""Settings by which systems withhold namespaces, the value that does, and how it is said."""
PROBE = """
import os, sys
told = sys.stdin.read()
assert not os.path.exists(told), "it sees files of the machine"
assert os.getppid() in (0, 1), "it sees processes of the machine"
with open("/proc/net/dev") as file:
    names = [line.split(":")[0].strip() for line in file if ":" in line]
assert names == ["lo"], "it has a network"
assert os.listdir(".") == [] and os.getcwd() == "/sandbox", "its folder is not empty"
"""


@dataclass(frozen=True)
class Limits:
    """Say what a program may use.

    Args:
        cpu_seconds: Of a processor, for each process.
        wall_seconds: On the clock.
        memory_bytes: Address space of each process, and what all hold together.
        file_bytes: All that it writes to files, and each of them.
        processes: At once, threads included.
        output_bytes: All that it prints.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    processes: int = 16
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class Outcome:
    """Say how a program ended.

    Args:
        status: Its exit code; the negative number of the signal that ended it.
        stopped: Why it was stopped; "" if it was not.
        output: The end of what it printed.
        report: The end of what it wrote to descriptor 3.
    """

    status: int
    stopped: str
    output: str
    report: str

    @property
    def reason(self) -> str:
        """Say why it did not end as it should; "" if it did."""
        if self.stopped:
            return self.stopped
        if self.status < 0:
            return f"ended by {_signal(-self.status)}"
        last = self.output.strip().rpartition("\n")[2]
        return f"ended with exit code {self.status}: {last}" if self.status else ""


class Sandbox:
    """Run programs one at a time, or several from threads.

    Args:
        limits: Of each program.
        is_confined: False runs programs as the user, without walls: they can read and change all that the user can.
            Limits on time, memory and output hold; processes that hide survive.

    Raises:
        SpecError: If the system cannot give what keeps programs in, and why.
    """

    def __init__(self, limits: Limits = Limits(), *, is_confined: bool = True) -> None:
        self.limits = limits
        self.is_confined = is_confined
        if sys.platform != "linux":
            raise SpecError(f"programs are judged on Linux only, this is {sys.platform}. Judge there.", "sandbox")
        self._python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        self._asked = {"python": self._python, "show": _shown(self._python), "hide": _hidden(), **asdict(limits)}
        self._is_tried = False
        found = self.run(PROBE if is_confined else "", str(JAIL))
        if found.reason:
            raise self._refusal(found.reason)
        self._is_tried = True

    def run(self, program: str, given: str = "") -> Outcome:
        """Run a program to its end, or to the first limit that it exceeds.

        One whose sandbox gives no answer, as where the system runs out of memory, is run once more, and then has ended.

        Args:
            program: Python, 100 kB at most.
            given: What it reads from stdin, of any length.

        Raises:
            SpecError: If it cannot be kept in; it was not started then.
        """
        request = {
            **self._asked,
            "parent": os.getpid(),
            "confined": self.is_confined,
            "program": program,
            "given": given,
        }
        told = self._told(request)
        if self._is_tried and "status" not in told:
            told = self._told(request)
        if "refused" in told:
            raise self._refusal(told["refused"])
        if "silent" in told:
            if not self._is_tried:
                raise self._refusal(told["silent"])
            return Outcome(-signal.SIGKILL, "its sandbox was ended from outside", "", "")
        return Outcome(told["status"], self._spelled(told), told["output"], told["report"])

    def _told(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start the script, and read its answer; give why there is none as "silent"."""
        if self.is_confined:
            return self._answer(request)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            return self._answer({**request, "home": home})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        command = [self._python, "-I", "-S", str(JAIL)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env={}, cwd="/", **pipes) as process:  # type: ignore[call-overload]
            try:
                seconds = self.limits.wall_seconds + SLACK_SECONDS
                out, error = process.communicate(json.dumps(request).encode(), timeout=seconds)
                told: dict[str, Any] = json.loads(out)
            except subprocess.TimeoutExpired:
                process.kill()
                return {"silent": f"it gave no answer within {seconds:g} s"}
            except ValueError:  # it was ended before it had written all
                said = error.decode("utf-8", "replace").strip().rpartition("\n")[2]
                return {"silent": f"it ended with {process.returncode} and no answer {said}".strip()}
            except BaseException:  # all that it has started ends with it
                process.kill()
                raise
        return told

    def _spelled(self, told: dict[str, Any]) -> str:
        limits = self.limits
        words = {
            "time": f"ran longer than {limits.wall_seconds:g} s",
            "cpu": f"used more than {limits.cpu_seconds} s of processor time",
            "output": f"printed more than {limits.output_bytes >> 10} kB",
            "memory": f"used more than {limits.memory_bytes >> 20} MB of memory",
        }
        if told["stopped"]:
            return words[told["stopped"]]
        behind = told["behind"]
        return f"left {behind} process{'es' * (behind > 1)} behind" if behind else ""

    def _refusal(self, reason: str) -> SpecError:
        """Say why nothing is run here."""
        is_withheld = any(sign in reason for sign in ("not permitted", "denied", "No space"))
        why = [words for path, (value, words) in HINTS.items() if is_withheld and _first_line(path) == value]
        if not self.is_confined:
            return SpecError(f"programs cannot be run here: {reason}. Judge on another machine.", "sandbox")
        text = f"this machine gives no sandbox to run programs in: {'; '.join([reason, *why])}. Nothing was run"
        cure = "Judge where user namespaces of Linux 5.12 or later are allowed, or unconfined with --no-sandbox"
        return SpecError(f"{text}. {cure}.", "sandbox")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those of real time have no names
        return f"signal {number}"


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _shown(python: str) -> list[str]:
    """Give what a program may read: the interpreter, its library, and the system's."""
    base = os.path.realpath(sys.base_prefix)
    libraries = [os.path.join(base, name) for name in dict.fromkeys(("lib", sys.platlibdir))]
    # the real folders behind links come before what is inside of them
    found: list[str] = []
    for path in [*SYSTEM, *libraries, *map(os.path.realpath, _library_folders()), python]:
        inside = any(path == other or path.startswith(f"{other}/") for other in found if not os.path.islink(other))
        if not inside and os.path.lexists(path):
            found.append(path)
    return found


def _library_folders() -> list[str]:
    """Give the folders of the standard library, of this Python rather than of a virtual environment."""
    base = {"platbase": sys.base_exec_prefix}
    return [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib", vars=base)]


def _hidden() -> list[str]:
    """Give folders of installed packages: a program has the standard library only."""
    inside = {os.path.realpath(folder) for folder in _library_folders()}
    found = [f"{folder}/{name}" for folder in sorted(inside) for name in ("site-packages", "dist-packages")]
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    installed = [os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("purelib", "platlib")]
    return list(dict.fromkeys([*found, *installed, "/usr/lib/python3/dist-packages"]))
