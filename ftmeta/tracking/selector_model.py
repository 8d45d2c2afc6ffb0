"""The selector as a model of MLflow: recommendations for the meta-features of tasks.

MLflow keeps this file as it is beside the selector's folder (safetensors, JSON and YAML) and runs it when the model is
loaded: nothing is pickled. It needs ftmeta installed. Rows in: `metafeatures` (name -> number), `base_model`, and if
wanted `hardware`, `budget_s`. Rows out: `top_k` recommendations for each, best first.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class SelectorModel(PythonModel):
    _skip_type_hint_validation = True  # the signature says it (packing.py); MLflow would warn that types do not

    def load_context(self, context: Any) -> None:
        from ftmeta.selector import load_selector

        self._selector = load_selector(context.artifacts["selector"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        top_k = int((params or {}).get("top_k", 5))
        rows = []
        for question, asked in enumerate(model_input.to_dict("records")):
            found, _ = self._selector.recommend(
                {name: float(value) for name, value in dict(asked["metafeatures"]).items()},
                self._base_model(asked["base_model"]),
                budget_s=_given(asked.get("budget_s")),
                top_k=top_k,
                hardware=_given(asked.get("hardware")) or "cpu-core",
            )
            rows += [
                {
                    "question": question,
                    "place": place,
                    "pipeline": json.dumps(one.pipeline.to_json(), sort_keys=True),
                    "score": one.score,
                    "score_low": one.score_low,
                    "score_high": one.score_high,
                    "cost_s": one.cost_s,
                    "cost_usd": one.cost_usd,
                }
                for place, one in enumerate(found, start=1)
            ]
        return pd.DataFrame(rows)

    def _base_model(self, name: str) -> Any:
        """As the selector knows it; no weights are needed to recommend."""
        from ftmeta.models import resolve
        from ftmeta.models.describe import reference_lr
        from ftmeta.schema import BaseModelInfo

        shape = self._selector.surrogates.shapes.get(name)
        if shape is None:
            return resolve(name)
        return BaseModelInfo(name, "", shape, reference_lr(shape.hidden_size), "")


def _given(value: Any) -> Any:
    """None for what is left out of a column that other rows have."""
    return None if value is None or value != value else value


set_model(SelectorModel())
