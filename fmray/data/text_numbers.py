"""Read numbers and dates that are written as text.

Each form is one convention of writing. A value either follows it exactly or is null; nothing is read in part, and a
whole number with leading zeros is a code, never a number.
"""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

from fmray.schema import NULL_WORDS, Kind

_SIGN = r"[+\-\x{2212}]?"
_MARK = r"(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY|INR)"
_UNIT = r"(?:%|°|°?\p{L}[\p{L}²³]{0,9}(?:/\p{L}{1,9}[²³]?)?)"
MOST_UNITS = 8
"""More than so many words behind numbers are no units."""
_EXPONENT = r"(?:[eE][+\-]?\d+)?"
_WHOLE = r"(?:0|[1-9]\d*)"
_POINT = rf"(?:[1-9]\d{{0,2}}(?:[,'’ ]\d{{3}})+(?:\.\d+)?|{_WHOLE}(?:\.\d*)?{_EXPONENT}|\.\d+{_EXPONENT})"
_COMMA = rf"(?:[1-9]\d{{0,2}}(?:[.'’ ]\d{{3}})+(?:,\d+)?|{_WHOLE}(?:,\d*)?{_EXPONENT}|,\d+{_EXPONENT})"
_YEAR, _MONTH, _DAY = r"([12]\d{3})", r"(0?[1-9]|1[0-2])", r"(0?[1-9]|[12]\d|3[01])"
_YEAR_2 = r"(\d{2})"
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAME = (
    r"((?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?))\.?"
)
_TIME = r"(?:(?:T| +)(\d{1,2}:\d{2})(:\d{2}(?:\.\d{1,9})?)?( ?(?:Z|[+\-]\d{2}:?\d{2}))?)?"


def _number(body: str) -> str:
    return rf"^(?:{_SIGN} ?{_MARK} ?{_SIGN}{body}|{_SIGN}{body} ?(?:{_MARK}|{_UNIT})?|\((?:{_MARK} ?)?{body}\))$"


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
    "day_name_year": Form("time", f"^{_DAY}[ -]{_NAME}[ -]{_YEAR}{_TIME}$", "31 Jan 2024", "${3}-${2}-${1}"),
    "name_day_year": Form("time", f"^{_NAME} {_DAY},? {_YEAR}{_TIME}$", "Jan 31, 2024", "${3}-${1}-${2}"),
    "day_month_yy": Form("time", f"^{_DAY}[./-]{_MONTH}[./-]{_YEAR_2}{_TIME}$", "31/01/24", "${3}-${2}-${1}"),
    "month_day_yy": Form("time", f"^{_MONTH}[./-]{_DAY}[./-]{_YEAR_2}{_TIME}$", "01/31/24", "${3}-${1}-${2}"),
}
"""Name -> convention; a column that follows several is read by the first of them.

Years of two digits are those from 1969 to 2068, as POSIX has it.
"""


def tidied(values: pl.Series) -> pl.Series:
    """Give the values without spaces around them and with plain spaces inside; null words are null."""
    plain = values.str.replace_all(r"[\x{00a0}\x{202f}\t]", " ").str.strip_chars()
    return plain.set(plain.str.to_lowercase().is_in(NULL_WORDS), None)


def read(tidy: pl.Series, form: str, known_units: Collection[str] | None = None) -> pl.Series:
    """Read tidied values; null where one does not follow the form.

    Numbers become Float64, dates Datetime("us") in UTC. A percentage is read as a share, a currency's mark
    or another unit is left out.

    Args:
        known_units: Units that are read; a value in another one is null, for it cannot be compared. None reads all.
    """
    shape = FORMS[form]
    fitting = tidy.set(~tidy.str.contains(shape.pattern).fill_null(False), None)
    if known_units is not None:
        fitting = fitting.set(~unit_of(fitting).is_in(sorted(known_units)).fill_null(False), None)
    return _numbers(fitting, form) if shape.kind == "number" else _dates(fitting, shape)


def unit_of(tidy: pl.Series) -> pl.Series:
    """Give what stands beside each value: a currency's mark, a percent sign, a word as "kg", "zone"; "" for nothing.

    Values of several units are not comparable, but for zones: which one it is does not matter, as instants are read.
    """
    zoned = tidy.str.contains(r":\d{2}(?:\.\d+)? ?(?:Z|[+\-]\d{2}:?\d{2})$")
    marks = tidy.str.extract(rf"({_MARK}|%)", 1)
    words = tidy.str.extract(rf"[\d.,)] ?({_UNIT})$", 1)
    return marks.fill_null(words).fill_null("").set(zoned.fill_null(False), "zone").set(tidy.is_null(), None)


def units(tidy: pl.Series) -> set[str]:
    """Give the units of values, "" where there is none; of very many only the first ones."""
    return set(sorted(unit_of(tidy).drop_nulls().unique().to_list())[: MOST_UNITS + 1])


def _numbers(fitting: pl.Series, form: str) -> pl.Series:
    group, point = (",", ".") if form == "decimal_point" else (".", ",")
    negative = fitting.str.contains(r"^[^\d]*[\-\x{2212}(]").fill_null(False)
    share = fitting.str.ends_with("%").fill_null(False)
    bare = fitting.str.replace_all(_MARK, "").str.replace(rf" ?{_UNIT}$", "")
    body = bare.str.replace_all(rf"[{group}'’ ()%+\x{{2212}}]|^-|^ -", "")
    body = body.str.replace_all(point, ".", literal=True).str.replace(r"(?i)e(\d)", "e+$1")
    found = body.str.strip_chars("-").cast(pl.Float64, strict=False)
    found = found.set(found.is_infinite(), None)  # "1e400"
    scaled = pl.when(share).then(found / 100).otherwise(found)
    return pl.select(pl.when(negative).then(-scaled).otherwise(scaled).alias(fitting.name)).to_series()


def _dates(fitting: pl.Series, shape: Form) -> pl.Series:
    date = _in_digits(fitting.str.replace(shape.pattern, shape.date))
    clock = fitting.str.extract(shape.pattern, 4).fill_null("0:00") + fitting.str.extract(shape.pattern, 5).fill_null(
        ":00"
    )
    instant = (date + " " + clock).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    zone = fitting.str.extract(shape.pattern, 6).str.strip_chars().str.replace("Z", "+0000").str.replace(":", "")
    minutes = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(pl.Int64, strict=False)
    minutes = minutes * pl.select(pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)).to_series()
    shifted = instant - pl.select(pl.duration(minutes=pl.lit(minutes.fill_null(0)))).to_series()
    return shifted.rename(fitting.name)


def _in_digits(date: pl.Series) -> pl.Series:
    """Give "2024-Jan-31" and "24-1-31" as "2024-01-31"."""
    parts = date.str.extract_groups(r"^(\d+)-(\d+|\p{L}{3})\p{L}*-(\d+)$")
    year, month, day = (parts.struct.field(name) for name in "123")
    century = pl.when(year.str.len_chars() > 2).then(pl.lit("")).when(year < "69").then(pl.lit("20"))
    number = month.str.to_lowercase().replace(_NAMES, [str(place) for place in range(1, 13)])
    return pl.select(century.otherwise(pl.lit("19")) + year + "-" + number + "-" + day).to_series()
