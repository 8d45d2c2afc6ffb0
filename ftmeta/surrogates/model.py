"""The surrogates of one meta-dataset together, and the folder they are kept in.

Out of `metatrain`; a folder has `surrogates.json` (what they are, where they come from), `arrays.safetensors` (what
they learned) and `space.yaml`. Nothing is pickled, and loading needs no torch.

Array legend: N pipelines, T fidelities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import ftmeta
from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import atomic_path, fingerprint
from ftmeta.hardware import HardwareProfile
from ftmeta.schema import BaseModelInfo, Budget, ModelShape, Pipeline
from ftmeta.space import Space, parse_space
from ftmeta.surrogates.cost import CostSurrogate
from ftmeta.surrogates.features import Context, FeatureMap
from ftmeta.surrogates.gp import TransferGP
from ftmeta.surrogates.performance import Observation, PerformanceSurrogate, TaskScale

FORMAT = "ftmeta-surrogates"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Source:
    """A task that the surrogates have learned from."""

    task: str
    base_model: str
    metafeatures: Mapping[str, float]


@dataclass(frozen=True)
class Surrogates:
    performance: PerformanceSurrogate
    cost: CostSurrogate
    space: Space
    budget: Budget  # of every run they learned from, and so of every run they speak of
    sources: tuple[Source, ...]
    shapes: Mapping[str, ModelShape]  # of the base models in the meta-dataset, where known
    pipelines: tuple[Pipeline, ...]  # the distinct ones of the meta-dataset
    hardware: HardwareProfile | None  # that the runs were made on
    meta_dataset: Mapping[str, str]  # name, fingerprint
    runs: int
    seed: int
    quality: Mapping[str, float | None]  # leaving one task out; see quality.py

    @property
    def tasks(self) -> list[str]:
        return sorted({source.task for source in self.sources})

    @property
    def base_models(self) -> list[str]:
        return sorted({source.base_model for source in self.sources})

    @property
    def version(self) -> str:
        """Twelve digits that say what was learned, from what and how."""
        made_of = {
            "meta_dataset": self.meta_dataset["fingerprint"],
            "tasks": self.tasks,
            "seed": self.seed,
            "format": FORMAT_VERSION,
            "ftmeta": ftmeta.__version__,
        }
        return fingerprint(made_of)[:12]

    def predict_curve(
        self,
        pipelines: Sequence[Pipeline],
        metafeatures: Mapping[str, float],
        base_model: BaseModelInfo | None,
        observations: Sequence[Observation] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """mean_NT and deviation_NT of the scores, in [0, 1], at fidelities 1..T.

        `observations` are scores seen on this very task; they condition the prediction, nothing is refitted.
        """
        return self.performance.predict(pipelines, _context(metafeatures, base_model), observations)

    def expected_curve(
        self, pipelines: Sequence[Pipeline], metafeatures: Mapping[str, float], base_model: BaseModelInfo | None
    ) -> np.ndarray:
        """mean_NT of `predict_curve` before anything is seen, which takes far less than the deviation."""
        return self.performance.expected(pipelines, _context(metafeatures, base_model))

    def predict_cost(
        self,
        pipelines: Sequence[Pipeline],
        metafeatures: Mapping[str, float],
        base_model: BaseModelInfo | None,
        hardware: HardwareProfile | None = None,
    ) -> np.ndarray:
        """Cumulative device-seconds at fidelities 0..T (T + 1 columns) on `hardware`, or on what the runs were made on.

        Raises DataError when meta-features that the cost depends on are missing.
        """
        return self.cost.predict(pipelines, _context(metafeatures, base_model), hardware or self.hardware)

    def save(self, directory: Path | str) -> None:
        """Raises UserError rather than replace a folder that holds something else."""
        from safetensors.numpy import save_file

        target = Path(directory)
        require_place(target)
        arrays, document = self._to_parts()
        with atomic_path(target) as folder:
            folder.mkdir()
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / "arrays.safetensors")
            (folder / "space.yaml").write_text(self.space.yaml_text, encoding="utf-8")
            text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
            (folder / "surrogates.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> Surrogates:
        """Raises UserError for a folder that is missing, broken, or not of this version."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(directory)
        path = folder / "surrogates.json"
        if not path.is_file():
            raise UserError(
                f"{folder} holds no surrogates (no surrogates.json); name a folder that `ftmeta metatrain` made"
            )
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document.get("format"), document.get("format_version")
        except (ValueError, AttributeError) as error:
            raise _broken(folder, error) from None
        if found != (FORMAT, FORMAT_VERSION):
            raise UserError(
                f"{folder} has format {found[0]!r} version {found[1]!r}, and this version reads {FORMAT!r} version "
                f"{FORMAT_VERSION}; run `ftmeta metatrain` again"
            )
        try:
            space = parse_space((folder / "space.yaml").read_text(encoding="utf-8"), str(folder / "space.yaml"))
            return _from_parts(load_file(folder / "arrays.safetensors"), document, space)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, FtmetaError) as error:
            raise _broken(folder, error) from None

    def _to_parts(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        performance, cost = self.performance, self.cost
        maps = {"performance": performance.features, "cost": cost.features, "scale": performance.scale.features}
        processes = {"performance": performance.process, "cost": cost.process}
        arrays: dict[str, np.ndarray] = {
            "scale.mean_2": performance.scale.mean_2,
            "scale.weight_F2": performance.scale.weight_F2,
            "scale.variance_2": performance.scale.variance_2,
            "calibration.edges_2": performance.calibration_edges_2,
            "calibration.factor_3": performance.calibration_factor_3,
        }
        for part, features in maps.items():
            if features is not None:
                arrays |= {f"{part}.features.{name}": getattr(features, name) for name in _MAP_ARRAYS}
        for part, process in processes.items():
            arrays |= {f"{part}.gp.{name}": getattr(process, name) for name in _GP_ARRAYS}
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "meta_dataset": dict(self.meta_dataset),
            "runs": self.runs,
            "seed": self.seed,
            "quality": dict(self.quality),
            "budget": asdict(self.budget),
            "hardware": None if self.hardware is None else asdict(self.hardware),
            "base_models": {name: asdict(shape) for name, shape in self.shapes.items()},
            "sources": [
                {"task": s.task, "base_model": s.base_model, "metafeatures": dict(s.metafeatures)} for s in self.sources
            ],
            "features": {
                part: None if f is None else {"task_features": f.task_features, "counts": f.counts}
                for part, f in maps.items()
            },
            "gp": {part: {name: getattr(p, name) for name in _GP_NUMBERS} for part, p in processes.items()},
            "analytic_cost": cost.analytic,
            "pipelines": [dict(pipeline.values) for pipeline in self.pipelines],
        }
        return arrays, document


