"""A sweep as a job: `python -m jobs.collect --config jobs/configs/collect-smoke.yaml [--out DIR]`.

In: a sweep file. Out: the meta-dataset and its ledger in DIR, runs in MLflow, and the summary as JSON on standard
output. DIR is an absolute path that every node sees; without one it is `metadata/<name of the sweep>` in the state
folder of the cluster. Submitting the same sweep again goes on where it stopped; `ray job stop` keeps what is finished.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from pathlib import Path

from ftmeta.orchestrate.collect import collect_file
from ftmeta.orchestrate.shell import exit_codes, results_folder
from ftmeta.orchestrate.sweep import load_sweep


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 all planned runs have a row, 1 the sweep was stopped before that."""
    parser = argparse.ArgumentParser(prog="python -m jobs.collect", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the sweep, as jobs/configs/collect-smoke.yaml")
    parser.add_argument("--out", type=Path, help="the folder of the meta-dataset; default: in the state folder")
    parser.add_argument("--retry-failed", action="store_true", help="run those again that ended with error or oom")
    parser.add_argument("--known", action="append", default=[], help="a meta-dataset whose runs count as made")
    parser.add_argument("--tracking-uri", help="where MLflow keeps the runs; default: $MLFLOW_TRACKING_URI, else off")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder = results_folder(chosen.out, f"metadata/{load_sweep(chosen.config).name}")
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own words belong
        summary = collect_file(
            chosen.config,
            folder,
            retry_failed=chosen.retry_failed,
            tracking_uri=chosen.tracking_uri,
            known=chosen.known,
        )
    sys.stdout.write(json.dumps({**summary, "out": str(folder)}, indent=2) + "\n")
    return 1 if summary["interrupted"] else 0


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
