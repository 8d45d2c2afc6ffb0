"""Runs of several processes, and the same runs in one: `python zero_ranks.py FOLDER RANK RANKS PORT [cuda]`.

In: FOLDER with a model in `model/`. Out: for each case a JSON file with its curve and losses, its adapter, and the
checkpoint that was written after step 3. Rank 0 writes them.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    **{
        f"{method}-{stage}": {"method": method, "stage": stage}
        for method in ("lora", "dora", "ia3")
        for stage in (0, 2, 3)
    },
    "odd-3": {"method": "lora", "stage": 3, "rank": 3, "checkpointing": True},  # pieces that do not divide evenly
    "few-2": {"method": "lora", "stage": 2, "batch_size": 1, "epochs": 0.2},  # a rank without an example
    "resumed-0": {"method": "lora", "stage": 0, "start": "lora-3"},
    "resumed-2": {"method": "lora", "stage": 2, "start": "alone-lora"},
    "resumed-3": {"method": "lora", "stage": 3, "start": "lora-2"},
    "resumed-odd-3": {"method": "lora", "stage": 3, "rank": 3, "start": "odd-3"},
    "half-0": {"method": "lora", "stage": 0, "dtype": "bfloat16"},
    "half-2": {"method": "lora", "stage": 2, "dtype": "bfloat16"},
    "half-3": {"method": "lora", "stage": 3, "dtype": "bfloat16"},
    **{
        f"resumed-half-{z}": {"method": "lora", "stage": z, "dtype": "bfloat16", "start": f"half-{z}"}
        for z in (0, 2, 3)
    },
    "dropout-2": {"method": "lora", "stage": 2, "dropout": 0.3},
    "resumed-dropout-2": {"method": "lora", "stage": 2, "dropout": 0.3, "start": "dropout-2"},
}
ALONE: dict[str, dict[str, Any]] = {
    **{f"alone-{method}": {"method": method} for method in ("lora", "dora", "ia3")},
    "alone-odd": {"method": "lora", "rank": 3},
    "alone-few": {"method": "lora", "batch_size": 1, "epochs": 0.2},
    "alone-half": {"method": "lora", "dtype": "bfloat16"},
    "alone-checkpointing": {"method": "lora", "checkpointing": True},
}
LATER: dict[str, dict[str, Any]] = {"alone-resumed": {"method": "lora", "start": "lora-3"}}  # after CASES


def run_case(folder: Path, name: str, case: dict[str, Any], device: str) -> None:
    from ftmeta import models
    from ftmeta.finetune import finetune
    from ftmeta.finetune.engine import Execution, LocalEngine
    from ftmeta.finetune.zero import ZeroEngine, load_base
    from ftmeta.schema import Budget, Pipeline
    from tests.finetune.conftest import make_task

    info = models.resolve(str(folder / "model"))
    base = load_base(info, device, case.get("stage", 0), case.get("dtype", "float32"))
    values = {
        "peft_method": case["method"],
        "batch_size": case.get("batch_size", 8),
        "lora_dropout": case.get("dropout", 0.0),
        "lr_multiplier": 0.5,
        **({} if case["method"] == "ia3" else {"lora_rank": case.get("rank", 4), "lora_plus_ratio": 2.0}),
    }
    start = case.get("start")
    losses: list[float] = []

    def after_step(run: Any) -> bool:
        losses.append(run.step_loss)
        if len(losses) == 3 and start is None:
            run.save_checkpoint(folder / f"{name}-checkpoint")
        return False

    run = finetune(
        Pipeline("lora-v1", values),
        make_task(),
        base,
        seed=3,
        budget=Budget(epochs=case.get("epochs", 1), max_fidelity=3, eval_examples=11),
        checkpoint=folder / f"{start}-checkpoint" if start else None,
        engine=functools.partial(ZeroEngine, stage=case["stage"], device=base.device)
        if "stage" in case
        else LocalEngine,
        execution=Execution(micro_batch_tokens=60, activation_checkpointing=case.get("checkpointing", False)),
        after_step=after_step,
    )
    curve = [asdict(point) for point in run]
    test = run.evaluate_test() if run.status == "ok" else None
    zero_shot = run.evaluate_test(zero_shot=True) if run.status == "ok" else None
    run.save_adapter(folder / f"{name}-adapter")
    row = run.result().run
    run.close()
    if run.ranks.rank == 0:
        outcome = {"status": row.status, "error": row.error, "curve": curve, "losses": losses, "test": test}
        outcome |= {"zero_shot": zero_shot, "cost_s": row.cost_s}
        (folder / f"{name}.json").write_text(json.dumps(outcome))


def main(folder: Path, rank: int, ranks: int, port: str, cases: dict[str, dict[str, Any]], device: str = "cpu") -> None:
    import torch

    torch.set_num_threads(1)
    together = any("stage" in case for case in cases.values())
    if together:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(ranks))
        os.environ["LOCAL_RANK"] = str(rank)
        backend = "gloo" if device == "cpu" else "nccl"
        torch.distributed.init_process_group(backend, rank=rank, world_size=ranks)
    if device != "cpu":
        device = f"cuda:{rank}"
        torch.cuda.set_device(device)
    for name, case in cases.items():
        run_case(folder, name, case, device)
    if together:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], CASES, *sys.argv[5:])
