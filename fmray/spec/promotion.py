"""Define the section of a job that says when its model takes the place of the one in use."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fmray.spec.sections import Number, Whole, strict


@dataclass(frozen=True, kw_only=True, config=strict)
class Promote:
    """Say when the model of a run takes the place of the one in use; none of it changes what is asked.

    Args:
        against: Whom it is compared with, on the same rows.
        evidence: "fresh" decides on test rows that no earlier run of the job has seen, each used for one decision;
            "sealed" on all test rows again and again, saying no more than promoted or not.
        mode: "superior" promotes what is shown to be better; "refresh" what is shown to lose less than `margin`, both
            against the champion and against the last model that was shown to be better (the anchor).
        alpha: Chance of a wrong promotion: over all sealed decisions together; of fresh ones, the share of promotions
            that are wrong.
        min_effect: Gain in the primary metric below which nothing is promoted.
        margin: For "refresh": what may be lost in the primary metric.
        slice_margin: What may be lost in any level of `evaluate.slices`; null does not look at them.
        horizon: For "sealed": decisions that will be made on these test rows; 26 if unsaid.
        promotions: For "sealed": promotions among them, after which the test rows are retired.
        approval: "required" leaves what would be promoted pending until `fmray approve RUN`.
    """

    against: Literal["champion"] = "champion"
    evidence: Literal["fresh", "sealed"] = "fresh"
    mode: Literal["superior", "refresh"] = "superior"
    alpha: Annotated[Number, Field(gt=0, lt=0.5)] = 0.05
    min_effect: Annotated[Number, Field(ge=0)] = 0.0
    margin: Annotated[Number, Field(gt=0)] | None = None
    slice_margin: Annotated[Number, Field(gt=0)] | None = None
    horizon: Annotated[Whole, Field(ge=1)] | None = None
    promotions: Annotated[Whole, Field(ge=1)] = 1
    approval: Literal["automatic", "required"] = "automatic"

    @property
    def attempts(self) -> int:
        """Decisions that one set of sealed rows is good for."""
        return 26 if self.horizon is None else self.horizon
