"""Answer without looking at a row: what any model must beat."""

import pyarrow.parquet as pq

from fmray.data.lanes import Lanes
from fmray.ragged import by_row, entries_of
from fmray.records import Json, Predictions, Prepared, Split
from fmray.store.copies import to_write
from fmray.targets.codec import codec_of
from fmray.train.predict import CHUNK_ROWS, as_table, output_names


def dummy(prepared: Prepared, split: Split, path: str, params: Json | None = None) -> Predictions:
    """Write the training shares of the classes, or the training mean, as the prediction of every row.

    Args:
        params: Of the task, which say how what is decided is chosen on validation.
    """
    target = prepared.target
    names = output_names(prepared)
    codec = codec_of(target)
    settings: Json = {}
    if codec.settles:
        _, held = Lanes(prepared, "val").sample()
        output = codec.constant_for(held["target"])
        settings = codec.settle(output, held["target"], held.get("weight"), params or {})
    columns = ["target", "row_id", *(["weight"] if prepared.weighted else []), *(["group"] if prepared.grouped else [])]
    columns += [f"slice_{name}" for name in prepared.slices]
    num_rows = 0
    with to_write(path) as here:
        writer = None
        for arrays in Lanes(prepared, split).sequence(CHUNK_ROWS, columns):
            answers = codec.constant_for(entries_of({"target": arrays["target"]})["target"])
            predictions = by_row(answers, arrays["target"])
            outputs = codec.table_columns(predictions, settings) | codec.shown_columns(predictions, arrays["target"])
            table = as_table(arrays, outputs, prepared)
            writer = writer or pq.ParquetWriter(here, table.schema, write_page_checksum=True)
            writer.write_table(table)
            num_rows += len(table)
        if writer is not None:
            writer.close()
    return Predictions(path, split, names, num_rows)
