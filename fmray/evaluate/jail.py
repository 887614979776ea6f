"""Run one Python program behind walls; a script of its own, which `fmray.evaluate.sandbox` starts.

Three processes: the launcher, which says who the program is and waits; the first process of the new namespaces, which
builds what the program sees, watches it and says how it ended; the program. Nothing of fmray is imported, so the script
starts fast and alone. The program starts when every wall stands, or not at all.

The request is read from stdin and the answer written to stdout, each as one JSON object.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

NOBODY = 65534
HOME = "/sandbox"
"""The only place that the program can write to, as it sees it."""
REPORT = 3
"""The descriptor of what the program says beside what it prints."""
TAIL_BYTES = 4096
"""What is kept of what is printed, and of a report."""
LOOK_SECONDS = 0.05
GRACE_SECONDS = 1.0
KILL_SECONDS = 5.0

# mount(2), unshare(2), mount_setattr(2), prctl(2)
NOSUID, NODEV, NOEXEC, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
NEW_MOUNTS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = NEW_MOUNTS | NEW_CGROUP | NEW_UTS | NEW_IPC | NEW_USER | NEW_PIDS | NEW_NET
PIDFD_OPEN, MOUNT_SETATTR, BELOW_AS_WELL, HERE, READ_ONLY, DETACH = 434, 442, 0x8000, -100, 1, 2
DEATH_SIGNAL, DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVILEGES = 1, 4, 22, 36, 38

SYSCALLS = {
    # ptrace, process_vm_readv and writev, mount, umount2, pivot_root, chroot, unshare, setns, keyctl, add_key,
    # request_key, bpf, perf_event_open, userfaultfd, open_by_handle_at, name_to_handle_at, kexec_load, init_module,
    # finit_module, delete_module, reboot, swapon, kcmp, quotactl, acct, personality; shmget, msgget, semget and
    # memfd_create, whose memory no limit counts; syslog, kexec_file_load, swapoff, fanotify_init, io_setup, modify_ldt
    "x86_64": (101, 310, 311, 165, 166, 155, 161, 272, 308, 250, 248, 249, 321, 298, 323, 304, 303, 246, 175, 313, 176,
               169, 167, 312, 179, 163, 135, 29, 68, 64, 319, 103, 320, 168, 300, 206, 154),
    "aarch64": (117, 270, 271, 40, 39, 41, 51, 97, 268, 219, 217, 218, 280, 241, 282, 265, 264, 104, 105, 273, 106,
                142, 224, 272, 60, 89, 92, 194, 186, 190, 279, 116, 294, 225, 262, 0),
}  # fmt: skip
"""System calls that a program is refused, beside those of `EVERYWHERE`."""
EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, MOUNT_SETATTR, 443, 447)
"""io_uring, the newer calls that mount, pidfd_getfd, quotactl_fd, memfd_secret: numbers that all machines share."""
SOCKET = {"x86_64": 41, "aarch64": 198}
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_TABLE = 0x40000000
"""From here on, numbers are those of another table of the same machine."""
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050001, 0x80000000

libc = ctypes.CDLL(None, use_errno=True)
Request = dict[str, Any]


class WallError(Exception):
    """Say which wall cannot be built, and why."""


def main() -> None:
    """Read a request, run its program, and answer."""
    request = json.loads(sys.stdin.buffer.read())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()
    if os.getppid() != request["parent"]:
        return
    in_place(lambda: launch(request) if request["confined"] else stay(request))


def in_place(function: Callable[[], None]) -> None:
    """Call a function; where a wall cannot be built, answer so."""
    try:
        function()
    except WallError as error:
        answer({"refused": str(error)})
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        answer({"refused": f"{error.strerror}{name}"})


def answer(told: dict[str, Any]) -> None:
    """Write the answer."""
    os.write(1, json.dumps(told).encode())


def stay(request: Request) -> None:
    """Run the program as whoever runs this, without walls."""
    control(SUBREAPER, 1)
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        raise WallError("the kernel does not list children (CONFIG_PROC_CHILDREN), so what is left cannot be ended")
    os.chdir(request["home"])
    answer(watch(request))


def launch(request: Request) -> None:
    """Start the first process of the new namespaces, say who its users are if that takes root, and wait."""
    if platform.machine() not in SYSCALLS:
        raise WallError(f"system calls of {platform.machine()} are not known: accepted are {', '.join(SYSCALLS)}")
    is_root = os.geteuid() == 0 and all(is_mapped(name) for name in ("uid_map", "gid_map"))
    asks, asked = os.pipe()
    allowed, allows = os.pipe()
    child = os.fork()
    if not child:
        os.close(asks)
        os.close(allows)
        in_place(lambda: enter(request, is_root, asked=asked, allowed=allowed))
        os._exit(0)
    os.close(asked)
    os.close(allowed)
    if is_root and os.read(asks, 1):
        # nobody is another user than root, so limits on the number of processes count, and files of root are closed
        for name in ("uid_map", "gid_map"):
            write(f"/proc/{child}/{name}", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        os.write(allows, b".")
    os.waitpid(child, 0)


def is_mapped(name: str) -> bool:
    """Say whether nobody is a user (or group) here: in some containers root has no other users than itself."""
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        ranges = [(int(inside), int(number)) for inside, _, number in map(str.split, file)]
    return any(inside <= NOBODY < inside + number for inside, number in ranges)


def enter(request: Request, is_root: bool, *, asked: int, allowed: int) -> None:
    """Enter new namespaces, and run the program in them."""
    user = os.geteuid()
    group = os.getegid()
    call("unshare", NAMESPACES)
    die_with_parent()
    if is_root:
        os.write(asked, b".")
        if not os.read(allowed, 1):
            return  # the launcher has said why
    else:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    first = os.fork()  # is process 1 of the namespace: all others end with it
    if first:
        os.waitpid(first, 0)
        return
    die_with_parent()
    control(DUMPABLE, 0)  # neither traced nor read by the program
    build(request)
    answer(watch(request))


def build(request: Request) -> None:
    """Build what the program sees: Python, a few devices, its own processes, and one folder to write to."""
    mount("none", "/", "", RECURSIVE | PRIVATE)
    call("sethostname", b"sandbox", 7)
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, data="size=1m,mode=755")
    os.mkdir("/tmp/old")
    call("pivot_root", b"/tmp", b"/tmp/old")
    os.chdir("/")
    for path in request["show"]:
        show(path)
    for path in request["hide"]:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", NOSUID | NODEV | NOEXEC, data="size=4k")
            set_attributes(path, READ_ONLY)
    os.mkdir("/dev")
    for name in ("null", "zero", "full", "random", "urandom"):
        write(f"/dev/{name}", "")
        mount(f"/old/dev/{name}", f"/dev/{name}", "", BIND)
    os.mkdir("/proc")
    mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    write("/proc/sys/user/max_user_namespaces", "0")  # in one of its own, a program would have privileges again
    set_attributes("/proc", READ_ONLY)
    os.mkdir(HOME)
    size = f"size={request['file_bytes']},nr_inodes=1000,mode=700,uid={NOBODY},gid={NOBODY}"
    mount("tmpfs", HOME, "tmpfs", NOSUID | NODEV | NOEXEC, data=size)
    for path in ("/tmp", "/dev/shm"):
        if not os.path.lexists(path):  # a Python may be installed there
            os.symlink(HOME, path)
    call("umount2", b"/old", DETACH)
    os.rmdir("/old")
    set_attributes("/", READ_ONLY)
    os.chdir(HOME)


def show(path: str) -> None:
    """Let the program read a file or folder of the machine."""
    there = f"/old{path}"
    if not os.path.lexists(there):
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if os.path.islink(there):
        os.symlink(os.readlink(there), path)
        return
    if os.path.isdir(there):
        os.makedirs(path, mode=0o755, exist_ok=True)
    else:
        write(path, "")
    mount(there, path, "", BIND | RECURSIVE)
    set_attributes(path, READ_ONLY | NOSUID | NODEV, BELOW_AS_WELL)


def watch(request: Request) -> dict[str, Any]:
    """Run the program until it ends or exceeds a limit; end what it has left behind, and say how it ended."""
    began = time.monotonic()
    child, printed, reported = start(request)
    heard = {printed: bytearray(), reported: bytearray()}
    num_printed = 0
    poller = select.poll()
    for descriptor in (call("syscall", PIDFD_OPEN, child, 0), printed, reported):
        poller.register(descriptor, select.POLLIN)
    ended: tuple[int, float] | None = None
    stopped = ""
    while ended is None and not stopped:
        left = began + request["wall_seconds"] - time.monotonic()
        for descriptor, _ in poller.poll(max(0.0, min(LOOK_SECONDS, left)) * 1000):
            if descriptor not in heard:
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                poller.unregister(descriptor)
            num_printed += len(data) * (descriptor == printed)
            hear(heard[descriptor], data)
        ended = reap(child)
        if left <= 0:
            stopped = "time"
        elif num_printed > request["output_bytes"]:
            stopped = "output"
        elif held_bytes() > request["memory_bytes"]:
            stopped = "memory"
    if ended is not None:
        stopped = ""
    behind = left_behind() if ended is not None else 0
    ended = end_all(child) or ended or (-signal.SIGKILL, 0.0)
    for descriptor, text in heard.items():
        os.set_blocking(descriptor, False)
        with contextlib.suppress(BlockingIOError):
            while num_printed <= request["output_bytes"] and (data := os.read(descriptor, 1 << 16)):
                num_printed += len(data)
                hear(text, data)
    status, cpu_seconds = ended
    is_used_up = status == -signal.SIGXCPU or (status == -signal.SIGKILL and cpu_seconds >= request["cpu_seconds"])
    return {
        "status": status,
        "stopped": stopped or ("cpu" if is_used_up else "output" if num_printed > request["output_bytes"] else ""),
        "behind": behind,
        "output": heard[printed].decode("utf-8", "replace"),
        "report": heard[reported].decode("utf-8", "replace"),
    }


def hear(text: bytearray, data: bytes) -> None:
    """Keep the end of what is heard."""
    text += data
    del text[:-TAIL_BYTES]


def start(request: Request) -> tuple[int, int, int]:
    """Start the program; give its number, and where to read what it prints and reports.

    Raises:
        WallError: If it could not be started behind every wall.
    """
    given = call("memfd_create", b"given", 0)  # which some builds of Python lack, as they lack pidfd_open
    rest = memoryview(request["given"].encode("utf-8", "surrogatepass"))
    while rest:
        rest = rest[os.write(given, rest) :]
    os.lseek(given, 0, os.SEEK_SET)
    printed, prints = os.pipe()
    reported, reports = os.pipe()
    trouble, troubles = os.pipe()
    child = os.fork()
    if not child:
        try:
            # above those that are laid out anew; all close when the program begins
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (given, prints, reports, troubles)]
            troubles = high[3]
            for fd, place in zip((high[0], high[1], high[1], high[2]), (0, 1, 2, REPORT), strict=True):
                os.dup2(fd, place)
            os.closerange(REPORT + 1, 20)
            become(request)
        except BaseException as error:
            os.write(troubles, str(error).encode()[:500])
        os._exit(127)
    for descriptor in (given, prints, reports, troubles):
        os.close(descriptor)
    found = b""
    while data := os.read(trouble, 1000):  # ends when the program begins
        found += data
    os.close(trouble)
    if found:
        os.waitpid(child, 0)
        raise WallError(found.decode())
    return child, printed, reported


def become(request: Request) -> None:
    """Become the program: without privileges, under limits."""
    os.setsid()
    os.umask(0o077)
    seconds = request["cpu_seconds"]
    limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    limit(resource.RLIMIT_AS, request["memory_bytes"])
    limit(resource.RLIMIT_FSIZE, request["file_bytes"])
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_MEMLOCK, 0)
    home = HOME if request["confined"] else request["home"]
    if request["confined"]:
        limit(resource.RLIMIT_NPROC, request["processes"] + 2)  # two of this script may be the same user's
        limit(resource.RLIMIT_MSGQUEUE, 0)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        die_with_parent()
    control(NO_NEW_PRIVILEGES, 1)
    if request["confined"]:
        filter_calls(platform.machine())
    environment = {"HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    # as -I, but for the variables given here, by which sets have one order
    command = [request["python"], "-s", "-P", "-B", "-c", request["program"]]
    os.execve(request["python"], command, environment)


def limit(which: int, soft: float, hard: float | None = None) -> None:
    """Set a limit, or leave a lower one."""
    ceiling = resource.getrlimit(which)[1]
    wanted = int(soft if hard is None else hard)
    highest = wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)
    resource.setrlimit(which, (min(int(soft), highest), highest))


def filter_calls(machine: str) -> None:
    """Refuse system calls that no program of a unit test needs, and every network socket.

    A new network namespace has no network; but sockets to the host of a virtual machine are in none.
    """
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, AUDIT[machine]), (0x06, 0, 0, KILL), (0x20, 0, 0, 0)]
    code += [(0x35, 0, 1, OTHER_TABLE), (0x06, 0, 0, DENY)]
    for number in (*SYSCALLS[machine], *EVERYWHERE):
        code += [(0x15, 0, 1, number), (0x06, 0, 0, DENY)]
    # socket(AF_UNIX, ...) is allowed: what it could reach is not seen
    code += [(0x15, 0, 4, SOCKET[machine]), (0x20, 0, 0, 16), (0x15, 1, 0, 1), (0x06, 0, 0, DENY), (0x06, 0, 0, ALLOW)]
    code += [(0x06, 0, 0, ALLOW)]
    held = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(held)))
    control(SECCOMP, 2, ctypes.addressof(program))


def reap(child: int) -> tuple[int, float] | None:
    """Take note of processes that have ended; give exit code and processor time of the program if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
    return found


