"""`ftmeta tasks synthesize`: question-answer pairs from one's own documents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ftmeta.cli.output import JsonOption, Reply, command, money, note, table

if TYPE_CHECKING:
    from rich.console import Console

_FAILURES = 3  # reasons shown; the report has more


@command
def synthesize(
    documents: Annotated[str, typer.Argument(help="A folder, or a file: .txt, .md, .rst, .html, .pdf.")],
    out: Annotated[Path, typer.Option(help="The folder of the task. The same command again goes on there.")],
    model: Annotated[
        str, typer.Option(help="The model's name at the endpoint; without --llm-url a base model or folder.")
    ],
    llm_url: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible endpoint, as http://host:8000/v1; its key in $FTMETA_LLM_KEY."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=50, help="Asked for of each passage.")] = 4,
    passages: Annotated[int, typer.Option(min=1, help="At most so many passages, spread over all documents.")] = 2000,
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="Stop before prompts and replies together take more tokens.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Requests at a time.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one attempt at a request.")] = 60.0,
    reply_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="The longest reply; default: 150 a pair. Models that think aloud need more."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Keep pairs in this language, as en; default: that of the documents.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="A YAML file with a prompt of your own.")] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where a model without --llm-url runs: all cores, or one GPU.")
    ] = "cpu",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again about passages that the model gave no usable reply to.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; default: one of its own on this machine.")
    ] = None,
    json: JsonOption = False,
) -> Reply:
    """Turns documents into question-answer pairs with a language model, and those into a task.

    What is generated is kept at once: after Ctrl-C, a spent budget or an endpoint that was down, the same command goes
    on where it stopped. Without --llm-url the model runs on this machine or cluster.
    """
    from pydantic import ValidationError

    from ftmeta.errors import UserError
    from ftmeta.orchestrate.synthesize import synthesize as run
    from ftmeta.synthesis.language_models import key_from_environment
    from ftmeta.synthesis.settings import Synthesis

    try:
        settings = Synthesis(
            documents=documents,
            model=model,
            llm_url=llm_url,
            prompt=prompt,
            pairs=pairs,
            passages=passages,
            token_budget=token_budget,
            concurrency=concurrency,
            timeout_s=timeout,
            language=language,
            device=device,
            reply_tokens=reply_tokens,
            # A Ray of this command's own is there for the model, a cluster for others too.
            cpus_per_model=1 if device == "cuda" or address or os.environ.get("RAY_ADDRESS") else None,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UserError(f"--{str(wrong['loc'][0]).replace('_', '-')}: {wrong['msg']}") from None
    document = run(settings, out, key=key_from_environment(), retry_failed=retry_failed, address=address)
    if document["too_few"]:
        note(f"error: no task was written: {document['too_few']}")
    return Reply(document, lambda console: show(console, document), exit_code=2 if document["too_few"] else 0)


def show(console: Console, document: dict[str, Any]) -> None:
    from rich.markup import escape

    read, asked = document["documents"], document["passages"]
    unread = f", {read['unreadable']} could not be read" if read["unreadable"] else ""
    console.print(
        f"[bold]{escape(document['name'])}[/bold]: {read['read']} documents{unread}; {asked['asked']} of "
        f"{asked['found']} passages asked about"
    )
    made = document["pairs"]
    listed = table("pairs", ">")
    listed.add_row("generated", str(made["generated"]))
    for name, count in made["dropped"].items():
        listed.add_row(f"dropped: {name}", str(count))
    listed.add_row("kept", str(made["kept"]))
    console.print(listed)
    tokens = document["tokens"]
    price = "price unknown" if document["cost_usd"] is None else money(document["cost_usd"])
    console.print(f"{tokens['prompt']:,} prompt and {tokens['completion']:,} completion tokens, {price}")
    for failure in document["failures"][:_FAILURES]:
        said = f"{failure['passages']} passages failed: {failure['reason']}"
        console.print(f"[yellow]note:[/yellow] {escape(said)}", soft_wrap=True)
    if document["unfinished"]:
        console.print(f"[yellow]note:[/yellow] {escape(document['unfinished'])}", soft_wrap=True)
    console.print(f"report: {document['report']}", soft_wrap=True, markup=False)
    if document["task"]:
        splits = ", ".join(f"{count} {name}" for name, count in document["splits"].items())
        console.print(f"task:   {document['task']} ({splits})", soft_wrap=True, markup=False)
        console.print(f"next:   ftmeta tasks check {document['out']}", soft_wrap=True, markup=False)
