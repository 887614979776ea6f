"""Score the tags of tokens: token by token, and as the entities that they mark.

Each is a quotient of two sums over tokens; an entity counts at its first token. Tokens of a row belong together, so
intervals go by groups of tokens, see `fmray.ragged.entries_of`.
Shape legend: T tokens of all rows, C tags.
"""

from collections.abc import Sequence

import numpy as np

from fmray.metrics.metric import Metric
from fmray.metrics.probability import log_losses
from fmray.metrics.quotient import quotient
from fmray.targets.classes import predicted
from fmray.targets.tags import OUTSIDE

KIND = "tags"


def _right(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray(predicted(output) == target[:, 0], np.float64)


def _accuracy(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _right(output, target), np.ones(len(target))


def token_log_losses(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give -ln p of each token's true tag (T,), in nats."""
    return log_losses(output, target[:, 0])


def _log_loss(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return token_log_losses(output, target), np.ones(len(target))


TOKEN_ACCURACY = quotient("token_accuracy", KIND, _accuracy)
TOKEN_LOG_LOSS = quotient("token_log_loss", KIND, _log_loss, higher_is_better=False, is_bounded=False)


def f1_of(tag: str, index: int) -> Metric:
    """Give the F1 of the tokens of one tag, `f1[tag]`."""

    def counts(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        said = predicted(output) == index
        actual = target[:, 0] == index
        return 2.0 * (said & actual), said.astype(np.float64) + actual

    return quotient(f"f1[{tag}]", KIND, counts)


def entity_f1(classes: Sequence[str], only: str = "") -> Metric:
    """Give the F1 of entities, right where first token, last token and type are, counted over all types together.

    Entities are read as `conlleval` and seqeval read them: one begins at `B-`, and at an `I-` that does not follow a
    tag of the same type.

    Args:
        classes: Tags, in class order.
        only: Type that is counted alone; by default all are.

    Source: Tjong Kim Sang & De Meulder, "Introduction to the CoNLL-2003 shared task", 2003.
    """
    types = list(dict.fromkeys(name[2:] for name in classes if name != OUTSIDE))
    type_C = np.array([-1 if name == OUTSIDE else types.index(name[2:]) for name in classes])
    begins_C = np.array([name.startswith("B-") for name in classes])
    wanted = types.index(only) if only else None

    def entities(tags: np.ndarray, opens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the type of the entity that begins at each token, -1 where none does, and where it ends (T,)."""
        kind = type_C[tags]
        changes = opens.copy()
        changes[1:] |= kind[1:] != kind[:-1]
        changes |= begins_C[tags]
        cuts = np.append(np.flatnonzero(changes), len(tags))
        ends = cuts[np.searchsorted(cuts, np.arange(len(tags)), side="right")]
        first = changes & (kind >= 0 if wanted is None else kind == wanted)
        return np.where(first, kind, -1), ends

    def counts(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        opens = target[:, 1] == 0
        said, said_ends = entities(predicted(output), opens)
        actual, ends = entities(target[:, 0], opens)
        right = (actual >= 0) & (said == actual) & (said_ends == ends)
        return 2.0 * right, (said >= 0).astype(np.float64) + (actual >= 0)

    return quotient(f"entity_f1[{only}]" if only else "entity_f1", KIND, counts)


ENTITY_F1 = entity_f1((OUTSIDE,))
"""Stands in the catalogue; `fmray.metrics.find` binds it to the tags of a target."""