def left_behind() -> int:
    """Count processes that outlive the program by more than a moment."""
    until = time.monotonic() + GRACE_SECONDS
    while (found := descendants()) and time.monotonic() < until:
        time.sleep(0.005)
        reap(0)
    return len(found)


def end_all(child: int) -> tuple[int, float] | None:
    """End all processes that the program has begun; give what `reap` gives of the program."""
    found = None
    until = time.monotonic() + KILL_SECONDS
    while (others := descendants()) and time.monotonic() < until:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found = reap(child) or found
        time.sleep(0.002)
    return found or reap(child)


def descendants() -> list[int]:
    """Give all processes that this one or its children have begun; those whose parent has ended are its own."""
    if os.getpid() == 1:  # of its namespace, where nobody else is
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):  # of those that have just ended
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="utf-8") as file:
                    children = [int(number) for number in file.read().split()]
                found += children
                todo += children
    return found


def held_bytes() -> int:
    """Give the memory that all processes of the program hold."""
    pages = 0
    for pid in descendants():
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm", encoding="utf-8") as file:
            pages += int(file.read().split()[1])
    return pages * resource.getpagesize()


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library.

    Raises:
        WallError: If it fails, or is not there.
    """
    function = getattr(libc, name, None)
    if function is None:
        raise WallError(f"the C library has no {name}")
    found: int = function(*arguments)
    if found == -1:
        raise WallError(f"{name}: {os.strerror(ctypes.get_errno())}")
    return found


def control(option: int, *arguments: int) -> None:
    """Call prctl(2)."""
    given: Sequence[int] = (*arguments, *[0] * (4 - len(arguments)))
    call("prctl", option, *map(ctypes.c_ulong, given))


def die_with_parent() -> None:
    """End when the process that started this one ends, however it does."""
    control(DEATH_SIGNAL, signal.SIGKILL)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Call mount(2).

    Raises:
        WallError: If it fails.
    """
    names = [name.encode() if name else None for name in (source, target, kind)]
    if libc.mount(*names, ctypes.c_ulong(flags), data.encode() if data else None) == -1:
        raise WallError(f"mount {target}: {os.strerror(ctypes.get_errno())}")


def set_attributes(path: str, attributes: int, flags: int = 0) -> None:
    """Call mount_setattr(2), which Linux has since 5.12: no mount below a folder is forgotten.

    Raises:
        WallError: If it fails.
    """
    held = struct.pack("=4Q", *(attributes, 0, 0, 0))
    given = (ctypes.c_long(HERE), path.encode(), ctypes.c_long(flags), held, ctypes.c_long(len(held)))
    if libc.syscall(ctypes.c_long(MOUNT_SETATTR), *given) == -1:
        raise WallError(f"mount_setattr {path}: {os.strerror(ctypes.get_errno())}")


def write(path: str, text: str) -> None:
    """Write a file, at once.

    Raises:
        WallError: If it cannot be.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise WallError(f"write {path}: {error.strerror}") from None


if __name__ == "__main__":
    main()
