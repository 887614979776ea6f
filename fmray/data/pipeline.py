"""Run a job's steps over rows: build them, learn them one after the other, apply them.

A step sees the rows as the steps before it leave them; all of them learn from training rows only.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import polars as pl

from fmray.catalogue import STEPS
from fmray.data.step import Fitted, Partial, Step
from fmray.errors import SpecError
from fmray.records import Json
from fmray.schema import Schema
from fmray.spec.ref import Ref


def build(refs: Sequence[Ref], weights: Mapping[int, str] = MappingProxyType({})) -> list[Step]:
    """Build the steps of a job.

    Args:
        weights: Folders of the pretrained weights that steps name, by the step's place.

    Raises:
        SpecError: If a step is unknown or refuses its parameters.
    """
    steps: list[Step] = []
    for place, ref in enumerate(refs):
        try:
            steps.append(STEPS.build(ref.name, *([weights[place]] if place in weights else []), params=ref.params))
        except TypeError as error:
            raise SpecError(f"{error}. Given: {dict(ref.params)}.", f"steps[{place}].{ref.name}") from error
    return steps


class Pipeline:
    """Hold steps, the first few of which have learned.

    Args:
        steps: In the order of the job.
        schema: Of raw rows.
        fitted: What the first steps learned.
        generated: Column of the text that is to be generated, whose tokens a decoder reads; "" where there is none.
    """

    def __init__(
        self, steps: Sequence[Step], schema: Schema, fitted: Sequence[Fitted] = (), *, generated: str = ""
    ) -> None:
        self.steps = list(steps)
        self.raw = schema
        self.fitted = list(fitted)
        self._generated = generated

    @property
    def schema(self) -> Schema:
        """Columns after the steps that have learned."""
        made = self.fitted[-1].schema if self.fitted else self.raw
        return made.decoding(self._generated) if self._generated and self.is_complete else made

    @property
    def is_complete(self) -> bool:
        """Whether every step has learned."""
        return len(self.fitted) == len(self.steps)

    @property
    def uses_target(self) -> bool:
        """Whether the next step decides by the target as well; see `Step`."""
        return not self.is_complete and getattr(self.steps[len(self.fitted)], "uses_target", False)

    def fit_next(self, frame: pl.DataFrame, targets: pl.DataFrame | None = None) -> Partial:
        """Summarise raw training rows for the next step to learn.

        Args:
            targets: Of the same rows; needed where the step uses them.
        """
        step: Any = self.steps[len(self.fitted)]
        also = (targets,) if self.uses_target else ()
        return step.fit(self.apply(frame), self.schema, *also)

    def learn_next(self, partials: Iterable[Partial]) -> Fitted:
        """Let the next step learn from the summaries of all work items, in their order."""
        step = self.steps[len(self.fitted)]
        merged = None
        for partial in partials:
            merged = partial if merged is None else step.merge(merged, partial)
        self.fitted.append(step.learn(merged, self.schema))
        return self.fitted[-1]

    def learn_idle(self) -> tuple[str, ...]:
        """Let steps that learn nothing, as they say of an empty frame, pass without a look at the data; give notes."""
        notes: tuple[str, ...] = ()
        while not self.is_complete:
            empty = self.apply(empty_frame(self.raw))
            if self.steps[len(self.fitted)].fit(empty, self.schema) is not None:
                break
            notes += self.learn_next([]).notes
        return notes

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Change raw rows by every step that has learned."""
        for step, fitted in zip(self.steps, self.fitted, strict=False):
            frame = step.apply(frame, fitted.state)
        return frame

    def to_json(self, refs: Sequence[Ref]) -> tuple[Json, ...]:
        """Give what turns raw rows into inputs as plain values."""
        return tuple(
            {"name": ref.name, "params": dict(ref.params), "state": fitted.state}
            for ref, fitted in zip(refs, self.fitted, strict=True)
        )


def empty_frame(schema: Schema) -> pl.DataFrame:
    """Give a frame without rows, typed as raw rows may be."""
    kinds: dict[str, type[pl.DataType] | pl.DataType]
    kinds = {"number": pl.Float64, "text": pl.String, "time": pl.Datetime("us"), "image": pl.Binary}
    kinds["words"] = pl.List(pl.String)
    wide = {"bytes": pl.UInt8, "vector": pl.Float32}
    return pl.DataFrame(
        schema={c.name: kinds[c.kind] if c.kind in kinds else pl.Array(wide[c.kind], c.width) for c in schema.columns}
    )
