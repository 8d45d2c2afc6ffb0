"""What a live tuning looks like while it runs, on standard error: slots, incumbent, its curve, time and money left.

On a terminal a display that is drawn anew; in a job's log a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ftmeta.optimizers import Problem
from ftmeta.orchestrate.progress import LINE_EVERY_S
from ftmeta.schema import RunSpec
from ftmeta.tuning.definition import Prepared
from ftmeta.tuning.loop import Loop

if TYPE_CHECKING:
    from rich.console import RenderableType

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(scores: Sequence[float]) -> str:
    """One character a score, from the lowest to the highest of them."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    height = len(_BARS) - 1
    return "".join(_BARS[round(height * (score - low) / (high - low))] if high > low else _BARS[0] for score in scores)


class View:
    """`with View(...) as view`; `update` is called by the loop, again and again."""

    def __init__(self, prepared: Prepared, specs: Sequence[RunSpec], problem: Problem) -> None:
        from rich.console import Console
        from rich.live import Live

        self._prepared = prepared
        self._pipelines = {spec.run_id: spec.pipeline.id for spec in specs}
        self._pipelines |= {specs[n].run_id: name for name, n in problem.named.items()}
        console = Console(stderr=True)
        self._is_terminal = console.is_terminal
        self._live = Live(console=console, refresh_per_second=4, transient=True) if self._is_terminal else None
        self._last_line_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text)
        else:
            sys.stderr.write(f"{self._prepared.task.name}: {text}\n")
            sys.stderr.flush()

    def update(self, loop: Loop) -> None:
        if self._live is not None:
            self._live.update(self.drawn(loop))
        elif time.monotonic() - self._last_line_at > LINE_EVERY_S:
            self._last_line_at = time.monotonic()
            self.say(f"{self._incumbent(loop)} · {len(loop.journal.trials)} runs · {self._left(loop)}")

    def drawn(self, loop: Loop) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        listed = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("slot", "pipeline", "fidelity", "best score", "for"):
            listed.add_column(column, justify="left" if column == "pipeline" else "right")
        for slot in range(loop.slots.size):
            listed.add_row(str(slot + 1), *self._slot(loop, slot))
        prepared = self._prepared
        head = f"{prepared.task.name} · {prepared.base_model.name} · {prepared.definition.method} · {self._left(loop)}"
        return Group(Text(head, style="bold"), listed, Text(self._incumbent(loop)), Text(self._curve(loop)))

    def _slot(self, loop: Loop, slot: int) -> tuple[str, ...]:
        under_way = loop.at_work.get(slot)
        if under_way is None:
            return ("idle", "", "", "")
        run_id = under_way.work.spec.run_id
        curve = loop.journal.trials[run_id].curve
        best = f"{max(curve.values()):.3f}" if curve else ""
        last = loop.problem.max_fidelity
        since = f"{loop.clock() - under_way.since:.0f} s"
        return (self._pipelines[run_id], f"{under_way.work.fidelity}/{last}", best, since)

    def _incumbent(self, loop: Loop) -> str:
        best = next(loop.best(), None)
        if best is None:
            return "no score better than the base model's yet"
        run_id, fidelity, score = best
        return f"best {score:.3f}: {self._pipelines[run_id]} at fidelity {fidelity}"

    def _curve(self, loop: Loop) -> str:
        best = next(loop.best(), None)
        return "" if best is None else sparkline(list(loop.journal.trials[best[0]].curve.values()))

    def _left(self, loop: Loop) -> str:
        spent, limit = loop.journal.spent, self._prepared.limit
        left_s = max(limit.left(spent), 0.0)
        what = "left" if limit.kind == "wall" else "device time left"
        parts = [f"{left_s:.0f} s {what}" if left_s < 120 else f"{left_s / 60:.0f} min {what}"]
        usd: Any = limit.usd(spent)
        if usd is not None:
            parts.append(f"${usd:.4f} spent" if limit.kind != "usd" else f"${limit.amount - usd:.4f} left")
        return " · ".join(parts)
