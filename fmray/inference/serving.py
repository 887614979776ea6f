"""Describe a run's model to MLflow: which code opens it, which rows it takes, what it gives."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from fmray.errors import DataError
from fmray.inference.model import open_model
from fmray.track.mlflow import Served

CODE = str(Path(__file__).with_name("pyfunc.py"))
PACKAGES = {
    "embed": ("tokenizers", "transformers"),
    "hf": ("transformers",),
    "lightgbm": ("lightgbm",),
    "tokenize": ("tokenizers",),
}
"""Step or model -> packages that it needs to predict."""
EXAMPLE_ROWS = 4
"""Rows of validation that are shown to MLflow."""


def served(root: str) -> Served:
    """Describe the model of a run.

    Args:
        root: Directory of the run.

    Raises:
        DataError: If there is none, or it knows no rows to show.
    """
    model = open_model(root)
    rows = model.example.slice(0, EXAMPLE_ROWS)
    if not rows.num_rows:
        raise DataError(f"{root}: there is no validation row to show what the model takes. Use more rows.")
    example = rows.cast(pa.schema([field.with_type(_plain(field.type)) for field in rows.schema]))
    used = {step["name"] for own in model.saved.ways().values() for step in own.steps}
    used |= {member.model["name"] for member in model.saved.members}
    packages = tuple(sorted({package for name in used for package in PACKAGES.get(name, ())}))
    return Served(CODE, example.to_pandas(), model.predict(rows).to_pandas(), packages)


def _plain(kind: Any) -> Any:
    """Give the type under which MLflow takes a column: the widest of its kind, as JSON brings nothing narrower.

    Integers and booleans may be missing, so they come as floats: MLflow would read a missing boolean as false. Times
    have no zone there, and are in UTC.
    """
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    if any(fits(kind) for fits in numbers):
        return pa.float64()
    return pa.timestamp("us") if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else kind
