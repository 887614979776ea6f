"""Score generated texts by the n-grams that they share with true ones, and how well the true ones are foretold.

BLEU and chrF are numbers of sums over rows, as sacrebleu makes them: a row's counts stand at its first token behind the
probability of that, see `COUNTS`. So they add up over workers, and their intervals are those of rows. Where no text was
generated nothing is counted.
Shape legend: T tokens of all rows, R rows, S sums.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms
from fmray.metrics.language import nats
from fmray.metrics.metric import Metric
from fmray.metrics.quotient import quotient
from fmray.ragged import Ragged
from fmray.targets.sequence import NUM_COUNTS
from fmray.targets.sequence import Sequence as Codec

KIND = Codec.kind
WORD_ORDERS = 4
CHARACTER_ORDERS = 6
COUNTS = slice(1, 1 + NUM_COUNTS)
"""Of an output: words of the generated and of the true text, common n-grams of 1 to 4 words, characters of both texts
but white space, common n-grams of 1 to 6 characters."""
RECALL_COUNTS = 4.0
"""How much more recall counts than precision in chrF, beta squared."""


def counted(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Count what texts have in common with their references (R, 14).

    Of several references, BLEU takes the most that any shares of each n-gram, and the length nearest to that of the
    text; chrF takes the one by which the text alone has the best score. Words are those of sacrebleu's tokenizer 13a.

    Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; Popovic, "chrF:
    character n-gram F-score for automatic MT evaluation", WMT 2015; Post, "A Call for Clarity in Reporting BLEU
    Scores", WMT 2018.
    """
    rows = [[*_words(text, own), *_characters(text, own)] for text, own in zip(texts, references, strict=True)]
    return np.array(rows, np.float64).reshape(len(texts), NUM_COUNTS)


def with_counts(output: Ragged, counts: np.ndarray) -> Ragged:
    """Put the counts of each row (R, 14) behind the probability of its first token."""
    own = output.compact()
    values = np.zeros((len(own.values), 1 + NUM_COUNTS))
    values[:, 0] = own.values[:, 0]
    values[own.starts, COUNTS] = counts
    return Ragged(values, own.starts, own.lengths)


def _words(text: str, references: Sequence[str]) -> list[float]:
    found = _bleu_of_words().corpus_score([text], [[reference] for reference in references])
    return [found.sys_len, found.ref_len, *found.counts]


@cache
def _bleu_of_words() -> Any:
    from sacrebleu.metrics.bleu import BLEU as Bleu  # noqa: N811

    return Bleu()


def _characters(text: str, references: Sequence[str]) -> list[float]:
    best: list[float] = []
    best_score = -1.0
    own = _ngrams(text)
    for reference in references:
        theirs = _ngrams(reference)
        common = [sum((mine & other).values()) for mine, other in zip(own, theirs, strict=True)]
        found = [float(sum(own[0].values())), float(sum(theirs[0].values())), *map(float, common)]
        score = np.nan_to_num(_chrf(_character_sums(np.array([found]))[0]))
        if score > best_score:
            best = found
            best_score = score
    return best


def _ngrams(text: str) -> list[Counter[str]]:
    letters = "".join(text.split())
    orders = range(1, CHARACTER_ORDERS + 1)
    return [Counter(letters[start : start + n] for start in range(len(letters) - n + 1)) for n in orders]


def _num_ngrams(length: np.ndarray, orders: int) -> np.ndarray:
    """Count the n-grams of 1 to `orders` in texts of so many words or characters (R, orders)."""
    return np.asarray(np.maximum(length[:, None] - np.arange(orders), 0))


def _word_sums(counts_RC: np.ndarray) -> np.ndarray:
    """Give words of both texts, common n-grams and those of the generated text (R, 10)."""
    return np.concatenate([counts_RC[:, :6], _num_ngrams(counts_RC[:, 0], WORD_ORDERS)], 1)


def _bleu(sums: np.ndarray) -> float:
    """Give BLEU of sums (10,): a common order without a match counts half as much as that before (exp smoothing)."""
    said, true = sums[:2]
    common, total = sums[2:].reshape(2, WORD_ORDERS)
    if not said and not true:
        return float("nan")  # no text was generated
    if not common.any() or not total.all():
        return 0.0
    missing = common == 0
    precisions = np.where(missing, 0.5 ** np.cumsum(missing), common) / total
    brevity = min(0.0, 1 - true / said)
    return float(100 * np.exp(brevity + np.log(precisions).mean()))


