"""Names and values of strangers are shown as text and never do anything to what shows them."""

import pytest
from ruamel.yaml import YAML

from fmray.errors import DataError
from fmray.printable import in_yaml, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\ufeffx", r"\ufeffx"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("zero\u200bwidth\u00a0space", r"zero\u200bwidth\xa0space"),
        ("\x9b31m \x07 \x00 \u2028", r"\x9b31m \x07 \x00 \u2028"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["größe", "да", "年龄", "😀", "[red]x[/red] :smile: col:on", r"C:\new"])
def test_text_in_any_script_stays_as_it_is(text):
    assert printable(text) == text


def test_a_text_may_keep_its_own_lines():
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_invisible_characters_are_seen_in_every_error():
    error = DataError("column 'x' is not there. Did you mean '\ufeffx'?", "a\nb.parquet")
    assert str(error) == r"a\nb.parquet: column 'x' is not there. Did you mean '\ufeffx'?"
    assert (error.where, error.message) == (r"a\nb.parquet", r"column 'x' is not there. Did you mean '\ufeffx'?")


@pytest.mark.parametrize(
    "name",
    ["", "x", "größe", "a.b", "a b", "a, b", "[x]", "x: y", "null", "True", "1", "-", '"', "\\", "\x1b[31m\u202e"],
)
def test_a_name_in_a_cure_can_be_pasted_into_a_job(name):
    shown = printable(f"steps: [{{auto: {{keep: [{in_yaml(name)}]}}}}]")
    assert YAML(typ="safe").load(shown) == {"steps": [{"auto": {"keep": [name]}}]}
