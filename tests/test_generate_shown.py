"""Generated text reaches the terminal at once, and commands nothing there."""

import io

from fmray.cli.generate import _Shown


def test_what_is_new_is_written_and_control_signs_are_spelled():
    file = io.StringIO()
    shown = _Shown(file)
    seen = []
    for settled in ("ab", "ab", "ab\x1b[2J", "ab\x1b[2J\n\tc\u202e"):
        shown.tell(0, 0, settled)
        seen.append(file.getvalue())
    assert seen == ["ab", "ab", "ab\\x1b[2J", "ab\\x1b[2J\n\tc\\u202e"]
