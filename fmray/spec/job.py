"""Define the Job: everything a user asks for, validated and frozen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from fmray.catalogue import LIVE
from fmray.spec.promotion import Promote
from fmray.spec.ranges import Values, put, take_ranges
from fmray.spec.ref import Ref
from fmray.spec.schedule import Schedule
from fmray.spec.sections import Data, Evaluate, Reference, Rigour, RunOptions, Search, Split, Track, Train, strict


@dataclass(frozen=True, kw_only=True, config=strict)
class Job:
    """Hold one job file, validated; only `data.path` and `data.target` are required.

    Args:
        name: Names the run directory; by default the file's name.
        data: Where the rows are, and what their columns mean.
        split: How rows are divided into train, validation and test.
        steps: How rows become numbers, in order; steps that change rows while training stand behind the others.
        task: Objective; "auto" decides by the target's type.
        model: What is trained.
        train: How it is trained.
        ensemble: How members are combined.
        evaluate: What is scored, and against what.
        rigour: How strictly the run is judged.
        track: Which other tools are told of the run.
        run: Where and how the run executes.
        promote: When its model takes the place of the one in use; never, if left out.
        schedule: When it runs by itself; never, if unsaid.
        search: How the ranges in `model`, `steps`, `task` and `train` are searched.
        folder: Folder of the job file; relative paths and the user's own modules are looked up there.
        ranges: What is searched, by the keys where it stands; those places hold the first value of each.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    data: Data
    split: Split = Split()
    steps: tuple[Reference, ...] = (Ref("auto"),)
    task: Reference = Ref("auto")
    model: Reference = Ref("mlp")
    train: Train = Train()
    search: Search = Search()
    ensemble: Reference = Ref("auto")
    evaluate: Evaluate = Evaluate()
    rigour: Rigour = Rigour()
    promote: Promote | None = None
    track: Track = Track()
    run: RunOptions = RunOptions()
    schedule: Schedule | None = None
    folder: str = "."
    ranges: Mapping[Any, Any] = Field(default_factory=dict, exclude=True)

    @property
    def prepared_steps(self) -> tuple[Ref, ...]:
        """Steps that are applied once, when rows are prepared."""
        return tuple(step for step in self.steps if step.name not in LIVE)

    @property
    def live_steps(self) -> tuple[Ref, ...]:
        """Steps that change training rows anew in every epoch."""
        return tuple(step for step in self.steps if step.name in LIVE)

    @property
    def named_columns(self) -> tuple[tuple[str, str], ...]:
        """Columns that sections other than `data` name, and the keys where they do."""
        slices = [(name, "evaluate.slices") for name in self.evaluate.slices]
        return (*([(self.split.column, "split.column")] if self.split.column else []), *slices)

    def to_json(self) -> dict[str, Any]:
        """Give the resolved job as plain values, as a job file would spell it, ranges included."""
        left_out = {"ranges"} if self.ranges else {"ranges", "search"}
        value = ADAPTER.dump_python(self, mode="json", exclude=left_out)
        for *sections, key, default in LATER:
            section = value
            for name in sections:
                section = None if section is None else section[name]
            if section is not None and section[key] == default:
                del section[key]
        return put(value, {keys: found.to_json() for keys, found in self.ranges.items()})

    def at(self, values: Values) -> "Job":
        """Give the job with these values where its ranges stand; what is left out keeps its first value.

        Raises:
            pydantic.ValidationError: If a value does not fit.
        """
        return replace(Job.from_json(put(self.to_json(), {**self._first, **values})), folder=self.folder)

    @property
    def _first(self) -> Values:
        return {keys: found.corners[0] for keys, found in self.ranges.items()}

    def modules(self) -> tuple[str, ...]:
        """Name the modules of the user's own code, whose source decides the result too."""
        named = [self.task, self.model, self.train.optimizer, self.train.schedule, self.ensemble, *self.steps]
        named += [ref for phase in self.train.phases.values() for ref in (phase.optimizer, phase.schedule) if ref]
        return tuple(sorted({ref.name.partition(":")[0] for ref in named if ":" in ref.name}))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Job":
        """Build a job from plain values.

        Raises:
            MisplacedRangeError: If a range cannot be read, or stands where none may.
            pydantic.ValidationError: If a key or value does not fit; `spec.explain` puts it in words.
        """
        plain, ranges = take_ranges(value)
        return replace(ADAPTER.validate_python(plain), ranges=ranges)


LATER: tuple[tuple[Any, ...], ...] = (
    ("split", "sides", {}),
    ("train", "order", "bucket", 0),
    ("train", "groups", []),
    ("train", "phases", {}),
    ("data", "text", None),
    ("data", "sample", "share", None),
    ("data", "references", None),
    ("train", "start", None),
    ("train", "steps", None),
    ("train", "validate_every", "auto"),
    ("evaluate", "val_rows", None),
)
"""Keys that jobs did not have when the first runs were kept, and their defaults: left out where they say nothing,
so that those runs and records are found again."""

ADAPTER: TypeAdapter[Job] = TypeAdapter(Job)
