"""The Parquet store: a folder with runs.parquet, curves.parquet, tasks.parquet, space.yaml, card.md, manifest.json.

In: `RunResult`s (from a ledger), meta-features, a search space. Out: the folder, and from it a `MetaDataset` of pandas
tables. The manifest is written last and carries row counts and a fingerprint of the content that does not depend on
the order of rows, so a folder that is torn, mixed or edited is noticed when it is read.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftmeta
from ftmeta.errors import MetaDatasetError, SpaceError
from ftmeta.files import atomic_path, canonical_json, write_json, write_text
from ftmeta.hardware import HardwareProfile
from ftmeta.metadataset.scaling import Scale
from ftmeta.schema import BaseModelInfo, Budget, ModelShape, Pipeline, RunResult, Value
from ftmeta.space import Space, parse_space

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMAT = "ftmeta-metadataset"
FORMAT_VERSION = 1
TABLES = ("runs", "curves", "tasks")

MetaFeatures = Mapping[tuple[str, str], Mapping[str, float]]  # (task, base model) -> name -> value


@dataclass(frozen=True)
class MetaDataset:
    """Tables as in docs/interfaces.md, the space they are of, and the manifest."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    tasks: pd.DataFrame
    space: Space
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def budget(self) -> Budget:
        """The full budget of every run."""
        return Budget(**self.manifest["budget"])

    @property
    def shapes(self) -> dict[str, ModelShape]:
        """The base models whose shape is known; those of foreign tables are not."""
        models = self.manifest["base_models"]
        return {name: ModelShape(**entry["shape"]) for name, entry in models.items() if entry["shape"] is not None}

    @property
    def hardware(self) -> dict[str, HardwareProfile]:
        """Device, as the runs name it -> its profile; devices without one are left out."""
        return {
            device: HardwareProfile(**profile)
            for device, profile in self.manifest["hardware"].items()
            if profile is not None
        }

    @property
    def scales(self) -> dict[str, Scale]:
        """Task -> what its imported scores were in the given unit; empty where scores are as they were measured."""
        imported = self.manifest.get("imported") or {}
        return {task: Scale(**scale) for task, scale in (imported.get("scales") or {}).items()}

    def pipelines(self) -> dict[str, Pipeline]:
        """run_id -> pipeline, in the order of the runs. Raises MetaDatasetError where one does not fit the space."""
        return dict(self._pipelines)

    @functools.cached_property
    def _pipelines(self) -> dict[str, Pipeline]:
        names = self.space.hyperparameters
        columns = [self.runs[f"p_{name}"].tolist() for name in names]
        distinct: dict[tuple[tuple[str, Value], ...], Pipeline] = {}  # many runs share one
        found: dict[str, Pipeline] = {}
        for run_id, values in zip(self.runs["run_id"], zip(*columns, strict=True), strict=True):
            active = tuple((name, value) for name, value in zip(names, values, strict=True) if not _missing(value))
            try:
                if active not in distinct:
                    distinct[active] = self.space.validate(dict(active))
            except SpaceError as error:
                raise MetaDatasetError(f"run {run_id} in meta-dataset '{self.name}': {error}") from None
            found[run_id] = distinct[active]
        return found

    def metafeatures(self) -> dict[tuple[str, str], dict[str, float]]:
        """(task, base model) -> the meta-features that are known."""
        names = [name for name in self.tasks.columns if name.startswith("mf_")]
        return {
            (row["task"], row["base_model"]): {n.removeprefix("mf_"): row[n] for n in names if not _missing(row[n])}
            for row in self.tasks.to_dict("records")
        }


def write(
    directory: Path | str,
    results: Iterable[RunResult],
    *,
    space: Space,
    metafeatures: MetaFeatures,
    base_models: Mapping[str, BaseModelInfo | None],
    hardware: Mapping[str, HardwareProfile | None],
    budget: Budget,
    name: str | None = None,
) -> dict[str, Any]:
    """Writes the meta-dataset of `results` into `directory` and returns its manifest.

    `metafeatures` has an entry for each (task, base model) of the results, which may be empty; `base_models` one for
    each base model (None: nothing but its name is known), and `hardware` one for each device that the runs name (None:
    it has no profile). Other files in the folder are left alone. Raises MetaDatasetError for no runs, duplicate runs,
    and runs that do not fit `space` or `budget`.
    """
    from ftmeta.metadataset.tables import curves_table, runs_table, tasks_table

    kept = list(results)
    _check(kept, space, metafeatures, base_models, hardware, budget)
    pairs = {(result.run.task, result.run.base_model) for result in kept}
    models = {result.run.base_model for result in kept}
    tables = {
        "runs": runs_table(kept, space),
        "curves": curves_table(kept),
        "tasks": tasks_table({pair: metafeatures[pair] for pair in sorted(pairs)}),
    }
    facts = {
        "budget": asdict(budget),
        "base_models": {model: _model_entry(base_models[model]) for model in sorted(models)},
        "hardware": {
            device: None if (profile := hardware[device]) is None else asdict(profile)
            for device in sorted({result.run.device for result in kept})
        },
    }
    return _write_tables(Path(directory), tables, space, facts, name or Path(directory).resolve().name)


