"""Choose the tokens of validation and test that a masked language model is asked for, and hide most of them.

What is chosen of a text follows from its tokens alone: it is the same in every epoch, in any lane and on any number of
workers, for another seed, and when a saved model reads the text again.
Shape legend: n rows, T tokens of all rows, V ids.
"""

import numpy as np

from fmray.data.canonical import key, mix
from fmray.ragged import Ragged
from fmray.targets.masked_token import CHANGED, HIDDEN, MASK, NOT_ASKED, SPECIAL

_PLACE = np.uint64(0x9E3779B97F4A7C15)


def num_chosen(lengths: np.ndarray, share: float) -> np.ndarray:
    """Give how many tokens of rows (n,) are chosen: the share, rounded half up, one at least where there is one."""
    wanted = np.floor(lengths * share + 0.5).astype(np.int64)
    return np.asarray(np.minimum(lengths, np.maximum(1, wanted)))


def hide(tokens: Ragged, share: float, num_ids: int, is_kept: np.ndarray) -> tuple[Ragged, Ragged]:
    """Give the inputs of rows, with chosen tokens hidden or changed, and the targets, -1 where none was chosen.

    Args:
        tokens: Ids, one row behind the other.
        num_ids: V.
        is_kept: Rows (n,) of which nothing is hidden, and every token is a target.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019, section 3.1.
    """
    row = np.repeat(np.arange(len(tokens)), tokens.lengths)
    place = np.arange(len(tokens.values)) - tokens.starts[row]
    drawn = mix(_keys(tokens, row, place)[row] + place.astype(np.uint64) * _PLACE, key(0, "choose", "mask", 0))
    order = np.lexsort((drawn, row))  # tokens of a row stay side by side, those with the smallest numbers first
    chosen = np.empty(len(row), bool)
    chosen[order] = place < num_chosen(tokens.lengths, share)[row]
    kept = is_kept[row]
    chosen &= ~kept
    other = mix(drawn, key(0, "hide", "mask", 0))
    sort = (other >> np.uint64(11)) * 2.0**-53
    foreign = SPECIAL + mix(other, key(0, "change", "mask", 0)) % np.uint64(max(1, num_ids - SPECIAL))
    inputs = tokens.values.copy()
    inputs[chosen & (sort < HIDDEN)] = MASK
    changed = chosen & (sort >= HIDDEN) & (sort < CHANGED)
    inputs[changed] = foreign[changed]
    target = np.where(chosen | kept, tokens.values, NOT_ASKED).astype(tokens.values.dtype)
    return Ragged(inputs, tokens.starts, tokens.lengths), Ragged(target, tokens.starts, tokens.lengths)


def _keys(tokens: Ragged, row: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Give each row a word (n,) that follows from its tokens and their places."""
    words = mix(tokens.values.astype(np.uint64) + place.astype(np.uint64) * _PLACE, key(0, "text", "mask", 0))
    sums = np.zeros(len(tokens), np.uint64)
    np.add.at(sums, row, words)
    return mix(sums, key(0, "row", "mask", 0))
