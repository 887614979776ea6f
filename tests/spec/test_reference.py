"""The reference page is generated, current and complete."""

from pathlib import Path

import pytest

from fmray.spec.explain import SECTIONS, dotted
from fmray.spec.reference import TABLES, reference
from fmray.spec.schema import arguments_of, job_schema

PAGE = Path(__file__).resolve().parents[2] / "docs/reference.md"


def test_the_page_in_the_docs_is_the_one_that_is_generated():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m fmray.spec.reference > docs/reference.md"


def test_every_key_and_every_name_has_its_place():
    page = reference()
    for keys in SECTIONS:
        assert not keys or f"### `{dotted(keys)}`" in page
    for _, table in TABLES.values():
        for name in table:
            assert f"### `{name}`" in page


@pytest.mark.parametrize("keys", list(SECTIONS), ids=dotted)
def test_every_key_is_described(keys):
    schema = job_schema()
    part = schema["$defs"][SECTIONS[keys].__name__] if keys else schema
    assert [name for name, described in part["properties"].items() if not described.get("description")] == []


def test_descriptions_are_read_from_docstrings_with_all_their_lines():
    class Section:
        """Say something.

        Args:
            one, other: First line
                and second: line.
            third: Alone.

        Raises:
            Error: Never.
        """

    said = arguments_of(Section)
    assert said == {"one": "First line and second: line.", "other": "First line and second: line.", "third": "Alone."}
