"""Say which share of generated texts are Python that parses. Nothing of them is run."""

import ast
import warnings
from collections.abc import Sequence

from fmray.errors import DataError
from fmray.evaluate.intervals import wilson
from fmray.records import Interval


def share_that_parses(texts: Sequence[str], level: float = 0.95) -> Interval:
    """Give the share of texts that `ast.parse` accepts as a module of this Python, with Wilson's interval.

    Texts of one prompt are alike: give one for each, as the interval takes texts as independent. An empty text parses.

    Args:
        level: Confidence level.

    Raises:
        DataError: If there is no text.
    """
    if not texts:
        raise DataError("there is no text. Give one at least.", "parses")
    hits = sum(map(parses, texts))
    low, high = wilson(hits, len(texts), level)
    return Interval(hits / len(texts), low, high=high, n=len(texts), method="wilson")


def parses(text: str) -> bool:
    """Tell whether a text is Python that parses; one that nests too deeply for the parser does not."""
    return not fault(text)


def fault(text: str) -> str:
    """Say why a text is no Python that parses; "" where it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}" if error.lineno else str(error.msg)
    except ValueError as error:
        return str(error)
    except (RecursionError, MemoryError):
        return "it nests too deeply"
    return ""
