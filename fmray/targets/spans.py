"""Find typed spans of a text, as the date and the time in "Sunday at 7pm": a type, a start and an end each.

A span is learned as tags of words (`fmray.words`): `B-TYPE` of its first, `I-TYPE` of the others, `O` of words in none.
So spans are found where they begin and end with words and do not overlap; of those that share a word one is learned.
What is scored are spans of the text, not tags: in the lanes an entry holds where a word begins and ends, its tag, and
in higher bits what no tag says of it, see `Code`. Offsets count characters of the text as it was read.
Shape legend: N rows, W words of all rows, S spans of all rows, K types, C = 2 K + 1 tags.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.errors import DataError
from fmray.ragged import Ragged
from fmray.records import Json, Split, Target
from fmray.spec.sections import Data
from fmray.targets.classes import predicted, variants
from fmray.targets.codec import Decisions, Partial
from fmray.targets.tags import OUTSIDE, Tags
from fmray.targets.wording import lacking_classes, rare_classes
from fmray.words import Words, find_words

START, END = "start", "end"
MOST_TYPES = 499
MOST_WORDS = (1 << 16) - 1
"""Words of a span that is known beside the one marked."""
COUNTED = ("rows", "bare", "spans", "repeated", "inexact", "overlapping", "wordless")
"""Training rows and those without a span; spans, each once, and those named more than once or without tags."""
PREDICTION = pa.struct(
    {"type": pa.string(), START: pa.int64(), END: pa.int64(), "text": pa.string(), "p": pa.float64()}
)
"""A predicted span, its text, and the probability of its tags if words were independent."""
SHOWN = "spans"
"""Column of tables of predictions: the spans of `PREDICTION`, whose text is not there."""


class Code:
    """Lay out what is known of a word: how far each number is shifted, and its largest value.

    Attributes:
        TAG: As `tags_of` numbers it.
        INEXACT: 1 where a span is marked from here on whose start or end is not that of a word.
        TYPE, LENGTH: Of a span here without a mark: its type, counted from 1, and its words, 0 where it is not one of
            whole words, which no prediction equals.
        LOST: Number of further spans here without a mark.
    """

    TAG = (0, 0xFFFF)
    INEXACT = (16, 1)
    TYPE = (17, 511)
    LENGTH = (26, MOST_WORDS)
    LOST = (42, 0xFFFFF)

    @staticmethod
    def read(codes: np.ndarray, field: tuple[int, int]) -> np.ndarray:
        """Give a number of each word (W,), int64."""
        shift, most = field
        return np.asarray((codes >> shift) & most)


class Spans(Tags):
    """Encode spans as tags of words; see `fmray.targets.codec.Codec`.

    Frames hold the column of spans, and behind it that of the text they lie in.

    Args:
        target: Its classes are the tags: O, and B-TYPE and I-TYPE of each type.
    """

    kind: ClassVar[str] = "spans"
    noun: ClassVar[str] = "span"
    in_text: ClassVar[bool] = True
    absent: ClassVar[str] = "a text without words"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.metrics = ("span_f1", "span_precision", "span_recall")
        self.figures = ("confusion", "spans")
        self._texts: pl.Series | None = None

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Count the spans of each type, the words in them, and the spans that words cannot mark.

        Raises:
            DataError: If there are too many types.
        """
        frame = frame.filter(~cls.missing(frame))
        listed = sorted(set(_listed(frame)["type"].to_list()))
        _refuse_many(len(listed), data)
        codes, counts = mark(frame, listed)
        per_tag = np.bincount(tag_of(codes.values[:, 0]), minlength=2 * len(listed) + 1).tolist()
        return {
            "types": {name: per_tag[1 + 2 * place : 3 + 2 * place] for place, name in enumerate(listed)},
            "outside": per_tag[0],
            **counts,
        }

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        names = {*one["types"], *other["types"]}
        pairs = {name: [part["types"].get(name, [0, 0]) for part in (one, other)] for name in names}
        types = {name: [a + b for a, b in zip(*pair, strict=True)] for name, pair in pairs.items()}
        return {"types": types, **{name: one[name] + other[name] for name in ("outside", *COUNTED)}}

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Learn the types, ordered by name, and say how many spans words can mark.

        Raises:
            DataError: If there is no span, or too many types.
        """
        types = sorted(partial["types"])
        _refuse_many(len(types), data)
        name = data.target[0]
        if not types:
            raise DataError(f"'{name}' has no span in {partial['rows']:,} training rows. Give some.", "data.target")
        counts = [partial["outside"], *(count for name in types for count in partial["types"][name])]
        bare = f"{partial['bare']:,} of {partial['rows']:,} training rows have none"
        note = f"'{name}' holds {partial['spans']:,} spans of {len(types)} types in '{data.text}'; {bare}"
        target = Target(data.target, "spans", tags_of(types), counts=tuple(counts), rows=partial["rows"])
        return target, (note, _about_ceiling(partial), *_about_repeated(partial), *variants(tuple(types)))

    @classmethod
    def missing(cls, frame: pl.DataFrame) -> np.ndarray:
        """Tell rows whose text holds no word (N,), bool; a row without spans is one in which there are none."""
        return (~frame.to_series(1).str.contains(r"\S").fill_null(False)).to_numpy()

    @classmethod
    def faulty(cls, frame: pl.DataFrame) -> dict[str, np.ndarray]:
        """Tell rows with a span that cannot be one, by the reason: (N,), bool each."""
        spans, text = frame.columns
        listed = _listed(frame, is_checked=False)
        size = frame.to_series(1).str.len_chars().fill_null(0).to_numpy().astype(np.int64)
        rows, starts, ends = (listed[name].to_numpy() for name in ("row", START, END))
        lacks = listed.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()
        with np.errstate(invalid="ignore"):  # nulls are NaN, and named by the first reason
            empty = starts >= ends
            outside = (starts < 0) | (ends > size[rows])
        reasons = {
            f"a span of '{spans}' lacks its type, start or end": lacks,
            f"a span of '{spans}' ends where it begins, or before": empty,
            f"a span of '{spans}' lies outside of '{text}'": outside,
        }
        return {why: np.bincount(rows[which], minlength=len(frame)) > 0 for why, which in reasons.items()}

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Count the spans of each type."""
        counts = _listed(frame)["type"].value_counts(name="spans").sort("type").head(MOST_TYPES)
        return {"counts": dict(counts.iter_rows())}

    @classmethod
    def names_in(cls, value: Any) -> list[str]:
        """Name the types that the target of a row holds."""
        return list(dict.fromkeys(str(one[name]) for one in value or () for name in one if name not in (START, END)))

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Count the spans of each type that occurs."""
        tags = tag_of(target[:, 0])
        return np.unique(tags[tags % 2 == 1], return_counts=True)[1]

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give probabilities, and 1 for the tag of each word."""
        return outputs, np.asarray(np.arange(outputs.shape[2]) == tag_of(target[:, :1]), np.float64)

    @classmethod
    def true_class(cls, target: np.ndarray) -> np.ndarray:
        """Give the tag of each word (W,)."""
        return tag_of(target[:, 0])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name the types (K,)."""
        return types_of(self.target.classes)

    def encode(self, frame: pl.DataFrame) -> Ragged:
        """Give what is known of each word, its start and its end, int64; see `mark`."""
        return mark(frame, self.class_names)[0]

    def unknown(self, encoded: Ragged) -> np.ndarray:
        """Tell which rows have a span of a type that training rows lack."""
        own = encoded.compact()
        return super().unknown(Ragged(own.values[:, 0], own.starts, own.lengths))

    def for_training(self, encoded: Ragged) -> Ragged:
        """Give the tags."""
        own = encoded.compact()
        return Ragged(tag_of(own.values[:, 0]), own.starts, own.lengths)

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Count words at which no span begins, and spans of each type (K + 1,)."""
        return self._begun(tag_of(target[:, 0]), target)

    def _begun(self, tags: np.ndarray, target: np.ndarray) -> np.ndarray:
        kind, _ = spans_in(tags, self.opens_row(target))
        return np.bincount(kind + 1, minlength=len(self.class_names) + 1)

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Say which spans are predicted, as `counts` counts them, and how surely; hits are words of the right tag."""
        surest_W = output.max(1)
        tags = predicted(output)
        return Decisions(
            furthest=float(np.abs(output.sum(1) - 1).max()),
            surest=float(surest_W.max()),
            sureness=float(surest_W.sum(dtype=np.float64)),
            hits=int((tags == tag_of(target[:, 0])).sum()),
            said=self._begun(tags, target),
            actual=self.counts(target),
        )

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up a row of one word for each type that the side holds, and one in none, all of them right."""
        present = [1 + 2 * place for place, name in enumerate(self.class_names) if held["counts"].get(name, 0)]
        tags = np.array([*present, 0])
        scores = 1.0 + 9.0 * (tags[:, None] == np.arange(self.num_outputs))
        truth = np.zeros((len(tags), 4), np.int64)
        truth[:, 0] = tags
        return scores / scores.sum(1, keepdims=True), truth

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Name the types that the side has no span of."""
        return lacking_classes(self._by_type(), held, split, "type", weighted=weighted)

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say which types have next to no spans in validation or test."""
        return [text.replace(" rows to", " spans to") for text in rare_classes(self._by_type(), held, "type")]

    def merge_cure(self) -> str:
        """Say nothing: types are as the data name them."""
        return ""

    def describe(self) -> str:
        """Give the training spans of each type."""
        target = self._by_type()
        pairs = zip(target.classes, target.counts, strict=True)
        return ", ".join(f"{name} {count:,}" for name, count in pairs) + f" spans of {self.target.rows:,} rows"

    def outline(self) -> str:
        """Say how many types there are."""
        return f"spans of {len(self.class_names)} types"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `prediction`, a list of spans: type, start, end, text and p each."""
        return ("prediction",)

    def over(self, texts: pl.Series) -> "Spans":
        """Give a codec that knows the texts of the rows whose outputs it is given next (N,)."""
        made = copy.copy(self)
        made._texts = texts
        return made

    def columns_for_people(self, said: Ragged, is_null: np.ndarray, values: pa.Array, settings: Json) -> list[pa.Array]:
        """Give the spans of each row's text, in order, from the codec that `over` gave.

        Raises:
            DataError: If outputs are not as many as words.
        """
        texts = pl.Series([], dtype=pl.String) if self._texts is None else self._texts
        words = find_words(texts.to_frame().select(pl.when(pl.Series(~is_null)).then(pl.first())).to_series())
        own = Ragged(said.values, said.starts, np.where(is_null, 0, said.lengths)).compact()
        if not np.array_equal(own.lengths, words.lengths):
            row = int(np.flatnonzero(own.lengths != words.lengths)[0])
            text = f"row {row} has {own.lengths[row]} tokens and {words.lengths[row]} words"
            raise DataError(f"{text}. Let no step change the text before tokenize_words.", "steps")
        spans = _decoded(own, words)
        found = pl.DataFrame({"text": texts[spans.row], START: spans.start, END: spans.end})
        inner = found.select(pl.col("text").str.slice(START, pl.col(END) - pl.col(START))).to_series()
        return [self._listed(spans, is_null, inner.to_arrow().cast(pa.string()))]

    def shown_columns(self, output: Ragged, target: Ragged) -> dict[str, pa.Array]:
        """Give the predicted spans of each row; their text lies in the data alone."""
        own = output.compact()
        known = target.compact()
        spans = _decoded(own, Words(known.values[:, 1], known.values[:, 2], known.lengths))
        return {SHOWN: self._listed(spans, np.zeros(len(own), bool), pa.nulls(len(spans.row), pa.string()))}

    def _listed(self, spans: "_Decoded", is_null: np.ndarray, text: pa.Array) -> pa.Array:
        """Give spans as a list for each row, null where a row has none to give (N,)."""
        types = pa.array(self.class_names, pa.string()).take(pa.array(spans.kind))
        fields = [types, pa.array(spans.start), pa.array(spans.end), text, pa.array(spans.p)]
        ends = np.r_[0, np.cumsum(np.bincount(spans.row, minlength=len(is_null)))].astype(np.int32)
        offsets = pa.array(ends, mask=np.r_[is_null, False])
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(PREDICTION)))

    def misfits(self) -> dict[str, bool]:
        """Check that classes are the tags of types, each once, and that there are counts of them."""
        target = self.target
        return {
            "target.classes are not the tags of types": target.classes == tags_of(self.class_names or ("",)),
            "target.classes names a class twice": len(set(target.classes)) == len(target.classes),
            "target.positive is no class": target.positive == -1,
            "target.counts do not fit its classes": len(target.counts) == len(target.classes),
            "target.rows are more than its counts": target.rows <= sum(target.counts),
        }

    def _by_type(self) -> Target:
        """Give the target as if types were its classes, and spans its rows."""
        target = self.target
        return Target(target.columns, target.kind, self.class_names, counts=target.counts[1::2], rows=target.rows)


def tags_of(types: Sequence[str]) -> tuple[str, ...]:
    """Give the tags of types: of type k, 2 k + 1 begins a span and 2 k + 2 goes on with it."""
    return (OUTSIDE, *(f"{mark}-{name}" for name in types for mark in "BI"))


def types_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Give the types of the tags that `tags_of` gave."""
    return tuple(tag[2:] for tag in tags[1::2])


