"""Compare the blocks that a model reads with those that steps make.

A model that lacks what it reads is refused, with the step that would make it; a block that nobody reads is named. So is
a model of rows refused where tokens have targets, and the other way round.
"""

from collections.abc import Sequence

from fmray.catalogue import ESTIMATORS, MODELS, TASKS
from fmray.errors import SpecError
from fmray.schema import DECODED, DENSE, Schema
from fmray.spec.ref import Ref

MAKERS = {"tokens": "tokenize", "bag": "tfidf"}
"""Kind of block -> the step that makes it."""
NOT_PROPOSED = ("hf", "logistic", "perceptron")
"""Models that need weights from elsewhere, or are linear by another name or loss."""


def lacking(model: str, kinds: Sequence[str], needed: str = "") -> str:
    """Say what a model reads that no step makes, and which step would.

    Args:
        kinds: That it reads.
        needed: The one of them that it cannot do without; by default any of them would do.
    """
    if needed == DECODED:
        return f"{model} generates a text, and the target is none. Set task: sequence_to_sequence."
    ragged = [needed] if needed else [kind for kind in kinds if kind in MAKERS]
    what = needed or " or ".join(kinds)
    if not ragged:
        return f"{model} reads {what}, and no step makes it. Keep columns of numbers, or choose another model."
    steps = " or ".join(f"{MAKERS[kind]}, e.g. steps: [{{{MAKERS[kind]}: {{columns: TEXT}}}}]" for kind in ragged)
    steps += ", or tokenize_words for lists of words" if "tokens" in ragged else ""
    return f"{model} reads {what}, and no step makes {'them' if needed == 'tokens' else 'it'}. Add {steps}."


def require_inputs(model: str, reads: Sequence[str], needs: Sequence[str], schema: Schema) -> None:
    """Refuse a model that lacks what it reads.

    Args:
        reads, needs: Kinds of blocks of which it takes some, and those of them that it cannot do without.

    Raises:
        SpecError: If it does.
    """
    kinds: set[str] = {block.kind for block in schema.blocks.values()} or {DENSE}
    for kind in needs:
        if kind not in kinds:
            raise SpecError(lacking(model, reads, kind), "model")
    if kinds.isdisjoint(reads):
        raise SpecError(f"{lacking(model, reads)} There is: {', '.join(schema.blocks)}.", "model")


def at_odds(model: str, task: str, per: object = None) -> str:
    """Say why a model does not do for a task: the one is of tokens and the other of rows; "" where it does.

    Args:
        model, task: Of fmray; others are not known before they compute.
        per: What the job says that the model has outputs for, if it says so.
    """
    declared = MODELS.params(model) if model in MODELS else ESTIMATORS.params(model)
    generates = task != "auto" and TASKS.params(task).generates
    if generates != declared.generates:
        makers = " or ".join(name for name in MODELS if MODELS.params(name).generates)
        text = f"{model} generates no text from another one, and the task is {task}. Take {makers}."
        return text if generates else f"{model} goes with task: sequence_to_sequence, and the task is {task}."
    asks = task != "auto" and TASKS.params(task).by_token  # auto never takes a list for tags
    gives = declared.by_token
    fills = task != "auto" and TASKS.params(task).fills_masks
    if per is not None and (per == "masked") != fills:
        asked = "masked" if fills else "other"
        return f"{model} has outputs per {per}, and {task} asks for {asked} ones. Leave per out."
    if gives is None:
        gives = asks if per is None else per != "row"
    if gives == asks:
        return ""
    fitting = [
        name
        for name in MODELS
        if MODELS.params(name).by_token in (asks, None)
        and "tokens" in MODELS.params(name).reads
        and MODELS.params(name).generates == generates
        and name not in NOT_PROPOSED
        and name != model
    ]
    if asks:
        return f"{model} gives an output per row, and {task} asks for one per token. Take {' or '.join(fitting)}."
    named = "a target without task: tagging" if task == "auto" else task
    text = f"{model} gives an output per token, and {named} asks for one per row."
    return f"{text} Set task: tagging where tokens have tags, or take {' or '.join(fitting)}."


def fitted(model: Ref, task: str) -> Ref:
    """Give the model as it is built for a task: one of rows or tokens is told which of them the task asks for.

    What it is told stands in the record of each member, from which the member is built again.
    """
    if model.name not in MODELS or task not in TASKS or MODELS.params(model.name).by_token is not None:
        return model
    if model.params.get("per") is not None:
        return model
    asks = TASKS.params(task)
    per = "masked" if asks.fills_masks else "token" if asks.by_token else "row"
    return Ref(model.name, {**model.params, "per": per})


def read_by(reads: Sequence[str], schema: Schema) -> frozenset[str]:
    """Name the inputs that a model takes."""
    found = set()
    for block in schema.blocks.values():
        if block.kind in reads:
            found |= {*block.lane_columns, *([f"{block.name}_lengths"] if block.is_ragged else [])}
            found |= {f"{block.name}_first"} if block.kind == "pieces" else set()
    return frozenset(found)


def unread(model: str, reads: Sequence[str], schema: Schema) -> list[str]:
    """Say which blocks a model does not read."""
    return [
        f"model {model} does not read block '{block.name}', made of {', '.join(map(repr, block.columns[:3]))}"
        f"{' ...' if len(block.columns) > 3 else ''}: it learns nothing from it"
        for block in schema.blocks.values()
        if block.kind not in reads
    ]
