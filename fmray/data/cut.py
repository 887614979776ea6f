"""Lay out rows of tokens so that each token is foretold from others.

For a language model the input at each token is the token before it, 0 before the first of a row; so every token is
predicted exactly once, and none from itself. A text that is its own target is cut into windows, each of which is a row
of the lanes; one that is not a row's first begins with the last token of the window before. A text that is generated
from others stays whole, and its end is a token too. For a masked language model the input is the token itself, or what
hides it; see `fmray.data.masking`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fmray.catalogue import TASKS
from fmray.data.masking import hide
from fmray.errors import SpecError
from fmray.ragged import Arrays, Ragged
from fmray.schema import DECODED, Schema
from fmray.spec.ref import Ref

START = 0
"""Input before the first token of a row: the id of padding, which no token has."""
END = START
"""Stands behind the last token of a text that is generated."""


@dataclass(frozen=True)
class Windows:
    """Hold the windows of some rows, one row behind the other.

    Args:
        row: Which row each window is of (n,).
        part: Its number in the row (n,), from 0.
        inputs: The tokens before, as long as `target`.
        target: The tokens of each window; of a generated text (T, 2), beside them the characters of its row at the
            first, else 0.
    """

    row: np.ndarray
    part: np.ndarray
    inputs: Ragged
    target: Ragged

    def __len__(self) -> int:
        return len(self.row)

    def arrays(self, block: str, others: Mapping[str, np.ndarray]) -> Arrays:
        """Give inputs of a model and targets by name; what else a row has, each of its windows has."""
        return {
            **{name: values[self.row] for name, values in others.items()},
            block: self.inputs,
            "target": self.target,
        }


def cut(tokens: Ragged, context: int) -> Windows:
    """Cut each row into windows of `context` tokens, the last of which may be shorter; without tokens it has none."""
    own = tokens.compact()
    num_windows = -(-own.lengths // context)
    row = np.repeat(np.arange(len(own)), num_windows)
    part = np.arange(len(row)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    starts = own.starts[row] + part * context
    lengths = np.minimum(context, own.lengths[row] - part * context)
    before = np.empty_like(own.values)
    before[1:] = own.values[:-1]
    before[own.starts[own.lengths > 0]] = START
    return Windows(row, part, Ragged(before, starts, lengths), Ragged(own.values, starts, lengths))


def masked(windows: Windows, share: float, num_ids: int, is_kept: np.ndarray) -> Windows:
    """Let inputs be the tokens themselves, of which a share is hidden, and targets those that were chosen for it.

    Args:
        share: Of the tokens of a window that are chosen.
        num_ids: V.
        is_kept: Windows (n,) that stay as they are, with every token as a target: training chooses others each time.
    """
    inputs, target = hide(windows.target.compact(), share, num_ids=num_ids, is_kept=is_kept)
    return Windows(windows.row, windows.part, inputs, target)


def ended(tokens: Ragged, characters: np.ndarray) -> Windows:
    """Give each row whole, with its end behind its tokens.

    Args:
        characters: Of each row's text (n,).
    """
    own = tokens.compact()
    rows = np.arange(len(own))
    lengths = own.lengths + 1
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(own.values)) + np.repeat(rows, own.lengths)  # each row before has an end as well
    before = np.full(lengths.sum(), START, own.values.dtype)
    before[places + 1] = own.values
    target = np.zeros((len(before), 2), np.int64)
    target[:, 0] = END
    target[places, 0] = own.values
    target[starts, 1] = characters
    return Windows(rows, np.zeros_like(rows), Ragged(before, starts, lengths), Ragged(target, starts, lengths))


def context_of(task: Ref) -> int:
    """Give the tokens of a window, 0 where the task leaves rows whole."""
    if task.name not in TASKS or "context" not in TASKS.params(task.name).model_fields:
        return 0
    return int(TASKS.read(task.name, task.params).context)


def masked_share(task: Ref) -> float:
    """Give the share of tokens that a task hides, 0 where it hides none."""
    if task.name not in TASKS or not TASKS.params(task.name).fills_masks:
        return 0.0
    return float(TASKS.read(task.name, task.params).share)


def foretold_block(schema: Schema) -> str:
    """Name the block of the tokens that are foretold: those of the text that is generated, or the only one.

    Raises:
        SpecError: If there is none, or several.
    """
    generated = [block.name for block in schema.blocks.values() if block.kind == DECODED]
    return generated[0] if generated else block_to_cut(schema)


def block_to_cut(schema: Schema) -> str:
    """Name the block of tokens.

    Raises:
        SpecError: If there is none, or several.
    """
    blocks = [block.name for block in schema.blocks.values() if block.kind == "tokens"]
    if len(blocks) != 1:
        found = f"steps make {', '.join(blocks)}" if blocks else "no step makes tokens"
        text = f"a language model reads one block of tokens, and {found}. Add tokenize, for one column."
        raise SpecError(text, "steps")
    return blocks[0]
