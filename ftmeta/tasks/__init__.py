"""Tasks: one finetuning dataset each, loaded from files, folders, the hub, or what ships with ftmeta."""

from ftmeta.tasks.bundled import bundled_tasks, task_info
from ftmeta.tasks.lengths import length_statistics
from ftmeta.tasks.load import load_records, load_task, task_fingerprint

__all__ = [
    "bundled_tasks",
    "length_statistics",
    "load_records",
    "load_task",
    "task_fingerprint",
    "task_info",
]
