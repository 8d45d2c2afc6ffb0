"""Pipelines and observations that a request gives, checked against the selector's space."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ftmeta.errors import SpaceError
from ftmeta.schema import Pipeline, Value
from ftmeta.selector import Selector
from ftmeta.serving.models import GivenObservation, GivenPipeline, GivenStep
from ftmeta.serving.problems import FieldError
from ftmeta.space import Space
from ftmeta.suggest import Seen, UnderWay


def pipeline_of(given: GivenPipeline, space: Space, field: str) -> Pipeline:
    """Raises FieldError for what is no pipeline of `space`."""
    if given.space is not None and given.space != space.name:
        raise FieldError(f"{field}.space", f"is of another search space; this selector's is '{space.name}'")
    try:
        return space.validate(given.values)
    except SpaceError as error:
        raise FieldError(f"{field}.values", str(error)) from None


def seen_of(observations: Sequence[GivenObservation], space: Space, max_fidelity: int) -> list[Seen]:
    """In the order in which the pipelines were first named, of each in the order of fidelities. Raises FieldError for a
    point that is given twice or beyond the end of a run, and for one that follows where the run broke off."""
    runs: dict[str, dict[int, tuple[int, Seen]]] = {}
    for index, one in enumerate(observations):
        field = f"observations.{index}"
        pipeline = pipeline_of(one.pipeline, space, f"{field}.pipeline")
        _require_fidelity(one.fidelity, max_fidelity, field)
        points = runs.setdefault(pipeline.id, {})
        if one.fidelity in points:
            raise FieldError(field, f"gives fidelity {one.fidelity} of this pipeline a second time; give it once")
        points[one.fidelity] = index, Seen(pipeline, one.fidelity, one.score, one.cost_s)
    found = []
    for points in runs.values():
        ordered = [points[fidelity] for fidelity in sorted(points)]
        for (_, before), (index, after) in itertools.pairwise(ordered):
            _require_going_on(before, after, f"observations.{index}")
        found += [point for _, point in ordered]
    return found


def under_way_of(steps: Sequence[GivenStep], seen: Sequence[Seen], space: Space, max_fidelity: int) -> list[UnderWay]:
    """Raises FieldError for a step that leads no further than what was seen of its pipeline."""
    last = {one.pipeline.id: one for one in seen}
    found: dict[str, UnderWay] = {}
    for index, one in enumerate(steps):
        field = f"under_way.{index}"
        pipeline = pipeline_of(one.pipeline, space, f"{field}.pipeline")
        _require_fidelity(one.fidelity, max_fidelity, field)
        before = last.get(pipeline.id)
        if before is not None and (before.score is None or before.fidelity >= one.fidelity):
            raise FieldError(field, "leads no further than what was observed of this pipeline; leave it out")
        if pipeline.id in found:
            raise FieldError(field, "names a pipeline that is under way already; one run of a pipeline is known of")
        found[pipeline.id] = UnderWay(pipeline, one.fidelity)
    return list(found.values())


def candidates_of(only: Mapping[str, Sequence[Value]], selector: Selector) -> list[Pipeline]:
    """The selector's candidates that have one of the listed values, or nothing, for each hyperparameter that is named.

    Raises FieldError for a name that the space has not, and where no candidate is left.
    """
    for name in only:
        if name not in selector.space.domains:
            known = ", ".join(selector.space.hyperparameters)
            raise FieldError("only", f"names a hyperparameter that the space has not; it has {known}")
    kept = [
        one
        for one in selector.candidates
        if all(one.get(name) is None or one[name] in values for name, values in only.items())
    ]
    if not kept:
        raise FieldError("only", "leaves no candidate; list values that /v1/selector shows, or fewer hyperparameters")
    return kept


def _require_going_on(before: Seen, after: Seen, field: str) -> None:
    if before.score is None:
        raise FieldError(field, f"follows fidelity {before.fidelity}, at which this run broke off (score null)")
    if before.cost_s is not None and after.cost_s is not None and after.cost_s < before.cost_s:
        why = f"is less than at fidelity {before.fidelity} of this run; costs are cumulative"
        raise FieldError(f"{field}.cost_s", why)


def _require_fidelity(fidelity: int, max_fidelity: int, field: str) -> None:
    if fidelity > max_fidelity:
        raise FieldError(f"{field}.fidelity", f"is {fidelity}; a run ends at {max_fidelity}")
