"""Run commands into pipes, full disks, closed streams and old encodings: their exit code is their own."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.table import Table

from fmray.console import PlainConsole
from fmray.events import Note, Stage
from fmray.progress import Watch

ROOT = Path(__file__).resolve().parents[1]
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith(("FMRAY_", "LC_", "PYTHON"))}
ENVIRONMENT = {**INHERITED, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
MARKED = ["col:on", "note:smile:", "[red]x[/red]", "[/]", "[bold]b", "x [link=http://a.b]y[/link]"]


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `fmray` is the command; output is read as UTF-8, whatever it is."""
    start = f'fmray() {{ "{sys.executable}" -m fmray.cli "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", start + line],
        cwd=folder,
        env=ENVIRONMENT | variables,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


def write_job(folder: Path, text: str = "", target: str = "y", classes: tuple[str, str] = ("no", "yes")) -> None:
    (folder / "data").mkdir()
    table = {"größe": [i % 7 + i / 1000 for i in range(300)], target: [classes[i % 7 > 3] for i in range(300)]}
    pq.write_table(pa.table(table), folder / "data/a.parquet")
    job = f"data: {{path: data, target: {target}}}\ntrain: {{epochs: 2}}\nmodel: linear\nrigour: {{profile: draft}}\n"
    (folder / "job.yaml").write_text(job + text, encoding="utf-8")


def screen(width: int = 300) -> tuple[PlainConsole, io.StringIO]:
    written = io.StringIO()
    return PlainConsole(file=written, width=width), written


@pytest.mark.parametrize("text", MARKED)
def test_markup_and_emoji_codes_are_printed_as_they_are(text):
    console, written = screen()
    table = Table(text, box=None, pad_edge=False)
    table.add_row(text)
    console.print(table)
    console.say(text)
    with Watch(console) as watch:
        watch(Stage("scan", text))
        watch(Note(text))
    assert [line.strip() for line in written.getvalue().splitlines()] == [text, text, text, f"scan      {text}", text]


def test_escape_sequences_and_line_breaks_in_text_reach_no_terminal():
    console, written = screen()
    table = Table("a\x1b[2Jb", box=None)
    table.add_row("c\nd")
    console.print(table)
    console.say("e\x9bf\ng")
    assert [line.strip() for line in written.getvalue().splitlines()] == [r"a\x1b[2Jb", r"c\nd", r"e\x9bf\ng"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("fmray version | true; echo ${PIPESTATUS[0]} >&2", 0),
        ("fmray check job.yaml | head -1 >/dev/null; echo ${PIPESTATUS[0]} >&2", 0),
        ("fmray check none.yaml --json 2>/dev/null | true; echo ${PIPESTATUS[0]} >&2", 5),
        ("fmray version >&-; echo $? >&2", 0),
        ("fmray check job.yaml --json >&- <&-; echo $? >&2", 0),
    ],
)
def test_a_command_whose_output_nobody_reads_is_silent_and_keeps_its_exit_code(tmp_path, line, code):
    write_job(tmp_path)
    assert shell(line, tmp_path).stderr.split() == [str(code)]


@pytest.mark.slow
def test_a_command_without_stderr_keeps_its_exit_code(tmp_path):
    assert shell("fmray check none.yaml 2>&-; echo $?", tmp_path).stdout.split() == ["5"]
    assert shell("fmray check none.yaml 2>/dev/full; echo $?", tmp_path).stdout.split() == ["5"]


def test_a_full_disk_behind_stdout_is_said_in_a_line(tmp_path):
    done = shell("fmray version > /dev/full", tmp_path)
    assert done.returncode == 0
    assert done.stderr == "stdout: No space left on device; the rest of the output is lost\n"


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_finishes(tmp_path):
    write_job(tmp_path)
    done = shell("fmray run job.yaml --json 2>/dev/null | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")
    done = shell("fmray run job.yaml >&- 2>&-; echo $?", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}])
def test_labels_that_an_encoding_lacks_are_escaped(tmp_path, variables):
    write_job(tmp_path, classes=("нет", "да"))
    done = shell("fmray check job.yaml --set data.positive=да", tmp_path, PYTHONUTF8="0", **variables)
    assert done.returncode == 0, done.stderr
    assert r"positive '\u0434\u0430'" in done.stdout
    assert r"gr\xf6\xdfe" in done.stdout


@pytest.mark.slow
def test_fmrays_own_signs_become_ascii_where_an_encoding_lacks_them(tmp_path):
    write_job(tmp_path)
    done = shell("fmray run job.yaml --set train.epochs=x; fmray check none.yaml", tmp_path, PYTHONIOENCODING="ascii")
    assert done.stderr.isascii()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_every_command_ends_well_in_any_encoding(tmp_path, encoding):
    write_job(tmp_path, target="ответ", classes=("нет", "年😀"))
    run = shell("fmray run job.yaml --json 2>/dev/null", tmp_path, PYTHONIOENCODING=encoding)
    folder = json.loads(run.stdout)["run_dir"]
    for line in (
        "fmray run job.yaml --fresh",
        f"fmray predict {folder} data --out said",
        f"fmray why {folder}",
        "fmray runs",
        f"fmray ledger {folder}",
        f"fmray report {folder}",
        "fmray gc",
    ):
        done = shell(line, tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, (line, done.stderr)
        assert "Traceback" not in done.stderr
    done = shell("fmray check job.yaml --set data.target=нет", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 5
    assert r"\u043d\u0435\u0442" in done.stderr
