"""Programs that mean harm reach nothing, are stopped, and leave nothing behind."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from fmray.errors import SpecError
from fmray.evaluate.sandbox import JAIL, SYSTEM, Limits, Outcome, Sandbox

pytestmark = pytest.mark.slow
LIMITS = Limits(
    cpu_seconds=1, wall_seconds=3.0, memory_bytes=256 << 20, file_bytes=1 << 20, processes=8, output_bytes=1 << 14
)
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(LIMITS)
    except SpecError as error:
        pytest.skip(str(error))


def alive(mark: str) -> list[str]:
    """Give the processes of this machine whose command holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "cmdline").read_bytes().decode("utf-8", "replace"):
                    found.append(entry.name)
            except OSError:
                continue
    return found


def run(sandbox: Sandbox, program: str, given: str = "") -> Outcome:
    """Run a program, and make sure that nothing of it is left."""
    mark = f"mark-{uuid.uuid4().hex}"
    folders = set(Path("/tmp").iterdir())
    outcome = sandbox.run(f"# {mark}\n{program}", given)
    until = time.monotonic() + 2
    while alive(mark) and time.monotonic() < until:  # one that is killed takes a moment to go
        time.sleep(0.01)
    assert alive(mark) == []
    assert {path for path in set(Path("/tmp").iterdir()) - folders if "sandbox" in path.name} == set()
    return outcome


def test_a_program_runs_to_its_end_with_what_it_is_given(sandbox):
    outcome = run(sandbox, "import os, sys; print(sys.stdin.read()[::-1]); os.write(3, b'done')", "abc")
    assert outcome == Outcome(0, "", "cba\n", "done")
    assert outcome.reason == ""


def test_how_a_program_ends_is_said(sandbox):
    assert run(sandbox, "raise ValueError('no')").reason == "ended with exit code 1: ValueError: no"
    assert run(sandbox, "import os; os.abort()").reason == "ended by SIGABRT"
    assert run(sandbox, "import sys; sys.exit(7)").status == 7


def test_it_has_a_standard_library_an_empty_folder_and_no_variables_of_the_user(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "never")
    program = (
        "import json, os, sqlite3, ssl, tempfile, multiprocessing, threading\n"
        "with tempfile.NamedTemporaryFile() as file: file.write(b'x')\n"
        "thread = threading.Thread(target=print); thread.start(); thread.join()\n"
        "print(json.dumps([sorted(os.environ), os.listdir('.'), os.listdir('/proc/self/fd'), sorted(os.listdir('/'))]))"
    )
    outcome = run(sandbox, program)
    assert outcome.reason == ""
    names, files, descriptors, root = json.loads(outcome.output.strip().splitlines()[-1])
    assert names == ["HOME", "LANG", "PYTHONHASHSEED", "PYTHONUTF8", "TMPDIR"]
    assert files == []
    assert set(descriptors) <= {"0", "1", "2", "3", "4"}  # the last one lists them
    assert not {"home", "work", "var", "boot", "sys", "run", "mnt"} & set(root)
    assert run(sandbox, "import numpy").reason.endswith("ModuleNotFoundError: No module named 'numpy'")


def test_sets_have_one_order(sandbox):
    program = "print(list({chr(97 + n) * 3 for n in range(20)}))"
    assert run(sandbox, program).output == run(sandbox, program).output


def test_files_of_the_user_are_not_there(sandbox, tmp_path):
    canary = tmp_path / "store" / "canary.txt"
    canary.parent.mkdir()
    canary.write_text("secret")
    ways = [str(canary), f"/proc/1/root{canary}", f"/proc/self/cwd/../..{canary}", f"/old{canary}"]
    program = (
        "import json, os, sys\n"
        "for path in json.load(sys.stdin):\n"
        "    try: print('SEEN', open(path).read())\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "print(os.listdir('/tmp'), os.path.exists(os.path.expanduser('~/.ssh')))"
    )
    outcome = run(sandbox, program, json.dumps([*ways, str(Path.home() / ".ssh"), "/etc/passwd", "/proc/1/environ"]))
    assert outcome.reason == ""
    assert "SEEN" not in outcome.output
    assert outcome.output.endswith("[] False\n")


@pytest.mark.parametrize("path", ["/x", "/usr/lib/x", "/dev/x", "/proc/sys/kernel/hostname", json.__file__])
def test_nothing_is_written_outside(sandbox, path):
    before = Path(path).read_bytes() if Path(path).is_file() else None
    # were it open to it, "r+" would keep what is there
    mode = "w" if before is None else "r+"
    outcome = run(sandbox, f"open({path!r}, {mode!r}).write('x')")
    assert outcome.status == 1
    assert any(name in outcome.reason for name in ("PermissionError", "Read-only", "No such file"))
    assert before is None or Path(path).read_bytes() == before