def _bleu_slope(sums: np.ndarray) -> np.ndarray:
    """Give the derivative of BLEU by each sum (10,)."""
    value = _bleu(sums)
    slope = np.zeros(len(sums))
    if not value > 0:
        return slope
    said, true = sums[:2]
    if said < true:
        slope[:2] = [true / said**2, -1 / said]
    common, total = sums[2:].reshape(2, WORD_ORDERS)
    per_order = np.stack([np.where(common > 0, 1, 0) / np.maximum(common, 1e-300), -1 / total]) / WORD_ORDERS
    slope[2:] = per_order.ravel()
    return value * slope


def _character_sums(counts_RC: np.ndarray) -> np.ndarray:
    """Give n-grams of the generated text, of the true one and common ones (R, 18)."""
    of_said = _num_ngrams(counts_RC[:, -8], CHARACTER_ORDERS)
    of_true = _num_ngrams(counts_RC[:, -7], CHARACTER_ORDERS)
    return np.concatenate([np.where(of_true > 0, of_said, 0), of_true, counts_RC[:, -6:]], 1)


def _chrf(sums: np.ndarray) -> float:
    """Give chrF of sums (18,): precision and recall are means over the orders that both texts have."""
    said, true, common = sums.reshape(3, CHARACTER_ORDERS)
    if not said.any() and not true.any():
        return float("nan")  # no text was generated
    both = (said > 0) & (true > 0)
    if not common.any():
        return 0.0
    precision = (common[both] / said[both]).mean()
    recall = (common[both] / true[both]).mean()
    return float(100 * (1 + RECALL_COUNTS) * precision * recall / (RECALL_COUNTS * precision + recall))


def _chrf_slope(sums: np.ndarray) -> np.ndarray:
    """Give the derivative of chrF by each sum (18,)."""
    said, true, common = sums.reshape(3, CHARACTER_ORDERS)
    slope = np.zeros((3, CHARACTER_ORDERS))
    if not _chrf(sums) > 0:
        return slope.ravel()
    both = (said > 0) & (true > 0)
    said, true, common = sums.reshape(3, CHARACTER_ORDERS)[:, both]
    precision = (common / said).mean()
    recall = (common / true).mean()
    below = (RECALL_COUNTS * precision + recall) ** 2 / (100 * (1 + RECALL_COUNTS))
    by_precision = recall**2 / below / len(said)
    by_recall = RECALL_COUNTS * precision**2 / below / len(said)
    slope[0, both] = -by_precision * common / said**2
    slope[1, both] = -by_recall * common / true**2
    slope[2, both] = by_precision / said + by_recall / true
    return slope.ravel()


def _of_sums(
    name: str,
    sums_of: Callable[[np.ndarray], np.ndarray],
    score: Callable[[np.ndarray], float],
    slope_of: Callable[[np.ndarray], np.ndarray],
) -> Metric:
    """Make a metric that is a function of sums over rows, and its linearisation.

    Args:
        sums_of: Counts of rows (R, 14) -> what each adds to the sums (R, S).
        score, slope_of: Sums (S,) -> the number, and its derivative by each (S,).

    Source: Cochran, "Sampling Techniques", 1977, chapter 6.
    """

    def added(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        opens = np.flatnonzero(Codec.opens_row(target))
        if output.ndim == 1 or output.shape[1] == 1:  # no text was generated
            return opens, sums_of(np.zeros((len(opens), NUM_COUNTS)))
        return opens, sums_of(output[opens, COUNTS])

    def terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        opens, sums_RS = added(output, target)
        return {str(place): (w[opens] * column, None, 1) for place, column in enumerate(sums_RS.T)}

    def totals(sums: Exact) -> np.ndarray:
        return np.array([float(sums[str(place)][0]) for place in range(len(sums) - 1)])

    def of(sums: Exact) -> float:
        return score(totals(sums))

    def pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        opens, sums_RS = added(output, target)
        pulled = np.zeros(len(target))
        pulled[opens] = w[opens] * (sums_RS @ slope_of(totals(sums)))
        return pulled

    sums = RowSums(terms, of, pull)

    def value(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        return sums.value(sums.partial(output, target, weight))

    return Metric(name, True, KIND, value, sums=sums)


def _nats_per_character(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return nats(output, target), target[:, 1].astype(np.float64)


BLEU = _of_sums("bleu", _word_sums, _bleu, _bleu_slope)
CHRF = _of_sums("chrf", _character_sums, _chrf, _chrf_slope)
NATS_PER_CHARACTER = quotient("nats_per_character", KIND, _nats_per_character, higher_is_better=False, is_bounded=False)
