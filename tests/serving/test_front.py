from __future__ import annotations

import numpy as np
from serving_client import Client, records

from ftmeta.serving.front import pareto


def test_the_front_is_what_no_cheaper_one_beats() -> None:
    score_N = np.array([0.5, 0.2, 0.5, 0.9, 0.3, 0.2])
    cost_N = np.array([3.0, 1.0, 2.0, 9.0, 4.0, 1.0])
    assert pareto(score_N, cost_N) == [1, 2, 3]


def test_it_is_added_if_asked_for_and_ends_with_the_best(client: Client) -> None:
    body = {"dataset": {"records": records(40)}, "front": True}
    answer = client.post("/v1/recommendations", json=body).json()
    front = answer["front"]
    assert [one["cost_s"] for one in front] == sorted(one["cost_s"] for one in front)
    assert [one["score"] for one in front] == sorted(one["score"] for one in front)
    assert front[-1]["pipeline"] == answer["recommendations"][0]["pipeline"]
    assert "front" not in client.post("/v1/recommendations", json={**body, "front": False}).json()
