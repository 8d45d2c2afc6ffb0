"""The finetune worker: one pipeline on one task with one base model -> an iterator of curve points.

base = models.load(models.resolve("phi3-micro"))
with finetune(pipeline, task, base, seed=0) as run:
    for point in run:
        print(point.fidelity, point.score)
    run.save_adapter("out")
    result = run.result()
"""

from ftmeta.finetune.data import TokenizedTask, tokenize_task
from ftmeta.finetune.worker import Finetuning, finetune

__all__ = ["Finetuning", "TokenizedTask", "finetune", "tokenize_task"]
