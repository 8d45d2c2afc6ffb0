"""Documents -> a task, on Ray: reading and asking spread over the cluster, every reply kept as it comes.

    settings = Synthesis(documents="handbook/", model="my-model", llm_url="http://host:8000/v1")
    document = synthesize(settings, Path("handbook-qa"))

In: documents, and a language model behind an endpoint or on this cluster. Out, in the folder: `task.jsonl`, which every
command reads, `report.json` and `report.html`, and `generated.jsonl`, the journal. The same call again goes on where
the last one stopped, whatever stopped it: the token budget, Ctrl-C, an endpoint that is down, a killed process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftmeta.errors import DataError
from ftmeta.files import require_writable
from ftmeta.orchestrate.asking import Asking
from ftmeta.orchestrate.execution import connected
from ftmeta.orchestrate.reading import read_passages
from ftmeta.synthesis.dataset import Made, sift, write_task
from ftmeta.synthesis.documents import find_documents
from ftmeta.synthesis.filters import language_of
from ftmeta.synthesis.generate import Journal, Question
from ftmeta.synthesis.language_models import require_model
from ftmeta.synthesis.passages import Passage
from ftmeta.synthesis.prompts import JSON_PROMPT, LINES_PROMPT, load_prompt
from ftmeta.synthesis.report import report, write_report
from ftmeta.synthesis.settings import Synthesis
from ftmeta.tasks.read import SYNTHESIZED


def synthesize(
    settings: Synthesis, out: Path, *, key: str | None = None, retry_failed: bool = False, address: str | None = None
) -> dict[str, Any]:
    """Returns the document of `ftmeta tasks synthesize --json`; `key` is sent to the endpoint and kept nowhere.

    Raises UserError for documents, prompts, keys or addresses that cannot be used, and FtmetaError when the endpoint is
    down, after writing what can be made of what there is.
    """
    require_writable(out)
    require_model(settings)
    root = Path(settings.documents).expanduser()
    files = find_documents(root)
    prompt = load_prompt(settings.prompt or (JSON_PROMPT if settings.llm_url else LINES_PROMPT))
    with Journal(out / "generated.jsonl") as journal, connected(address):
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
        asking = Asking(settings, prompt, journal, done)
        pending = [(one, question) for one, (question, _) in questions.items() if one not in done]
        if pending:
            asking.run(pending, key)
        tokens = journal.tokens()
    replies = [asking.done[one] for one in questions if one in asking.done]
    made = [Made(pair, questions[one.key][1]) for one in replies for pair in one.pairs]
    language = settings.language or _language(chosen)
    sifted = sift(made, language, out.name)
    task = out / SYNTHESIZED
    if sifted.splits:
        write_task(sifted.splits, task)
    document = report(out.name, settings, inventory, replies, sifted, language, tokens, asking.unfinished)
    write_report(document, out)
    if asking.failure is not None:
        raise asking.failure
    places = {"out": str(out), "task": str(task) if sifted.splits else None, "report": str(out / "report.html")}
    return {**places, **{name: value for name, value in document.items() if name != "samples"}}


def _language(chosen: Sequence[Passage]) -> str:
    """The language of most of the first hundred passages, which are a random sample."""
    found = [language_of(passage.text)[0] for passage in chosen[:100]]
    return max(sorted(set(found)), key=found.count)
