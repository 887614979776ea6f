"""Read numbers and dates that are written as text.

Each form is one convention of writing. A value either follows it exactly or is null; nothing is read in part, and a
whole number with leading zeros is a code, never a number.
"""

from dataclasses import dataclass

import polars as pl

from fmray.schema import Kind

NULL_WORDS = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".")
"""What people write where they have no value, in lower case: missing wherever text is read as numbers or dates."""

_SIGN = r"[+\-\x{2212}]?"
_MARK = r"(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY|INR)"
_EXPONENT = r"(?:[eE][+\-]?\d+)?"
_WHOLE = r"(?:0|[1-9]\d*)"
_POINT = rf"(?:[1-9]\d{{0,2}}(?:[,'’ ]\d{{3}})+(?:\.\d+)?|{_WHOLE}(?:\.\d*)?{_EXPONENT}|\.\d+{_EXPONENT})"
_COMMA = rf"(?:[1-9]\d{{0,2}}(?:[.'’ ]\d{{3}})+(?:,\d+)?|{_WHOLE}(?:,\d*)?{_EXPONENT}|,\d+{_EXPONENT})"
_YEAR, _MONTH, _DAY = r"([12]\d{3})", r"(0?[1-9]|1[0-2])", r"(0?[1-9]|[12]\d|3[01])"
_TIME = r"(?:(?:T| +)(\d{1,2}:\d{2})(:\d{2}(?:\.\d{1,9})?)?( ?(?:Z|[+\-]\d{2}:?\d{2}))?)?"


def _number(body: str) -> str:
    return rf"^(?:{_SIGN} ?{_MARK} ?{_SIGN}{body}|{_SIGN}{body} ?(?:{_MARK}|%)?|\((?:{_MARK} ?)?{body}\))$"


@dataclass(frozen=True)
class Form:
    """Describe one convention of writing numbers or dates.

    Args:
        kind: What a value becomes: "number" or "time".
        pattern: Regular expression that a whole value matches.
        example: How a value may look.
        date: For dates: year, month and day as places of groups in the pattern.
    """

    kind: Kind
    pattern: str
    example: str
    date: str = ""


FORMS = {
    "decimal_point": Form("number", _number(_POINT), "1,234.5"),
    "decimal_comma": Form("number", _number(_COMMA), "1.234,5"),
    "year_month_day": Form("time", f"^{_YEAR}[-/.]{_MONTH}[-/.]{_DAY}{_TIME}$", "2024-01-31", "${1}-${2}-${3}"),
    "day_month_year": Form("time", f"^{_DAY}[./-]{_MONTH}[./-]{_YEAR}{_TIME}$", "31.01.2024", "${3}-${2}-${1}"),
    "month_day_year": Form("time", f"^{_MONTH}[./-]{_DAY}[./-]{_YEAR}{_TIME}$", "01/31/2024", "${3}-${1}-${2}"),
}
"""Name -> convention; a column that follows several is read by the first of them."""


def tidied(values: pl.Series) -> pl.Series:
    """Give the values without spaces around them and with plain spaces inside; null words are null."""
    plain = values.str.replace_all(r"[\x{00a0}\x{202f}\t]", " ").str.strip_chars()
    return plain.set(plain.str.to_lowercase().is_in(NULL_WORDS), None)


def read(tidy: pl.Series, form: str) -> pl.Series:
    """Read tidied values; null where one does not follow the form.

    Numbers become Float64, dates Datetime("us") in UTC. A percentage is read as a share, a currency's mark
    is left out.
    """
    shape = FORMS[form]
    fitting = tidy.set(~tidy.str.contains(shape.pattern).fill_null(False), None)
    return _numbers(fitting, form) if shape.kind == "number" else _dates(fitting, shape)


def units(tidy: pl.Series) -> set[str]:
    """Give the currency marks, percent signs and time zones beside values; "" where there is none.

    Values of several units are not comparable, but for zones: which one it is does not matter, as instants are read.
    """
    zoned = tidy.str.contains(r":\d{2}(?:\.\d+)? ?(?:Z|[+\-]\d{2}:?\d{2})$")
    marks = tidy.str.extract(rf"({_MARK}|%)", 1).fill_null("").set(zoned.fill_null(False), "zone")
    return set(marks.filter(tidy.is_not_null()).unique().to_list())


def _numbers(fitting: pl.Series, form: str) -> pl.Series:
    group, point = (",", ".") if form == "decimal_point" else (".", ",")
    negative = fitting.str.contains(r"^[^\d]*[\-\x{2212}(]").fill_null(False)
    share = fitting.str.ends_with("%").fill_null(False)
    body = fitting.str.replace_all(_MARK, "").str.replace_all(rf"[{group}'’ ()%+\x{{2212}}]|^-|^ -", "")
    body = body.str.replace_all(point, ".", literal=True).str.replace(r"(?i)e(\d)", "e+$1")
    found = body.str.strip_chars("-").cast(pl.Float64, strict=False)
    found = found.set(found.is_infinite(), None)  # "1e400"
    scaled = pl.when(share).then(found / 100).otherwise(found)
    return pl.select(pl.when(negative).then(-scaled).otherwise(scaled).alias(fitting.name)).to_series()


def _dates(fitting: pl.Series, shape: Form) -> pl.Series:
    date = fitting.str.replace(shape.pattern, shape.date)
    clock = fitting.str.extract(shape.pattern, 4).fill_null("0:00") + fitting.str.extract(shape.pattern, 5).fill_null(
        ":00"
    )
    instant = (date + " " + clock).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    zone = fitting.str.extract(shape.pattern, 6).str.strip_chars().str.replace("Z", "+0000").str.replace(":", "")
    minutes = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(pl.Int64, strict=False)
    minutes = minutes * pl.select(pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)).to_series()
    shifted = instant - pl.select(pl.duration(minutes=pl.lit(minutes.fill_null(0)))).to_series()
    return shifted.rename(fitting.name)
