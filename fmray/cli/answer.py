"""Say how a command ended, once, whichever thread comes to it first.

Nothing heavy is imported here: a command that is interrupted while it imports libraries answers as any other.
"""

import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

INTERRUPTED = 130
RESUMABLE = "interrupted; run the same command again to continue"


class Answer:
    """Hold what a command answers until it ends.

    Args:
        arguments: Of the command; with `--json` among them the last line on stdout is the answer.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.known: dict[str, Any] = {}
        """What is answered however the command ends, e.g. the directory of the run."""
        self._is_json = "--json" in arguments
        self._stdout = sys.stdout  # commands redirect it while code of a job or a model runs
        self._code: int | None = None
        self._lock = threading.Lock()

    def end(self, code: int, told: dict[str, Any] | None, settle: Callable[[int], None] | None = None) -> int:
        """Say how the command ended, unless that was said; give the exit code that goes with what was said.

        Args:
            told: What is answered beside what was known before.
            settle: Takes the exit code just before it is said.
        """
        with self._lock:
            if self._code is None:
                if settle is not None:
                    settle(code)
                self._code = code
                self._say(told)
            return self._code

    def interrupt(self, settle: Callable[[int], None] | None = None) -> int:
        """Say that the command was interrupted, unless it was said how it ended; see `end`."""
        return self.end(*INTERRUPTION, settle)

    def _say(self, told: dict[str, Any] | None) -> None:
        if told is not None and told["status"] == "interrupted" and self._code == INTERRUPTED:
            print(RESUMABLE, file=sys.stderr, flush=True)
        if told is not None and self._is_json:
            print(json.dumps(_strict(_redacted({**self.known, **told}))), file=self._stdout, flush=True)


INTERRUPTION: tuple[int, dict[str, Any]] = (INTERRUPTED, {"status": "interrupted"})


def _redacted(told: dict[str, Any]) -> dict[str, Any]:
    if told == INTERRUPTION[1]:  # then what redacts may not be imported yet
        return told
    from fmray.store import redact

    return redact(told)


def _strict(value: Any) -> Any:
    """Spell numbers that JSON lacks as null."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
