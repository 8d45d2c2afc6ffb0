"""Facts to a task: which question about which fact stands in which split.

In: facts, each with several questions. Out: three splits of the sizes that the source states, in which a stated share
of the validation and test questions asks for a fact that training teaches through a different question (a *seen*
fact), and the rest for facts that training never mentions. No question stands, or nearly stands, in two splits.
A source may ask for noise: a share of the training questions gets another answer of the same kind, as in real data.
Everything is decided by hashes of the facts, so the same facts always give the same task.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ftmeta.errors import DataError
from ftmeta.schema import Example, Message, Split
from ftmeta.tasks.split import example_key
from ftmeta.tasks.text import content_words, is_clean, overlap

NEAR = 0.75  # questions about one fact whose content words overlap more than this never stand in different splits


@dataclass(frozen=True)
class Fact:
    """One thing to know, with its questions and their answers, which may differ: Italy's capital, Rome's country."""

    key: str  # what it is about, a slash, and its kind: `italy/capital`
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sizes:
    train: int
    seen_share: float  # of validation and test questions that ask for facts that training teaches, in [1/3, 9/10]
    validation: int = 200
    test: int = 400
    noise: float = 0.0  # share of the training questions whose answer is that of another one of the same kind


def assemble(facts: Iterable[Fact], sizes: Sizes, salt: str) -> dict[Split, tuple[Example, ...]]:
    """The splits of a task. `salt`, the task's name, moves the choice. Raises DataError if there are too few facts."""
    waiting = [_order_questions(fact, salt) for fact in _screen(sorted(facts, key=lambda fact: _hash(salt, fact.key)))]
    splits: dict[Split, list[Example]] = {"train": [], "validation": [], "test": []}
    spare: list[list[Example]] = []  # more questions for training, by fact
    evaluated: tuple[tuple[Split, int], ...] = (("test", sizes.test), ("validation", sizes.validation))
    for split, size in evaluated:
        seen = round(sizes.seen_share * size)
        for teaches in [True] * seen + [False] * (size - seen):
            fact, teaching = _next_fact(waiting, teaches)
            question, answer = fact.questions[0]
            splits[split].append(_example(question, answer, fact.key, teaches))
            if teaches:
                first, *others = (_example(*fact.questions[i], fact.key, None) for i in teaching)
                splits["train"].append(first)
                spare.append(others)
    spare.extend([_example(*question, fact.key, None) for question in fact.questions] for fact in waiting)
    spare.sort(key=lambda examples: _hash(salt, *(one.prompt for one in examples)))
    more = [one for examples in spare for one in examples]
    missing = sizes.train - len(splits["train"])
    if not 0 <= missing <= len(more):
        raise DataError(f"{salt}: {len(more)} more training questions, but {missing} are wanted; change the sizes")
    splits["train"].extend(more[:missing])
    splits["train"] = _with_noise(splits["train"], sizes.noise, salt)
    return {split: tuple(sorted(examples, key=example_key)) for split, examples in splits.items()}


def _screen(facts: Sequence[Fact]) -> list[Fact]:
    """Facts with the questions that are clean and that no other fact asks: those would be ambiguous, or leak."""
    asked: dict[frozenset[str], set[str]] = {}
    for fact in facts:
        for question, _ in fact.questions:
            asked.setdefault(content_words(question), set()).add(fact.key)
    kept = []
    for fact in facts:
        good = tuple(
            (question, answer)
            for question, answer in fact.questions
            if is_clean(answer) and "<" not in question and len(asked[content_words(question)]) == 1
        )
        if good:
            kept.append(Fact(fact.key, good))
    return kept


def _order_questions(fact: Fact, salt: str) -> Fact:
    return Fact(fact.key, tuple(sorted(fact.questions, key=lambda question: _hash(salt, question[0]))))


def _next_fact(waiting: list[Fact], teaches: bool) -> tuple[Fact, list[int]]:
    """Takes the next fact from `waiting`, with the questions that may teach it while the first one asks for it."""
    for position, fact in enumerate(waiting):
        asked = content_words(fact.questions[0][0])
        teaching = [
            i for i in range(1, len(fact.questions)) if overlap(asked, content_words(fact.questions[i][0])) <= NEAR
        ]
        if teaching or not teaches:
            del waiting[position]
            return fact, teaching
    raise DataError("too few facts for the sizes of the task")


def _with_noise(train: list[Example], share: float, salt: str) -> list[Example]:
    """Gives exactly `share` of the examples the answer of the next one, in an order of hashes, of the same kind."""
    order = sorted(range(len(train)), key=lambda i: _hash(salt, "noise", train[i].prompt))
    of_kind: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in order:
        of_kind[_kind(train[i])].append(i)
    noisy, left = list(train), round(share * len(train))
    for i in order:
        if left == 0:
            break
        alike = of_kind[_kind(train[i])]
        at = alike.index(i)
        others = (train[j].completion for j in (*alike[at + 1 :], *alike[:at]))
        wrong = next((answer for answer in others if answer.casefold() != train[i].completion.casefold()), None)
        if wrong is not None:
            noisy[i] = replace(train[i], completion=wrong)
            left -= 1
    if left:
        raise DataError(f"{salt}: too few training questions have others of their kind for a noise of {share}")
    return noisy


def _kind(example: Example) -> tuple[str, str]:
    """Of the fact and, by its first word, of the question: `Which city ..?` is not answered with a date."""
    return (example.fact or "").rpartition("/")[2], example.prompt.split()[0]


def _example(question: str, answer: str, fact: str, seen: bool | None) -> Example:
    return Example((Message("user", question),), answer, fact, seen)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()