def tag_of(codes: np.ndarray) -> np.ndarray:
    """Give the tag of each word, out of what is known of it; -1 stays."""
    return np.where(codes < 0, -1, Code.read(codes, Code.TAG))


def spans_in(tags: np.ndarray, opens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read spans as `conlleval` reads entities: one begins at a B, and at an I that does not follow its own type.

    Args:
        tags: As `tags_of` numbers them.
        opens: Which words are the first of their row.

    Shapes:
        tags, opens: (W,).
        returns: type of the span that begins at each word, -1 where none does, and the word behind its last (W,).
    """
    kind = (tags + 1) // 2 - 1
    changes = opens | (tags % 2 == 1)
    changes[1:] |= kind[1:] != kind[:-1]
    cuts = np.append(np.flatnonzero(changes), len(tags))
    ends = cuts[np.searchsorted(cuts, np.arange(len(tags)), side="right")]
    return np.where(changes, kind, -1), ends


@dataclass(frozen=True)
class _Decoded:
    """Hold predicted spans, row by row (S,): their row, place of their type, offsets, and probability."""

    row: np.ndarray
    kind: np.ndarray
    start: np.ndarray
    end: np.ndarray
    p: np.ndarray


def _decoded(output: Ragged, words: Words) -> _Decoded:
    """Decode the most probable tag of each word of compact rows (W, C)."""
    tags = predicted(output.values)
    row_W = np.repeat(np.arange(len(output)), output.lengths)
    kind_W, end_W = spans_in(tags, np.diff(row_W, prepend=-1) > 0)
    first = np.flatnonzero(kind_W >= 0)
    last = end_W[first] - 1
    p_W = np.append(output.values[np.arange(len(tags)), tags], 1.0)
    pairs = np.stack([first, last + 1], 1).ravel()
    p = np.multiply.reduceat(p_W, pairs)[::2] if len(pairs) else np.zeros(0)
    return _Decoded(row_W[first], kind_W[first], start=words.starts[first], end=words.ends[last], p=p)


@dataclass(frozen=True)
class _Placed:
    """Hold the spans of some rows in order, each once, with the words that they touch.

    Shapes:
        first, last: (S,), places of words among those of all rows, first > last where there is none; nearest: (S,), the
            first of these words, or one beside; is_inexact: (S,), bool, whether start or end is not that of a word.
    """

    type: list[str]
    first: np.ndarray
    last: np.ndarray
    nearest: np.ndarray
    is_inexact: np.ndarray


def mark(frame: pl.DataFrame, types: Sequence[str]) -> tuple[Ragged, dict[str, int]]:
    """Mark the words of texts by the spans that lie in them, and count what became of these, by `COUNTED`.

    Of spans that share a word, the one that begins first is marked; of several that begin together, the longest. Spans
    that cannot be are not there.

    Shapes:
        returns: N rows of (W, 3), int64: `Code`, or -1 for a span of another type; where the word begins and ends.
    """
    words = find_words(frame.to_series(1))
    listed = _listed(frame)
    listed = listed.filter(pl.Series((words.lengths > 0)[listed["row"].to_numpy()]))
    once = listed.unique().sort("row", START, END, "type", descending=[False, False, True, False])
    spans = _placed(frame.to_series(1), words, once)
    known = {name: number for number, name in enumerate(types)}
    kind = np.array([known.get(name, -1) for name in spans.type], np.int64)
    wordless = spans.first > spans.last
    kept = _apart(spans.first, spans.last, ~wordless)
    inexact = kept & spans.is_inexact
    codes = np.zeros(words.lengths.sum(), np.int64)
    length = spans.last - spans.first + 1
    lengths = length[kept]
    inside = np.repeat(spans.first[kept] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    codes[inside] = np.repeat(2 * kind[kept] + 2, lengths)
    codes[spans.first[kept]] = 2 * kind[kept] + 1 + (inexact[kept].astype(np.int64) << Code.INEXACT[0])
    length[wordless | spans.is_inexact | (length > MOST_WORDS)] = 0
    unmarked = np.flatnonzero(~kept)
    unmarked = unmarked[np.argsort(length[unmarked] == 0, kind="stable")]  # those that could be found come first
    places, which = np.unique(spans.nearest[unmarked], return_index=True)
    second = unmarked[which]
    codes[places] += ((kind[second] + 1) << Code.TYPE[0]) + (length[second] << Code.LENGTH[0])
    np.add.at(codes, np.delete(spans.nearest[unmarked], which), 1 << Code.LOST[0])
    codes[spans.nearest[kind < 0]] = -1
    counts = {
        "rows": len(frame),
        "bare": len(frame) - once["row"].n_unique(),
        "spans": len(once),
        "repeated": len(listed) - len(once),
        "inexact": int(inexact.sum()),
        "overlapping": int((~kept & ~wordless).sum()),
        "wordless": int(wordless.sum()),
    }
    return Ragged.of_lengths(np.stack([codes, words.starts, words.ends], 1), words.lengths), counts


def _placed(texts: pl.Series, words: Words, spans: pl.DataFrame) -> _Placed:
    """Find the words that spans touch; all lie in texts that hold words."""
    sizes = texts.str.len_chars().fill_null(0).to_numpy().astype(np.int64) + 1
    base = np.cumsum(sizes) - sizes  # where each text begins if all stand in one line, with a gap between
    row_W = np.repeat(np.arange(len(texts)), words.lengths)
    starts_W = words.starts + base[row_W]
    ends_W = words.ends + base[row_W]
    row = spans["row"].to_numpy()
    start, end = (spans[name].to_numpy() + base[row] for name in (START, END))
    first = np.searchsorted(ends_W, start, side="right")
    last = np.searchsorted(starts_W, end, side="left") - 1
    own = (np.cumsum(words.lengths) - words.lengths)[row]
    nearest = np.clip(first, own, own + words.lengths[row] - 1)
    is_inexact = (starts_W[nearest] != start) | (ends_W[np.maximum(last, 0)] != end)
    return _Placed(spans["type"].to_list(), first, last, nearest=nearest, is_inexact=is_inexact)


def _apart(first: np.ndarray, last: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Choose, in order, spans that share no word with one chosen before (S,), bool."""
    chosen = wanted.copy()
    places = np.flatnonzero(wanted)
    furthest = np.maximum.accumulate(last[places])
    if not (first[places][1:] <= furthest[:-1]).any():
        return chosen
    reached = -1
    for place in places.tolist():
        if first[place] <= reached:
            chosen[place] = False
        else:
            reached = int(last[place])
    return chosen


def _listed(frame: pl.DataFrame, *, is_checked: bool = True) -> pl.DataFrame:
    """List the spans of all rows: row, type, start and end.

    Args:
        is_checked: Leave out those that cannot be: see `Spans.faulty`.
    """
    series = frame.to_series()
    (named,) = (field.name for field in series.dtype.inner.fields if field.name not in (START, END))  # type: ignore[attr-defined]
    lengths = series.list.len().fill_null(0).to_numpy().astype(np.int64)
    entries = series.filter(series.list.len().fill_null(0) > 0).list.explode()
    found = pl.DataFrame(
        {
            "row": np.repeat(np.arange(len(series)), lengths),
            "type": entries.struct.field(named).cast(pl.String),
            **{name: entries.struct.field(name).cast(pl.Int64, strict=False) for name in (START, END)},
        }
    )
    if not is_checked:
        return found
    size = frame.to_series(1).str.len_chars().fill_null(0).gather(found["row"])
    there = pl.all_horizontal(pl.all().is_not_null())
    fits = (pl.col(START) >= 0) & (pl.col(START) < pl.col(END)) & (pl.col(END) <= pl.Series(size))
    return found.filter(there & fits)


def _about_ceiling(partial: Partial) -> str:
    """Say how many training spans words can mark, and what keeps the others from being found."""
    why = {
        "inexact": "begin or end elsewhere than a word does, inside of one or at white space",
        "overlapping": "share a word with an earlier one",
        "wordless": "hold no word",
    }
    lost = [f"{partial[name]:,} {text}" for name, text in why.items() if partial[name]]
    num_spans = partial["spans"]
    found = num_spans - sum(partial[name] for name in why)
    text = f"{found:,} of {num_spans:,} training spans ({found / max(1, num_spans):.2%}) can be found, by whole words"
    return f"{text}; of the others, which scores count as well, {', '.join(lost)}" if lost else text


def _about_repeated(partial: Partial) -> list[str]:
    if not partial["repeated"]:
        return []
    return [f"{partial['repeated']:,} training spans are named more than once in their row, which counts once"]


def _refuse_many(number: int, data: Data) -> None:
    if number > MOST_TYPES:
        text = f"'{data.target[0]}' has {number} types of spans in training rows, {MOST_TYPES} are the most."
        raise DataError(f"{text} Name another target.", "data.target")
