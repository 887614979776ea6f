"""Say in words how many rows of a class there are, for codecs that have classes or labels."""

from collections.abc import Mapping

from fmray.records import Json, Split, Target

WORDS: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}
JUDGED: tuple[Split, ...] = ("val", "test")
FEW_ROWS = 5
MOST_SHOWN = 5


def spell_rows(count: int) -> str:
    """Write a number of rows."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def plural(noun: str) -> str:
    """Give a noun for several."""
    return f"{noun}{'es' if noun.endswith('s') else 's'}"


def count_class(target: Target, held: Mapping[str, Json], name: str, noun: str) -> str:
    """Name a class with its rows on each side."""
    train = target.counts[target.classes.index(name)]
    val, test = (held[split]["counts"].get(name, 0) for split in JUDGED)
    return f"{noun} '{name}' (train {train:,}, validation {val:,}, test {test:,})"


def lacking_classes(target: Target, held: Mapping[str, Json], split: Split, noun: str, weighted: bool) -> str:
    """Name the classes that a side has no row of."""
    own = held[split]
    missing = [name for name in target.classes if not own["counts"].get(name)]
    if not missing:
        return f"it has {spell_rows(own['rows'])}"
    shown = "; ".join(count_class(target, held, name, noun) for name in missing[:MOST_SHOWN])
    more = f"; and {len(missing) - MOST_SHOWN} more {plural(noun)}" if len(missing) > MOST_SHOWN else ""
    counted = " of a weight above 0" if weighted else ""
    return f"none of its {spell_rows(own['rows'])}{counted} is of {shown}{more}"


def rare_classes(target: Target, held: Mapping[str, Json], noun: str) -> list[str]:
    """Say which classes have next to no rows in validation or test."""
    sides = [held[split]["counts"] for split in JUDGED]
    few = [name for name in target.classes if min(side.get(name, 0) for side in sides) < FEW_ROWS]
    if not few:
        return []
    shown = "; ".join(count_class(target, held, name, noun) for name in few[:MOST_SHOWN])
    more = f"; and {len(few) - MOST_SHOWN} more" if len(few) > MOST_SHOWN else ""
    return [f"fewer than {FEW_ROWS} rows to judge by: {shown}{more}"]
