"""Tasks: one finetuning dataset each, loaded from files, folders, the hub, or what ships with ftmeta."""

from ftmeta.tasks.bundled import bundled_tasks
from ftmeta.tasks.chat import chat_messages
from ftmeta.tasks.lengths import length_statistics
from ftmeta.tasks.load import load_records, load_task, task_fingerprint

__all__ = ["bundled_tasks", "chat_messages", "length_statistics", "load_records", "load_task", "task_fingerprint"]
