"""Read numbers and dates that stand in text columns, where the job says so."""

import functools
import operator
from collections import Counter
from collections.abc import Sequence

import polars as pl

from fmray.data.step import Fitted, Partial, Remark, chosen, summed_up
from fmray.data.text_numbers import FORMS, MOST_UNITS, read, tidied, units
from fmray.errors import DataError
from fmray.records import Json
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared

SHOWN = 3


class Parse:
    """Read text columns as numbers or dates; a value that does not follow the form is missing.

    Args:
        params: As `fmray.spec.components.steps.Parse` declares them.
    """

    def __init__(self, params: declared.Parse) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Count the values that each form reads."""
        forms = list(FORMS) if self.params.form == "auto" else [self.params.form]
        found = {}
        for column in chosen(self.params.columns, schema, ("text",), "parse"):
            tidy = tidied(frame[column.name])
            made = {form: read(tidy, form) for form in forms}
            is_read = functools.reduce(operator.or_, (values.is_not_null() for values in made.values()))
            unread = tidy.filter(~is_read & tidy.is_not_null())
            found[column.name] = {
                "values": len(tidy) - tidy.null_count(),
                "read": {form: len(values) - values.null_count() for form, values in made.items()},
                "strange": sorted(unread.unique().to_list())[:SHOWN],
                "units": sorted(units(tidy.filter(is_read))),
            }
        return found

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        return {
            name: {
                "values": part["values"] + other[name]["values"],
                "read": dict(Counter(part["read"]) + Counter(other[name]["read"])),
                "strange": sorted({*part["strange"], *other[name]["strange"]})[:SHOWN],
                "units": sorted({*part["units"], *other[name]["units"]})[: MOST_UNITS + 1],
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
                notes.append(Remark(name, text, "parse: values of {columns} cannot be read and become missing"))
            notes += _about_units(name, found["units"])
        made = {name: Column(name, FORMS[form].kind) for name, form in forms.items()}
        columns = tuple(made.get(column.name, column) for column in schema.columns)
        own_units = {name: found["units"] for name, found in partial.items() if len(found["units"]) <= MOST_UNITS}
        return Fitted({"forms": forms, "units": own_units}, Schema(columns), summed_up(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Read the columns."""
        known = state.get("units", {})  # models of earlier versions know none
        made = [read(tidied(frame[name]), form, known.get(name)) for name, form in state["forms"].items()]
        return frame.with_columns(made)


def _about_units(name: str, found: Sequence[str]) -> list[Remark]:
    """Say that values of several units are read as if they were of one."""
    if len(found) < 2:
        return []
    shown = ", ".join(map(repr, found[:MOST_UNITS])) + (", ..." if len(found) > MOST_UNITS else "")
    text = f"parse: values of '{name}' have several units ({shown}) and are read as if they had one"
    return [Remark(name, text, "parse: values of {columns} have several units and are read as if they had one")]
