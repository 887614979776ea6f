"""Score the tags of tokens: token by token, and as the entities that they mark.

Each is a quotient of two sums over tokens; an entity counts at its first token. Tokens of a row belong together, so
intervals go by groups of tokens, see `fmray.ragged.entries_of`.
Shape legend: T tokens of all rows, C tags.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms, ratio
from fmray.metrics.metric import Metric
from fmray.metrics.probability import log_losses
from fmray.targets.classes import predicted
from fmray.targets.tags import OUTSIDE

KIND = "tags"
Counts = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(output (T, C), target (T, 2)) -> what each token adds above and below the line (T,), float64 each."""


def _quotient(name: str, counts: Counts, *, higher_is_better: bool = True, is_bounded: bool = True) -> Metric:
    def terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        above, below = counts(output, target)
        return {"above": (w * above, None, 1), "below": (w * below, None, 1)}

    def of(sums: Exact) -> float:
        return ratio(sums["above"][0], sums["below"][0])

    def pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Linearise the quotient: Cochran, "Sampling Techniques", 1977, chapter 6."""
        above, below = counts(output, target)
        return np.asarray(w * (above - of(sums) * below) / float(sums["below"][0]))

    sums = RowSums(terms, of, pull)

    def value(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        return sums.value(sums.partial(output, target, weight))

    return Metric(name, higher_is_better, KIND, value, sums=sums, is_bounded=is_bounded)


def _right(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray(predicted(output) == target[:, 0], np.float64)


def _accuracy(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _right(output, target), np.ones(len(target))


def token_log_losses(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give -ln p of each token's true tag (T,), in nats."""
    return log_losses(output, target[:, 0])


def _log_loss(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return token_log_losses(output, target), np.ones(len(target))


TOKEN_ACCURACY = _quotient("token_accuracy", _accuracy)
TOKEN_LOG_LOSS = _quotient("token_log_loss", _log_loss, higher_is_better=False, is_bounded=False)


def f1_of(tag: str, index: int) -> Metric:
    """Give the F1 of the tokens of one tag, `f1[tag]`."""

    def counts(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        said = predicted(output) == index
        actual = target[:, 0] == index
        return 2.0 * (said & actual), said.astype(np.float64) + actual

    return _quotient(f"f1[{tag}]", counts)


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

    return _quotient(f"entity_f1[{only}]" if only else "entity_f1", counts)


ENTITY_F1 = entity_f1((OUTSIDE,))
"""Stands in the catalogue; `fmray.metrics.find` binds it to the tags of a target."""
