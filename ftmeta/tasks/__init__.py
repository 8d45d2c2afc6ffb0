"""Tasks: one finetuning dataset each, loaded from files, folders, the hub, or what ships with ftmeta."""

from ftmeta.tasks.bundled import bundled_tasks, task_info
from ftmeta.tasks.chat import chat_messages
from ftmeta.tasks.describe import describe_task
from ftmeta.tasks.lengths import length_statistics
from ftmeta.tasks.load import load_records, load_task, task_fingerprint

__all__ = [
    "bundled_tasks",
    "chat_messages",
    "describe_task",
    "length_statistics",
    "load_records",
    "load_task",
    "task_fingerprint",
    "task_info",
]
