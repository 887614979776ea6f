"""Say whether a language model has learned anything of the tokens around those it predicts.

A loss that has fallen from ln V to that of the shares of ids looks like learning, and is none: a start from such a
model is worse than none. So it is compared with what these shares alone reach on the same tokens.
"""

import math

from fmray.data.lanes import Lanes
from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric, accumulator_of
from fmray.ragged import entries_of
from fmray.records import Prepared
from fmray.targets.codec import codec_of

CHUNK_ROWS = 65_536
LEAST_GAIN = 0.05
"""Share of the loss of the shares alone that must be gone; what frequent neighbours tell is more in any language."""


def loss_of_tokens(prepared: Prepared) -> Metric | None:
    """Give the loss in nats that a language model is judged by here, whatever metric decides; None for others."""
    codec = codec_of(prepared.target)
    return find_metric(codec.metrics[0], prepared.target) if codec.from_inputs else None


def about_learning(score: float | None, prepared: Prepared, metric: Metric) -> str:
    """Compare a score on validation with that of an answer that looks at no other token.

    Args:
        score: Of the ensemble, by the metric.
        metric: As `loss_of_tokens` gives it.
    """
    level = score_without_context(prepared, metric)
    score = math.nan if score is None else score
    shown = f"{score:.3f} {metric.name} on validation, {level:.3f} without a look at other tokens"
    if math.isfinite(score) and score <= (1 - LEAST_GAIN) * level:
        return f"learned from context: {shown}"
    hides = codec_of(prepared.target).hides
    cure = "another learning rate" + (", fewer ids or a larger share of hidden tokens" if hides else " or fewer ids")
    return (
        f"WARNING: the model has not learned from context: {shown}. Do not start from it: train it for more steps, or "
        f"with {cure}."
    )


def score_without_context(prepared: Prepared, metric: Metric) -> float:
    """Score the shares of ids among training tokens on validation: their cross-entropy, for a loss in nats."""
    codec = codec_of(prepared.target)
    accumulator = accumulator_of(metric.sums)
    columns = ["target", *["weight"] * prepared.weighted]
    for arrays in Lanes(prepared, "val").sequence(CHUNK_ROWS, columns):
        found = entries_of({name: arrays[name] for name in columns})
        accumulator.add(codec.constant_for(found["target"]), found["target"], found.get("weight"))
    return metric.sums.value(accumulator.total())
