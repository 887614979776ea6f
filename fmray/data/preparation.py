"""Carry rows to the lanes, pass by pass: identify, find equal rows, learn the steps, write.

Here is what the driver knows: counts, what steps learn, and where each part begins; never rows. Passes are functions of
a work item, and who runs them where is not known here.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fmray.data import pipeline as pipelines
from fmray.data.apply import Written, add_digests, write_item
from fmray.data.class_sampling import Rates, about_rates, about_share, copy_item, first_in_item, rates_of
from fmray.data.copied import compare_files, same_shapes
from fmray.data.duplicates import Repeats, find_key_repeats, find_repeats
from fmray.data.identify import UNLABELLED, Identified, Recipe, Summary, where
from fmray.data.levels import merge_levels
from fmray.data.pass_cache import Kept, Known, Learned, Record, know, learn
from fmray.data.pipeline import Pipeline
from fmray.data.scan import WorkItem
from fmray.data.scratch import is_local
from fmray.data.sides import another_split, merge, refuse_gaps, refuse_one_class, refuse_weightless
from fmray.data.target import learn_target, merge_target
from fmray.data.windows import Counted, count_windows, write_windows
from fmray.errors import DataError
from fmray.events import Note, Report
from fmray.records import SPLITS, Json, Part, Prepared, Split, Target
from fmray.schema import TYPICAL_ENTRIES
from fmray.spec.ref import Ref
from fmray.spec.sections import Sample
from fmray.store import fingerprint
from fmray.targets.codec import codec_for, codec_of
from fmray.targets.wording import plural, spell_rows

SCRATCH_BYTES = 84
"""What a row takes beside the lanes while it is prepared: hashes, side and place in its bucket."""
UNLIKELY_ROWS = 30
"""So many rows that differ do not come to one side by chance."""
ROUND_ITEMS = 256
"""Work items whose counts are held before they are added up."""
SHOWN = 5
"""Classes that an error names."""
OFFSET_BYTES = 8
"""What a row takes beside its entries in a ragged column."""
COPIES_BYTES = 8
"""What it takes more where rows are sampled."""


class Run(Protocol):
    """Call a function with common arguments and, one after the other, each tuple of own ones; results in order."""

    def __call__(
        self, name: str, function: Callable[..., Any], common: tuple[Any, ...], own: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Give the results.

        Raises:
            FmrayError: Whatever the function raises, first item first.
        """
        ...


