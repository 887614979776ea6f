"""Answer the command line: check a job, run it, look at what came out.

Importing this loads nothing heavy, so that signals are heard before libraries are imported, which takes seconds on a
busy machine. What is left out of it is the start of Python itself.
"""

import sys

from fmray.cli.answer import Answer
from fmray.cli.signals import end_with, is_signalled, watch_signals
from fmray.cli.streams import guard_streams, require_utf8_names

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code.

    Args:
        arguments: Of a call from Python; by default those of the process, whose streams are then guarded.
    """
    if arguments is None:
        _answer_process(sys.argv[1:])
    else:
        from fmray.cli.app import main as call

        call(arguments)


def _answer_process(arguments: list[str]) -> None:
    require_utf8_names()
    guard_streams()
    answer = Answer(arguments)
    try:
        watch_signals(lambda: _give_up(answer))  # in here, since the first signal may come before it returns
        from fmray.cli.app import run_command

        code = answer.end(*run_command(arguments, answer.known), end_with)
    except BaseException as error:  # while importing, or while an error was being said
        if not isinstance(error, KeyboardInterrupt) and not is_signalled():
            raise
        code = answer.interrupt(end_with)
    sys.exit(code)


def _give_up(answer: Answer) -> None:
    """Leave a process that a signal could not stop in time as an interrupted one leaves: said, and leases let go."""
    answer.interrupt()  # first: a slow store must not cost the answer
    if "fmray.store.lease" in sys.modules:
        from fmray.store.lease import release_all

        release_all()
