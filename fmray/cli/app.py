"""Answer the command line: what commands share, and how each of them ends.

Exit codes: 0 done, 2 a gate failed, 5 bad input, 130 interrupted and resumable, 1 anything else. With `--json` the last
line on stdout is one JSON object, whatever happens. Heavy libraries are imported inside the commands that need them.
"""

import json
import logging
import math
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Annotated, Any

import typer

from fmray.cli.signals import end_with, watch_signals
from fmray.console import PlainConsole, guard_streams, require_utf8_names
from fmray.errors import DataError, FmrayError, SpecError
from fmray.store import redact
from fmray.store.files import NO_MEMORY, is_short_of_memory
from fmray.store.lease import release_all

# Typer brings its own click or uses the installed one; its exceptions tell which.
USAGE_ERROR: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
DONE, FAILED, GATE_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 5, 130
DEFAULT_STORE = "fmray-store"
RESUMABLE = "interrupted; run the same command again to continue"

app = typer.Typer(
    name="fmray",
    help="Train populations of PyTorch models from sharded Parquet on Ray, and prove what is reported.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
out, error_console = PlainConsole(), PlainConsole(stderr=True)

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file, e.g. jobs/quickstart.yaml.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")]
StorePath = Annotated[str, typer.Option("--store", envvar="FMRAY_STORE", help="Folder that keeps records and runs.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. train.epochs=3.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the author's own modules that the model needs.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code.

    Args:
        arguments: Of a call from Python; by default those of the process, whose streams are then guarded.
    """
    given = sys.argv[1:] if arguments is None else arguments
    known: dict[str, Any] = {}
    if arguments is None:
        require_utf8_names()
        guard_streams()
        watch_signals(partial(_give_up, given, known))
    try:
        with _terminable() if arguments is not None else nullcontext():
            code, answer = _answer(given, known)
        if arguments is None:
            end_with(code)
    except KeyboardInterrupt:  # while an error was being said
        code, answer = _interrupted(known)
        if arguments is None:
            end_with(code)
    known["is_ended"] = True
    if answer is not None and "--json" in given:
        known["is_answered"] = True
        print(_as_line(known, answer), flush=True)
    sys.exit(code)


def _give_up(arguments: list[str], known: dict[str, Any]) -> None:
    """Leave a process that a signal could not stop in time as an interrupted one leaves: leases let go, and said."""
    release_all()
    if known.get("is_interrupted") or known.get("is_ended"):
        return
    error_console.say(RESUMABLE)
    if "--json" in arguments and not known.get("is_answered"):
        print(_as_line(known, {"status": "interrupted"}), flush=True)


def _as_line(known: dict[str, Any], answer: dict[str, Any]) -> str:
    plain = {key: value for key, value in known.items() if not key.startswith("is_")}
    return json.dumps(redact(_strict({**plain, **answer})))


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


def _answer(arguments: list[str], known: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Run a command; give its exit code and what it answers.

    Args:
        known: Takes what a command knows before it ends, however it ends: the directory of the run.
    """
    try:
        found = app(arguments, standalone_mode=False, obj=known)
        if isinstance(found, tuple):
            return found
        if found == INTERRUPTED:  # as typer answers Ctrl-C
            raise KeyboardInterrupt
        return (found if isinstance(found, int) else DONE), None
    except USAGE_ERROR as error:
        hint = f"{error.format_message()} Try 'fmray --help'."
        return BAD_INPUT, _failure("usage", "", hint)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(known)
    except SystemExit as ended:  # by which Ray, once it has started, answers SIGTERM
        if ended.code != signal.SIGTERM:
            raise
        return _interrupted(known)
    except FmrayError as error:
        code = BAD_INPUT if isinstance(error, SpecError | DataError) else FAILED
        return code, _failures(error)
    except OSError as error:
        return FAILED, _failure(type(error).__name__, str(error.filename or ""), error.strerror or str(error))
    except Exception as error:
        if is_short_of_memory(error):
            return FAILED, _failure(type(error).__name__, "", f"{error or 'out of memory'}: {NO_MEMORY}")
        from fmray.train.failures import place_of, told, user_frames

        if user_frames(error):
            error.add_note(place_of(error))
            return FAILED, _failure(type(error).__name__, "", told(error))
        # the last line of defence: whatever else it is, the caller gets JSON and exit code 1
        error_console.say(*redact(traceback.format_exc()).splitlines())
        return FAILED, _failure(type(error).__name__, "", str(error))


def _interrupted(known: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    error_console.say(RESUMABLE)
    known["is_interrupted"] = True
    return INTERRUPTED, {"status": "interrupted"}


def _failure(kind: str, where: str, message: str) -> dict[str, Any]:
    text = redact(f"{where}: {message}" if where else message)
    error_console.say(f"error: {text}")
    return {"status": "failed", "error": {"kind": kind, "where": where, "message": message}}


def _failures(error: FmrayError) -> dict[str, Any]:
    """Say every mistake in its line; the first one is the error, `errors` holds all."""
    errors = [_failure(type(one).__name__, one.where, one.message)["error"] for one in error.errors]
    return {"status": "failed", "error": {**errors[0], "errors": errors}}


def _strict(value: Any) -> Any:
    """Spell numbers that JSON lacks as null."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Shown(logging.Handler):
    """Show on the console what is read without being verified."""

    def emit(self, record: logging.LogRecord) -> None:
        error_console.say(f"warning: {record.getMessage()}")


logging.getLogger("fmray").addHandler(logging.NullHandler())
logging.getLogger("fmray.unverified").addHandler(_Shown())
