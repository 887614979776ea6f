"""Show a run to whoever watches: live on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType

from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fmray.console import PlainConsole
from fmray.events import Epoch, Event, Failure, Note, Progress, Promotion, Resumed, SearchStanding, Stage
from fmray.printable import printable

INDENT = " " * 10
LEAST_SECONDS, MOST_SECONDS = 5.0, 60.0
"""Between two lines of progress where there is no terminal: a tenth of what the run has taken, within these."""


class Watch:
    """Take the events of a run and show them.

    Args:
        console: Where to write; a live bar is drawn only on a terminal.
    """

    def __init__(self, console: PlainConsole) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = self._shown_at = time.monotonic()
        if console.is_terminal:
            name, text = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[text]"))
            self._bar = Bar(name, BarColumn(bar_width=30), text, console=console, transient=True)

    def __enter__(self) -> "Watch":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Stage():
                self._clear()
                line = Text.assemble((f"{event.name:9} ", "bold"), printable(event.text))
                self._console.print(line, soft_wrap=True)  # at once: an interruption must not be said in mid-line
            case Note():
                self._console.say(INDENT + event.text, style="dim")
            case Promotion():
                texts = (f"{event.verdict}: {event.text}", *event.notes)
                self._console.say(*(INDENT + text for text in texts))
            case Resumed():
                place = f"epoch {event.epoch + 1}, step {event.step}"
                self._console.say(f"{INDENT}resumed at {place} ({event.same})")
            case Failure():
                self._console.say(f"{INDENT}{event.kind}: {event.text} ({event.action})")
            case Progress():
                self._show(event.stage, event.done, event.total, f"{event.done} of {event.total} items")
            case Epoch(search=SearchStanding() as standing):
                self._show("search", standing.epochs, standing.expected, _search_text(event.primary, standing))
            case Epoch():
                self._show("epochs", event.epoch, event.epochs, _epoch_text(event))

    def _show(self, name: str, done: int, total: int, text: str) -> None:
        if self._bar is None:
            self._show_line(name, text)
            return
        text = printable(text)  # a bar draws its texts itself
        if self._task is None:
            self._task = self._bar.add_task(name, total=total, text=text)
        self._bar.update(self._task, description=f"{INDENT}{name}", completed=done, total=total, text=text)

    def _show_line(self, name: str, text: str) -> None:
        now = time.monotonic()
        if now - self._shown_at < min(max((now - self._started) / 10, LEAST_SECONDS), MOST_SECONDS):
            return
        self._shown_at = now
        self._console.say(f"{INDENT}{name} {text}")

    def _clear(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def _epoch_text(event: Epoch) -> str:
    pack = f" · pack {event.place.pack + 1}/{event.place.packs}" if event.place.packs > 1 else ""
    best = "none yet" if event.best is None else f"{event.best:.4f}"
    return (
        f"{event.epoch}/{event.epochs}{pack} · best {event.primary} {best}"
        f" · {event.alive}/{event.members} members"
        f" · {event.rows_per_second:,} rows/s · {_duration(event.seconds_left)} left"
    )


def _search_text(primary: str, standing: SearchStanding) -> str:
    best = "none yet" if standing.best is None else f"{standing.best:.4f}"
    rungs = ", ".join(f"{passed}" for passed in standing.rungs)
    return (
        f"best {primary} {best} · {standing.alive} of {standing.members} members alive"
        f" · {standing.waiting} to come{f' · packs past rungs {rungs}' if rungs else ''}"
        f" · {_duration(standing.seconds_left)} left"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return (
        f"{minutes // 60}h {minutes % 60:02}m" if minutes >= 60 else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
    )
