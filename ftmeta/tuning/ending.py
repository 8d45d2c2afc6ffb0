"""The end of a tuning: choose among the best few with care, score the chosen one, and write what is left of it.

The score that a run was watched by is of a part of the validation split, and the best of many such scores is too good
to be true. So the best few runs are scored once more on the whole split, where it is larger, and the best of these is
the incumbent. The test split is looked at only then, for the incumbent and for the strong default beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError
from ftmeta.schema import RunSpec, Task
from ftmeta.tuning import checkpoints
from ftmeta.tuning.journal import Journal
from ftmeta.tuning.work import Answer, Conclude, Concluded, Lost, Slots, Validate, Validated, Work

_TICK_S = 1.0
_TRIES = 2  # of work whose slot is lost

log = logging.getLogger("ftmeta.tune")


@dataclass(frozen=True)
class Finalist:
    run_id: str
    fidelity: int
    score: float  # that it was watched by
    whole_nll: float | None = None  # on the whole validation split; None: not looked at


def finalists(journal: Journal, folder: Path, top: int) -> list[Finalist]:
    """The best `top` runs, each at its best checkpoint, the best first; only what is better than the base model."""
    found = []
    for run_id, trial in journal.trials.items():
        saved = checkpoints.there(folder / run_id)
        fidelity = checkpoints.best_of(trial.curve, saved) or checkpoints.best_of(trial.curve, trial.curve.keys())
        if fidelity is not None and trial.curve[fidelity] > 0:
            found.append(Finalist(run_id, fidelity, trial.curve[fidelity]))
    return sorted(found, key=lambda one: (-one.score, one.run_id))[:top]


def is_worth_validating(task: Task, eval_examples: int) -> bool:
    """Whether the whole validation split says more than the part of it that runs are watched by."""
    return len(task.validation) > eval_examples


def seconds_to_validate(journal: Journal, task: Task, eval_examples: int, top: int, slots: int) -> float:
    """What `validated` will take of wall time, from what evaluations took so far. 0 before anything is known."""
    if not is_worth_validating(task, eval_examples):
        return 0.0
    each = [
        trial.points[trial.reached].cost_eval_s / (trial.reached + 1)
        for trial in journal.trials.values()
        if trial.reached
    ]
    if not each:
        return 0.0
    rounds = -(-min(top, len(journal.trials)) // slots)
    return rounds * max(each) * len(task.validation) / eval_examples


def validated(
    slots: Slots, journal: Journal, chosen: Sequence[Finalist], specs: Mapping[str, RunSpec], folder: Path
) -> list[Finalist]:
    """The finalists with their scores on the whole validation split, the best first. One whose scoring fails comes
    last."""
    work = [Validate(specs[one.run_id], one.fidelity, folder / one.run_id) for one in chosen]
    answers = _all(slots, work)
    found = []
    for one, answer in zip(chosen, answers, strict=True):
        if isinstance(answer, Validated):
            found.append(Finalist(one.run_id, one.fidelity, one.score, answer.nll))
            journal.say(f"validated {one.run_id}", nll=answer.nll, examples=answer.examples, device_s=answer.device_s)
        else:
            log.warning("run %s could not be scored on the whole validation split: %s", one.run_id, _why(answer))
            found.append(one)
    return sorted(found, key=lambda one: (one.whole_nll is None, one.whole_nll or 0.0, -one.score))


def concluded(
    slots: Slots, chosen: Mapping[str, Finalist], specs: Mapping[str, RunSpec], folder: Path, out: Path
) -> dict[str, dict[str, Any]]:
    """By name: the document of `ftmeta finetune` of each finalist, whose adapter lies in the folder `out`/name.

    Raises FtmetaError if one of them cannot be scored.
    """
    work = [Conclude(specs[one.run_id], one.fidelity, folder / one.run_id, out / name) for name, one in chosen.items()]
    found = {}
    for name, answer in zip(chosen, _all(slots, work), strict=True):
        if not isinstance(answer, Concluded):
            raise FtmetaError(
                f"the {name} could not be scored on the test split: {_why(answer)}; its checkpoint is in {folder}, and "
                "`ftmeta tune --resume` tries again"
            )
        found[name] = dict(answer.document)
    return found


def _why(answer: Answer | None) -> str:
    return answer.why if isinstance(answer, Lost) else "no answer"


def _all(slots: Slots, work: Sequence[Work]) -> list[Answer | None]:
    """Does it all, on as many slots as there are; what is lost is tried again."""
    answers: list[Answer | None] = [None] * len(work)
    tries = [0] * len(work)
    left = list(range(len(work)))
    at_work: dict[int, int] = {}
    while left or at_work:
        for slot in range(slots.size):
            if left and slot not in at_work:
                at_work[slot] = left.pop(0)
                slots.start(slot, work[at_work[slot]])
        for slot, answer in slots.wait(_TICK_S):
            number = at_work.pop(slot)
            answers[number] = answer
            tries[number] += 1
            if isinstance(answer, Lost) and not answer.fatal and tries[number] < _TRIES:
                left.append(number)
    return answers
