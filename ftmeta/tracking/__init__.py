"""Runs in MLflow: the only package that imports mlflow.

In: finished runs (RunResult). Out: in one experiment, a parent run for the sweep and under it one run for each
finetuning run, with the pipeline as parameters, fingerprints as tags and one value of each metric per fidelity.
Sending twice changes nothing: a run is found by its tag `run_id`.

    with tracker("sqlite:///mlflow.db", "collect").sweep(name, key, params) as sweep:
        sweep.log(result)

`sweeps.py` sends while a sweep runs, `filling.py` sends what MLflow lacks of a folder's runs, `history.py` makes a
meta-dataset of what is there, and `store.py` is what they know of MLflow.
"""

from ftmeta.tracking.sweeps import Sweep, Tracker, tracker

__all__ = ["Sweep", "Tracker", "tracker"]
