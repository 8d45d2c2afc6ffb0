"""A selector as what MLflow's registry keeps: a model folder, its signature, its card and its tags.

In: a folder of `ftmeta metatrain`. Out: a pyfunc model of safetensors, JSON, YAML and one file of code
(selector_model.py); nothing is pickled.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import ftmeta
from ftmeta.files import fingerprint
from ftmeta.surrogates import Surrogates
from ftmeta.version import code_version

FOLDER = "selector"  # of the model among a run's artifacts, and of the selector in the model


def save_model(folder: Path, scratch: Path, text: str) -> Path:
    """A folder as MLflow keeps models in."""
    from mlflow import pyfunc

    copied = scratch / FOLDER
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (copied / "card.md").write_text(text, encoding="utf-8")
    model = scratch / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on signatures, which this one has
        pyfunc.save_model(
            str(model),
            python_model=str(Path(__file__).parent / "selector_model.py"),
            artifacts={FOLDER: str(copied)},
            signature=signature(),
            pip_requirements=[f"ftmeta=={ftmeta.__version__}"],
        )
    return model


def signature() -> Any:
    """What goes into the model and what comes out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Map

    number, text, count = DataType.double, DataType.string, DataType.long
    asked: list[Any] = [
        ColSpec(Map(number), "metafeatures"),
        ColSpec(text, "base_model"),
        ColSpec(text, "hardware", required=False),
        ColSpec(number, "budget_s", required=False),
    ]
    answered: list[Any] = [
        ColSpec(count, "question"),
        ColSpec(count, "place"),
        ColSpec(text, "pipeline"),
        *(ColSpec(number, name) for name in ("score", "score_low", "score_high", "cost_s")),
        ColSpec(number, "cost_usd", required=False),
    ]
    return ModelSignature(Schema(asked), Schema(answered), ParamSchema([ParamSpec("top_k", count, 5)]))


def card(surrogates: Surrogates) -> str:
    """The model card: what it is, what it learned from, how good it is, and where it should not be trusted."""
    of, budget, quality = surrogates.meta_dataset, surrogates.budget, surrogates.quality
    hardware = "unknown hardware" if surrogates.hardware is None else surrogates.hardware.description
    measured = (
        f"Kendall's tau {_said(quality.get('kendall_tau'))}, negative log-likelihood {_said(quality.get('nll'))}, "
        f"coverage of the 80 % interval {_said(quality.get('coverage_80'))}, "
        f"median relative error of the cost {_said(quality.get('cost_mdape'))}"
    )
    learned = f"{surrogates.runs} runs of {len(surrogates.tasks)} tasks ({', '.join(surrogates.tasks)})"
    return f"""# Selector {surrogates.version}

Recommends finetuning pipelines of the search space `{surrogates.space.name}` for a dataset, with scores and costs.

- Learned from the meta-dataset `{of["name"]}` (fingerprint `{of["fingerprint"]}`): {learned} on {hardware}.
- Base models: {", ".join(surrogates.base_models)}. Others get wider intervals and a warning.
- For runs of {budget.epochs:g} passes over the data, with {budget.eval_examples} examples scored at each fidelity.
- On tasks that were left out: {measured}.
- Limits: it knows these tasks, and says so where another is far from them. Made by ftmeta {code_version()}.
"""


def _said(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def tags_of(surrogates: Surrogates, content: str) -> dict[str, str]:
    measured = {f"quality.{name}": str(value) for name, value in surrogates.quality.items() if value is not None}
    return {
        "content": content,
        "selector_version": surrogates.version,
        "meta_dataset": surrogates.meta_dataset["name"],
        "meta_dataset_fingerprint": surrogates.meta_dataset["fingerprint"],
        "tasks": ", ".join(surrogates.tasks)[:4000],
        "runs": str(surrogates.runs),
        "base_models": ", ".join(surrogates.base_models),
        "space": surrogates.space.name,
        "code_version": code_version(),
        **measured,
    }


def content_of(folder: Path) -> str:
    """What the files say, whoever wrote them and when."""
    names = ("arrays.safetensors", "space.yaml", "surrogates.json")
    return fingerprint({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})
