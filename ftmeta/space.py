"""Search spaces: YAML to ConfigSpace, and pipelines sampled, checked, encoded and described.

In: `lora-v1` (bundled) or a YAML file in the form of docs/interfaces.md. Out: a `Space`, whose `sample`, `validate`,
`encode` and `configspace` are all that the rest of ftmeta knows of a space. Nothing here depends on particular
hyperparameter names, so spaces that come with foreign tables work too.

Array legend: N pipelines, F features, D hyperparameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftmeta.errors import SpaceError
from ftmeta.files import DATA, fingerprint
from ftmeta.schema import Budget, Pipeline, Value

if TYPE_CHECKING:
    import numpy as np
    from ConfigSpace import ConfigurationSpace

NAMED_PIPELINES = ("default", "strong-default")
_MAX_ENCODED = 20_000
_RELATIVE_TOLERANCE = 1e-9  # a float that was rounded on its way through a table still lies within its bounds


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    when: dict[str, list[Value]] = Field(default_factory=dict)  # active only where each named one has a listed value


class Categorical(_Described):
    type: Literal["categorical"]
    choices: list[str] = Field(min_length=1)
    default: str

    def contains(self, value: Value) -> bool:
        return value in self.choices

    def wanted(self) -> str:
        return f"one of {', '.join(sorted(self.choices))}"

    def at(self, unit: float) -> Value:
        return self.choices[_index(unit, len(self.choices))]

    def coordinates(self, value: Value) -> list[float]:
        return [float(value == choice) for choice in self.choices]

    def columns(self, name: str) -> list[str]:
        return [f"{name}={choice}" for choice in self.choices]


class Ordinal(_Described):
    type: Literal["ordinal"]
    values: list[int | float] = Field(min_length=1)
    default: int | float

    def contains(self, value: Value) -> bool:
        return not isinstance(value, str) and value in self.values

    def wanted(self) -> str:
        return f"one of {', '.join(str(value) for value in self.values)}"

    def at(self, unit: float) -> Value:
        return self.values[_index(unit, len(self.values))]

    def coordinates(self, value: Value) -> list[float]:
        return [self.values.index(float(value)) / max(1, len(self.values) - 1)]

    def columns(self, name: str) -> list[str]:
        return [name]


class Number(_Described):
    type: Literal["float", "int"]
    low: float
    high: float
    log: bool = False
    default: float

    @model_validator(mode="after")
    def _ordered(self) -> Number:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; with log: true it must be above 0")
        return self

    def contains(self, value: Value) -> bool:
        if isinstance(value, str) or not math.isfinite(value) or (self.type == "int" and value != round(value)):
            return False
        slack = _RELATIVE_TOLERANCE * max(abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack

    def wanted(self) -> str:
        return f"{'a whole number' if self.type == 'int' else 'a number'} from {self.low:g} to {self.high:g}"

    def at(self, unit: float) -> Value:
        if self.log:
            value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + unit * (self.high - self.low)
        if self.type == "int":
            return round(value)
        return float(f"{value:.6g}")  # six digits: the value survives YAML, JSON and a reader's eye unchanged

    def coordinates(self, value: Value) -> list[float]:
        number = float(value)
        if self.log:
            return [(math.log(number) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))]
        return [(number - self.low) / (self.high - self.low)]

    def columns(self, name: str) -> list[str]:
        return [name]


Domain = Annotated[Categorical | Ordinal | Number, Field(discriminator="type")]


class _BudgetFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: float = Field(gt=0)


class _SpaceFile(BaseModel):
    """The YAML file, as it is written."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    max_fidelity: int = Field(ge=1)
    budget: _BudgetFile | None = None
    hyperparameters: dict[str, Domain] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> _SpaceFile:
        for name, domain in self.hyperparameters.items():
            if not domain.contains(domain.default):
                raise ValueError(f"{name}: default {domain.default!r} is not {domain.wanted()}")
            for parent, values in domain.when.items():
                if parent not in self.hyperparameters or parent == name:
                    raise ValueError(f"{name}: `when` names '{parent}', which is no other hyperparameter here")
                if self.hyperparameters[parent].when:
                    raise ValueError(
                        f"{name}: `when` names '{parent}', which has a condition itself; one level is allowed"
                    )
                strange = [value for value in values if not self.hyperparameters[parent].contains(value)]
                if strange or not values:
                    raise ValueError(f"{name}: `when` lists {strange} for '{parent}', which it never takes")
        return self


class _PipelineFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    space: str
    hyperparameters: dict[str, Value]