def write_imported(
    directory: Path | str,
    runs: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    *,
    space: Space,
    metafeatures: MetaFeatures,
    base_models: Mapping[str, BaseModelInfo],
    hardware: Mapping[str, HardwareProfile | None],
    budget: Budget,
    imported: Mapping[str, Any],
    name: str | None = None,
) -> dict[str, Any]:
    """`write` for rows that admission.py has let in: columns that their source does not say are null, base models that
    are not described have nothing but a name. `imported` (importing.py) is kept in the manifest and told in the card.
    """
    import pyarrow as pa

    from ftmeta.metadataset.tables import curves_schema, runs_schema, tasks_table

    tables = {
        "runs": pa.Table.from_pylist(list(runs), schema=runs_schema(space)),
        "curves": pa.Table.from_pylist(list(curves), schema=curves_schema()),
        "tasks": tasks_table(metafeatures),
    }
    fingerprints = {str(row["base_model"]): row["base_model_fingerprint"] for row in runs}
    facts = {
        "budget": asdict(budget),
        "base_models": {
            model: {**_model_entry(base_models.get(model)), "fingerprint": fingerprints[model]}
            for model in sorted(fingerprints)
        },
        "hardware": {device: None if found is None else asdict(found) for device, found in sorted(hardware.items())},
        "imported": dict(imported),
    }
    return _write_tables(Path(directory), tables, space, facts, name or Path(directory).resolve().name)


