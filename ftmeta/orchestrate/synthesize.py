"""Documents -> a task, on Ray: reading and asking spread over the cluster, every reply kept as it comes.

    settings = Synthesis(documents="handbook/", model="my-model", llm_url="http://host:8000/v1")
    document = synthesize(settings, Path("handbook-qa"))

In: documents, and a language model behind an endpoint or on this cluster. Out, in the folder: `task.jsonl`, which every
command reads, `report.json` and `report.html`, and `generated.jsonl`, the journal. The same call again goes on where
the last one stopped, whatever stopped it: the token budget, Ctrl-C, an endpoint that is down, a killed process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of_tokens
from ftmeta.errors import DataError, FtmetaError, UserError
from ftmeta.files import require_writable
from ftmeta.orchestrate.asking import Asking, require_room
from ftmeta.orchestrate.connection import connected, on_signals
from ftmeta.orchestrate.reading import read_passages
from ftmeta.synthesis.dataset import Made, sift, write_task
from ftmeta.synthesis.documents import find_documents
from ftmeta.synthesis.filters import language_of, require_language
from ftmeta.synthesis.generate import Journal, Question
from ftmeta.synthesis.language_models import require_model
from ftmeta.synthesis.passages import Passage
from ftmeta.synthesis.prompts import JSON_PROMPT, LINES_PROMPT, load_prompt
from ftmeta.synthesis.report import PAGE, REPORT, report, write_report, written_before
from ftmeta.synthesis.settings import Synthesis
from ftmeta.tasks.read import SYNTHESIZED

JOURNAL = "generated.jsonl"

log = logging.getLogger("ftmeta.synthesize")


def synthesize(
    settings: Synthesis, out: Path, *, key: str | None = None, retry_failed: bool = False, address: str | None = None
) -> dict[str, Any]:
    """Returns the document of `ftmeta tasks synthesize --json`; `key` is sent to the endpoint and kept nowhere.

    Raises UserError for documents, prompts, keys or addresses that cannot be used, FtmetaError when the endpoint is
    down, and KeyboardInterrupt after SIGINT or SIGTERM; the last two after writing what can be made of what there is.
    """
    require_model(settings)
    usd_of_tokens(settings.model, 0, 0)  # a malformed price table is said before tokens are spent
    if settings.language is not None:
        require_language(settings.language)
    root = Path(settings.documents).expanduser()
    files = [file for file in find_documents(root) if not _is_report(file)]
    prompt = load_prompt(settings.prompt or (JSON_PROMPT if settings.llm_url else LINES_PROMPT))
    _require_place(out)
    with Journal(out / JOURNAL) as journal:
        asking = Asking(settings, prompt, journal, key)
        with connected(address), on_signals(asking.interrupt):
            require_room(settings)
            chosen, inventory = read_passages(root, files, settings.passages)
            if not chosen:
                first = ": ".join(inventory.unreadable[0]) if inventory.unreadable else "they are too short"
                raise DataError(f"'{root}': {len(files)} documents hold no passage to ask about ({first})")
            questions = {}
            for passage in chosen:
                question = Question(passage.key, passage.text, settings.pairs)
                questions[question.key(settings.model, prompt)] = (question, passage)
            kept = journal.read()
            again = {"failed"} if retry_failed else set()
            done = {one: kept[one] for one in questions if one in kept and kept[one].outcome not in again}
            asking.run([(one, question) for one, (question, _) in questions.items() if one not in done], done)
        replies = [asking.done[one] for one in questions if one in asking.done]
        if asking.failure is not None and not replies:
            raise asking.failure
        made = [Made(pair, questions[one.key][1]) for one in replies for pair in one.pairs]
        language = settings.language or _language(chosen)
        sifted = sift(made, language, out.name)
        task = out / SYNTHESIZED
        try:
            written, aside = write_task(sifted.splits, task, written_before(out))
            document = report(
                out.name, settings, inventory, replies, sifted, language, journal.tokens(), asking.unfinished, written
            )
            write_report(document, out)
        except OSError as error:
            raise FtmetaError(
                f"{out} cannot be written ({error.strerror}); what was generated is kept: make room and run the same "
                "command again"
            ) from None
    if aside is not None:
        log.warning("task.jsonl was changed since it was written; it is %s now, and task.jsonl is new", aside.name)
    if asking.failure is not None:
        raise asking.failure
    places = {"out": str(out), "task": str(task) if sifted.splits else None, "report": str(out / PAGE)}
    return {**places, **{name: value for name, value in document.items() if name != "samples"}}


def _is_report(file: Path) -> bool:
    """Whether this command made it: where --out lies among the documents, it is none of them."""
    return file.name == PAGE and (file.parent / JOURNAL).is_file()


def _require_place(out: Path) -> None:
    """Raises UserError where nothing can be written, or where something of somebody else's would be written over."""
    require_writable(out / SYNTHESIZED)
    there = [name for name in (SYNTHESIZED, REPORT, PAGE) if (out / name).exists()]
    if there and not (out / JOURNAL).exists():
        raise UserError(
            f"{out} holds {there[0]} but no {JOURNAL}: this command has not made it, and would write over it; give "
            "another --out, or move it away"
        )


def _language(chosen: Sequence[Passage]) -> str:
    """The language of most of the first hundred passages, which are a random sample."""
    found = [language_of(passage.text)[0] for passage in chosen[:100]]
    return max(sorted(set(found)), key=found.count)
