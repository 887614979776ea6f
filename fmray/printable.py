"""Make text from outside safe to show: in a terminal, in a log, on a page.

Names and values come from strangers' files. Escape sequences, line breaks, bidirectional overrides and invisible
characters in them are written out as `repr` writes them, so a line stays one line and what is shown is what is there.
"""

import json
import re


def printable(text: str, keep: str = "") -> str:
    r"""Write out every character of a text that cannot be seen, e.g. `\x1b`, `\n` or `\ufeff`.

    What was escaped once stays as it is, so a text may pass several edges.

    Args:
        keep: Characters that are left alone, e.g. a line break where a text has lines of its own.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def in_yaml(name: str) -> str:
    """Spell a name as it stands in a list or map of a job file: as it is, or in quotes where YAML needs them."""
    is_plain = re.fullmatch(r"[^\W\d][\w.-]*", name) and name.lower() not in ("null", "true", "false")
    return name if is_plain else json.dumps(name, ensure_ascii=False)