def is_imported(directory: Path | str) -> bool:
    """Whether the folder holds an imported meta-dataset, whole or torn."""
    try:
        return "imported" in json.loads((Path(directory) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read(directory: Path | str) -> MetaDataset:
    """Raises MetaDatasetError for a folder that is missing, torn, edited, or of a newer format."""
    import pyarrow.parquet as pq

    folder = Path(directory)
    manifest = _read_manifest(folder)
    tables: dict[str, pa.Table] = {}
    for table in TABLES:
        try:
            tables[table] = pq.read_table(folder / f"{table}.parquet")
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:160]
            raise _torn(folder, f"{table}.parquet cannot be read ({said})") from None
        if tables[table].num_rows != manifest["rows"][table]:
            raise _torn(
                folder,
                f"{table}.parquet has {tables[table].num_rows} rows and the manifest says {manifest['rows'][table]}",
            )
    try:
        space = parse_space((folder / "space.yaml").read_text(encoding="utf-8"), str(folder / "space.yaml"))
    except OSError:
        raise _torn(folder, "space.yaml is missing") from None
    if space.fingerprint != manifest["space"]["fingerprint"]:
        raise _torn(folder, "space.yaml is not the search space that the manifest names")
    absent = [name for name in space.hyperparameters if f"p_{name}" not in tables["runs"].column_names]
    if absent:
        raise _torn(folder, f"runs.parquet has no column 'p_{absent[0]}', which space '{space.name}' needs")
    if _content_fingerprint(tables, space) != manifest["fingerprint"]:
        raise _torn(folder, "the tables are not those that the manifest was made of")
    duplicates = [run for run, n in Counter(tables["runs"]["run_id"].to_pylist()).items() if n > 1]
    if duplicates:
        raise _torn(folder, f"run {duplicates[0]} is there more than once")
    runs, curves, tasks = (tables[table].to_pandas() for table in TABLES)
    return MetaDataset(runs, curves, tasks, space, manifest)


def describe(directory: Path | str) -> dict[str, Any]:
    """What is in a meta-dataset, as `ftmeta metadata describe --json` prints it; None: no table says so."""
    meta = read(directory)
    pipelines = {pipeline.id for pipeline in meta.pipelines().values()}
    cost_known = meta.runs["cost_s"].notna().any()
    return {
        "name": meta.name,
        "runs": len(meta.runs),
        "tasks": sorted(meta.runs["task"].unique().tolist()),
        "base_models": sorted(meta.runs["base_model"].unique().tolist()),
        "pipelines": len(pipelines),
        "fidelities": meta.budget.max_fidelity,
        "curve_rows": len(meta.curves),
        "statuses": meta.manifest["statuses"],
        "cost_s": round(float(meta.runs["cost_s"].sum()), 3) if cost_known else None,
        "space": meta.manifest["space"],
        "budget": meta.manifest["budget"],
        "hardware": sorted({profile.name for profile in meta.hardware.values()}),
        "imported": meta.manifest.get("imported"),
        "fingerprint": meta.fingerprint,
    }


def join(parts: Sequence[MetaDataset]) -> MetaDataset:
    """Meta-datasets of one space and budget as one; a run that is in several is kept once.

    Raises MetaDatasetError where spaces or budgets differ (their runs could not be compared), or where the same name
    stands for tasks or base models of different content. What is computed of them (meta-features, reference learning
    rates) may differ a little from machine to machine, and profiles of hardware change; there the first part counts.
    """
    import pyarrow as pa

    if not parts:
        raise MetaDatasetError("no meta-dataset to join; name at least one folder")
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    content: dict[tuple[str, ...], tuple[str, Any]] = {}  # what has a name -> the first part with it, its fingerprint
    models: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    for part in parts:
        _require_same_scales(first, part)
        for what in ("space", "budget"):
            if part.manifest[what] != first.manifest[what]:
                raise MetaDatasetError(
                    f"meta-dataset '{part.name}' has another {what} than '{first.name}' ({part.manifest[what]} and "
                    f"{first.manifest[what]}); runs of different {what} cannot be compared, so keep them apart"
                )
        for named, made_of in _contents(part).items():
            other, known = content.setdefault(named, (part.name, made_of))
            if known != made_of:
                raise MetaDatasetError(
                    f"{' '.join(named)} has another content in meta-dataset '{part.name}' than in '{other}' (their "
                    "fingerprints differ), so their runs cannot be compared; give one of them another name"
                )
        for model, entry in part.manifest["base_models"].items():
            models.setdefault(model, entry)
        for device, profile in part.manifest["hardware"].items():
            hardware.setdefault(device, profile)
    tables = {}
    for table, key in (("runs", ["run_id"]), ("curves", ["run_id", "fidelity"]), ("tasks", ["task", "base_model"])):
        joined = _sorted_unique([getattr(part, table) for part in parts], key)
        tables[table] = pa.Table.from_pandas(joined, schema=_schema(table, first.space, joined), preserve_index=False)
    facts = {"budget": first.manifest["budget"], "base_models": models, "hardware": hardware}
    imports = [part.manifest["imported"] for part in parts if part.manifest.get("imported")]
    if imports:
        scales = {task: asdict(scale) for part in parts for task, scale in part.scales.items()}
        facts["imported"] = {
            "source": "; ".join(dict.fromkeys(one["source"] for one in imports)),
            "scales": scales or None,
            "rejected": dict(sum((Counter(one["rejected"]) for one in imports), Counter())),
            "notes": list(dict.fromkeys(note for one in imports for note in one["notes"])),
        }
    return _dataset(tables, first.space, facts, name="+".join(dict.fromkeys(part.name for part in parts)))


def _require_same_scales(one: MetaDataset, other: MetaDataset) -> None:
    """Imported scores are comparable where they were put onto [0, 1] in the same way."""
    for task in sorted(set(one.runs["task"]) & set(other.runs["task"])):
        pair = [scales.get(task) for scales in (one.scales, other.scales)]
        ends = [None if scale is None else (scale.low, scale.high) for scale in pair]
        if ends[0] != ends[1]:
            raise MetaDatasetError(
                f"scores of task '{task}' are on another scale in meta-dataset '{other.name}' than in '{one.name}' "
                f"({ends[1]} and {ends[0]}); import their tables together, as one"
            )


def _contents(part: MetaDataset) -> dict[tuple[str, ...], Any]:
    """What the names in a meta-dataset stand for: the fingerprints of its base models, and of its tasks."""
    contents: dict[tuple[str, ...], Any] = {
        ("base model", model): entry["fingerprint"] for model, entry in part.manifest["base_models"].items()
    }
    names = ("task", "base_model", "task_fingerprint", "base_model_fingerprint")
    columns = [["" if _missing(cell) else cell for cell in part.runs[name]] for name in names]
    for task, model, *made_of in sorted(set(zip(*columns, strict=True))):
        contents.setdefault(("task", task, "with", model), []).append(made_of)
    return contents


def _sorted_unique(frames: list[pd.DataFrame], key: list[str]) -> pd.DataFrame:
    import pandas as pd

    joined = pd.concat([frame.dropna(axis=1, how="all") for frame in frames], ignore_index=True)
    for column in frames[0].columns:
        if column not in joined:
            joined[column] = None
    joined = joined[list(dict.fromkeys(column for frame in frames for column in frame.columns))]
    return joined.drop_duplicates(key).sort_values(key, ignore_index=True)


def _schema(table: str, space: Space, frame: pd.DataFrame) -> pa.Schema:
    from ftmeta.metadataset.tables import curves_schema, runs_schema, tasks_schema

    if table == "runs":
        return runs_schema(space)
    if table == "curves":
        return curves_schema()
    return tasks_schema(column.removeprefix("mf_") for column in frame.columns if column.startswith("mf_"))


def _check(
    results: list[RunResult],
    space: Space,
    metafeatures: MetaFeatures,
    base_models: Mapping[str, BaseModelInfo | None],
    hardware: Mapping[str, HardwareProfile | None],
    budget: Budget,
) -> None:
    if not results:
        raise MetaDatasetError("there are no runs to write; collect some first")
    run_id, times = Counter(result.run.run_id for result in results).most_common(1)[0]
    if times > 1:
        raise MetaDatasetError(f"run {run_id} is given {times} times; give each run once")
    for result in results:
        run = result.run
        if run.max_fidelity != budget.max_fidelity or run.space != space.name:
            raise MetaDatasetError(
                f"run {run.run_id} has {run.max_fidelity} fidelities in space '{run.space}', and the meta-dataset is "
                f"of {budget.max_fidelity} in '{space.name}'; write runs of one kind into one meta-dataset"
            )
        try:
            space.validate(run.pipeline.values)
        except SpaceError as error:
            raise MetaDatasetError(f"run {run.run_id}: {error}") from None
        if (run.task, run.base_model) not in metafeatures:
            raise MetaDatasetError(f"no meta-features are given for task '{run.task}' with '{run.base_model}'")
        if run.base_model not in base_models:
            raise MetaDatasetError(f"base model '{run.base_model}' of run {run.run_id} is not described")
        if run.device not in hardware:
            raise MetaDatasetError(f"the hardware of device '{run.device}' of run {run.run_id} is not given")


def _model_entry(info: BaseModelInfo | None) -> dict[str, Any]:
    if info is None:
        return {"shape": None, "reference_lr": None, "fingerprint": None, "licence": "unknown"}
    return {
        "shape": asdict(info.shape),
        "reference_lr": info.reference_lr,
        "fingerprint": info.fingerprint,
        "licence": info.licence,
    }


def _dataset(tables: dict[str, pa.Table], space: Space, facts: dict[str, Any], name: str) -> MetaDataset:
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "fingerprint": _content_fingerprint(tables, space),
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        **facts,
        "rows": {table: tables[table].num_rows for table in TABLES},
        "statuses": dict(sorted(Counter(tables["runs"]["status"].to_pylist()).items())),
        "code_versions": sorted(set(tables["runs"]["code_version"].to_pylist()) - {None}),
        "ftmeta_version": ftmeta.__version__,
    }
    runs, curves, tasks = (tables[table].to_pandas() for table in TABLES)
    return MetaDataset(runs, curves, tasks, space, manifest)


