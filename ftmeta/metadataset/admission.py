"""Which rows of foreign tables become runs and curve points, and why the others do not.

In: the rows of two tables as text (given.py) and the search space. Out: rows for the Parquet tables, still with the
scores as given, and a list of everything that was refused. A row is refused alone: the rest of its run stays. What
depends on a row that was refused is refused too, and says so, so kept and refused rows add up to those given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args

from ftmeta.errors import SpaceError
from ftmeta.metadataset.given import Rejected, Row, Which
from ftmeta.metadataset.tables import CURVE_COLUMNS, RUN_COLUMNS
from ftmeta.schema import Pipeline, Status, Value
from ftmeta.space import Categorical, Space

UNKNOWN_BASE_MODEL = "unknown"  # tasks.parquet is keyed by task and base model, so there has to be a name
_NOTHING = {"", "na", "n/a", "nan", "none", "null"}  # how tables say that a cell is empty
_LARGEST = 1e100  # what is larger is no score and no number of seconds
_STATUSES: tuple[str, ...] = get_args(Status)
_MAY_LACK_CURVE = ("diverged", "oom", "error")  # the others have come somewhere
_WHOLE = {"seed", "step", "examples", "tokens"}
_NOT_NEGATIVE = {"cost_s", "cost_train_s", "cost_eval_s", "wall_s", "peak_memory_gb", "step", "examples", "tokens"}
_METAFEATURES_ALIKE = 1e-6  # relative: what two machines compute of the same task

Key = tuple[str, str]  # task, base model


@dataclass(frozen=True)
class Rules:
    """What may differ between sources."""

    max_fidelity: int
    first_fidelity: int = 1  # 0 where a source has the score before training
    may_lack_score: bool = False  # a point without a score: one that was not finite, in runs of ftmeta's own


@dataclass
class Admitted:
    """Rows as the Parquet tables have them, but for the scale of the scores."""

    runs: list[dict[str, Any]] = field(default_factory=list)  # by run_id, with p_ columns
    curves: list[dict[str, Any]] = field(default_factory=list)  # by run_id and fidelity
    metafeatures: dict[Key, dict[str, float]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)


def admit(runs: Iterable[Row | Rejected], curves: Iterable[Row | Rejected], space: Space, rules: Rules) -> Admitted:
    """Goes through both tables once. Never raises for what a row holds."""
    admission = _Admission(space, rules)
    for row in runs:
        admission.take("runs", row, admission.add_run)
    for row in curves:
        admission.take("curves", row, admission.add_point)
    return admission.close()


class _RefusedError(Exception):
    """Why a row is not taken."""


class _Admission:
    def __init__(self, space: Space, rules: Rules) -> None:
        self._space, self._rules = space, rules
        self._runs: dict[str, dict[str, Any]] = {}
        self._place: dict[str, int | str] = {}  # of each run, kept or refused
        self._points: dict[str, dict[int, tuple[int | str, dict[str, Any]]]] = {}
        self._features: dict[Key, dict[str, tuple[float, int | str]]] = {}
        self._rejected: list[Rejected] = []

    def take(self, which: Which, row: Row | Rejected, add: Callable[[Row], None]) -> None:
        if isinstance(row, Rejected):
            self._rejected.append(row)
            return
        try:
            add(row)
        except _RefusedError as why:
            self._rejected.append(Rejected(which, row.place, str(why)))

    def add_run(self, row: Row) -> None:
        run_id = row.cells.get("run_id", "")
        if not run_id:
            raise _RefusedError("run_id is empty")
        if run_id in self._runs:
            raise _RefusedError(f"run '{run_id}' stands in row {self._place[run_id]} already")
        self._place[run_id] = row.place
        run = self._run(row)
        features = _metafeatures(row.cells)
        known = self._features.setdefault((run["task"], run["base_model"]), {})
        for name, value in features.items():
            other, place = known.get(name, (value, row.place))
            if not math.isclose(value, other, rel_tol=_METAFEATURES_ALIKE):
                raise _RefusedError(f"mf_{name} is {value:g}, and {other:g} for the same task in row {place}")
        for name, value in features.items():
            known.setdefault(name, (value, row.place))
        self._runs[run_id] = run

    def _run(self, row: Row) -> dict[str, Any]:
        cells, space, rules = row.cells, self._space, self._rules
        if not cells.get("task", ""):
            raise _RefusedError("task is empty")
        status = cells.get("status", "")
        if status not in _STATUSES:
            found = f"'{status}' is no status" if status else "status is empty"
            raise _RefusedError(f"{found}; give one of {', '.join(_STATUSES)}")
        if cells.get("space", "") not in ("", space.name):
            raise _RefusedError(f"is of the space '{cells['space']}', and '{space.name}' is imported")
        given_fidelity = _optional(cells, "max_fidelity")
        if given_fidelity is not None and given_fidelity != rules.max_fidelity:
            raise _RefusedError(f"max_fidelity is {given_fidelity:g}, and {rules.max_fidelity} in the others")
        _texts(cells)
        run: dict[str, Any] = dict.fromkeys(RUN_COLUMNS)
        for name in RUN_COLUMNS:
            text = cells.get(name, "")
            numeric = name in _WHOLE | _NOT_NEGATIVE or name.startswith("gen_")
            run[name] = _optional(cells, name) if numeric else text or None
        run |= {"base_model": run["base_model"] or UNKNOWN_BASE_MODEL, "space": space.name}
        run |= {"max_fidelity": rules.max_fidelity, "fidelity": 0}
        return run | {f"p_{name}": value for name, value in self._pipeline(cells).values.items()}

    def _pipeline(self, cells: Mapping[str, str]) -> Pipeline:
        given = {name: _value(self._space, name, cells.get(f"p_{name}", "")) for name in self._space.hyperparameters}
        try:
            return self._space.validate({name: value for name, value in given.items() if value is not None})
        except SpaceError as error:
            raise _RefusedError(str(error)) from None

    def add_point(self, row: Row) -> None:
        run_id = row.cells.get("run_id", "")
        if run_id not in self._runs:
            refused = run_id in self._place
            why = f"its run was rejected (row {self._place[run_id]})" if refused else f"there is no run '{run_id}'"
            raise _RefusedError(why if run_id else "run_id is empty")
        fidelity = self._fidelity(row.cells)
        points = self._points.setdefault(run_id, {})
        if fidelity in points:
            raise _RefusedError(f"fidelity {fidelity} of run '{run_id}' stands in row {points[fidelity][0]} already")
        point: dict[str, Any] = dict.fromkeys(CURVE_COLUMNS)
        for name in row.cells:
            if name in point and name not in ("run_id", "fidelity"):
                point[name] = _optional(row.cells, name)
        if point["score"] is None and not self._rules.may_lack_score:
            raise _RefusedError(f"score is {row.cells.get('score') or 'empty'}; give a finite number")
        points[fidelity] = row.place, point | {"run_id": run_id, "fidelity": fidelity}

    def _fidelity(self, cells: Mapping[str, str]) -> int:
        first, last = self._rules.first_fidelity, self._rules.max_fidelity
        text = cells.get("fidelity", "")
        try:
            number = _number(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number != int(number) or not first <= number <= last:
            raise _RefusedError(f"fidelity is {text or 'empty'}; give a whole number from {first} to {last}")
        return int(number)

    def close(self) -> Admitted:
        """Curves in order, runs with how far they came; what has no curve and should have one is refused."""
        found = Admitted(rejected=self._rejected)
        for run_id in sorted(self._runs):
            run, curve = self._runs[run_id], self._curve(run_id)
            if not curve and run["status"] not in _MAY_LACK_CURVE:
                why = f"status is {run['status']}, and no row of curves is kept for run '{run_id}'"
                found.rejected.append(Rejected("runs", self._place[run_id], why))
                continue
            if curve:
                run["fidelity"] = curve[-1]["fidelity"]
                costs = [point["cost_s"] for point in curve if point["cost_s"] is not None]
                if run["cost_s"] is None and costs:
                    run["cost_s"] = costs[-1]
            found.runs.append(run)
            found.curves += curve
            key = run["task"], run["base_model"]
            found.metafeatures[key] = {name: value for name, (value, _) in self._features[key].items()}
        return found

    def _curve(self, run_id: str) -> list[dict[str, Any]]:
        curve: list[dict[str, Any]] = []
        paid: tuple[float, int] | None = None  # cost so far, and at which fidelity
        for fidelity, (place, point) in sorted(self._points.get(run_id, {}).items()):
            cost_s = point["cost_s"]
            if cost_s is not None and paid is not None and cost_s < paid[0]:
                why = f"cost_s is {cost_s:g} at fidelity {fidelity} and {paid[0]:g} at {paid[1]}; it is cumulative"
                self._rejected.append(Rejected("curves", place, why))
                continue
            curve.append(point)
            paid = paid if cost_s is None else (cost_s, fidelity)
        return curve


def _metafeatures(cells: Mapping[str, str]) -> dict[str, float]:
    found = {name.removeprefix("mf_"): _optional(cells, name) for name in cells if name.startswith("mf_")}
    return {name: value for name, value in found.items() if value is not None}


def _value(space: Space, name: str, text: str) -> Value | None:
    """The cell of a hyperparameter; None where it is empty. What is no number stays text, for the space to refuse."""
    domain = space.domains[name]
    if isinstance(domain, Categorical):
        return None if text.lower() in _NOTHING and text not in domain.choices else text
    if text.lower() in _NOTHING:
        return None
    try:
        return _number(text)
    except ValueError:
        return text


def _optional(cells: Mapping[str, str], name: str) -> float | int | None:
    """The number in a cell; None where it is empty."""
    text = cells.get(name, "")
    if text.lower() in _NOTHING:
        return None
    try:
        number = _number(text)
    except ValueError:
        raise _RefusedError(f"{name} is '{text}'; give a number") from None
    if not abs(number) <= _LARGEST:
        raise _RefusedError(f"{name} is {text}; give a finite number")
    if name in _WHOLE and (number != int(number) or abs(number) >= 2**63):
        raise _RefusedError(f"{name} is {text}; give a whole number of at most 18 digits")
    if name in _NOT_NEGATIVE and number < 0:
        raise _RefusedError(f"{name} is {text}; it cannot be negative")
    return int(number) if name in _WHOLE else float(number)


def _number(text: str) -> int | float:
    """Raises ValueError. Python would take 1_000 for a number, which no other program does."""
    if "_" in text:
        raise ValueError
    try:
        return int(text)
    except ValueError:
        return float(text)


def _texts(cells: Mapping[str, str]) -> None:
    """Refuses texts that have a form and do not keep it."""
    try:
        datetime.fromisoformat(cells.get("started_at") or "2000-01-01")
    except ValueError:
        raise _RefusedError(f"started_at is '{cells['started_at']}'; give ISO 8601, as 2026-01-31T12:00:00Z") from None
    try:
        libraries = json.loads(cells.get("libraries") or "{}")
    except ValueError:
        libraries = None
    if not isinstance(libraries, dict):
        raise _RefusedError('libraries is no JSON object; give {"name": "version"}')
