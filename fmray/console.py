"""Write to the terminal: text as it is, whatever is in it.

Nothing in a text is interpreted: no markup, no emoji codes, no escape sequences.
"""

from typing import IO, Any

from rich.console import Console
from rich.text import Text

from fmray.printable import printable


class PlainConsole(Console):
    """Print text as it is: no markup, no emoji codes, no wrapping, invisible characters escaped.

    Args:
        stderr: Write to stderr instead of stdout.
        file, width: Where to write instead, and how wide that is.
    """

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        super().__init__(stderr=stderr, file=file, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn text into what rich draws; everything that is printed as `str` passes here, cells of tables too."""
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(printable(text), **options)

    def say(self, *lines: str, style: str | None = None) -> None:
        """Print lines, however long they are."""
        for line in lines:
            self.print(line, style=style, soft_wrap=True)
