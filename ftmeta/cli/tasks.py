"""`ftmeta tasks`: the bundled tasks, any dataset in detail, and tasks made of documents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftmeta.cli.output import JsonOption, Reply, command, table
from ftmeta.cli.synthesizing import synthesize

if TYPE_CHECKING:
    from rich.console import Console

    from ftmeta.tasks.check import Report

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
    data: Annotated[str, typer.Argument(help="A bundled task, a file, a folder, or a hub id.")],
    base_model: Annotated[str, typer.Option(help="Whose tokens to count.")] = "phi3-micro",
    samples: Annotated[int, typer.Option(min=0, max=100, help="How many examples to show.")] = 5,
    json: JsonOption = False,
) -> Reply:
    """One task in detail: licence, splits, lengths in tokens, examples; with --json its source, too."""
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


@tasks.command("check", epilog="Example: `ftmeta tasks check mine.jsonl --base-model smollm2-135m`")
@command
def tasks_check(
    data: Annotated[str, typer.Argument(help="A file, a folder, a hub id, or a bundled task.")],
    base_model: Annotated[str, typer.Option(help="Whose context and tokens to compare with.")] = "phi3-micro",
    json: JsonOption = False,
) -> Reply:
    """What to know about a dataset before spending money: faults, leaks, lengths. Exit code 2 if it has an error."""
    from ftmeta.models import fast_tokenizer, resolve
    from ftmeta.tasks.check import check_task, take_survey

    model = resolve(base_model)
    report = check_task(take_survey(data), model, fast_tokenizer(model))
    return Reply(
        {"data": data, **report.to_json()}, lambda console: _show_report(console, data, report), 0 if report.ok else 2
    )


def _show_report(console: Console, data: str, report: Report) -> None:
    from rich.text import Text

    splits = ", ".join(f"{count:,} {split}" for split, count in (report.splits or {}).items())
    usable = f", {report.examples:,} of them usable" if report.examples < report.rows else ""
    console.print(Text.assemble((data, "bold"), f": {report.rows:,} rows{usable} ({splits or 'no splits given'})"))
    if report.lengths is not None:
        prompt, answer = (report.lengths[part] for part in ("prompt_tokens", "answer_tokens"))
        console.print(
            f"Tokens: prompts {prompt['p50']:,} (median) to {prompt['max']:,}, answers {answer['p50']:,} to "
            f"{answer['max']:,}; {report.lengths['base_model']} reads {report.lengths['context_tokens']:,} in all"
        )
    if report.sampled < report.examples:
        console.print(f"Too large to read all its text: {report.sampled:,} rows were drawn at random for that")
    if not report.findings:
        console.print("Nothing was found that speaks against finetuning on it.")
        return
    listed = table("", ">rows", ">share", "found")
    for finding in report.findings:
        level = Text(finding.level, _COLOURS[finding.level])
        share = "–" if finding.share is None else f"{finding.share:.1%}" if finding.share >= 0.001 else "< 0.1%"
        listed.add_row(level, f"{finding.count:,}", share, Text(finding.message))
    console.print(listed)
    console.print("[bold]What to do[/bold]")
    for advice in dict.fromkeys(finding.advice for finding in report.findings):
        console.print(Text(f"\n{advice}"))
        for finding in (one for one in report.findings if one.advice == advice and one.rows):
            more = ", .." if finding.count > len(finding.rows) else ""
            console.print(Text(f"  {finding.check}: row {', '.join(map(str, finding.rows))}{more}", "dim"))
            for excerpt in finding.excerpts:
                console.print(Text(f"    » {excerpt}", "dim"))
    if not report.ok:
        console.print("\n[red]Repair the errors first:[/red] finetuning would refuse this, or its test mean nothing.")


_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def _length_columns(lengths: dict[str, Any]) -> list[str]:
    train = lengths["train"]
    return [f">{title} {name}" for part, title in _PARTS.items() for name in train[part] if name in _SHOWN]


def _length_cells(split: dict[str, Any]) -> list[str]:
    return [f"{value:g}" for part in _PARTS for name, value in split[part].items() if name in _SHOWN]
