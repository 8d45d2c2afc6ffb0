"""What became of documents on their way to a task: the document of `report.json`, and the page of `report.html`.

The page is one file without scripts or anything from elsewhere; texts of documents and models are escaped in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.costs import usd_of_tokens
from ftmeta.files import DATA, write_json, write_text
from ftmeta.synthesis.dataset import DROPPED, Made, Sifted
from ftmeta.synthesis.filters import words
from ftmeta.synthesis.generate import Generated
from ftmeta.synthesis.settings import Synthesis
from ftmeta.tasks.lengths import quantiles

REPORT, PAGE = "report.json", "report.html"
_SAMPLES = 8  # of what is kept, and of what each filter dropped
_LISTED = 50  # documents that could not be read, and reasons of failures


@dataclass(frozen=True)
class Inventory:
    """What was in the documents."""

    documents: int
    unreadable: Sequence[tuple[str, str]]  # name and reason
    notes: Sequence[tuple[str, str]]  # name and what is remarkable, as an encoding
    passed_over: Mapping[str, int]  # files by suffixes that nothing here reads
    passages: int  # different ones
    chosen: int  # those that are asked about


def report(
    name: str,
    settings: Synthesis,
    inventory: Inventory,
    replies: Sequence[Generated],
    sifted: Sifted,
    language: str,
    tokens: tuple[int, int],
    unfinished: str | None,
    written: str | None,
) -> dict[str, Any]:
    """The document of report.json, a promise to those who script against it (docs/interfaces.md).

    `replies` are those that this task is made of, `tokens` the prompt and completion tokens of all that was ever
    generated in this folder; `unfinished` says why passages are left over; `written` is the fingerprint of task.jsonl.
    """
    prompt, completion = tokens
    failures = Counter(one.error for one in replies if one.error)
    return {
        "name": name,
        "complete": unfinished is None,
        "unfinished": unfinished,
        "model": settings.model,
        "endpoint": settings.llm_url,
        "language": language,
        "documents": {
            "read": inventory.documents,
            "unreadable": len(inventory.unreadable),
            "passed_over": dict(inventory.passed_over),
            "reasons": [{"document": at, "reason": why} for at, why in inventory.unreadable[:_LISTED]],
            "notes": [{"document": at, "note": what} for at, what in inventory.notes[:_LISTED]],
        },
        "passages": {"found": inventory.passages, "chosen": inventory.chosen, "asked": len(replies)},
        "replies": dict(Counter(one.outcome for one in replies)),
        "failures": [{"reason": reason, "passages": count} for reason, count in failures.most_common(_LISTED)],
        "pairs": {
            "generated": sifted.generated,
            "kept": len(sifted.kept),
            "dropped": {filter_name: len(pairs) for filter_name, pairs in sifted.dropped.items()},
        },
        "splits": {split: len(pairs) for split, pairs in sifted.splits.items()},
        "split_by": sifted.split_by,
        "too_few": sifted.too_few,
        "written": written,
        "lengths": _lengths(sifted.kept),
        "tokens": {"prompt": prompt, "completion": completion, "budget": settings.token_budget},
        "cost_usd": usd_of_tokens(settings.model, prompt, completion),
        "samples": {
            "kept": [_sample(one) for one in _spread(sifted.kept)],
            "dropped": {
                filter_name: [_sample(one) for one in _spread(pairs)] for filter_name, pairs in sifted.dropped.items()
            },
        },
    }


def write_report(document: dict[str, Any], folder: Path) -> None:
    write_json(folder / REPORT, document)
    write_text(folder / PAGE, page(document))


def written_before(folder: Path) -> str | None:
    """The fingerprint of task.jsonl that the last report of this folder has."""
    try:
        written = json.loads((folder / REPORT).read_text(encoding="utf-8"))["written"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return written if isinstance(written, str) else None


def page(document: dict[str, Any]) -> str:
    """report.html from the document of report.json."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(DATA / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("synthesis-report.html").render(**document, filters=DROPPED)


def _lengths(made: Sequence[Made]) -> dict[str, Any]:
    if not made:
        return {}
    return {
        "question_words": quantiles([len(words(one.pair.question)) for one in made]),
        "answer_words": quantiles([len(words(one.pair.answer)) for one in made]),
    }


def _spread(made: Sequence[Made]) -> list[Made]:
    """A few, evenly over the whole."""
    step = max(1, len(made) // _SAMPLES)
    return list(made[::step][:_SAMPLES])


def _sample(one: Made) -> dict[str, str]:
    return {"question": one.pair.question, "answer": one.pair.answer, "document": one.passage.document}