def test_no_socket_reaches_a_listener(sandbox, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as near:
        near.bind("\0fmray-test-" + uuid.uuid4().hex)
        near.listen()
        server.settimeout(0.2)
        near.settimeout(0.2)
        inet = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert run(sandbox, inet).reason.endswith("PermissionError: [Errno 1] Operation not permitted")
        name = near.getsockname().decode()
        assert "Connection refused" in run(sandbox, f"import socket; socket.socket(1).connect({name!r})").reason
        for family in (10, 16, 17, 40):  # IPv6, netlink, packets, the host of a virtual machine
            kind = "import socket; socket.socket({}, socket.SOCK_DGRAM)"
            assert "PermissionError" in run(sandbox, kind.format(family)).reason
        for listener in (server, near):
            with pytest.raises(TimeoutError):
                listener.accept()


def test_a_fork_bomb_stays_small(sandbox):
    program = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"
    assert run(sandbox, program).reason == "ran longer than 3 s"


def test_processes_are_limited(sandbox):
    program = "import os, time\nfor n in range(100):\n    if not os.fork(): time.sleep(60)"
    assert "BlockingIOError" in run(sandbox, program).output


def test_memory_without_end_is_refused(sandbox):
    assert run(sandbox, "x = []\nwhile True: x.append(bytearray(1 << 20))").reason.endswith("MemoryError")


def test_memory_of_all_processes_together_is_limited(sandbox):
    program = (
        "import os, time\n"
        "for n in range(5): os.fork() or exec('x = bytearray(80 << 20); x[:] = os.urandom(len(x)); time.sleep(60)')\n"
        "time.sleep(60)"
    )
    assert run(Sandbox(Limits(memory_bytes=256 << 20)), program).reason == "used more than 256 MB of memory"


def test_memory_that_no_limit_counts_is_refused(sandbox):
    program = (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
        "for name, *given in (('shmget', 0, 1 << 20, 0o1600), ('msgget', 0, 0o1600), ('semget', 0, 1, 0o1600),"
        " ('memfd_create', b'x', 0)):\n"
        "    print(name, getattr(libc, name)(*given), ctypes.get_errno())"
    )
    assert run(sandbox, program).output == "shmget -1 1\nmsgget -1 1\nsemget -1 1\nmemfd_create -1 1\n"


def test_files_do_not_grow_without_end(sandbox):
    one = run(sandbox, "with open('x', 'wb') as file:\n    while True: file.write(bytes(1 << 16))")
    assert any(text in one.reason for text in ("File too large", "No space left on device"))
    many = run(sandbox, "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(1 << 16)); n += 1")
    assert "No space left on device" in many.reason


def test_printing_without_end_is_stopped_and_the_end_is_kept(sandbox):
    outcome = run(sandbox, "while True: print('abc')")
    assert outcome.reason == "printed more than 16 kB"
    assert len(outcome.output) <= 4096


def test_sleeping_for_ever_is_stopped(sandbox):
    assert (
        run(sandbox, "import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)").reason
        == "ran longer than 3 s"
    )


def test_working_for_ever_is_stopped_even_where_the_signal_is_ignored(sandbox):
    program = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    patient = Sandbox(Limits(cpu_seconds=1, wall_seconds=60.0))
    assert run(patient, program).reason == "used more than 1 s of processor time"
    assert run(patient, "while True: pass").reason == "used more than 1 s of processor time"


def test_what_watches_it_cannot_be_killed_traced_or_answered_for(sandbox):
    program = (
        "import ctypes, os, signal\n"
        "for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM):\n"
        "    for pid in (1, os.getppid(), -1):\n"
        "        try: os.kill(pid, number) if pid != -1 else None\n"
        "        except OSError: pass\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for pid in (1, os.getpid()):\n"
        "    print(libc.ptrace(16, pid, 0, 0), ctypes.get_errno())\n"
        "print(libc.unshare(0x10000000), libc.mount(b'none', b'/sandbox', b'tmpfs', 0, None))\n"
        "for fd in range(4, 100):\n"
        "    try: os.write(fd, b'{\"status\": 0}')\n"
        "    except OSError: pass\n"
        "try: os.open('/proc/1/fd/1', os.O_WRONLY)\n"
        "except OSError as error: print(type(error).__name__)\n"
        "raise SystemExit(3)"
    )
    outcome = run(sandbox, program)
    assert outcome.status == 3
    assert outcome.output == "-1 1\n-1 1\n-1 -1\nPermissionError\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="clone takes its arguments in another order elsewhere")
def test_namespaces_of_its_own_give_it_no_privileges(sandbox):
    # clone(CLONE_NEWUSER | SIGCHLD), which is no unshare
    program = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.syscall(56, 0x10000011, 0, 0, 0, 0), ctypes.get_errno())"
    outcome = run(sandbox, program)
    assert outcome.output == "-1 28\n"