def require_place(target: Path) -> None:
    """Raises UserError where something is that surrogates must not replace; other surrogates they may."""
    if target.exists() and not (target / "surrogates.json").is_file() and (target.is_file() or any(target.iterdir())):
        raise UserError(f"{target} exists and holds no surrogates; name a new folder")


_MAP_ARRAYS = ("mean_F", "deviation_F", "low_F", "high_F")
_GP_NUMBERS = ("shared", "own", "noise")
_GP_ARRAYS = tuple(field.name for field in fields(TransferGP) if field.name not in _GP_NUMBERS)


def _from_parts(arrays: Mapping[str, np.ndarray], document: Mapping[str, Any], space: Space) -> Surrogates:
    budget = Budget(**document["budget"])

    def features(part: str) -> FeatureMap | None:
        known = document["features"][part]
        if known is None:
            return None
        names = tuple(known["task_features"]), tuple(known["counts"])
        found: dict[str, Any] = {name: arrays[f"{part}.features.{name}"] for name in _MAP_ARRAYS}
        return FeatureMap(space, budget, *names, **found)

    def process(part: str) -> TransferGP:
        found: dict[str, Any] = {name: arrays[f"{part}.gp.{name}"] for name in _GP_ARRAYS}
        return TransferGP(**found, **document["gp"][part])

    scale = TaskScale(features("scale"), *(arrays[f"scale.{name}"] for name in ("mean_2", "weight_F2", "variance_2")))
    of_performance, of_cost = features("performance"), features("cost")
    if of_performance is None or of_cost is None:
        raise ValueError("features are missing")
    calibration = arrays["calibration.edges_2"], arrays["calibration.factor_3"]
    hardware = document["hardware"]
    return Surrogates(
        performance=PerformanceSurrogate(of_performance, process("performance"), scale, *calibration),
        cost=CostSurrogate(of_cost, process("cost"), document["analytic_cost"]),
        space=space,
        budget=budget,
        sources=tuple(Source(**source) for source in document["sources"]),
        shapes={name: ModelShape(**shape) for name, shape in document["base_models"].items()},
        pipelines=tuple(space.validate(values) for values in document["pipelines"]),
        hardware=None if hardware is None else HardwareProfile(**hardware),
        meta_dataset=document["meta_dataset"],
        runs=document["runs"],
        seed=document["seed"],
        quality=document["quality"],
    )


def _context(metafeatures: Mapping[str, float], base_model: BaseModelInfo | None) -> Context:
    return Context(metafeatures, None if base_model is None else base_model.shape)


def _broken(folder: Path, error: Exception) -> UserError:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return UserError(f"the surrogates in {folder} are broken ({said}); run `ftmeta metatrain` again")
