"""Turn a data set into lanes: identify rows, learn the steps from training rows, apply them, write.

Every pass is a function of a work item, run here or as Ray Data tasks; both write the same bytes. The driver holds counts
and what steps learn, never rows. A record is named by all that decides its content, so equal work is done once.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmray.data import pipeline
from fmray.data.apply import Written, add_digests, apply_item, fit_item
from fmray.data.identify import UNLABELLED, Identified, Recipe, identify, where
from fmray.data.occurrences import Repeats, find_repeats, num_buckets
from fmray.data.passes import Passes
from fmray.data.pipeline import Pipeline
from fmray.data.raw import raw_schema
from fmray.data.scan import Dataset, WorkItem, work_items
from fmray.data.split import define
from fmray.data.target import learn_target, merge_target
from fmray.errors import DataError, SpecError
from fmray.records import SPLITS, Json, Part, Prepared, Split, Target
from fmray.schema import Schema
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Draft, Store, fingerprint, source_digest

KIND = "prepared"
QUARANTINE = "quarantine"
Report = Callable[[Json], None]


def prepare(dataset: Dataset, job: Job, task: Ref, store: Store, report: Report = lambda event: None) -> Prepared:
    """Make the lanes of a job's data, or read them back if they are there.

    Args:
        task: The objective, decided.
        report: Gets notes and progress.

    Raises:
        DataError: If rows do not add up, too many are set aside, a split is empty, or the disk is too small.
        SpecError: If a step, a split or a column is not as it must be.
    """
    definition = define(dataset, job.split, store, job.name)
    for name in job.evaluate.slices:
        if name not in dataset.schema.names or name in dataset.data.ignore:
            raise SpecError(f"column '{name}' is not in the data. It has: {', '.join(dataset.schema.names)}.", "evaluate.slices")
    asked = {name: value for name, value in job.to_json()["data"].items() if name != "path"}
    key = fingerprint(
        KIND, dataset.fingerprint, asked, definition.to_json(), [ref.to_json() for ref in job.steps], task.name,
        job.train.order.num_lanes, job.evaluate.slices, source_digest("fmray.data", *job.modules()),
    )  # fmt: skip
    report({"event": "record", "kind": KIND, "fingerprint": key})
    with store.create(KIND, key) as draft:
        manifest = draft.existing
        if manifest is None:
            scratch = Path(draft.folder) / "scratch"
            scratch.mkdir(parents=True)
            recipe = Recipe(
                dataset, definition, raw_schema(dataset, job), task.name, job.evaluate.slices,
                job.train.order.num_lanes, num_buckets(dataset.num_rows), str(scratch),
            )  # fmt: skip
            with Passes(job.run.prepare, dataset, report) as passes:
                prepared = _Preparation(recipe, job, passes, report, draft.folder).carry(key)
            shutil.rmtree(scratch)
            manifest = draft.commit(prepared.to_json())
    return Prepared.from_json(
        {**{name: manifest[name] for name in Prepared.__dataclass_fields__}, "root": manifest["folder"]}
    )


@dataclass(frozen=True)
class _Preparation:
    recipe: Recipe
    job: Job
    passes: Passes
    report: Report
    folder: str

    def carry(self, key: str) -> Prepared:
        items = work_items(self.recipe.dataset)
        found = self._identify(items)
        repeats = self._repeats(items)
        rows = self._account(found, repeats)
        target, notes, steps = self._learn(items)
        levels = {name: tuple(sorted({v for f in found for v in f.levels[name]})) for name in self.recipe.slices}
        parts, test_ids = self._write(items, found, repeats, steps, target, levels)
        return Prepared(
            fingerprint=key,
            root=self.folder,
            schema=steps.schema,
            target=target,
            num_lanes=self.recipe.num_lanes,
            parts=parts,
            steps=steps.to_json(self.job.steps),
            rows=rows,
            quarantine=self._reasons(found),
            test_identity=fingerprint(self.recipe.definition.to_json(), test_ids),
            slices=levels,
            weighted=self.recipe.dataset.data.weight is not None,
            grouped=self.recipe.dataset.data.group is not None,
            notes=(*notes, *self._about_repeats(repeats)),
            split=self.recipe.definition.to_json(),
            manifest=tuple(
                {"path": f.path, "bytes": f.size, "rows": f.num_rows, "version": f.version} for f in self.recipe.dataset.files
            ),
        )

    def _identify(self, items: Sequence[WorkItem]) -> list[Identified]:
        quarantine = f"{self.folder}/{QUARANTINE}"
        return self.passes.map("identify rows", identify, [(self.recipe, item, quarantine) for item in items])

    def _repeats(self, items: Sequence[WorkItem]) -> list[Repeats]:
        drop = self.recipe.dataset.data.dedup == "exact"
        numbers = [item.index for item in items]
        asked = [(self.recipe.scratch, numbers, bucket, drop) for bucket in range(self.recipe.num_buckets)]
        repeats = self.passes.map("find equal rows", find_repeats, asked)
        example = next((found.example for found in repeats if found.example), None)
        if self.recipe.dataset.data.key and example:
            first, second = (where(self.recipe.dataset, items[item], row) for item, row in example)
            keys = ", ".join(self.recipe.dataset.data.key)
            raise DataError(f"rows repeat in {keys}: {first} and {second}. Name columns that tell rows apart.", "data.key")
        return repeats

    def _reasons(self, found: Sequence[Identified]) -> dict[str, int]:
        total = sum((Counter(f.reasons) for f in found), Counter())
        return {reason: total[reason] for reason in sorted(total) if reason != UNLABELLED}

    def _account(self, found: Sequence[Identified], repeats: Sequence[Repeats]) -> dict[str, int]:
        """Add up all rows; whatever was read must be somewhere."""
        dropped = sum(sum(r.dropped.values()) for r in repeats)
        reasons = self._reasons(found)
        rows = {split: sum(f.sides[side] for f in found) for side, split in enumerate(SPLITS)}
        rows = {
            "read": self.recipe.dataset.num_rows,
            **rows,
            "duplicates": dropped,
            "quarantined": sum(reasons.values()),
            "unlabelled": sum(f.reasons.get(UNLABELLED, 0) for f in found),
        }
        rows["train"] -= dropped
        if rows["read"] != sum(count for name, count in rows.items() if name != "read"):
            raise DataError(f"the rows do not add up: {rows}. This is a bug of fmray; the run is stopped for it.")
        most = self.recipe.dataset.data.max_quarantine
        if rows["quarantined"] > most * rows["read"]:
            shown = "; ".join(f"{reason}: {count} rows" for reason, count in reasons.items())
            raise DataError(
                f"{rows['quarantined']} of {rows['read']} rows cannot be used ({shown}). Mend them, or allow more than {most:g}.",
                "data.max_quarantine",
            )
        for split in SPLITS:
            if not rows[split]:
                raise DataError(f"no rows are left for {split}: {rows}. Give more rows, or other shares.", "split")
        return rows

    def _learn(self, items: Sequence[WorkItem]) -> tuple[Target, list[str], Pipeline]:
        steps = Pipeline(pipeline.build(self.job.steps), self.recipe.schema)
        steps.learn_idle()
        target, notes = None, []
        while target is None or not steps.is_complete:
            asked = [(self.recipe, item, steps, target is None) for item in items]
            partials = self.passes.map("learn the steps", fit_item, asked)
            if target is None:
                merged = partials[0][0]
                for partial, _ in partials[1:]:
                    merged = merge_target(merged, partial)
                target, said = learn_target(merged, self.recipe.dataset.data)
                notes += said
            if not steps.is_complete:
                notes += steps.learn_next(partial for _, partial in partials).notes
                steps.learn_idle()
        return target, notes, steps

    def _write(
        self,
        items: Sequence[WorkItem],
        found: Sequence[Identified],
        repeats: Sequence[Repeats],
        steps: Pipeline,
        target: Target,
        levels: dict[str, tuple[str, ...]],
    ) -> tuple[dict[Split, tuple[Part, ...]], str]:
        counts = [self._kept(f, repeats) for f in found]
        self._refuse_full_disk(sum(map(sum, counts)), steps.schema)
        starts: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        asked = []
        for item, count in zip(items, counts, strict=True):
            asked.append((self.recipe, item, steps, target, levels, dict(starts), self.folder))
            starts = {split: starts[split] + n for split, n in zip(SPLITS, count, strict=True)}
        written: list[Written] = self.passes.map("write lanes", apply_item, asked)
        parts: dict[Split, list[Part]] = {split: [] for split in SPLITS}
        for arguments, done in zip(asked, written, strict=True):
            for split, (name, num_rows) in done.parts.items():
                parts[split].append(Part(name, arguments[5][split], num_rows))
        return {split: tuple(p) for split, p in parts.items()}, add_digests([done.test_ids for done in written])

    def _kept(self, found: Identified, repeats: Sequence[Repeats]) -> tuple[int, int, int]:
        train, val, test = found.sides
        return train - sum(r.dropped.get(found.index, 0) for r in repeats), val, test

    def _refuse_full_disk(self, num_rows: int, schema: Schema) -> None:
        needed = num_rows * (4 * schema.width + 48)
        free = shutil.disk_usage(self.folder).free
        self.report({"event": "note", "text": f"lanes: {num_rows:,} rows x {schema.width} inputs, {needed / 1e6:,.1f} MB"})
        if needed > free:
            raise DataError(
                f"lanes need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free at {os.path.dirname(self.folder)}. "
                "Free space or choose another store."
            )

    def _about_repeats(self, repeats: Sequence[Repeats]) -> list[str]:
        in_train, across = sum(r.in_train for r in repeats), sum(r.across for r in repeats)
        dropped = sum(sum(r.dropped.values()) for r in repeats)
        notes = []
        if in_train:
            notes.append(f"{in_train} training rows repeat an earlier training row")
        if across:
            notes.append(f"{across} rows of validation or test also stand in train")
        if dropped:
            notes.append(f"{dropped} training rows were left out as copies")
        return notes
