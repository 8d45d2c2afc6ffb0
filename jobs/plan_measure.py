"""The memory that one setting really takes, measured in a process of its own: `python -m jobs.plan_measure CASE`.

In: a `Case` as JSON. Out: JSON. The worker itself takes two steps of two micro-batches each, of rows of one length;
what counts is the peak of the second.

On the CPU that is the process's resident memory (Linux's high-water mark, set back after the first step). glibc keeps
freed memory for later, so the process is started with MALLOC_MMAP_THRESHOLD_ and its kin, which make it give back every
block of 64 kB or more at once: then resident memory is what is in use. Between the steps only weights, adapter and
optimizer are there, of known sizes; the rest then is the libraries'. On CUDA the peak is what torch counts.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.schema import Budget, Example, Message, Pipeline, Task, Value
from jobs import measuring

if TYPE_CHECKING:
    from ftmeta.finetune import Finetuning, TokenizedTask
    from ftmeta.models import LoadedModel

GIVE_BACK = {f"MALLOC_{name}_": "65536" for name in ("MMAP_THRESHOLD", "TRIM_THRESHOLD", "TOP_PAD")}
MICRO_BATCHES = 2  # of a step
_STEPS = 2


@dataclass(frozen=True)
class Case:
    base_model: str
    rows: int  # of a micro-batch
    length: int
    answer: int  # labels of a row
    dtype: str = "float32"
    peft_method: str = "lora"
    lora_rank: int = 16
    lora_dropout: float = 0.05
    target_modules: str = "all"
    adapted_layers: str = "all"
    full: bool = False  # the loss is on the full text
    checkpointing: bool = False
    device: str = "cpu"

    @property
    def labels(self) -> int:
        return self.rows * (self.length - 1 if self.full else self.answer)

    @property
    def pipeline(self) -> Pipeline:
        values: dict[str, Value] = {
            "peft_method": self.peft_method,
            "target_modules": self.target_modules,
            "adapted_layers": self.adapted_layers,
            "batch_size": MICRO_BATCHES * self.rows,
            "loss_on": "full" if self.full else "completion",
            "lr_multiplier": 0.01,
        }
        if self.peft_method != "ia3":
            values |= {"lora_rank": self.lora_rank, "lora_dropout": self.lora_dropout}
        return Pipeline("lora-v1", values)


def in_a_process(case: Case, *, give_back: bool) -> dict[str, Any]:
    """`measure` in a fresh process with one thread."""
    environment = {"OMP_NUM_THREADS": "1", **(GIVE_BACK if give_back else {})}
    return measuring.in_a_process("jobs.plan_measure", json.dumps(asdict(case)), environment=environment)


def measure(case: Case) -> dict[str, Any]:
    """`peak_gb` and `idle_gb` (between steps), both with libraries on the CPU and without them on CUDA; `outside_gb`
    (what torch does not count, on CUDA), `step_s`, `device`, `libraries`."""
    import torch

    from ftmeta.finetune import finetune
    from ftmeta.finetune.engine import Execution
    from ftmeta.models import load, resolve

    torch.set_num_threads(1)
    base = load(resolve(case.base_model), case.device, case.dtype)
    meter = _Meter(case.device)
    task = _task()
    with finetune(
        case.pipeline,
        task,
        base,
        seed=0,
        budget=Budget(epochs=1, max_fidelity=1, eval_examples=1),
        tokenized=_rows(case, task, base),
        execution=Execution(case.rows * case.length, case.checkpointing),
        after_step=meter.after_step,
    ) as run:
        list(run)
        result = run.result().run
    if result.status not in ("ok", "stopped"):
        raise RuntimeError(f"the run ended as '{result.status}': {result.error}")
    return {
        "peak_gb": meter.peak / 1e9,
        "idle_gb": meter.idle / 1e9,
        "outside_gb": None if case.device == "cpu" else meter.outside_torch() / 1e9,
        "step_s": meter.step_s,
        "device": result.device,
        "libraries": dict(result.libraries),
    }


class _Meter:
    """Reads the peak of the last step, what is there before it, and its time."""

    def __init__(self, device: str) -> None:
        self.peak, self.idle, self.step_s = 0, 0, 0.0
        self._cuda = device != "cpu"
        self._began = 0.0

    def after_step(self, run: Finetuning) -> bool:
        import torch

        if self._cuda:
            torch.cuda.synchronize()
        if run.step == 1:
            self.idle = torch.cuda.memory_allocated() if self._cuda else _resident("VmRSS")
            if self._cuda:
                torch.cuda.reset_peak_memory_stats()
            else:
                with contextlib.suppress(OSError):  # not allowed: then the mark is that of the whole process
                    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._began = time.perf_counter()
        elif run.step == _STEPS:
            self.step_s = time.perf_counter() - self._began
            self.peak = torch.cuda.max_memory_allocated() if self._cuda else _resident("VmHWM")
        return False

    def outside_torch(self) -> int:
        import torch

        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()


def _resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    assert found is not None
    return int(found.group(1)) * 1024


def _task() -> Task:
    example = Example((Message("user", "?"),), "!")
    return Task("made-up", (example,), (example,), (example,), fingerprint="0" * 16)


def _rows(case: Case, task: Task, base: LoadedModel) -> TokenizedTask:
    """Random tokens, as many rows of one length as the steps take."""
    import numpy as np

    from ftmeta.finetune import tokenize_task
    from ftmeta.finetune.data import Tokens

    rng = np.random.default_rng(0)
    vocabulary = base.info.shape.vocab_size

    def row(length: int, answer: int) -> Tokens:
        return Tokens(rng.integers(0, vocabulary, length), length - answer)

    train = tuple(row(case.length, case.answer) for _ in range(_STEPS * MICRO_BATCHES * case.rows))
    short = (row(4, 2),)
    return replace(tokenize_task(task, base), splits={"train": train, "validation": short, "test": short})


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Case(**json.loads(sys.argv[1])))) + "\n")
