"""Tuning a script that knows nothing of ftmeta: what was seen is kept here, what to run next is asked of the service.

    tuning = Tuning(budget_s=600, records=rows)
    while (step := tuning.ask(client)) is not None:
        score = train(step.values, until=step.fidelity)   # your own
        tuning.tell(step, score, cost_s)

With asyncio: `step = tuning.take(await client.suggest(**tuning.question()))`. Ask again before telling to run several
steps at once. `tuning.observations` is plain data: save it, and give it to a new `Tuning` to go on another day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftmeta.client.clients import Client
from ftmeta.errors import UserError


@dataclass(frozen=True)
class Step:
    """Train `pipeline` to `fidelity`, going on from what it had reached at `continue_from` (0: from the base model)."""

    pipeline: Mapping[str, Any]  # as the service has it: id, space, values
    continue_from: int
    fidelity: int
    learning_rate: float | None
    expected_improvement: float
    predicted_cost_s: float

    @property
    def id(self) -> str:
        """Twelve digits that name the pipeline, as for a checkpoint's folder."""
        return str(self.pipeline["id"])

    @property
    def values(self) -> dict[str, Any]:
        """The hyperparameters."""
        return dict(self.pipeline["values"])


class Tuning:
    """One dataset, one budget, and what was seen so far."""

    def __init__(
        self,
        *,
        budget_s: float,
        records: Iterable[Mapping[str, Any]] | None = None,
        metafeatures: Mapping[str, float] | None = None,
        base_model: str | None = None,
        hardware: str | None = None,
        only: Mapping[str, Sequence[Any]] | None = None,
        observations: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`budget_s` are device-seconds for everything, what `observations` took included. `only` names the values that
        the script can do, by hyperparameter, as {"peft_method": ["lora"]}. The records are sent once: from then on
        their meta-features, which the service answers, stand in for them."""
        self.observations = [dict(one) for one in observations]
        self.budget_s = budget_s
        self.answer: dict[str, Any] | None = None  # the service's last word, with warnings and why it stopped
        self._dataset: dict[str, Any] = {"records": None if records is None else list(records)}
        if metafeatures is not None:
            self._dataset["metafeatures"] = dict(metafeatures)
        self._options = {"base_model": base_model, "hardware": hardware, "only": only}
        self._under_way: list[Step] = []

    def question(self) -> dict[str, Any]:
        """The arguments of `suggest` for what to run next."""
        under_way = [{"pipeline": one.pipeline, "fidelity": one.fidelity} for one in self._under_way]
        seen = {"observations": self.observations, "under_way": under_way}
        return {"budget_s": self.budget_s, **self._dataset, **self._options, **seen}

    def take(self, answer: Mapping[str, Any]) -> Step | None:
        """The step that the service answered, which is then under way; None: nothing is left, or it would go beyond the
        budget."""
        self.answer = dict(answer)
        self._dataset = {"metafeatures": answer["metafeatures"]}
        if answer["pipeline"] is None or not answer["fits_budget"]:
            return None
        step = Step(
            pipeline=answer["pipeline"],
            continue_from=answer["continue_from"],
            fidelity=answer["fidelity"],
            learning_rate=answer["learning_rate"],
            expected_improvement=answer["expected_improvement"],
            predicted_cost_s=answer["predicted_cost_s"],
        )
        self._under_way.append(step)
        return step

    def ask(self, client: Client) -> Step | None:
        """What to run next, asked and taken."""
        return self.take(client.suggest(**self.question()))

    def tell(self, step: Step, score: float | None, cost_s: float | None) -> None:
        """What came of a step: its validation score in [0, 1], higher is better (None: it diverged or failed), and the
        device-seconds that this step took (None: unknown). Raises UserError for what cannot be."""
        if step not in self._under_way:
            raise UserError(
                f"{step.id} to fidelity {step.fidelity} is not under way; tell each step that was asked once"
            )
        if score is not None and not 0 <= score <= 1:
            raise UserError(
                f"the score is {score}; give one in [0, 1], higher is better, or None for a run that failed"
            )
        if cost_s is not None and not 0 <= cost_s < float("inf"):
            raise UserError(f"the cost is {cost_s}; give device-seconds from 0 up, or None if unknown")
        before = [one for one in self.observations if one["pipeline"]["id"] == step.id]
        known = [one["cost_s"] for one in before if one["cost_s"] is not None]
        total_s = None if cost_s is None or len(known) < len(before) else cost_s + max(known, default=0.0)
        point = {"pipeline": dict(step.pipeline), "fidelity": step.fidelity, "score": score, "cost_s": total_s}
        self.observations.append(point)
        self._under_way.remove(step)

    @property
    def best(self) -> dict[str, Any] | None:
        """The observation with the highest score; the first of equals, None where there is none."""
        scored = [one for one in self.observations if one["score"] is not None]
        return max(scored, key=lambda one: one["score"], default=None)
