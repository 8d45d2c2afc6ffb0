"""The checks: what each looks for and says. One function and one line in CHECKS each.

In: Evidence. Out: findings, whose message says what its count counts. Whole-dataset facts (empty rows, duplicates,
splits, classes) are taken of all rows; what looks at text looks at the survey's sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ftmeta.errors import DataError
from ftmeta.schema import Example, Split
from ftmeta.tasks.check.evidence import Evidence, Finding, Level, Quote, answer, end_of_answer, prompt
from ftmeta.tasks.check.flaws import (
    PLACEHOLDERS,
    absent_at,
    breaks_off,
    ends_bare,
    garbled_at,
    is_sentence,
    is_spelled,
)
from ftmeta.tasks.check.personal import find_personal, mask
from ftmeta.tasks.split import split_examples

CHAT_TOKENS = 4  # what a chat template puts around each message, about
_FEW = 0.01  # below this share a flaw is a note
_LEAK = 0.05  # from this share of a split on, a score on it means nothing
_HELD_OUT: tuple[Split, ...] = ("test", "validation")
_CLASSES = 50  # at most so many answers, each standing ten times on average, are classes
_SKEWED = 0.8
_ENDS = 0.8  # from this share of long answers that end a sentence on, the others break off
_LONG_ANSWERS = 20  # so many are needed to tell


# --- what finetuning would refuse -----------------------------------------------------------------------------------


def unread(evidence: Evidence) -> Iterator[Finding]:
    if evidence.survey.unread is not None:
        yield Finding(
            "error",
            f"place where the file cannot be read on: {evidence.survey.unread}",
            "Repair the file at that place; what comes behind it was not looked at.",
            count=1,
            share=None,
        )


def malformed(evidence: Evidence) -> Iterator[Finding]:
    broken = evidence.survey.broken
    if broken.count:
        yield Finding(
            "error",
            f"rows that are no examples; the first: {mask(broken.messages[0])}",
            "Correct these rows or drop them.",
            count=broken.count,
            share=round(broken.count / evidence.survey.rows, 6),
            rows=tuple(broken.rows),
        )


def empty(evidence: Evidence) -> Iterator[Finding]:
    for column, tally in evidence.survey.empty.items():
        yield Finding(
            "error",
            f"rows without text in '{column}'",
            "Fill these rows or drop them.",
            count=tally.count,
            share=round(tally.count / evidence.survey.rows, 6),
            rows=tuple(tally.rows),
        )


def refused(evidence: Evidence) -> Iterator[Finding]:
    """What the splits need: enough rows and prompts, and a split for all rows or for none."""
    survey = evidence.survey
    loose = np.flatnonzero(evidence.in_split(None))
    if survey.splits and len(loose):
        advice = "Fill the column, or drop it: then ftmeta makes the splits."
        yield evidence.found(
            "error", "rows without a split, while others have one", advice, loose, of=len(survey.row_N)
        )
        return
    try:
        split_examples(survey.placed, "data")
    except DataError as error:
        what, _, todo = str(error).removeprefix("data: ").rpartition("; ")
        todo = todo or "add rows"
        yield Finding(
            "error", f"usable rows do not make a task: {what}", f"{todo[0].upper()}{todo[1:]}.", len(survey.row_N), None
        )


def one_answer(evidence: Evidence) -> Iterator[Finding]:
    answer_N = evidence.survey.answer_N
    if len(answer_N) > 1 and (answer_N == answer_N[0]).all():
        advice = "Look whether the right column was exported: there is nothing to learn here."
        hits = np.arange(len(answer_N))
        yield evidence.found("error", "rows, all with the same answer", advice, hits, of=len(answer_N), quote=answer)


# --- what makes scores mean less ------------------------------------------------------------------------------------


def overlap(evidence: Evidence) -> Iterator[Finding]:
    """Only where the data gives the splits: those that ftmeta makes share no prompt."""
    survey = evidence.survey
    trained = survey.prompt_N[evidence.in_split("train")]
    for split in _HELD_OUT:
        index = np.flatnonzero(evidence.in_split(split))
        leaked = index[np.isin(survey.prompt_N[index], trained)]
        if len(leaked):
            level: Level = "error" if len(leaked) >= _LEAK * len(index) else "warning"
            message = f"{split} prompts that stand in the training split, too"
            advice = (
                f"Remove them from one of the two, or drop the split column and let ftmeta make splits that share no "
                f"prompt: a {split} score would measure what was learned by heart."
            )
            yield evidence.found(level, message, advice, leaked, of=len(index), quote=prompt)


def near_overlap(evidence: Evidence) -> Iterator[Finding]:
    survey, trained = evidence.survey, evidence.in_split("train")
    for split in _HELD_OUT:
        inside = evidence.in_split(split)
        leaked = np.array(sorted(one for one, other in evidence.near.items() if inside[one] and trained[other]))
        if len(leaked):
            looked_at = int(inside[survey.sample_M].sum())
            level: Level = "warning" if len(leaked) >= _LEAK * looked_at else "note"
            message = f"{split} prompts that nearly stand in the training split, with nearly the same answer"
            advice = "Read some beside their twins: a score counts them as solved if training remembers the twin."
            found = evidence.found(level, message, advice, leaked, of=looked_at)
            yield replace(found, excerpts=evidence.twins(leaked))


def contradictions(evidence: Evidence) -> Iterator[Finding]:
    survey = evidence.survey
    _, first = np.unique(survey.example_N, return_index=True)  # each prompt with each of its answers once
    prompts, answers = np.unique(survey.prompt_N[first], return_counts=True)
    hits = np.flatnonzero(np.isin(survey.prompt_N, prompts[answers > 1]))
    if len(hits):
        level = _level(len(hits), len(survey.row_N))
        message = "rows whose prompt stands with another answer in another row"
        advice = (
            "Keep one answer a prompt, or say in the prompt what decides; where several are right, exact match counts "
            "all but one as wrong."
        )
        found = evidence.found(level, message, advice, hits, of=len(survey.row_N))
        pair = np.sort(first[survey.prompt_N[first] == survey.prompt_N[hits[0]]])
        yield replace(found, excerpts=evidence.excerpts(pair, _prompt_and_answer))


def _prompt_and_answer(example: Example) -> Quote:
    return f"{example.prompt} → {example.completion}", len(example.prompt)


def duplicates(evidence: Evidence) -> Iterator[Finding]:
    survey = evidence.survey
    count = len(survey.row_N)
    hits = np.flatnonzero([False] * count)
    for split in np.unique(survey.split_N):
        inside = np.flatnonzero(survey.split_N == split)
        _, first = np.unique(survey.example_N[inside], return_index=True)
        hits = np.union1d(hits, np.delete(inside, first))
    if len(hits):
        advice = "Keep one of each, unless the weight is meant: repeated rows are paid for and learned by heart first."
        message = "rows that repeat an earlier row of their split, prompt and answer"
        yield evidence.found(_level(len(hits), count), message, advice, hits, of=count, quote=prompt)


def near_duplicates(evidence: Evidence) -> Iterator[Finding]:
    split_N = evidence.survey.split_N
    hits = np.array(sorted(one for one, other in evidence.near.items() if split_N[one] == split_N[other]))
    if len(hits):
        level: Level = "warning" if len(hits) >= _LEAK * len(evidence.survey.sample) else "note"
        advice = "Read some beside their twins; where they teach nothing new, keep one of each."
        found = evidence.found(level, "rows that nearly repeat another row, prompt and answer", advice, hits)
        yield replace(found, excerpts=evidence.twins(hits))


# --- what makes the model learn the wrong thing -----------------------------------------------------------------------


def placeholders(evidence: Evidence) -> Iterator[Finding]:
    hits = evidence.hits(lambda example: example.completion in PLACEHOLDERS)
    if len(hits):
        advice = "Fill these answers or drop the rows: they look like missing values that were exported as text."
        level = _level(len(hits), len(evidence.survey.sample))
        yield evidence.found(level, "answers that say nothing, as 'nan' or 'TODO'", advice, hits, quote=answer)


def broken_off(evidence: Evidence) -> Iterator[Finding]:
    """A long answer that ends in a bare word has broken off where most long answers end a sentence."""
    long = [example.completion for example in evidence.survey.sample if is_sentence(example.completion)]
    bare = sum(ends_bare(text) for text in long)
    ends_matter = len(long) >= _LONG_ANSWERS and bare <= (1 - _ENDS) * len(long)
    hits = evidence.hits(
        lambda example: (
            breaks_off(example.completion)
            or (ends_matter and is_sentence(example.completion) and ends_bare(example.completion))
        )
    )
    if len(hits):
        advice = "Complete them or drop the rows: the model learns to stop there, too."
        level = _level(len(hits), len(evidence.survey.sample))
        message = "answers that break off: in mid-sentence, with '...' or in an open bracket"
        yield evidence.found(level, message, advice, hits, quote=end_of_answer)


def cut_at_a_limit(evidence: Evidence) -> Iterator[Finding]:
    survey = evidence.survey
    longest = int(survey.answer_length_N.max(initial=0))
    hits = np.flatnonzero(survey.answer_length_N == longest)
    different = len(np.unique(survey.answer_N[hits]))
    # Where nearly all answers are of one length, that is their form.
    if longest >= 100 and different >= max(5, _FEW * len(survey.row_N)) and len(hits) < 0.95 * len(survey.row_N):
        advice = "Export the answers again without a limit of characters."
        message = f"answers of exactly {longest:,} characters, the longest there are: they were cut"
        yield evidence.found("warning", message, advice, hits, of=len(survey.row_N), quote=end_of_answer)


def garbled(evidence: Evidence) -> Iterator[Finding]:
    hits = evidence.hits(lambda example: any(garbled_at(text) is not None for text in _texts(example)))
    if len(hits):
        advice = "Read the original as UTF-8 when exporting; ftfy repairs what cannot be exported again."
        message = "rows with garbled characters, as 'Ã©' for 'é'"
        yield evidence.found(
            _level(len(hits), len(evidence.survey.sample)), message, advice, hits, quote=_quote_garbled
        )


def _quote_garbled(example: Example) -> Quote:
    return next((text, at) for text in _texts(example) if (at := garbled_at(text)) is not None)


def absent(evidence: Evidence) -> Iterator[Finding]:
    hits = evidence.hits(lambda example: _speaks_of_absent(example) is not None)
    if len(hits):
        advice = "Put what is spoken of into the prompt, or drop the rows: such a question has no answer."
        message = "prompts that speak of a text or picture that is not there"
        level = _level(len(hits), len(evidence.survey.sample))
        yield evidence.found(
            level, message, advice, hits, quote=lambda example: (example.prompt, _speaks_of_absent(example) or 0)
        )


def _speaks_of_absent(example: Example) -> int | None:
    return absent_at(example.prompt) if len(example.context) == 1 else None


def personal(evidence: Evidence) -> Iterator[Finding]:
    rows = defaultdict(list)
    for index, example in zip(evidence.survey.sample_M, evidence.survey.sample, strict=True):
        for kind in {kind for text in _texts(example) for kind, _ in find_personal(text)}:
            rows[kind].append(index)
    for kind, hits in sorted(rows.items()):
        advice = "Make sure that you may use it, or replace it: a finetuned model can repeat what it has seen."

        def quote(example: Example, kind: str = kind) -> Quote:
            found = ((text, found) for text in _texts(example) for name, found in find_personal(text) if name == kind)
            text, what = next(found)
            return text, text.index(what)

        yield evidence.found("warning", f"rows with what looks like {kind}", advice, np.array(hits), quote=quote)


# --- what to know -----------------------------------------------------------------------------------------------------


def lengths(evidence: Evidence) -> Iterator[Finding]:
    hits = too_long(evidence)
    if len(hits):
        model, context = evidence.base_model.name, evidence.base_model.shape.context_length
        cut = sum(
            answer_count > context - min(prompt_count, context // 2)
            for prompt_count, answer_count in zip(evidence.prompt_tokens, evidence.answer_tokens, strict=True)
        )
        ends = f", and of {cut:,} answers the end" if cut else ""
        message = (
            f"rows longer than the {context:,} tokens that {model} reads: the beginning of the prompt is cut{ends}"
        )
        advice = "Shorten these rows, or choose a base model with a longer context (--base-model)."
        yield evidence.found(_level(len(hits), len(evidence.survey.sample)), message, advice, hits, quote=prompt)


def too_long(evidence: Evidence) -> npt.NDArray[np.int64]:
    """Which examples of the sample do not fit the base model's context, as indices into the N."""
    chat_M = np.array([CHAT_TOKENS * (len(example.context) + 1) for example in evidence.survey.sample], dtype=np.int64)
    total_M = (
        chat_M + np.array(evidence.prompt_tokens, dtype=np.int64) + np.array(evidence.answer_tokens, dtype=np.int64)
    )
    return evidence.survey.sample_M[total_M > evidence.base_model.shape.context_length]