@dataclass(frozen=True)
class Preparation:
    """Make one record.

    Args:
        recipe: What every pass needs.
        items: The pieces that rows are read in.
        steps: As the job names them.
        run: Who runs a pass.
        report: Gets notes.
        kept: Where what was found in an item is kept; None keeps nothing.
        records: Gets what was kept or read back of items.
        weights: Folders of the pretrained weights that steps name, by the step's place.
    """

    recipe: Recipe
    items: Sequence[WorkItem]
    steps: Sequence[Ref]
    run: Run
    report: Report
    kept: Kept | None = None
    records: list[Record] = field(default_factory=list)
    weights: Mapping[int, str] = field(default_factory=dict)

    def write(self, key: str) -> Prepared:
        """Write the lanes and give the record.

        Raises:
            DataError: If rows do not add up, too many are set aside, a split is empty, or the disk is too small.
        """
        recipe = self.recipe
        row_bytes = SCRATCH_BYTES + (COPIES_BYTES if recipe.dataset.data.sample else 0)
        self._refuse_small_disk(recipe.dataset.num_rows * row_bytes, "hashes of all rows")
        generated = recipe.dataset.data.target[0] if codec_for(recipe.task).generates else ""
        steps = Pipeline(pipelines.build(self.steps, self.weights), recipe.schema, generated=generated)
        steps.learn_idle()
        known = self._identify(steps)
        there = replace(
            recipe, kept={item.index: k.folder for item, k in zip(self.items, known, strict=True) if k.folder}
        )
        return replace(self, recipe=there)._finish(key, steps, [k.found for k in known])

    def _identify(self, steps: Pipeline) -> list[Known]:
        common = (self.kept, self._lesson(steps, True), self.recipe, steps)
        known: list[Known] = self.run("identify rows", know, common, self._own)
        self._tell_reused("identify rows", [k.reused for k in known])
        self.records.extend(record for k in known for record in k.records)
        return known

    def _lesson(self, steps: Pipeline, with_target: bool) -> str:
        return self.kept.lesson(self.recipe, steps, with_target) if self.kept else ""

    def _tell_reused(self, name: str, reused: Sequence[bool]) -> None:
        if count := sum(reused):
            text = f"{name}: {count} of {len(reused)} work items are unchanged, what was found before is read back"
            self.report(Note(text))

    def _finish(self, key: str, steps: Pipeline, found: Sequence[Identified]) -> Prepared:
        """Go on from what each item holds to the record."""
        recipe = self.recipe
        self._refuse_quarantine(found)
        held = merge([f.held for f in found])
        num_rows = sum(sum(f.sides) for f in found)
        gaps = refuse_gaps(held, recipe.dataset.num_rows, num_rows, recipe.dataset.data)
        repeats = self._repeats()
        rows = self._account(found, repeats)
        refuse_weightless(held, rows, recipe.dataset.data, self._another_split)
        self._tell(gaps if recipe.fold is None else ())
        target, with_nulls, notes = self._learn(steps, [f.summary for f in found], held)
        levels = merge_levels((f.levels for f in found), recipe.slices)
        kept = self._kept(found, repeats)
        if sample := recipe.dataset.data.sample:
            whole = target
            target, kept = self._sample(sample, target, kept)
            rows["sampled"] = sum(target.sampled or target.counts)
            notes.append(about_share(sample.share, whole, target) if sample.share else about_rates(target))
        if codec_for(recipe.task).from_inputs:
            target, kept, about = self._count_windows(steps, target, rows)
            notes += about
        told = [*self._read_as(rows, _reasons(found)), *notes]
        self._tell(told)
        overlap = self._overlap(found, repeats)
        parts, test_ids, entries, files = self._write(kept, steps, target, levels)
        return Prepared(
            fingerprint=key,
            root=recipe.folder,
            schema=steps.schema,
            target=target,
            num_lanes=recipe.num_lanes,
            parts=parts,
            steps=steps.to_json(self.steps),
            rows=rows,
            quarantine=_reasons(found),
            test_identity=fingerprint(recipe.definition.to_json(), test_ids, rows["test"]),
            slices=levels,
            weighted=recipe.dataset.data.weight is not None,
            grouped=recipe.dataset.data.group is not None or recipe.context > 0,
            notes=(*told, *gaps, *self._idle_labels(found), *_about(repeats, rows)),
            split=recipe.definition.to_json(),
            raw=recipe.schema,
            held=held["splits"],
            with_nulls=with_nulls,
            entries=entries,
            overlap={**overlap, "files": files},
            manifest=tuple(
                {"path": f.path, "bytes": f.size, "rows": f.num_rows, "version": f.version}
                for f in recipe.dataset.files
            ),
        )

    def _tell(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.report(Note(text))

    @property
    def _own(self) -> list[tuple[WorkItem]]:
        return [(item,) for item in self.items]

    def _repeats(self) -> list[Repeats]:
        data = self.recipe.dataset.data
        numbers = [item.index for item in self.items]
        buckets = [(bucket,) for bucket in range(self.recipe.num_buckets)]
        if data.key:
            again = self.run("check keys", find_key_repeats, (self.recipe, numbers), buckets)
            if count := sum(number for number, _ in again):
                pairs = [pair for _, shown in again for pair in shown][:3]
                named = [
                    " and ".join(where(self.recipe.dataset, self.items[i], row) for i, row in pair) for pair in pairs
                ]
                raise DataError(
                    f"{count} rows repeat the {', '.join(data.key)} of an earlier row, e.g. {'; '.join(named)}. "
                    "Name columns that tell rows apart, or leave data.key out.",
                    "data.key",
                )
        common = (self.recipe, numbers, data.dedup == "exact")
        found: list[Repeats] = self.run("find equal rows", find_repeats, common, buckets)
        return found

    def _overlap(self, found: Sequence[Identified], repeats: Sequence[Repeats]) -> Json:
        """Count what gates ask about rows that stand both in train and in test; see `rigour.gates`."""
        pairs = [(pair,) for pair in same_shapes(self.recipe.dataset)]
        copied: list[int] = self.run("compare files", compare_files, (self.recipe, self.items), pairs) if pairs else []
        paths = [file.path for file in self.recipe.dataset.files]
        named = [[paths[a], paths[b]] for ((a, b),), count in zip(pairs, copied, strict=True) if count]
        return {
            "train": sum(f.sides[0] for f in found),
            "test": sum(f.sides[2] for f in found),
            **{name: sum(getattr(part, name) for part in repeats) for name in ("overlapping", "repeated", "pairs")},
            "copied_rows": sum(copied),
            "copied_files": named[:SHOWN],
        }

    def _refuse_quarantine(self, found: Sequence[Identified]) -> None:
        reasons = _reasons(found)
        num_rows = self.recipe.dataset.num_rows
        count = sum(reasons.values())
        most = self.recipe.dataset.data.max_quarantine
        if count > most * num_rows:
            shown = "; ".join(f"{reason}: {number} rows" for reason, number in reasons.items())
            raise DataError(
                f"{count} of {num_rows} rows cannot be used ({shown}), a share of {count / num_rows:.2g}. "
                f"Mend them, or allow more than {most:g}.",
                "data.max_quarantine",
            )

    def _account(self, found: Sequence[Identified], repeats: Sequence[Repeats]) -> dict[str, int]:
        """Add up all rows; whatever was read must be somewhere."""
        dropped = sum(sum(r.dropped.values()) for r in repeats)
        train, val, test = (sum(f.sides[side] for f in found) for side in range(len(SPLITS)))
        rows = {
            "read": self.recipe.dataset.num_rows,
            "train": train - dropped,
            "val": val,
            "test": test,
            "duplicates": dropped,
            "quarantined": sum(_reasons(found).values()),
            "unlabelled": sum(f.reasons.get(UNLABELLED, 0) for f in found),
        }
        if rows["read"] != sum(count for name, count in rows.items() if name != "read"):
            raise DataError(f"the rows do not add up: {rows}. This is a bug of fmray; the run is stopped for it.")
        if rows["unlabelled"] and not any(rows[split] for split in SPLITS):
            names = " and ".join(map(repr, self.recipe.dataset.data.target))
            text = f"no row that can be used has a value of {names}: {rows}. Name a target that rows have."
            raise DataError(text, "data.target")
        for split in SPLITS:
            if not rows[split]:
                raise DataError(f"no rows are left for {split}: {rows}. {self._cure(rows)}", "split")
        return rows

    @property
    def _another_split(self) -> str:
        """Say how rows come to other sides."""
        return another_split(self.recipe.definition.by, self.recipe.definition.column)

    def _cure(self, rows: dict[str, int]) -> str:
        """Say what to do about a side without rows."""
        alone = [split for split in SPLITS if rows[split]]
        if len(alone) == 1 and rows[alone[0]] >= UNLIKELY_ROWS and self.recipe.definition.by == "hash":
            names = ", ".join(map(repr, self.recipe.definition.columns))
            data = self.recipe.dataset.data
            if data.group is not None:
                return (
                    f"A group goes one way whole, and all rows are of one group in {names}, or of too few. "
                    "Name another data.group, or leave it out."
                )
            key = "Name other columns in data.key, or set data.group," if data.key else "Set data.key, or data.group,"
            return (
                f"Rows that are equal in {names} stay together, and all of them are. {key} "
                f"{'for' if data.key else 'to'} columns that tell rows apart."
            )
        return f"Give more rows, or {self._another_split}; where groups are few, they go one way whole."

    def _learn(
        self, steps: Pipeline, summaries: Sequence[Summary | None], held: Json
    ) -> tuple[Target, tuple[str, ...] | None, list[str]]:
        """Let the target and the steps learn, with one pass over the data for each step that needs one."""
        first = [summary for summary in summaries if summary is not None]
        if not first:
            first = self._fit(steps, True)
        merged = first[0].target
        for summary in first[1:]:
            merged = merge_target(merged, summary.target)
        self._refuse_empty_fold(sum(summary.num_rows for summary in first))
        if "counts" in merged:
            refuse_one_class(merged["counts"], held, self.recipe.dataset.data, self._another_split)
        target, said = learn_target(merged, self.recipe.dataset.data)
        with_nulls = _with_nulls(first)
        while not steps.is_complete:
            steps.learn_next(summary.step for summary in first)
            steps.learn_idle()
            if not steps.is_complete:
                first = self._fit(steps, False)
        return target, with_nulls, [*said, *(note for fitted in steps.fitted for note in fitted.notes)]

    def _fit(self, steps: Pipeline, with_target: bool) -> list[Summary]:
        own = [(with_target, item) for item in self.items]
        common = (self.kept, self._lesson(steps, with_target), self.recipe, steps)
        learned: list[Learned] = self.run("learn the steps", learn, common, own)
        self._tell_reused("learn the steps", [part.reused for part in learned])
        self.records.extend(part.record for part in learned if part.record)
        return [part.summary for part in learned]

    def _refuse_empty_fold(self, num_rows: int) -> None:
        fold = self.recipe.fold
        if fold is not None and not num_rows:
            raise DataError(
                f"fold {fold.number + 1} of {fold.num_folds} holds every training row: steps have none to learn from. "
                "Give more rows, or groups; where groups are few, they go one way whole.",
                "train.folds",
            )

    def _read_as(self, rows: dict[str, int], reasons: dict[str, int]) -> list[str]:
        """Say how columns were read, and which rows cannot be used or have nothing to learn from."""
        data = self.recipe.dataset.data
        count = rows["unlabelled"]
        named = " and ".join(f"'{name}'" for name in data.target)
        absent = codec_for(self.recipe.task).absent
        without = [f"{count} of {rows['read']} rows have no {named} ({absent}) and are left out"] if count else []
        if reasons:
            shown = "; ".join(f"{reason}: {number} rows" for reason, number in reasons.items())
            text = f"{rows['quarantined']} of {rows['read']} rows cannot be used and are set aside ({shown})"
            without.append(f"{text}; data.max_quarantine: 0 refuses them")
        return [*self.recipe.dataset.notes, *without]

    def _idle_labels(self, found: Sequence[Identified]) -> list[str]:
        idle = set(self.recipe.dataset.data.labels).difference(*(f.labels for f in found))
        return [f"data.labels maps {', '.join(map(repr, sorted(idle)))}, which no row has"] if idle else []

    def _kept(self, found: Sequence[Identified], repeats: Sequence[Repeats]) -> list[tuple[int, int, int]]:
        dropped: Counter[int] = Counter()
        for part in repeats:
            dropped.update(part.dropped)
        return [(f.sides[0] - dropped[index], f.sides[1], f.sides[2]) for index, f in enumerate(found)]

    def _sample(
        self, sample: Sample, target: Target, kept: Sequence[tuple[int, int, int]]
    ) -> tuple[Target, list[tuple[int, int, int]]]:
        """Count copies of training rows, by class for the target and by item for the lanes."""
        rates = Rates(rates_of(sample, target), sample.salt)
        if sample.share is not None:
            asked = (self.recipe, target, sample.salt)
            least: list[tuple[float, ...]] = self.run("find first rows", first_in_item, asked, self._own)
            rates = replace(rates, first=tuple(map(min, zip(*least, strict=True))))
        found: list[tuple[int, ...]] = self.run("sample rows", copy_item, (self.recipe, target, rates), self._own)
        sampled = tuple(map(sum, zip(*found, strict=True)))
        lanes = [(sum(by_class), val, test) for by_class, (_, val, test) in zip(found, kept, strict=True)]
        if sample.share is not None:
            return replace(target, counts=sampled), lanes
        for name, count, left, rate in zip(target.classes, target.counts, sampled, rates.by_class, strict=True):
            if not left:
                raise DataError(
                    f"a rate of {rate:g} leaves none of the {count} training rows of class '{name}'. "
                    "Give a larger rate, or another salt.",
                    "data.sample",
                )
        return replace(target, sampled=sampled), lanes

    def _count_windows(
        self, steps: Pipeline, target: Target, rows: Mapping[str, int]
    ) -> tuple[Target, list[tuple[int, int, int]], list[str]]:
        """Count the windows of each item, and learn from training tokens how often each id occurs."""
        tokens: Any = 0
        counts: list[tuple[int, int, int]] = []
        for start in range(0, len(self.items), ROUND_ITEMS):
            own = self._own[start : start + ROUND_ITEMS]
            found: list[Counted] = self.run("count windows", count_windows, (self.recipe, steps), own)
            tokens = tokens + sum(part.tokens for part in found)
            counts += [part.windows for part in found]
        target = replace(target, counts=tuple(tokens.tolist()))
        if not self.recipe.context:
            return target, counts, []
        texts = sum(rows[split] for split in SPLITS)
        text = f"{texts:,} texts are cut into {sum(map(sum, counts)):,} windows of up to {self.recipe.context} tokens"
        text += f"; task.{self.recipe.task}.context says how long they are"
        return target, counts, [text]

    def _write(
        self,
        counts: Sequence[tuple[int, int, int]],
        steps: Pipeline,
        target: Target,
        levels: dict[str, tuple[str, ...]],
    ) -> tuple[dict[Split, tuple[Part, ...]], str, dict[str, tuple[int, int]], list[str]]:
        beside = 16 + 8 * len(target.columns) + 12 + 4 * len(levels)
        row_bytes = steps.schema.dense_bytes + beside + _ragged_bytes(steps)
        self._refuse_small_disk(int(sum(map(sum, counts)) * row_bytes), "lanes")
        begin: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        own = []
        for item, count in zip(self.items, counts, strict=True):
            own.append((item, dict(begin)))
            begin = {split: begin[split] + number for split, number in zip(SPLITS, count, strict=True)}
        write = write_windows if codec_for(self.recipe.task).from_inputs else write_item
        written: list[Written] = self.run("write lanes", write, (self.recipe, steps, target, levels), own)
        self._refuse_unseen(written, plural(codec_of(target).noun))
        parts: dict[Split, list[Part]] = {split: [] for split in SPLITS}
        for (_, starts), done in zip(own, written, strict=True):
            for split, (name, num_rows) in done.parts.items():
                parts[split].append(Part(name, starts[split], num_rows))
        digest = add_digests([done.test_ids for done in written])
        overlap = [done.overlap for done in written if done.overlap]
        return {split: tuple(p) for split, p in parts.items()}, digest, _entries(written), overlap

    def _refuse_unseen(self, written: Sequence[Written], nouns: str) -> None:
        counts: Counter[str] = Counter()
        first: dict[str, str] = {}
        for done in written:
            for name, (count, place) in done.unseen.items():
                counts[name] += count
                first.setdefault(name, place)
        if counts:
            named = list(counts)[:SHOWN]
            shown = "; ".join(f"'{name}': {spell_rows(counts[name])}, the first in {first[name]}" for name in named)
            shown += f"; and {len(counts) - SHOWN} more {nouns}" if len(counts) > SHOWN else ""
            raise DataError(
                f"{nouns} of '{self.recipe.dataset.data.target[0]}' in validation or test that no training row has: "
                f"{shown}. Map them with data.labels, give training rows of them, or {self._another_split}.",
                "data.target",
            )

    def _refuse_small_disk(self, needed: int, what: str) -> None:
        self.report(Note(f"{what}: {needed / 1e6:,.1f} MB on disk"))
        if is_local(self.recipe.folder) and needed > (free := shutil.disk_usage(self.recipe.folder).free):
            raise DataError(
                f"{what} need {needed:,} bytes, {free:,} are free at {self.recipe.folder}. "
                "Free space or choose another store."
            )


def _ragged_bytes(steps: Pipeline) -> float:
    """Estimate what a row takes in the lanes' ragged columns, from the mean lengths that steps saw in training rows."""
    known = [fitted.state.get("mean_lengths", {}) for fitted in steps.fitted]
    lengths: dict[str, float] = {name: mean for means in known for name, mean in means.items()}
    ragged = [block for block in steps.schema.blocks.values() if block.is_ragged]
    return sum((4 * lengths.get(b.name, TYPICAL_ENTRIES) + OFFSET_BYTES) * len(b.lane_columns) for b in ragged)


def _entries(written: Sequence[Written]) -> dict[str, tuple[int, int]]:
    """Count the entries of ragged columns, in all rows and in the longest one."""
    names = list(dict.fromkeys(name for done in written for name in done.entries))
    found = {name: [done.entries[name] for done in written if name in done.entries] for name in names}
    return {name: (sum(total for total, _ in each), max(most for _, most in each)) for name, each in found.items()}


def _with_nulls(summaries: Sequence[Summary]) -> tuple[str, ...] | None:
    """Name the columns in which training rows have nulls; None if no step looked at them."""
    found = [summary.with_nulls for summary in summaries if summary.with_nulls is not None]
    return tuple(sorted(set().union(*found))) if len(found) == len(summaries) else None


def _reasons(found: Sequence[Identified]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in found:
        total.update(part.reasons)
    return {reason: total[reason] for reason in sorted(total) if reason != UNLABELLED}


def _about(repeats: Sequence[Repeats], rows: dict[str, int]) -> list[str]:
    """Say in words what equal rows there are."""
    in_train, in_val, in_test, conflicts = (
        sum(getattr(part, name) for part in repeats) for name in ("in_train", "in_val", "in_test", "conflicts")
    )
    gone = rows["duplicates"]
    cure = "" if gone else "; dedup: exact removes the training copies"
    notes = []
    if in_train:
        notes.append(f"{in_train} training rows repeat an earlier training row")
    if in_test:
        notes.append(f"{in_test} of {rows['test']} test rows also stand in train{cure}")
    if in_val:
        notes.append(f"{in_val} of {rows['val']} validation rows also stand in train{cure}")
    if gone:
        notes.append(f"{gone} training rows were left out as copies")
    if conflicts:
        notes.append(f"{conflicts} rows have the inputs of another row and a different target")
    return notes
