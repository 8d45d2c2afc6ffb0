"""Documents to a task as a job: `python -m jobs.synthesize --config FILE.yaml [--out DIR]`.

In: a YAML file with the options of `ftmeta tasks synthesize` (jobs/configs/synthesize-smoke.yaml), documents on a path
that every node sees, and a key for the endpoint, if it needs one, in $FTMETA_LLM_KEY. Out: the task, its report and the
journal in DIR, and the document of `ftmeta tasks synthesize --json` on standard output. DIR is an absolute path that
every node sees; without one it is `tasks/NAME` in the state folder of the cluster. The same job submitted again goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from pathlib import Path

from pydantic import Field

from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.shell import exit_codes, results_folder
from ftmeta.orchestrate.synthesize import synthesize
from ftmeta.synthesis.language_models import key_from_environment
from ftmeta.synthesis.settings import Synthesis


class SynthesisJob(Synthesis):
    """The content of the YAML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 for a task, 2 where too few pairs were kept for one."""
    parser = argparse.ArgumentParser(prog="python -m jobs.synthesize", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML, as jobs/configs/synthesize-smoke.yaml")
    parser.add_argument("--out", type=Path, help="the folder of the task; default: in the state folder")
    parser.add_argument("--retry-failed", action="store_true", help="ask again where the model gave no reply")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = load_config(chosen.config, SynthesisJob)
    folder = results_folder(chosen.out, f"tasks/{settings.name}")
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own words belong
        document = synthesize(settings, folder, key=key_from_environment(), retry_failed=chosen.retry_failed)
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if document["too_few"]:
        sys.stderr.write(f"error: no task was written: {document['too_few']}\n")
    return 0 if document["task"] else 2


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
