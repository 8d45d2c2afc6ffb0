"""`ftmeta metadata from-mlflow`: a meta-dataset from the runs of an MLflow experiment.

    document = import_experiment("sqlite:///mlflow.db", "collect", load_space(), Path("history"), Names())

Runs that ftmeta has sent come back as they are in MLflow, and are completed by what this machine knows: the base model
and the meta-features of the bundled tasks, where their fingerprints are those of the runs. Runs of others are read by
the names that the user gives (reading.py). Every row is checked as one of a table is (metadataset/admission.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError, ModelError, UserError
from ftmeta.hardware import profile_of
from ftmeta.metadataset.admission import Admitted, Key, Rules, admit
from ftmeta.metadataset.importing import Origin, keep, require_place
from ftmeta.schema import BaseModelInfo
from ftmeta.space import Space
from ftmeta.tracking.reading import Found, Names, read_runs
from ftmeta.tracking.rows import open_for_reading
from ftmeta.tracking.store import Store, first_line, is_remote, shown


def import_experiment(
    uri: str,
    experiment: str,
    space: Space,
    out: Path | str,
    names: Names,
    *,
    name: str | None = None,
    one_scale: bool = False,
) -> dict[str, Any]:
    """Imports an experiment into the folder `out`; the document of `ftmeta metadata from-mlflow --json`.

    Raises UserError for an experiment that is not there and a metric that no run has, DataError when no run is left,
    and FtmetaError when MLflow does not answer.
    """
    require_place(Path(out))
    found = _read(uri, experiment, space, names)
    if found.metrics and names.score_metric not in found.metrics:
        has = ", ".join(metric for metric, _ in found.metrics.most_common(20))
        raise UserError(
            f"no run of experiment '{experiment}' has the metric '{names.score_metric}'; name one with --score: {has}"
        )
    budget = found.budget or space.budget()
    rules = Rules(budget.max_fidelity, first_fidelity=0, may_lack_score=True)
    admitted = admit(found.runs, found.curves, space, rules)
    devices = sorted({row["device"] for row in admitted.runs if row["device"] is not None})
    base_models = _base_models(admitted)
    origin = Origin(
        source=f"the MLflow experiment '{experiment}'",
        budget=budget,
        base_models=base_models,
        hardware={device: profile_of(device) for device in devices},
        metafeatures=_metafeatures(admitted, base_models),
        notes=_notes(found, names),
    )
    document = keep(admitted, space, origin, out, name=name, one_scale=one_scale)
    return {**document, "cost_by_clock": found.cost_by_clock}


def _read(uri: str, experiment: str, space: Space, names: Names) -> Found:
    client = open_for_reading(uri)
    try:
        there = client.get_experiment_by_name(experiment)
        if there is not None:
            opened = Store(client, there.experiment_id, lambda cost_s, device: None, is_remote=is_remote(uri))
            return read_runs(opened, space, names)
        known = [one.name for one in client.search_experiments(max_results=20)]
    except Exception as error:
        raise FtmetaError(f"MLflow at {shown(uri)} does not answer as it should: {first_line(error)}") from None
    raise UserError(f"MLflow at {shown(uri)} has no experiment '{experiment}'; it has {', '.join(known)}")


def _notes(found: Found, names: Names) -> Sequence[str]:
    notes = []
    if names.score_metric != "score":
        turned = " with its sign turned round" if names.score.startswith("-") else ""
        notes.append(f"The score is the metric `{names.score_metric}`{turned}.")
    if found.cost_by_clock:
        notes.append(
            f"{found.cost_by_clock} runs have no metric `{names.cost}`: their cost is the seconds that the run's clock "
            "shows, on however many devices, with all waiting."
        )
    return notes


# --- what this machine knows of ftmeta's own runs ---------------------------------------------------------------------


def _base_models(admitted: Admitted) -> dict[str, BaseModelInfo]:
    """The base models that lie on this machine and are the ones that the runs were made with."""
    from ftmeta.models import describe, local_folder

    made_with = {(row["base_model"], row["base_model_fingerprint"]) for row in admitted.runs}
    found = {}
    for model, made_of in sorted((model, made_of) for model, made_of in made_with if made_of is not None):
        folder = local_folder(model)
        try:
            described = None if folder is None else describe(folder, model)
        except ModelError:  # a damaged copy; nothing but its name is known then
            continue
        if described is not None and described.fingerprint == made_of:
            found[model] = described
    return found


def _metafeatures(admitted: Admitted, base_models: Mapping[str, BaseModelInfo]) -> dict[Key, dict[str, float]]:
    """Those of the bundled tasks that the runs were made on, with base models that lie on this machine."""
    from ftmeta.metafeatures import metafeatures, zero_shot
    from ftmeta.models import fast_tokenizer
    from ftmeta.tasks import load_task
    from ftmeta.tasks.bundled import bundled_tasks, card_json

    before = {
        point["run_id"]: (point["val_nll"], point["val_token_accuracy"])
        for point in admitted.curves
        if point["fidelity"] == 0 and point["val_nll"] is not None and point["val_token_accuracy"] is not None
    }
    found: dict[Key, dict[str, float]] = {}
    measured: dict[Key, list[tuple[float, float]]] = {}
    for row in admitted.runs:
        key = task, model = row["task"], row["base_model"]
        if model not in base_models or task not in bundled_tasks():
            continue
        if row["task_fingerprint"] != card_json(task)["fingerprint"]:
            continue
        if row["run_id"] in before:
            measured.setdefault(key, []).append(before[row["run_id"]])
        if key not in found:
            found[key] = metafeatures(load_task(task), fast_tokenizer(base_models[model]))
    for key, points in measured.items():
        found[key] |= zero_shot(*sorted(points)[len(points) // 2])  # all agree, but for rounding on different devices
    return found
