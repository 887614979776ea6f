"""Put texts that a model generates beside what it says of the tokens of true ones, for some of the rows of a split."""

import numpy as np
import pyarrow as pa

from fmray.catalogue import TASKS
from fmray.data.hashing import sample_of
from fmray.metrics.sequences import counted, with_counts
from fmray.ragged import Arrays, Ragged
from fmray.spec.ref import Ref
from fmray.targets.sequence import BETWEEN, NUM_COUNTS, REFERENCES

GENERATED = "generated"
REFERENCE = "reference"
"""Columns of a table of predictions: the text, null where none was generated, and the first one it is compared with."""


def rows_to_generate(ids: np.ndarray, num_rows: int, task: Ref) -> np.ndarray:
    """Tell for which rows text is generated (n,), bool: about `task.generated_rows` of a split, by their ids alone.

    Args:
        ids: Of some rows (n, 2).
        num_rows: Of the split.
    """
    return sample_of(ids, num_rows, TASKS.read(task.name, task.params).generated_rows)


def with_texts(
    output: Ragged, arrays: Arrays, chosen: np.ndarray, texts: list[str]
) -> tuple[Ragged, dict[str, pa.Array]]:
    """Give outputs with the counts of generated texts, and columns that show these.

    Args:
        output: Of the true tokens of each row.
        arrays: The rows, as the lanes hold them.
        chosen: For which of them text was generated (n,), bool.
        texts: The texts of these.
    """
    references = [own.split(BETWEEN) for own in arrays[REFERENCES][chosen].to_texts()]
    counts = np.zeros((len(chosen), NUM_COUNTS))
    counts[chosen] = counted(texts, references)
    rows = pa.array(np.where(chosen, np.cumsum(chosen) - 1, 0), mask=~chosen)
    shown = {GENERATED: texts, REFERENCE: [own[0] for own in references]}
    return with_counts(output, counts), {name: pa.array(own, pa.string()).take(rows) for name, own in shown.items()}
