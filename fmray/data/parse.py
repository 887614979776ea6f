"""Read numbers and dates that stand in text columns, where the job says so."""

import functools
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import polars as pl

from fmray.data.step import Fitted, Note, Partial, chosen, summed_up
from fmray.data.text_numbers import FORMS, read, tidied
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.schema import Column, Schema

SHOWN = 3


class Parse:
    """Read text columns as numbers or dates; a value that does not follow the form is missing.

    Args:
        columns: Text.
        form: How values are written: "decimal_point" (1,234.5), "decimal_comma" (1.234,5), "year_month_day"
            (2024-01-31), "day_month_year" (31.01.2024) or "month_day_year" (01/31/2024); "auto" takes the one by which
            most training values can be read, the first of them if there are several.

    Raises:
        SpecError: If the form is unknown.
    """

    def __init__(
        self,
        columns: Sequence[str],
        form: Literal[
            "auto", "decimal_point", "decimal_comma", "year_month_day", "day_month_year", "month_day_year"
        ] = "auto",
    ) -> None:
        if form != "auto" and form not in FORMS:
            raise SpecError(f"'{form}'. Accepted: auto, {', '.join(FORMS)}.", "steps.parse.form")
        self.columns, self.form = columns, form

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Count the values that each form reads."""
        forms = list(FORMS) if self.form == "auto" else [self.form]
        found = {}
        for column in chosen(self.columns, schema, ("text",), "parse"):
            tidy = tidied(frame[column.name])
            made = {form: read(tidy, form) for form in forms}
            is_read = functools.reduce(operator.or_, (values.is_not_null() for values in made.values()))
            unread = tidy.filter(~is_read & tidy.is_not_null())
            found[column.name] = {
                "values": len(tidy) - tidy.null_count(),
                "read": {form: len(values) - values.null_count() for form, values in made.items()},
                "strange": sorted(unread.unique().to_list())[:SHOWN],
            }
        return found

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        return {
            name: {
                "values": part["values"] + other[name]["values"],
                "read": dict(Counter(part["read"]) + Counter(other[name]["read"])),
                "strange": sorted({*part["strange"], *other[name]["strange"]})[:SHOWN],
            }
            for name, part in one.items()
        }

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Choose the form of each column.

        Raises:
            DataError: If no training value of a column can be read.
        """
        forms: dict[str, str] = {}
        notes = []
        for name, found in partial.items():
            counts = {form: found["read"].get(form, 0) for form in FORMS}
            form = max(counts, key=lambda form: counts[form])  # the first of several
            if not counts[form]:
                shown = ", ".join(map(repr, found["strange"])) or "no value at all"
                accepted = ", ".join(f"{f} ({FORMS[f].example})" for f in FORMS)
                text = f"no training value of column '{name}' can be read, e.g. {shown}. Accepted: {accepted}."
                raise DataError(text, "steps.parse")
            forms[name] = form
            if unread := found["values"] - counts[form]:
                example = f", e.g. {found['strange'][0]!r}" if found["strange"] else ""
                text = f"parse: {unread} of {found['values']} values of '{name}' are not written like "
                text += f"{FORMS[form].example} and become missing{example}"
                notes.append(Note(name, text, "parse: values of {columns} cannot be read and become missing"))
        made = {name: Column(name, FORMS[form].kind) for name, form in forms.items()}
        columns = tuple(made.get(column.name, column) for column in schema.columns)
        return Fitted({"forms": forms}, Schema(columns), summed_up(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Read the columns."""
        return frame.with_columns([read(tidied(frame[name]), form) for name, form in state["forms"].items()])