def unfamiliar(evidence: Evidence) -> Iterator[Finding]:
    sample = evidence.survey.sample
    hits = evidence.survey.sample_M[
        [
            is_spelled("".join(message.content for message in example.context), prompt_count)
            or is_spelled(example.completion, answer_count)
            for example, prompt_count, answer_count in zip(
                sample, evidence.prompt_tokens, evidence.answer_tokens, strict=True
            )
        ]
    ]
    if len(hits) >= _LEAK * len(sample) and len(hits):
        model = evidence.base_model.name
        message = f"rows in a script that {model} reads letter by letter: it has hardly seen the language"
        advice = "Choose a base model that was trained on it (--base-model)."
        yield evidence.found("warning", message, advice, hits, quote=answer)


def classes(evidence: Evidence) -> Iterator[Finding]:
    survey = evidence.survey
    different, count = np.unique(survey.answer_N, return_counts=True)
    total = len(survey.row_N)
    if not 2 <= len(different) <= min(_CLASSES, total // 10):
        return
    hits = np.flatnonzero(survey.answer_N == different[count.argmax()])
    share = len(hits) / total
    message = f"rows with the most frequent of {len(different)} different answers: this is classification"
    if share >= _SKEWED:
        advice = f"Add rows of the other answers: always giving this one is right in {share:.0%} of rows."
        yield evidence.found("warning", f"{message}, and skewed", advice, hits, of=total, quote=answer)
    else:
        advice = f"Compare exact match with {share:.0%}, what always giving the most frequent answer would reach."
        yield evidence.found("note", message, advice, hits, of=total, quote=answer)


CHECKS: dict[str, Callable[[Evidence], Iterator[Finding]]] = {
    "unread": unread,
    "malformed rows": malformed,
    "empty": empty,
    "splits": refused,
    "one answer": one_answer,
    "overlap": overlap,
    "near overlap": near_overlap,
    "contradictions": contradictions,
    "duplicates": duplicates,
    "near duplicates": near_duplicates,
    "placeholders": placeholders,
    "broken off": broken_off,
    "cut at a limit": cut_at_a_limit,
    "garbled": garbled,
    "absent": absent,
    "personal data": personal,
    "length": lengths,
    "unfamiliar": unfamiliar,
    "classes": classes,
}


def _level(count: int, total: int) -> Level:
    return "warning" if count >= _FEW * total else "note"


def _texts(example: Example) -> list[str]:
    return [*(message.content for message in example.context), example.completion]