@dataclass(frozen=True)
class Space:
    """A search space. `domains` keeps the order of the YAML file, which is the order of columns and features."""

    name: str
    max_fidelity: int
    epochs: float | None  # the full budget in passes over the training split; None where a foreign table does not say
    domains: Mapping[str, Categorical | Ordinal | Number]
    yaml_text: str

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        return tuple(self.domains)

    @property
    def fingerprint(self) -> str:
        """Over everything that gives a pipeline its meaning; comments and layout of the YAML file do not count."""
        described = {name: domain.model_dump() for name, domain in self.domains.items()}
        return fingerprint({"max_fidelity": self.max_fidelity, "epochs": self.epochs, "domains": described})

    def budget(self, **changes: Any) -> Budget:
        """The full budget of a run in this space, with `changes` to single fields."""
        epochs = {} if self.epochs is None else {"epochs": self.epochs}
        return Budget(**{"max_fidelity": self.max_fidelity, **epochs, **changes})

    def is_active(self, name: str, values: Mapping[str, Value]) -> bool:
        return all(values.get(parent) in allowed for parent, allowed in self.domains[name].when.items())

    def default(self) -> Pipeline:
        return self.of({name: domain.default for name, domain in self.domains.items()})

    def sample(self, n: int, seed: int) -> list[Pipeline]:
        """`n` distinct pipelines from a scrambled Sobol sequence (Owen 1998; scipy.stats.qmc) over the unit cube.

        The first m of a sample of n > m are the sample of m, except where inactive hyperparameters made two points
        the same pipeline. Raises SpaceError when the space holds fewer than `n` distinct pipelines.
        """
        from scipy.stats import qmc

        sequence = qmc.Sobol(d=len(self.domains), scramble=True, rng=seed)
        found: dict[str, Pipeline] = {}
        m = max(3, math.ceil(math.log2(max(n, 2))))
        for doubling in (m, *range(m, m + 6)):  # Sobol points are balanced only where their total is a power of two
            for point in sequence.random_base2(m=doubling):
                pipeline = self.at(point)
                found.setdefault(pipeline.id, pipeline)
                if len(found) == n:
                    return list(found.values())
        raise SpaceError(f"space '{self.name}' gave only {len(found)} distinct pipelines, and {n} were wanted")

    def at(self, units: Iterable[float]) -> Pipeline:
        """The pipeline at a point of the unit cube, one coordinate a hyperparameter."""
        placed = zip(self.domains.items(), units, strict=True)
        return self.of({name: domain.at(float(unit)) for (name, domain), unit in placed})

    def validate(self, values: Mapping[str, Any]) -> Pipeline:
        """The pipeline with exactly these values. Raises SpaceError that names every hyperparameter that is wrong."""
        known = list(self.domains)
        wrong = [f"unknown hyperparameter '{name}'{_near(name, known)}" for name in values if name not in self.domains]
        for name, domain in self.domains.items():
            given = values.get(name)
            active = self.is_active(name, values)
            if given is None and active:
                wrong.append(f"'{name}' is missing; give {domain.wanted()}")
            elif given is not None and not active:
                needs = " and ".join(f"{parent} in {allowed}" for parent, allowed in domain.when.items())
                wrong.append(f"'{name}' is given, but it is active only with {needs}; leave it out")
            elif given is not None and (isinstance(given, bool) or not domain.contains(given)):
                wrong.append(f"'{name}' is {given!r}; give {domain.wanted()}")
        if wrong:
            raise SpaceError(f"pipeline does not fit space '{self.name}': " + "; ".join(wrong))
        return self.of({name: value for name, value in values.items() if value is not None})

    def encode(self, pipelines: Sequence[Pipeline]) -> tuple[np.ndarray, list[str]]:
        """The pipelines as numbers: X_NF (float32) and the F column names.

        Categorical hyperparameters become one column a choice; ordinal and numeric ones lie in [0, 1], log-scaled
        where the space says so. A conditional hyperparameter has a further column `name:active`; where it is
        inactive its value is that of the default, so that it carries no information of its own.
        """
        import numpy as np

        if len(self._encoded) > _MAX_ENCODED:
            self._encoded.clear()
        rows = []
        for pipeline in pipelines:
            row = self._encoded.get(pipeline.id)
            if row is None:
                row = self._encoded[pipeline.id] = np.array(self._encode_one(pipeline.values), dtype=np.float32)
            rows.append(row)
        X_NF = np.array(rows, dtype=np.float32)
        return X_NF.reshape(len(pipelines), len(self._columns)), self._columns

    @functools.cached_property
    def _encoded(self) -> dict[str, np.ndarray]:
        """Pipeline id -> its row: the same candidates are asked about again and again."""
        return {}

    @functools.cached_property
    def _columns(self) -> list[str]:
        columns: list[str] = []
        for name, domain in self.domains.items():
            columns += domain.columns(name) + ([f"{name}:active"] if domain.when else [])
        return columns

    def _encode_one(self, values: Mapping[str, Value]) -> list[float]:
        row: list[float] = []
        for name, domain in self.domains.items():
            active = values.get(name) is not None
            row += domain.coordinates(values[name] if active else domain.default)
            if domain.when:
                row.append(float(active))
        return row

    def configspace(self) -> ConfigurationSpace:
        """The same space for optimizers that speak ConfigSpace. Ordinal and categorical values keep their types."""
        from ConfigSpace import (
            CategoricalHyperparameter,
            ConfigurationSpace,
            InCondition,
            OrdinalHyperparameter,
            UniformFloatHyperparameter,
            UniformIntegerHyperparameter,
        )
        from ConfigSpace.conditions import AndConjunction

        space = ConfigurationSpace(name=self.name)
        for name, domain in self.domains.items():
            if isinstance(domain, Categorical):
                space.add(CategoricalHyperparameter(name, domain.choices, default_value=domain.default))
            elif isinstance(domain, Ordinal):
                space.add(OrdinalHyperparameter(name, domain.values, default_value=domain.default))
            elif domain.type == "int":
                low, high, default = int(domain.low), int(domain.high), int(domain.default)
                space.add(UniformIntegerHyperparameter(name, low, high, default_value=default, log=domain.log))
            else:
                space.add(
                    UniformFloatHyperparameter(
                        name, domain.low, domain.high, default_value=domain.default, log=domain.log
                    )
                )
        for name, domain in self.domains.items():
            conditions = [InCondition(space[name], space[parent], allowed) for parent, allowed in domain.when.items()]
            if conditions:
                space.add(conditions[0] if len(conditions) == 1 else AndConjunction(*conditions))
        return space

    def describe(self) -> list[dict[str, Any]]:
        """One row a hyperparameter, as `ftmeta space show --json` prints it."""
        return [{"name": name, **domain.model_dump()} for name, domain in self.domains.items()]

    def of(self, values: Mapping[str, Value]) -> Pipeline:
        """The pipeline with these values, which are known to be of the space; canonical: in the order of the space,
        with declared types, inactive ones left out."""
        kept = {name: self._canonical(name, values[name]) for name in self.domains if name in values}
        return Pipeline(self.name, {name: value for name, value in kept.items() if self.is_active(name, kept)})

    def _canonical(self, name: str, value: Value) -> Value:
        domain = self.domains[name]
        if isinstance(domain, Ordinal):
            return domain.values[domain.values.index(value)]  # type: ignore[arg-type]  # 2.0 becomes the declared 2
        if isinstance(domain, Number):
            clipped = min(max(float(value), domain.low), domain.high)
            return round(clipped) if domain.type == "int" else clipped
        return value