def test_a_daemon_is_ended_and_said(sandbox):
    program = (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(600)\n    os._exit(0)"
    )
    assert run(sandbox, program).reason == "left 1 process behind"


def test_all_ends_with_what_asked_for_it(sandbox):
    mark = f"mark-{uuid.uuid4().hex}"
    caller = f"from fmray.evaluate.sandbox import Sandbox\nSandbox().run('# {mark}\\nimport time; time.sleep(600)')"
    # the caller's own command holds no mark: it reads its program
    with subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE) as process:
        process.stdin.write(caller.encode())
        process.stdin.close()
        until = time.monotonic() + 20
        while not alive(mark) and time.monotonic() < until:
            time.sleep(0.02)
        assert alive(mark)
        process.kill()
    until = time.monotonic() + 5
    while alive(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert alive(mark) == []


def test_a_sandbox_inside_of_one_is_refused_by_what_fails(sandbox):
    request = {"parent": 1, "confined": True}
    outcome = run(sandbox, JAIL.read_text(), json.dumps(request))
    assert json.loads(outcome.output) == {"refused": "unshare: Operation not permitted"}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_where_the_system_withholds_namespaces_nothing_runs_and_the_reason_is_said(sandbox):
    code = "from fmray.evaluate.sandbox import Sandbox\nSandbox()"
    inner = f'echo 0 > /proc/sys/user/max_user_namespaces; exec {sys.executable} -c "$CODE"'
    environment = {**os.environ, "CODE": code}
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", inner], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "sandbox: this machine gives no sandbox to run programs in: unshare: No space left on device" in done.stderr
    assert "the setting user.max_user_namespaces is 0" in done.stderr
    assert "--no-sandbox" in done.stderr


needs_system_python = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists(SYSTEM_PYTHON), reason="needs root and a Python of the system"
)


def asked_of_jail(program: str, python: str, *, confined: bool = True) -> str:
    """Give a request to the script itself."""
    return json.dumps(
        {
            "parent": os.getpid(),
            "confined": confined,
            "home": "/tmp",
            "python": python,
            "show": [*SYSTEM, python],
            "hide": [],
            "program": program,
            "given": "abc",
            "cpu_seconds": 5,
            "wall_seconds": 10,
            "memory_bytes": 1 << 28,
            "file_bytes": 1 << 20,
            "processes": 4,
            "output_bytes": 9999,
        }
    )


@needs_system_python
@pytest.mark.parametrize("before", [[], ["unshare", "-Ur"]], ids=["user", "only-root-of-a-container"])
def test_an_ordinary_user_has_the_same_walls(before):
    python = os.path.realpath(SYSTEM_PYTHON)
    program = "import os, sys; print(os.getuid(), os.listdir('/tmp'), os.listdir('.')); open('x', 'w'); open('/x', 'w')"
    # the script has the number of the test as its parent: a namespace of users only changes no numbers
    command = [*before, python, "-I", "-S", "-c", JAIL.read_text()]
    ids = {"user": 1000, "group": 1000, "extra_groups": []}
    given = asked_of_jail(program, python)
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin"}, **ids
    )
    if not before and "refused" in done.stdout:
        pytest.skip(done.stdout)
    if before and "Operation not permitted" in done.stderr:
        pytest.skip(done.stderr)
    told = json.loads(done.stdout)
    assert "refused" not in told, told
    assert "65534 [] []\n" in told["output"]
    assert "Read-only file system: '/x'" in told["output"]


def test_a_python_built_for_an_older_system_runs_programs(sandbox):
    code = f"import os\ndel os.memfd_create, os.pidfd_open\n{JAIL.read_text()}"
    given = asked_of_jail("print(input())", sys.executable, confined=False)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], input=given, capture_output=True, text=True)
    assert json.loads(done.stdout)["output"] == "abc\n"


def test_without_walls_limits_hold_and_what_is_left_is_ended(tmp_path):
    unconfined = Sandbox(LIMITS, is_confined=False)
    seen = tmp_path / "seen"
    seen.write_text("mine")
    assert run(unconfined, f"print(open({str(seen)!r}).read())").output == "mine\n"
    daemon = (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(600)\n    os._exit(0)"
    )
    assert run(unconfined, daemon).reason == "left 1 process behind"
    assert run(unconfined, "import time; time.sleep(600)").reason == "ran longer than 3 s"
    assert run(unconfined, "while True: print('abc')").reason == "printed more than 16 kB"
