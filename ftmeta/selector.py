"""The selector: which pipelines to run on a task, what they will score and what they will cost. Pure; trains nothing.

In: surrogates, a task's meta-features, a base model, limits on time and money. Out: `Recommendation`s, best first, and
warnings. The command line, `ftmeta finetune --pipeline best` and the service all come through here.

Candidates are a fixed Sobol sample of the search space, the named pipelines, and the pipelines of the meta-dataset.
Those within the limits are ranked by predicted score at full budget; of those, going down the ranking, one is taken if
it is no near-copy of one already taken: at least `MIN_DISTANCE` away in the mean over hyperparameters of |difference|
(each in [0, 1]; different categories, and what is active in only one of the two, count 1).

Intervals cover 80 % of the scores of tasks that were left out in meta-training. They are `WIDER` times as wide where
that evidence is not about the case at hand: for a base model that no source run had, and for a task far from all source
tasks. Far means: the root mean square difference of its meta-features (in standard deviations over the source tasks) to
the nearest source task is more than `FAR` times the largest such distance among the source tasks themselves.

Meta-features that the surrogates look at and that are unknown of a task are taken to be the mean over the source tasks,
and a warning says so. Those that need the base model (its zero-shot loss) are measured only for surrogates that look at
them (ftmeta/recommend.py).

Array legend: N candidates, K taken, T fidelities, D hyperparameters, S source tasks, F meta-features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.costs import usd
from ftmeta.errors import UserError
from ftmeta.files import DATA
from ftmeta.hardware import detect, load_hardware
from ftmeta.metafeatures import ZERO_SHOT_FEATURES
from ftmeta.schema import BaseModelInfo, Pipeline, Recommendation
from ftmeta.space import Categorical, Space, named_pipelines
from ftmeta.surrogates import Surrogates
from ftmeta.surrogates.quality import Z_80

if TYPE_CHECKING:
    from collections.abc import Sequence

CANDIDATES = 512
_CANDIDATE_SEED = 0
MIN_DISTANCE = 0.15
WIDER = 1.5
FAR = 1.5
_NAMED = 3  # unknown meta-features that a warning names
_CAP = 10.0  # standard deviations; one meta-feature that never varied before does not decide alone

BUNDLED = DATA / "meta" / "selector"


class Selector:
    """Surrogates and a fixed pool of candidates."""

    def __init__(self, surrogates: Surrogates) -> None:
        self.surrogates = surrogates

    @property
    def name(self) -> str:
        return str(self.surrogates.meta_dataset["name"])

    @property
    def version(self) -> str:
        return self.surrogates.version

    @property
    def space(self) -> Space:
        return self.surrogates.space

    def describe(self) -> dict[str, str]:
        """The key `selector` of every answer."""
        return {
            "name": self.name,
            "version": self.version,
            "meta_dataset": str(self.surrogates.meta_dataset["fingerprint"]),
        }

    @cached_property
    def _named(self) -> dict[str, Pipeline]:
        return named_pipelines(self.space) or {"default": self.space.default()}

    @cached_property
    def labels(self) -> dict[str, str]:
        """Pipeline id -> the name it is known by."""
        return {pipeline.id: name for name, pipeline in self._named.items()}

    @cached_property
    def task_features(self) -> tuple[str, ...]:
        """The meta-features that predicted scores depend on, beside the lengths and sizes that costs need, sorted."""
        performance = self.surrogates.performance
        maps = (performance.features, performance.scale.features)
        return tuple(sorted({name for one in maps if one is not None for name in one.task_features}))

    @property
    def uses_zero_shot(self) -> bool:
        """Whether scores depend on what the base model makes of a task: whether measuring that is of any use."""
        return any(name in ZERO_SHOT_FEATURES for name in self.task_features)

    @cached_property
    def candidates(self) -> list[Pipeline]:
        """Distinct, in a fixed order."""
        sampled = self.space.sample(min(CANDIDATES, _pipelines_in(self.space)), seed=_CANDIDATE_SEED)
        pool = [*self._named.values(), *self.surrogates.pipelines, *sampled]
        return list({pipeline.id: pipeline for pipeline in pool}.values())

    def recommend(
        self,
        metafeatures: Mapping[str, float],
        base_model: BaseModelInfo,
        *,
        budget_s: float | None = None,
        budget_usd: float | None = None,
        top_k: int = 5,
        hardware: str | None = None,
    ) -> tuple[list[Recommendation], list[str]]:
        """At most `top_k` recommendations, best first, and what to be careful about.

        Costs are those of a full run on one device of `hardware` (None: this machine's). Raises UserError when no
        candidate fits the limits, with the cheapest, and when money is limited but the hardware's price is unknown.
        """
        chosen_hardware = detect() if hardware is None else hardware
        profile = load_hardware(chosen_hardware)
        pool = self.candidates
        mean_NT = self.surrogates.expected_curve(pool, metafeatures, base_model)
        cost_N = self.surrogates.predict_cost(pool, metafeatures, base_model, profile)[:, -1]
        fits_N = _within(cost_N, budget_s, budget_usd, chosen_hardware)

        warnings, factor = self.cautions(metafeatures, base_model)
        if profile.source == "estimate":
            warnings.append(
                f"the speed of {profile.description} is an estimate from its data sheet; times and costs may be off"
            )
        elif self.surrogates.hardware is not None and profile.name != self.surrogates.hardware.name:
            warnings.append(
                f"no source run was made on {profile.description}; times and costs are carried over from "
                f"{self.surrogates.hardware.description}"
            )
        ranked = [int(i) for i in np.argsort(-mean_NT[:, -1], kind="stable") if fits_N[i]]
        taken = _spread(self._coordinates, ranked, top_k)
        if len(taken) < top_k:
            warnings.append(f"{len(taken)} of {top_k} pipelines: all others within the limits are near-copies of these")
        mean_KT = mean_NT[taken]
        _, deviation_KT = self.surrogates.predict_curve([pool[i] for i in taken], metafeatures, base_model)
        low_KT = np.maximum(mean_KT - Z_80 * factor * deviation_KT, 0.0)
        high_KT = np.minimum(mean_KT + Z_80 * factor * deviation_KT, 1.0)
        found = [
            Recommendation(
                pipeline=pool[i],
                score=float(mean_KT[k, -1]),
                score_low=float(low_KT[k, -1]),
                score_high=float(high_KT[k, -1]),
                cost_s=float(cost_N[i]),
                cost_usd=usd(float(cost_N[i]), chosen_hardware),
                curve=tuple(mean_KT[k].tolist()),
                curve_low=tuple(low_KT[k].tolist()),
                curve_high=tuple(high_KT[k].tolist()),
                learning_rate=learning_rate_of(pool[i], base_model),
                label=self.labels.get(pool[i].id),
            )
            for k, i in enumerate(taken)
        ]
        return found, warnings

    def cautions(self, metafeatures: Mapping[str, float], base_model: BaseModelInfo) -> tuple[list[str], float]:
        """Warnings about the evidence, and the factor on the intervals that they call for."""
        warnings, factor = [], 1.0
        surrogates = self.surrogates
        if base_model.name not in surrogates.base_models:
            factor *= WIDER
            warnings.append(
                f"no source run finetuned {base_model.name}; what is known comes from "
                f"{', '.join(surrogates.base_models)}, so intervals are {WIDER:g} times as wide"
            )
        far = self._far(metafeatures, base_model.name)
        if far is not None:
            factor *= WIDER
            warnings.append(f"{far}, so intervals are {WIDER:g} times as wide")
        unknown = [name for name in self.task_features if name not in metafeatures]
        if unknown:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            warnings.append(
                f"unknown of this task: {', '.join(unknown[:_NAMED])}{more}; the mean over the source tasks stands in"
            )
        if surrogates.budget != surrogates.space.budget():
            of = surrogates.budget
            most = "" if of.max_train_examples is None else f" over at most {of.max_train_examples} examples"
            warnings.append(
                f"scores and costs are for runs of {of.epochs:g} passes{most} with {of.eval_examples} examples scored "
                "at each fidelity, as in the meta-dataset"
            )
        return warnings, factor

    def _far(self, metafeatures: Mapping[str, float], base_model: str) -> str | None:
        """Why the task is far from all source tasks; None if it is not, or if there is nothing to tell it by."""
        sources = [s for s in self.surrogates.sources if s.base_model == base_model] or list(self.surrogates.sources)
        names = sorted(set(metafeatures).intersection(*(source.metafeatures for source in sources)))
        if not any(source.metafeatures for source in sources):
            return None
        if not names:
            return "the task's meta-features are not those of the source tasks"
        of_SF = np.array([[source.metafeatures[name] for name in names] for source in sources])
        deviation_F = np.maximum(of_SF.std(axis=0), 1e-9)
        new_F = np.array([metafeatures[name] for name in names])

        def distance(a_F: np.ndarray, b_F: np.ndarray) -> float:
            return float(np.sqrt((np.minimum(np.abs(a_F - b_F) / deviation_F, _CAP) ** 2).mean()))

        nearest = min(distance(new_F, row_F) for row_F in of_SF)
        among = [min((distance(a, b) for j, b in enumerate(of_SF) if j != i), default=0.0) for i, a in enumerate(of_SF)]
        if nearest <= FAR * max(among):
            return None
        outside_F = np.maximum(of_SF.min(axis=0) - new_F, new_F - of_SF.max(axis=0)) / deviation_F
        worst = int(np.argmax(outside_F))
        why = ""
        if outside_F[worst] > 0:
            low, high = of_SF[:, worst].min(), of_SF[:, worst].max()
            why = f" (first of all in {names[worst]}: {new_F[worst]:.3g}, and {low:.3g} to {high:.3g} there)"
        return f"the task is far from the {len(sources)} source tasks{why}"

    @cached_property
    def _coordinates(self) -> np.ndarray:
        """Candidates as points: coordinates_ND; see `_coordinates` below."""
        return np.array([_coordinates(self.space, pipeline) for pipeline in self.candidates])


def load_selector(name_or_directory: str | Path | None = None) -> Selector:
    """The selector in a folder made by `ftmeta metatrain`; None: the bundled one. Raises UserError."""
    return Selector(Surrogates.load(BUNDLED if name_or_directory is None else name_or_directory))


def _within(cost_N: np.ndarray, budget_s: float | None, budget_usd: float | None, hardware: str) -> np.ndarray:
    """Which candidates fit both limits. Raises UserError if none does."""
    limit = np.inf if budget_s is None else budget_s
    if budget_usd is not None:
        per_second = usd(1.0, hardware)
        if per_second is None:
            raise UserError(
                f"the price of {hardware} is unknown, so a budget in money cannot be kept; give one in time, or a "
                "price in the file that $FTMETA_PRICES names"
            )
        limit = min(limit, budget_usd / per_second if per_second > 0 else np.inf)
    fits_N = cost_N <= limit
    if not fits_N.any():
        cheapest = float(cost_N.min())
        price = usd(cheapest, hardware)
        money = "" if price is None else f" (${price:.4f})"
        raise UserError(
            f"no pipeline fits the budget of {limit:.4g} device-seconds on {hardware}; the cheapest is predicted to "
            f"take {cheapest:.4g} s{money}; raise the budget, or name faster hardware"
        )
    return fits_N


def _spread(coordinates_ND: np.ndarray, ranked: Sequence[int], top_k: int) -> list[int]:
    taken: list[int] = []
    for i in ranked:
        if all(_distance(coordinates_ND[i], coordinates_ND[j]) >= MIN_DISTANCE for j in taken):
            taken.append(i)
        if len(taken) == top_k:
            break
    return taken


def _coordinates(space: Space, pipeline: Pipeline) -> list[float]:
    """One number a hyperparameter: the position in [0, 1], twice the index of a category (so that two categories are
    never nearer than 1), NaN where inactive."""
    row = []
    for name, domain in space.domains.items():
        value = pipeline.get(name)
        if value is None:
            row.append(np.nan)
        elif isinstance(domain, Categorical):
            row.append(2.0 * domain.choices.index(value))
        else:
            row.append(domain.coordinates(value)[0])
    return row


def _distance(a_D: np.ndarray, b_D: np.ndarray) -> float:
    difference_D = np.minimum(np.abs(a_D - b_D), 1.0)
    both_off_D = np.isnan(a_D) & np.isnan(b_D)
    return float(np.where(both_off_D, 0.0, np.nan_to_num(difference_D, nan=1.0)).mean())


def _pipelines_in(space: Space) -> int:
    """A lower bound of the number of distinct pipelines: those of the hyperparameters that are always active."""
    total = 1
    for domain in space.domains.values():
        if not domain.when:
            values = getattr(domain, "choices", None) or getattr(domain, "values", None)
            total *= len(values) if values is not None else CANDIDATES
    return total


def learning_rate_of(pipeline: Pipeline, base_model: BaseModelInfo) -> float | None:
    multiplier, rate = pipeline.get("lr_multiplier"), pipeline.get("learning_rate")
    if multiplier is not None:
        return float(multiplier) * base_model.reference_lr
    return None if rate is None else float(rate)