def load_space(name_or_path: str | Path = "lora-v1") -> Space:
    """A bundled space by its name, or the space of a YAML file. Raises SpaceError."""
    path = DATA / "spaces" / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (DATA / "spaces").glob("*.yaml")))
        raise SpaceError(f"no search space '{name_or_path}'; give one of {known}, or the path of a YAML file")
    return parse_space(_read_text(path), str(name_or_path))


def parse_space(text: str, name: str) -> Space:
    """The space of a YAML text. `name` stands in error messages. Raises SpaceError."""
    try:
        file = _SpaceFile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise SpaceError(f"search space {name}: not YAML: {_one_line(error)}") from None
    except ValidationError as error:
        raise SpaceError(f"search space {name}: {_first_problems(error)}") from None
    epochs = None if file.budget is None else file.budget.epochs
    return Space(file.name, file.max_fidelity, epochs, file.hyperparameters, text)


def load_pipeline(name_or_path: str | Path, space: Space, *, besides: tuple[str, ...] = ()) -> Pipeline:
    """The pipeline `default`, `strong-default`, or that of a YAML file with `space` and `hyperparameters`. `besides`:
    names that the caller takes itself, for the message of the SpaceError."""
    named = str(name_or_path) in NAMED_PIPELINES
    path = DATA / "pipelines" / f"{name_or_path}.yaml" if named else Path(name_or_path)
    if not path.is_file():
        choices = ", ".join((*besides, *NAMED_PIPELINES))
        raise SpaceError(f"no pipeline '{name_or_path}'; give {choices}, or the path of a YAML file")
    try:
        file = _PipelineFile.model_validate(yaml.safe_load(_read_text(path)))
    except yaml.YAMLError as error:
        raise SpaceError(f"pipeline {name_or_path}: not YAML: {_one_line(error)}") from None
    except ValidationError as error:
        raise SpaceError(f"pipeline {name_or_path}: {_first_problems(error)}") from None
    if file.space != space.name:
        raise SpaceError(f"pipeline {name_or_path} is of space '{file.space}', and '{space.name}' is in use")
    return space.validate(file.hyperparameters)


def named_pipelines(space: Space) -> dict[str, Pipeline]:
    """The published and the strong default, where `space` is theirs; none for a foreign space."""
    return {name: load_pipeline(name, space) for name in NAMED_PIPELINES} if space.name == "lora-v1" else {}


def pipeline_yaml(pipeline: Pipeline) -> str:
    """The pipeline as the YAML file that `load_pipeline` and `ftmeta finetune --pipeline` read."""
    return yaml.safe_dump({"space": pipeline.space, "hyperparameters": dict(pipeline.values)}, sort_keys=False)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpaceError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None


def _index(unit: float, n: int) -> int:
    return min(int(unit * n), n - 1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _near(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else f"; known are {', '.join(known)}"


def _first_problems(error: ValidationError) -> str:
    problems = []
    for problem in error.errors()[:3]:
        place = ".".join(str(part) for part in problem["loc"] if part not in ("categorical", "ordinal", "float", "int"))
        problems.append(f"{place or 'the file'}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)
