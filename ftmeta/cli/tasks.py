"""`ftmeta tasks`: the bundled tasks, any dataset in detail, and tasks made of documents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, table
from ftmeta.cli.synthesizing import synthesize

if TYPE_CHECKING:
    from rich.console import Console

_PARTS = {"prompt_tokens": "prompt", "completion_tokens": "answer"}
_SHOWN = ("p50", "max")  # of the quantiles; --json has all

tasks = typer.Typer()


def register(app: typer.Typer) -> None:
    tasks.command(
        epilog="Example: `ftmeta tasks synthesize handbook/ --out handbook-qa --model my-model --llm-url "
        "http://localhost:8000/v1`"
    )(synthesize)
    app.add_typer(
        tasks, name="tasks", help="The bundled tasks, what is in one, and tasks of your own.", no_args_is_help=True
    )


@tasks.command("list", epilog="Example: `ftmeta tasks list --json`")
@command
def tasks_list(json: JsonOption = False) -> Reply:
    """The bundled tasks with their sizes and licences."""
    from ftmeta.tasks import bundled_tasks, task_info

    rows = [task_info(name) for name in bundled_tasks()]

    def show(console: Console) -> None:
        listed = table("task", "domain", ">train", ">validation", ">test", "licence")
        for row in rows:
            splits = row["splits"]
            sizes = (str(splits[split]) for split in ("train", "validation", "test"))
            listed.add_row(row["name"], row["domain"], *sizes, row["licence"])
        console.print(listed)

    return Reply({"tasks": rows}, show)


@tasks.command("show", epilog="Example: `ftmeta tasks show world-facts`")
@command
def tasks_show(
    data: Annotated[str, typer.Argument(help="A bundled task, a file, a folder saved by `datasets`, or a hub id.")],
    base_model: Annotated[str, typer.Option(help="Whose tokens to count.")] = "phi3-micro",
    samples: Annotated[int, typer.Option(min=0, max=100, help="How many examples to show.")] = 5,
    json: JsonOption = False,
) -> Reply:
    """One task in detail: source, splits, lengths in tokens, examples."""
    from ftmeta.models import fast_tokenizer, resolve
    from ftmeta.tasks import length_statistics, load_task

    task = load_task(data)
    document: dict[str, Any] = {
        "name": task.name,
        "fingerprint": task.fingerprint,
        "card": asdict(task.card),
        "splits": {split: len(examples) for split, examples in task.splits.items()},
        "lengths": length_statistics(task, fast_tokenizer(resolve(base_model))),
        "samples": [{"prompt": example.prompt, "completion": example.completion} for example in task.train[:samples]],
    }

    def show(console: Console) -> None:
        card = task.card
        console.print(f"[bold]{task.name}[/bold]  {card.domain}, {card.licence}, fingerprint {task.fingerprint}")
        if card.description:
            console.print(card.description)
        lengths = table("tokens", ">rows", *_length_columns(document["lengths"]))
        for split, count in document["splits"].items():
            lengths.add_row(split, str(count), *_length_cells(document["lengths"][split]))
        console.print(lengths)
        for sample in document["samples"]:
            console.print(f"Q  {sample['prompt']}\nA  {sample['completion']}\n", markup=False)

    return Reply(document, show)


def _length_columns(lengths: dict[str, Any]) -> list[str]:
    train = lengths["train"]
    return [f">{title} {name}" for part, title in _PARTS.items() for name in train[part] if name in _SHOWN]


def _length_cells(split: dict[str, Any]) -> list[str]:
    return [f"{value:g}" for part in _PARTS for name, value in split[part].items() if name in _SHOWN]
