"""Score against cost: the candidates that no cheaper one beats (the Pareto front).

Array legend: N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ftmeta.costs import usd
from ftmeta.hardware import load_hardware
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector


def front(
    selector: Selector, metafeatures: Mapping[str, float], base_model: BaseModelInfo, hardware: str
) -> list[dict[str, Any]]:
    """Rows of pipeline, predicted score and cost of a full run; the cheapest first, the best last. Limits on time and
    money are not looked at: the front shows what they cost in score."""
    surrogates, pool = selector.surrogates, selector.candidates
    mean_NT, _ = surrogates.predict_curve(pool, metafeatures, base_model)
    cost_N = surrogates.predict_cost(pool, metafeatures, base_model, load_hardware(hardware))[:, -1]
    return [
        {
            "pipeline": pool[n].to_json(),
            "score": float(mean_NT[n, -1]),
            "cost_s": float(cost_N[n]),
            "cost_usd": usd(float(cost_N[n]), hardware),
        }
        for n in pareto(mean_NT[:, -1], cost_N)
    ]


def pareto(score_N: np.ndarray, cost_N: np.ndarray) -> list[int]:
    """The candidates that are better than every cheaper one, by cost; of equals the first."""
    order_N = np.lexsort((-score_N, cost_N))
    best_N = np.maximum.accumulate(score_N[order_N])
    rises_N = np.concatenate([[True], best_N[1:] > best_N[:-1]])
    return [int(n) for n in order_N[rises_N]]
