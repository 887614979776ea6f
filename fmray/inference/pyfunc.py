"""Let MLflow serve a model: its "models from code" copy this file beside the model folder, and run it to load that.

So nothing is pickled. fmray itself is not copied; where the model is served, it is installed.
"""

import os
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa

from fmray.inference.model import open_model


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped here
    """Say of rows what `open_model(folder).predict` says of them."""

    def load_context(self, context: Any) -> None:
        """Open the model folder; code of its author runs only where FMRAY_TRUST_CODE is 1."""
        # of whoever serves it: what a model's own files say must not decide that its code is trusted
        trust = os.environ.get("FMRAY_TRUST_CODE") == "1"
        self.model = open_model(context.artifacts["model"], trust_code=trust)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Give predictions of rows, in which booleans come as numbers; see `fmray.inference.serving`."""
        booleans = [field.name for field in self.model.input_types if pa.types.is_boolean(field.type)]
        model_input = model_input.astype({name: "boolean" for name in booleans if name in model_input})
        for name in (field.name for field in self.model.input_types if getattr(field.type, "tz", None)):
            # MLflow knows no zones: what it gives is in UTC.
            if name in model_input and getattr(model_input[name].dt, "tz", None) is None:
                model_input = model_input.assign(**{name: model_input[name].dt.tz_localize("UTC")})
        answer: pd.DataFrame = self.model.predict(model_input).to_pandas()
        return answer


mlflow.models.set_model(Model())
