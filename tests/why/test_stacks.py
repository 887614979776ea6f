"""Ask real processes where they stand."""

import json
import os
import subprocess
import sys
import time

import pytest

from fmray.why.stacks import ask_processes, frames_of, told_before

LISTENER = """
import json, sys, threading, time
sys.path.insert(0, {folder!r})
from fmray.train.stacks import here
import fmray_like
print(json.dumps({{**here(1), **{changed}}}), flush=True)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
fmray_like.stay({busy})
"""
STAY = """
import time

def stay(busy, depth=0):
    time.sleep(0.02 if busy else 0)
    if depth == 0:
        print("there", flush=True)
    if busy:
        stay(busy, depth + 1)  # deeper and deeper, so no two stacks are equal
    time.sleep(60)
"""


@pytest.fixture
def process(tmp_path, monkeypatch):
    monkeypatch.setattr("fmray.why.remote.APART_SECONDS", 0.1)
    folder = tmp_path / "x/fmray/train"
    folder.mkdir(parents=True)
    (folder / "fmray_like.py").write_text(STAY)
    started = []

    def start(busy=False, **changed):
        code = LISTENER.format(folder=str(folder), busy=busy, changed=changed)
        one = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.append(one)
        place = json.loads(one.stdout.readline())
        assert one.stdout.readline() == b"there\n"
        return one, place

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_process_that_stands_still_shows_its_line_twice_and_lives_on(process):
    one, place = process()
    time.sleep(0.2)  # it has said that it is there, and is about to stand still
    (told,) = ask_processes([place])
    assert told["rank"] == 1
    assert told["still"]
    assert any("fmray_like.py:10 in stay" in frame for frame in told["frames"])
    assert one.poll() is None


def test_a_process_that_moves_on_is_not_taken_for_still(process):
    (told,) = ask_processes([process(busy=True)[1]])
    assert told["frames"]
    assert not told["still"]


def test_a_process_that_does_not_listen_is_not_signalled(process):
    one, place = process()
    innocent = subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    try:
        innocent.stdout.readline()
        with open(f"/proc/{innocent.pid}/stat") as file:
            began = file.read().rpartition(")")[2].split()[19]
        (told,) = ask_processes([{**place, "pid": innocent.pid, "started": began}])
        assert told["error"] == "it does not answer"
        assert innocent.poll() is None
        assert one.poll() is None
    finally:
        innocent.kill()
        innocent.communicate()


def test_a_process_that_is_gone_is_said_to_be_and_one_elsewhere_is_not_asked(process):
    one, place = process()
    assert ask_processes([{**place, "machine": "another"}]) == []
    one.kill()
    one.wait()
    assert ask_processes([place]) == [
        {"rank": 1, "name": f"{place['host']}:{place['pid']}", "error": "this process is gone"}
    ]
    assert os.path.exists(place["stacks"])  # it was killed, so nobody removed the file
    os.remove(place["stacks"])


DUMP = """Thread 0x00007f01 (most recent call first):
  File "/x/fmray/store/lease.py", line 158 in _beat
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f02 (most recent call first):
  File "/u/nets.py", line 19 in forward
  File "/x/fmray/train/loop.py", line 130 in train_step

Current thread 0x00007f03 (most recent call first):
  File "/x/ray/worker.py", line 9 in main_loop
"""


def test_the_thread_that_trains_is_found_among_the_others_innermost_frame_first():
    assert frames_of(DUMP) == ["/u/nets.py:19 in forward", "/x/fmray/train/loop.py:130 in train_step"]
    assert frames_of("") == frames_of("garbage\n  File without a quote") == []


def test_stacks_that_a_run_left_are_read_by_rank_and_other_files_are_not():
    told = told_before({"stacks/7/rank-10.txt": DUMP, "stacks/7/rank-2.txt": "", "stacks/error-0-1.txt": DUMP})
    assert [(one["rank"], len(one["frames"])) for one in told] == [(10, 2), (2, 0)]
