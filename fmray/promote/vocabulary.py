"""Compare the tokens behind ids with those that the tensors of a start were trained with.

An embedding belongs to its token by an id alone: those of another vocabulary fit in shape, and mean other tokens.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fmray.errors import SpecError
from fmray.records import Json, Prepared
from fmray.train.saved import Saved
from fmray.train.warm import Start

START = "train.start"
WHOLE = "whole"
"""Part of a word that is all of it; see `fmray.data.tokenize_words`."""


def compare_vocabularies(
    starts: Sequence[Start], saved: Saved | None, model: Mapping[str, Any], prepared: Prepared, has_tables: bool
) -> str:
    """Refuse embeddings of other tokens than those of the rows.

    Args:
        saved: The model that tensors come from; None where there are only tensors.
        model: Parameters of the model that begins with them.
        prepared: Rows that it reads.
        has_tables: Whether embeddings are among the tensors that are taken.

    Returns:
        What is to be known where tokens cannot be compared, else "".

    Raises:
        SpecError: If embeddings are taken, and their ids stand for other tokens.
    """
    ours = vocabularies(prepared, model)
    if not ours or not has_tables:
        return ""
    unknown = f"which tokens {starts[0].root} has embeddings of is unknown. Make sure that they are those of the rows"
    if saved is None:
        return unknown
    is_known = True
    for start, member in zip(starts, saved.members, strict=True):
        theirs = vocabularies(saved.prepared.for_member(member), member.model["params"])
        for one, other in zip(theirs, ours, strict=False):  # another number of tables is refused by their names
            if one is not None and other is not None and one != other:
                raise SpecError(_apart(start, one, other), START)
            is_known &= one is not None and other is not None
    return "" if is_known else unknown


def vocabularies(prepared: Prepared, model: Mapping[str, Any]) -> list[Json | None]:
    """Give what makes ids of text, apart from where it cuts and pads, for each block of tokens that a model reads.

    Args:
        model: Parameters of the model.

    Returns:
        None for a block that a step of the user's own makes.
    """
    blocks = [block.name for block in prepared.schema.blocks.values() if block.kind == "tokens"]
    named = model.get("block")
    return [_vocabulary(block, prepared.steps) for block in blocks if named in (None, block)]


def _vocabulary(block: str, steps: Sequence[Json]) -> Json | None:
    for step in steps:
        if step["name"] not in ("tokenize", "tokenize_words") or block not in step["state"]["mean_lengths"]:
            continue
        if step["name"] == "tokenize":
            told = json.loads(step["state"]["tokenizer"])
            return {name: value for name, value in told.items() if name not in ("truncation", "padding")}
        return _words(block, step["state"])
    return None


def _words(block: str, state: Json) -> Json:
    """Give the list behind a block of words, of a part of them, or of a value beside them."""
    if block.startswith("beside_"):
        return {"beside": state.get("beside", {})}
    parts = state["vocabularies"]
    part = next((part for part in parts if block == part or block.startswith(f"{part}_")), WHOLE)
    return {"words": parts.get(part, parts)}


def _apart(start: Start, theirs: Json, ours: Json) -> str:
    shown = " -> ".join(f"{size:,}" if (size := _size(one)) else "other ones" for one in (theirs, ours))
    cure = "Make ids by the steps and the rows of that run."
    if "model" in theirs:
        home = start.root.partition("/model/")[0]
        cure = f"Read rows by its own: steps: [{{tokenize: {{columns: TEXT, pretrained: {home}}}}}]."
        if "://" in home:
            cure = f"Copy it to a local folder, and read rows by its own: pretrained: FOLDER, in place of {home}."
    return f"{start.root} has embeddings of another vocabulary than that of the rows (ids: {shown}). {cure}"


def _size(one: Json) -> int:
    """Count the ids that a vocabulary lists, 0 where it lists none."""
    listed = one.get("words") or one.get("model", {}).get("vocab") or ()
    return len(listed)
