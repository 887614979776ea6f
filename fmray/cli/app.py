"""Carry out a command line: call the command, and turn whatever it raises into an exit code and an answer.

Exit codes: 0 done, 2 a gate failed, 5 bad input, 130 interrupted and resumable, 1 anything else. With `--json` the last
line on stdout is one JSON object, whatever happens. Heavy libraries are imported inside the commands that need them.
"""

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

# each adds its commands to the application
from fmray.cli import check, cluster, generate, judge, listing, models, promotion, runs, schedule, tracking, why  # noqa: F401
from fmray.cli.answer import INTERRUPTED, INTERRUPTION, Answer
from fmray.cli.options import BAD_INPUT, DONE, FAILED, GATE_FAILED, app, error_console
from fmray.cli.signals import is_signalled
from fmray.errors import DataError, FmrayError, GateError, SpecError
from fmray.store import redact
from fmray.store.files import NO_MEMORY, is_short_of_memory

# Typer brings its own click or uses the installed one; its exceptions tell which.
USAGE_ERROR: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def main(arguments: list[str]) -> None:
    """Run a command on behalf of a Python program and leave with its exit code."""
    answer = Answer(arguments)
    try:
        with _terminable():
            code, told = run_command(arguments, answer.known)
    except KeyboardInterrupt:  # while an error was being said
        code, told = INTERRUPTION
    sys.exit(answer.end(code, told))


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM, by which clusters stop what runs on them, as Ctrl-C: leases are let go."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(arguments: list[str], known: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Run a command; give its exit code and what it answers.

    Args:
        known: Takes what a command knows before it ends, however it ends: the directory of the run.
    """
    try:
        found = app(arguments, standalone_mode=False, obj=known)
        if isinstance(found, tuple):
            return found
        if found == INTERRUPTED:  # as typer answers Ctrl-C
            return INTERRUPTION
        return (found if isinstance(found, int) else DONE), None
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTION
    except SystemExit as ended:
        # by which Ray, once it has started, answers SIGTERM
        if ended.code == signal.SIGTERM or is_signalled():
            return INTERRUPTION
        raise
    except Exception as error:
        # libraries that are interrupted raise errors of their own, and so do workers that Ctrl-C reached as well
        return INTERRUPTION if is_signalled() else _failed(error)


def _failed(error: Exception) -> tuple[int, dict[str, Any]]:
    """Say what went wrong; give the exit code and the answer."""
    if isinstance(error, USAGE_ERROR):
        return BAD_INPUT, _failure("usage", "", f"{error.format_message()} Try 'fmray --help'.")
    if isinstance(error, GateError):
        return GATE_FAILED, {**_failures(error), "failed_gates": list(error.gates)}
    if isinstance(error, FmrayError):
        code = BAD_INPUT if isinstance(error, SpecError | DataError) else FAILED
        return code, _failures(error)
    if isinstance(error, OSError):
        return FAILED, _failure(type(error).__name__, str(error.filename or ""), error.strerror or str(error))
    if is_short_of_memory(error):
        return FAILED, _failure(type(error).__name__, "", f"{error or 'out of memory'}: {NO_MEMORY}")
    from fmray.train.failures import one_line, place_of, user_frames

    if user_frames(error):
        error.add_note(place_of(error))
        return FAILED, _failure(type(error).__name__, "", one_line(error))
    # the last line of defence: whatever else it is, the caller gets JSON and exit code 1
    lines = "".join(traceback.format_exception(error)).splitlines()
    error_console.say(*redact("\n".join(lines)).splitlines())
    return FAILED, _failure(type(error).__name__, "", str(error))


def _failure(kind: str, where: str, message: str) -> dict[str, Any]:
    text = redact(f"{where}: {message}" if where else message)
    error_console.say(f"error: {text}")
    return {"status": "failed", "error": {"kind": kind, "where": where, "message": message}}


def _failures(error: FmrayError) -> dict[str, Any]:
    """Say every mistake in its line; the first one is the error, `errors` holds all."""
    errors = [_failure(type(one).__name__, one.where, one.message)["error"] for one in error.errors]
    return {"status": "failed", "error": {**errors[0], "errors": errors}}


class _Shown(logging.Handler):
    """Show on the console what is read without being verified."""

    def emit(self, record: logging.LogRecord) -> None:
        error_console.say(f"warning: {record.getMessage()}")


logging.getLogger("fmray").addHandler(logging.NullHandler())
logging.getLogger("fmray.unverified").addHandler(_Shown())
