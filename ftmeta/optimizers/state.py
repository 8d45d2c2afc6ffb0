"""An optimizer's state: what it was asked and told, kept as JSON lines.

The same problem, experience, seed and events give the same optimizer (protocol.py), so restoring one means asking and
telling it the same once more. A line is written before its effect is relied on, and a torn last line is what a killed
process leaves: it is dropped.

with Recorded(make, path) as optimizer: step = optimizer.ask(); ...; optimizer.tell(outcome)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ftmeta.errors import UserError
from ftmeta.files import append_line, whole_lines
from ftmeta.optimizers.protocol import Optimizer, Outcome, Step


class Recorded:
    """An optimizer whose asks and tells go to the file `path`; what the file holds already is done again first.

    `inside` is the optimizer itself. `under_way` are the steps that were asked for and not told: after a restart, run
    them again. Raises UserError where the file does not fit the optimizer: it was made by another method, seed, or
    version.
    """

    def __init__(self, make: Callable[[], Optimizer], path: Path) -> None:
        self.inside, self._path = make(), path
        self.under_way: list[Step] = []
        whole = self._replayed()
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def ask(self) -> Step | None:
        step = self.inside.ask()
        if step is not None:
            self._write({"ask": [step.candidate, step.start, step.fidelity]})
            self.under_way.append(step)
        return step

    def tell(self, outcome: Outcome) -> None:
        step = outcome.step
        self.inside.tell(outcome)
        self._write(
            {"tell": [step.candidate, step.start, step.fidelity], "scores": outcome.scores, "cost_s": outcome.cost_s}
        )
        self.under_way.remove(step)

    @property
    def incumbent(self) -> tuple[int, int] | None:
        return self.inside.incumbent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, event: dict[str, Any]) -> None:
        append_line(self._file, event)

    def _replayed(self) -> int:
        """Does what the file says; returns the length of its whole lines."""
        if not self._path.exists():
            return 0
        whole = 0
        for line in whole_lines(self._path.read_bytes()):
            try:
                event = json.loads(line)
                self._do(event)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(
                    f"{self._path} is not the state of this optimizer ({type(error).__name__}: {error}); it was made "
                    "with another method, seed, meta-dataset or version of ftmeta: start anew in another folder"
                ) from None
            whole += len(line)
        return whole

    def _do(self, event: dict[str, Any]) -> None:
        if "ask" in event:
            step, wanted = self.inside.ask(), Step(*event["ask"])
            if step != wanted:
                raise ValueError(f"it asks for {step} where {wanted} was asked for")
            self.under_way.append(wanted)
        else:
            outcome = Outcome(Step(*event["tell"]), tuple(event["scores"]), event["cost_s"])
            self.inside.tell(outcome)
            self.under_way.remove(outcome.step)