def _write_tables(
    folder: Path, tables: dict[str, pa.Table], space: Space, facts: dict[str, Any], name: str
) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from ftmeta.metadataset.about import load_about
    from ftmeta.metadataset.card import card

    about = load_about(folder)  # a malformed one is said before anything is written
    meta = _dataset(tables, space, facts, name)
    folder.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        with atomic_path(folder / f"{table}.parquet") as path:
            pq.write_table(tables[table], path, compression="zstd")
    write_text(folder / "space.yaml", space.yaml_text)
    write_text(folder / "card.md", card(meta, about))
    write_json(folder / "manifest.json", meta.manifest)  # last: until it is there, the folder reads as torn
    return meta.manifest


def _content_fingerprint(tables: Mapping[str, pa.Table], space: Space) -> str:
    """A 16-digit SHA-256 over the sorted rows of all tables and the space; null cells and column order do not count."""
    digest = hashlib.sha256(space.fingerprint.encode())
    for table in TABLES:
        rows = [{k: v for k, v in row.items() if v is not None} for row in tables[table].to_pylist()]
        for line in sorted(map(canonical_json, rows)):
            digest.update(hashlib.sha256(line.encode()).digest())
    return digest.hexdigest()[:16]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise MetaDatasetError(
            f"{folder} is no meta-dataset (it has no manifest.json); name a folder that `ftmeta collect` has made"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError):
        raise _torn(folder, "manifest.json is not a manifest") from None
    if not known or version != FORMAT_VERSION:
        raise MetaDatasetError(
            f"{folder} has format {manifest['format']!r} version {version}, and this version reads {FORMAT!r} version "
            f"{FORMAT_VERSION}; update ftmeta or collect again"
        )
    return dict(manifest)


def _torn(folder: Path, why: str) -> MetaDatasetError:
    return MetaDatasetError(f"meta-dataset {folder} is torn: {why}; write it again from its ledger or its source")


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN is the only value that differs from itself
