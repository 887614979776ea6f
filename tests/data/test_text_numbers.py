"""Show how numbers and dates in text are read, by which convention, and what is said about it."""

import datetime

import numpy as np
import polars as pl
import pytest

from fmray.catalogue import STEPS
from fmray.data.auto import Auto
from fmray.data.parse import Parse
from fmray.data.text_numbers import read, tidied, units
from fmray.errors import DataError, SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps

DAY = datetime.datetime(2024, 1, 31)
SCHEMA = Schema((Column("x", "text"), Column("other", "number")))
RANDOM = np.random.default_rng(1)
N = 400
NUMBERS = RANDOM.choice(np.arange(1_000, 9_000_000), N, replace=False)


def read_by(form, values):
    return read(tidied(pl.Series(values, dtype=pl.String)), form).to_list()


def frame_of(values):
    return pl.DataFrame({"x": pl.Series(values, dtype=pl.String), "other": RANDOM.normal(size=len(values))})


def learned(values, parts=3):
    step, frame = Auto(), frame_of(values)
    partials = [step.fit(part, SCHEMA) for part in frame.iter_slices(-(-len(values) // parts))]
    merged = partials[0]
    for partial in partials[1:]:
        merged = step.merge(merged, partial)
    return step.learn(merged, SCHEMA)


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        ("decimal_point", "1,234,567", 1234567),
        ("decimal_point", " 42 ", 42),
        ("decimal_point", "1e-3", 0.001),
        ("decimal_point", "12%", 0.12),
        ("decimal_point", "$1,200.50", 1200.5),
        ("decimal_point", "-$5", -5),
        ("decimal_point", "($1,200)", -1200),
        ("decimal_point", "\u22123.5", -3.5),
        ("decimal_point", "1\u00a0234.5", 1234.5),
        ("decimal_point", "1,23,456", None),
        ("decimal_point", "1.234,56", None),
        ("decimal_point", "01234", None),
        ("decimal_point", "1,234.5 kg", 1234.5),
        ("decimal_point", "-12.5°C", -12.5),
        ("decimal_point", "80 km/h", 80),
        ("decimal_point", "5e-3 m²", 0.005),
        ("decimal_point", "12 of them", None),
        ("decimal_point", "2024Q1", None),
        ("decimal_comma", "1.234,5 kg", 1234.5),
        ("decimal_point", "1e400", None),
        ("decimal_point", "N/A", None),
        ("decimal_comma", "1.234,56", 1234.56),
        ("decimal_comma", "0,5 €", 0.5),
        ("decimal_comma", "-1.000,00", -1000),
        ("year_month_day", "2024-01-31", DAY),
        ("year_month_day", "2024-01-31T10:00:00+02:00", DAY.replace(hour=8)),
        ("year_month_day", "2024-02-31", None),
        ("day_month_year", "31.01.2024", DAY),
        ("day_month_year", "31-01-2024 09:15", DAY.replace(hour=9, minute=15)),
        ("month_day_year", "01/31/2024", DAY),
        ("month_day_year", "31/01/2024", None),
        ("day_name_year", "31-Jan-2024", DAY),
        ("day_name_year", "31 january 2024 09:15", DAY.replace(hour=9, minute=15)),
        ("day_name_year", "31 Feb 2024", None),
        ("day_name_year", "31-Jam-2024", None),
        ("name_day_year", "Jan. 31, 2024", DAY),
        ("name_day_year", "September 1 1999", datetime.datetime(1999, 9, 1)),
        ("day_month_yy", "31/01/24", DAY),
        ("day_month_yy", "31/01/68", DAY.replace(year=2068)),
        ("day_month_yy", "31/01/69", DAY.replace(year=1969)),
        ("month_day_yy", "1-31-24", DAY),
        ("month_day_yy", "31/01/24", None),
    ],
)
def test_a_value_follows_a_form_exactly_or_is_missing(form, text, value):
    assert read_by(form, [text]) == [value]


def test_units_are_told_apart_and_days_are_no_zones():
    assert units(tidied(pl.Series(["$5", "12%", "7", "31-01-2024", "10:05:00Z"]))) == {"$", "%", "", "zone"}
    assert units(tidied(pl.Series(["1 kg", "2kg", "80 km/h", "1e5", "3 m²"]))) == {"kg", "km/h", "", "m²"}


@pytest.mark.parametrize(
    "spell",
    [
        lambda v: f"{v:,}",
        lambda v: f"{v / 1e6:.6f}",
        lambda v: f"${v:,.2f}",
        lambda v: f"{v / 1e5:.3f}%",
        lambda v: f"{v / 1e3:.3e}",
        lambda v: f"{v / 1e3:,.3f} kg",
        lambda v: f"{v}ms",
        lambda v: f"{v:,}".replace(",", ".") + ",50",
        str,
    ],
)
def test_numbers_in_text_are_read_by_auto_and_it_is_said(spell):
    values = [spell(int(v)) for v in NUMBERS] + ["N/A", " ", None]
    fitted = learned(values)
    kinds = {column.name: column.kind for column in fitted.schema.columns}
    assert kinds["x"] == "number"
    assert kinds["x_missing"] == "missing"
    made = Auto().apply(frame_of(values), fitted.state)
    assert np.corrcoef(made["x"].to_numpy()[:N], NUMBERS)[0, 1] > 0.9999
    assert made["x_missing"].to_list() == [0] * N + [1] * 3
    assert fitted.notes[0].startswith("auto reads 'x' as numbers written like 1")


@pytest.mark.parametrize(
    ("written", "example"),
    [("%d.%m.%Y", "31.01.2024"), ("%d-%b-%Y", "31 Jan 2024"), ("%B %d, %Y", "Jan 31, 2024"), ("%m/%d/%y", "01/31/24")],
)
def test_dates_in_text_become_parts_of_times(written, example):
    values = [datetime.date(1990 + i % 30, 1 + i % 12, 1 + i % 28).strftime(written) for i in range(N)]
    fitted = learned(values)
    assert "x_year" in [column.name for column in fitted.schema.columns]
    assert f"auto reads 'x' as dates written like {example}" in fitted.notes[0]


@pytest.mark.parametrize(
    ("values", "said", "cure"),
    [
        ([f"{1 + i % 12:02}/{1 + i // 12 % 12:02}/{1990 + i % 30}" for i in range(N)], "01/31/2024", "month_day_year"),
        ([f"{1 + i % 9},{100 + i}" for i in range(N)], "1.234,5", "decimal_comma"),
    ],
)
def test_what_can_be_read_in_two_ways_is_said_with_the_other_way(values, said, cure):
    note = learned(values).notes[0]
    assert f"though all values can be written like {said} as well" in note
    assert f"parse: {{columns: [x], form: {cure}}} before auto" in note


@pytest.mark.parametrize(
    "values",
    [
        [f"{i:07}" for i in NUMBERS],  # leading zeros: codes
        [str(90_000 + i % 300) for i in range(2 * N)],  # zip codes
        [str(i % 7) for i in range(N)],  # few levels
        [f"{'$€'[i % 2]}{v}" for i, v in enumerate(NUMBERS)],  # several currencies
        [f"{v}{'kM'[i % 2]}" for i, v in enumerate(NUMBERS)],  # thousands and millions
        [f"{v} Street{'abcdefghijklmnop'[i % 16]}" for i, v in enumerate(NUMBERS)],  # words that are no units
    ],
)
def test_codes_and_mixed_units_are_not_read_as_numbers(values):
    assert all(column.kind != "number" for column in learned(values).schema.columns if column.name == "x")


def test_text_of_which_most_is_numbers_is_said_with_the_step_that_reads_it():
    notes = learned([f"{v:,}" for v in NUMBERS] + ["lots", "few"]).notes
    assert "auto does not read 'x' as numbers: 2 of 402 values are no numbers" in notes[0]
    assert "parse: {columns: [x], form: decimal_point} before auto reads them" in notes[0]


def test_parse_says_what_it_cannot_read_and_refuses_where_that_is_all():
    values = [f"{v:,}" for v in NUMBERS] + ["lots"]
    step, frame = Parse(steps.Parse(columns=["x"])), frame_of(values)
    fitted = step.learn(step.fit(frame, SCHEMA), SCHEMA)
    assert step.apply(frame, fitted.state)["x"].to_list() == [*NUMBERS.tolist(), None]
    assert "1 of 401 values of 'x' are not written like 1,234.5 and become missing, e.g. 'lots'" in fitted.notes[0]
    with pytest.raises(DataError, match="no training value of column 'x' can be read, e.g. 'few'"):
        step.learn(step.fit(frame_of(["few", "lots"]), SCHEMA), SCHEMA)
    with pytest.raises(SpecError, match="'comma'. Accepted: auto or decimal_point"):
        STEPS.build("parse", params={"columns": ["x"], "form": "comma"})


def test_parse_says_that_values_have_several_units():
    frame = frame_of([f"{v} {'kg' if v % 2 else 'lb'}" for v in NUMBERS])
    step = Parse(steps.Parse(columns=["x"]))
    fitted = step.learn(step.merge(step.fit(frame.head(3), SCHEMA), step.fit(frame.tail(-3), SCHEMA)), SCHEMA)
    assert fitted.notes == ("parse: values of 'x' have several units ('kg', 'lb') and are read as if they had one",)
