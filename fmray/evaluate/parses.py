"""Tell Python that parses from other text. Nothing of it is run."""

import ast
import threading
import warnings

_WARNINGS = threading.Lock()
"""Filters of warnings are those of the whole process."""


def parses(text: str) -> bool:
    """Tell whether a text is Python that parses; one that nests too deeply for the parser does not."""
    return not fault(text)


def fault(text: str) -> str:
    """Say why a text is no Python that parses; "" where it is."""
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno or 1}: {error.msg}"
    except ValueError as error:
        return str(error) or "it cannot be read"
    except (RecursionError, MemoryError):
        return "it nests too deeply"
    return ""
