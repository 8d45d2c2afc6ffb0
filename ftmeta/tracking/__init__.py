"""Runs in MLflow: the only package that imports mlflow.

In: finished runs (RunResult). Out: in one experiment, a parent run for the sweep and under it one run for each
finetuning run, with the pipeline as parameters, fingerprints as tags and one value of each metric per fidelity.
Sending twice changes nothing: a run is found by its tag `run_id`.

    with tracker("sqlite:///mlflow.db", "collect").sweep(name, key, params) as sweep:
        sweep.log(result)

Writing: `sweeps.py` sends while work runs, `works.py` what has ended, `filling.py` what MLflow lacks of a folder;
`scheme.py` has the names and `store.py` what they know of MLflow. Reading: `rows.py` the runs of an experiment, which
`spending.py` sums up and `report.py` makes a page of; `history.py` makes a meta-dataset of them. `registry.py` is for
selectors, `machine.py` for system metrics, `pages.py` for MLflow's own pages.
"""

from ftmeta.tracking.scheme import BENCHMARK, METATRAINING, SWEEP, TUNING, Dataset, Prediction
from ftmeta.tracking.sweeps import Sweep, Tracker, tracker

__all__ = [
    "BENCHMARK",
    "METATRAINING",
    "SWEEP",
    "TUNING",
    "Dataset",
    "Prediction",
    "Sweep",
    "Tracker",
    "tracker",
]
