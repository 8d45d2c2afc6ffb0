"""From a meta-dataset's name to its tables: `load("phi3-micro")`, one pandas frame of it, one `datasets.Dataset`.

meta = load("spine")                  # a bundled name, or the folder of one
curves = to_pandas(meta)              # one row a run and fidelity, with hyperparameters and meta-features
dataset = to_dataset(meta)            # the same for those who work with `datasets`
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ftmeta.errors import MetaDatasetError
from ftmeta.files import DATA
from ftmeta.metadataset.store import MetaDataset, read

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa

_FOLDER = DATA / "meta"
# Columns that a run has beside those of its curve points, under names that tell them apart.
_OF_RUN = {"fidelity": "run_fidelity", "cost_s": "run_cost_s", "wall_s": "run_wall_s"}


def bundled_metadatasets() -> list[str]:
    """The names of the bundled meta-datasets, sorted."""
    return sorted(manifest.parent.name for manifest in _FOLDER.glob("*/manifest.json"))


def find(name_or_folder: str | Path) -> Path:
    """The folder of a meta-dataset: a bundled one by its name, or any by its path (`./spine` is always a path).

    Raises MetaDatasetError where there is neither.
    """
    names = bundled_metadatasets()
    if str(name_or_folder) in names:
        return _FOLDER / str(name_or_folder)
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise MetaDatasetError(
            f"no meta-dataset '{name_or_folder}'; give {', '.join(names)}, or a folder that `ftmeta collect` has made"
        )
    return folder


def load(name_or_folder: str | Path) -> MetaDataset:
    """Raises MetaDatasetError for a name that is not known, and for a folder that is missing, torn or edited."""
    return read(find(name_or_folder))


def to_pandas(meta: MetaDataset) -> pd.DataFrame:
    """One row a run and fidelity: what curves.parquet has, then the run (its total cost and last fidelity are
    `run_cost_s`, `run_wall_s` and `run_fidelity`), its hyperparameters `p_<name>` and its task's `mf_<name>`.

    A run without a curve has one row without a fidelity. Types do not depend on the rows: whole numbers are Int64, and
    what is not known, or inactive, is missing. Rows are in the order of the runs.
    """
    runs = meta.runs.rename(columns=_OF_RUN)
    runs = runs.assign(_order=range(len(runs)))
    joined = runs.merge(meta.curves, on="run_id", how="left").merge(meta.tasks, on=["task", "base_model"], how="left")
    joined = joined.sort_values(["_order", "fidelity"], kind="stable", ignore_index=True)
    kinds = _kinds(meta)
    return joined[list(kinds)].astype({name: _PANDAS[kind] for name, kind in kinds.items()})


def to_dataset(meta: MetaDataset) -> datasets.Dataset:
    """`to_pandas(meta)` as a `datasets.Dataset` in memory, with the card as its description."""
    import datasets
    import pyarrow as pa

    from ftmeta.metadataset.card import card

    kinds = _kinds(meta)
    schema = pa.schema([(name, _arrow(kind)) for name, kind in kinds.items()])
    table = pa.Table.from_pandas(to_pandas(meta), schema=schema, preserve_index=False)
    info = datasets.DatasetInfo(description=card(meta), features=datasets.Features.from_arrow_schema(schema))
    return datasets.Dataset(table, info=info)


_PANDAS = {"text": "object", "whole": "Int64", "number": "float64"}


def _arrow(kind: str) -> pa.DataType:
    import pyarrow as pa

    return {"text": pa.string(), "whole": pa.int64(), "number": pa.float64()}[kind]


def _kinds(meta: MetaDataset) -> dict[str, str]:
    """Column -> `text`, `whole` or `number`, in the order of the joined table."""
    import pyarrow as pa

    from ftmeta.metadataset.tables import curves_schema, runs_schema

    names = {pa.string(): "text", pa.int64(): "whole", pa.float64(): "number"}
    run_columns = {_OF_RUN.get(field.name, field.name): names[field.type] for field in runs_schema(meta.space)}
    curve_columns = {field.name: names[field.type] for field in curves_schema()}
    keys = ["run_id", "task", "base_model", "seed", "status"]
    hyperparameters = [name for name in run_columns if name.startswith("p_")]
    of_run = [name for name in run_columns if name not in {*keys, *hyperparameters}]
    features = [name for name in meta.tasks.columns if name.startswith("mf_")]
    return {
        **{name: run_columns[name] for name in keys},
        **curve_columns,
        **{name: run_columns[name] for name in (*of_run, *hyperparameters)},
        **dict.fromkeys(features, "number"),
    }
