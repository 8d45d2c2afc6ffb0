"""Tunes a finetuning script that knows nothing of ftmeta, with the selector service (`ftmeta serve`).

    python examples/tune_any_script.py DATA --budget-s 30 -- \\
        python examples/finetune_bigrams.py --data {data} --learning-rate {learning_rate} --rank {lora_rank} \\
        --alpha {alpha_per_rank} --batch-size {batch_size} --until {fidelity} --checkpoint {folder}/{id}.npz

What stands after `--` is the script's command line. In it {name} becomes a hyperparameter's value, {learning_rate} the
rate that lr_multiplier stands for, {fidelity} how far to train (of 10), {continue_from} how far it is trained already,
{id} twelve digits that name the pipeline, {data} the dataset and {folder} where checkpoints may lie. The script prints
scores in [0, 1], higher is better, as `score 0.42`, of which the last counts; one that fails has diverged.

DATA is JSON lines with the columns `question` and `answer`. What was seen is kept in the folder, and a second call goes
on from there. Out: each step as it is made, and the best pipeline as JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from ftmeta.client import Client, Step, Tuning
from ftmeta.errors import FtmetaError, UserError

SCORE = re.compile(r"\bscore\W+([0-9.]+(?:e-?[0-9]+)?)", re.IGNORECASE)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget-s", type=float, required=True, help="CPU- or device-seconds for everything")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, default=Path("tuning"), help="for checkpoints and what was seen")
    parser.add_argument("--method", action="append", help="PEFT methods that the script can do; default: lora")
    parser.add_argument("command", nargs="+", help="the script's command line, after --")
    chosen = parser.parse_args(arguments)

    chosen.folder.mkdir(parents=True, exist_ok=True)
    journal = chosen.folder / "observations.json"
    seen = json.loads(journal.read_text(encoding="utf-8")) if journal.exists() else []
    rows = [json.loads(line) for line in chosen.data.read_text(encoding="utf-8").splitlines() if line.strip()]
    only = {"peft_method": chosen.method or ["lora"]}
    tuning = Tuning(budget_s=chosen.budget_s, records=rows, only=only, observations=seen)
    with Client(chosen.url) as client:
        while (step := tuning.ask(client)) is not None:
            score, cost_s = run(chosen.command, step, chosen.data, chosen.folder)
            tuning.tell(step, score, cost_s)
            said = "failed" if score is None else f"scores {score:.4f}"
            sys.stderr.write(f"{step.id} to {step.fidelity:2d}  {said}  in {cost_s:.2f} s\n")
            keep(journal, tuning.observations)
    sys.stdout.write(json.dumps(tuning.best, indent=2) + "\n")
    return 0


def run(command: list[str], step: Step, data: Path, folder: Path) -> tuple[float | None, float]:
    """The last score that the script prints, None if it fails; and the CPU-seconds that it took."""
    known = {**step.values, "learning_rate": step.learning_rate, "fidelity": step.fidelity}
    known |= {"continue_from": step.continue_from, "id": step.id, "data": data, "folder": folder}
    try:
        line = [word.format(**known) for word in command]
    except KeyError as error:
        raise UserError(f"the command names {error}, which this pipeline has not; it has {', '.join(known)}") from None
    before = os.times()
    done = subprocess.run(line, capture_output=True, text=True)
    after = os.times()
    cost_s = after.children_user + after.children_system - before.children_user - before.children_system
    scores = SCORE.findall(done.stdout)
    if done.returncode or not scores:
        sys.stderr.write(done.stderr[-500:])
        return None, cost_s
    return min(max(float(scores[-1]), 0.0), 1.0), cost_s


def keep(journal: Path, observations: list[dict[str, object]]) -> None:
    """Whole or not at all: who is killed while writing has what was there before."""
    fresh = journal.with_suffix(".new")
    fresh.write_text(json.dumps(observations), encoding="utf-8")
    fresh.replace(journal)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FtmetaError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
