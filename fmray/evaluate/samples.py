"""Show a few generated texts beside what they are compared with."""

import pyarrow.parquet as pq

from fmray.records import Json, Predictions
from fmray.store.copies import source_of
from fmray.train.generated import GENERATED, REFERENCE

NUM_TEXTS = 20


def samples_of(predictions: Predictions) -> Json:
    """Give the first texts of a table of predictions under "texts"; nothing where none were generated."""
    file = pq.ParquetFile(source_of(predictions.path))
    if GENERATED not in file.schema_arrow.names:
        return {}
    found: list[Json] = []
    for batch in file.iter_batches(columns=[GENERATED, REFERENCE]):
        found += [row for row in batch.to_pylist() if row[GENERATED] is not None]
        if len(found) >= NUM_TEXTS:
            break
    return {"texts": found[:NUM_TEXTS]}
