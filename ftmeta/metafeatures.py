"""What describes a task before any finetuning: the surrogates' view of it.

In: a task and the base model's tokenizer. Out: one number for each name in FEATURES, always all of them, from the
training and validation splits (never the test split). The same code describes the tasks of a meta-dataset and a
user's task. Of a split with more than SAMPLE examples, the first SAMPLE are described, which are a random sample:
examples stand in the order of their hashes.

Two more need the base model's weights: ZERO_SHOT_FEATURES. They are measured by ftmeta/finetune/zero_shot.py, and by
every run before it trains; their names, ranges and rounding are here, beside the others.

Tokens are those of the tokenizer without chat tokens; words are runs of letters and digits, case folded; the prompt
is all messages before the answer. docs/metafeatures.md lists all of them; `python -m ftmeta.metafeatures` prints its
tables.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.schema import Example, Task
from ftmeta.tasks.lengths import completion_tokens, prompt_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 5000  # examples of a split
_RATIO_TOKENS = 2000  # type-token ratios fall with the length of a text, so all are taken of equal lengths
_ZLIB_BYTES = 1 << 18
_STARTS = 10
_WORD = re.compile(r"\w+")

# name -> "range: formula". A name stands for the same number for ever: meta-datasets hold them.
FEATURES: dict[str, str] = {
    "log10_train_examples": "[1, inf): log10 of the number of training examples",
    "log10_train_tokens": "[0, inf): log10 of the number of training tokens, prompts and answers",
    "log10_answer_tokens": "[0, inf): log10 of the number of training answer tokens, those that teach",
    "prompt_tokens_mean": "[0, inf): mean prompt length in tokens",
    "prompt_tokens_p10": "[0, inf): tenth percentile of the prompt length in tokens",
    "prompt_tokens_p50": "[0, inf): median prompt length in tokens",
    "prompt_tokens_p90": "[0, inf): ninetieth percentile of the prompt length in tokens",
    "answer_tokens_mean": "[0, inf): mean answer length in tokens",
    "answer_tokens_p10": "[0, inf): tenth percentile of the answer length in tokens",
    "answer_tokens_p50": "[0, inf): median answer length in tokens",
    "answer_tokens_p90": "[0, inf): ninetieth percentile of the answer length in tokens",
    "answer_tokens_variation": "[0, inf): standard deviation / mean of the answer length in tokens",
    "prompt_tokens_per_character": "(0, inf): tokens / characters of all prompts; high where the tokenizer fits badly",
    "answer_tokens_per_character": "(0, inf): tokens / characters of all answers; high where the tokenizer fits badly",
    "vocabulary_used": "[0, 1]: distinct tokens in training prompts and answers / size of the tokenizer's vocabulary",
    "prompt_type_token_ratio": "[0, 1]: distinct tokens / tokens among the first 2,000 prompt tokens",
    "answer_type_token_ratio": "[0, 1]: distinct tokens / tokens among the first 2,000 answer tokens",
    "prompt_compression": "(0, 2]: bytes after zlib / before, of the first 256 KiB of prompts; low if they are alike",
    "answer_compression": "(0, 2]: bytes after zlib / before, of the first 256 KiB of answers; low if they are alike",
    "answer_token_entropy_bits": "[0, inf): -sum p log2 p, p being an answer token's share of the answer tokens",
    "answer_bigram_entropy_bits": "[0, inf): entropy of an answer token given the one before it, H(pair) - H(first)",
    "answer_entropy": "[0, 1]: -sum p log2 p, p being a whole answer's share of the examples, / log2 of the number of "
    "examples; 1: all differ, near 0: few classes",
    "distinct_answers": "[0, 1]: distinct answers / examples, case folded",
    "top_answer_share": "[0, 1]: share of the most frequent answer, case folded",
    "answer_in_prompt": "[0, 1]: mean over the examples: share of the answer's words that the prompt holds",
    "duplicate_prompts": "[0, 1]: 1 - distinct prompts / examples, case and spacing folded",
    "common_prompt_starts": "[0, 1]: share of prompts that begin with one of the ten most frequent first three words",
    "answer_digits": "[0, 1]: share of digits among the answers' characters",
    "answer_capitals": "[0, 1]: share of capital letters among the answers' characters",
    "answer_punctuation": "[0, 1]: share of characters of answers that are neither letters, digits nor white space",
    "answer_non_ascii": "[0, 1]: share of characters of answers outside ASCII",
    "messages_mean": "[1, inf): mean number of messages before the answer",
    "validation_answers_unseen": "[0, 1]: share of validation answers that are no training answer, case folded",
    "validation_answer_words_unseen": "[0, 1]: share of validation answer words that no training example holds",
    "validation_prompt_words_unseen": "[0, 1]: share of validation prompt words that no training example holds",
}

ZERO_SHOT_FEATURES: dict[str, str] = {
    "zero_shot_nll": "[0, inf): -sum ln p / number of answer tokens, in nats; p is the probability that the base model "
    "gives an answer token after those before it",
    "zero_shot_token_accuracy": "[0, 1]: share of answer tokens that are the base model's most probable one",
}


def zero_shot(nll: float, token_accuracy: float) -> dict[str, float]:
    """The features of ZERO_SHOT_FEATURES from what a base model scores on the validation split; finite numbers."""
    return dict(zip(ZERO_SHOT_FEATURES, (_rounded(nll), _rounded(token_accuracy)), strict=True))


def markdown_table(features: Mapping[str, str]) -> str:
    """The features as docs/metafeatures.md shows them: name, range, formula."""
    rows = [f"| `{name}` | {' | '.join(text.split(': ', 1))} |" for name, text in features.items()]
    return "\n".join(["| name | range | formula |", "|---|---|---|", *rows])


def metafeatures(task: Task, tokenizer: Tokenizer) -> dict[str, float]:
    """The features of `task`, keyed and ordered as FEATURES; finite numbers.

    Compressed sizes depend on the zlib at hand, and what is a letter or a word on Python's Unicode tables; so between
    machines a few of the numbers may differ a little.
    """
    train, validation = task.train[:SAMPLE], task.validation[:SAMPLE]
    scale = len(task.train) / len(train)
    prompts, answers = prompt_tokens(train, tokenizer), completion_tokens(train, tokenizer)
    words = [(_words(_prompt(example)), _words(example.completion)) for example in train]  # the dearest step: once
    found = {
        "log10_train_examples": math.log10(len(task.train)),
        "messages_mean": sum(len(example.context) for example in train) / len(train),
        **_lengths(prompts, answers, scale),
        **_vocabulary(prompts, answers, tokenizer.get_vocab_size()),
        **_texts(train),
        "prompt_tokens_per_character": sum(map(len, prompts)) / sum(len(_prompt(example)) for example in train),
        "answer_tokens_per_character": sum(map(len, answers)) / sum(len(example.completion) for example in train),
        **_answers(train),
        "answer_in_prompt": sum(_share_in(answer, set(prompt)) for prompt, answer in words) / len(train),
        **_novelty(train, validation, {word for pair in words for part in pair for word in part}),
    }
    return {name: _rounded(found[name]) for name in FEATURES}


def _rounded(value: float) -> float:
    return round(float(value), 9)  # the last digits are the machine's


def _lengths(prompts: list[list[int]], answers: list[list[int]], scale: float) -> dict[str, float]:
    prompt_N, answer_N = (np.array([len(ids) for ids in tokens]) for tokens in (prompts, answers))
    found = {
        "log10_train_tokens": math.log10(max(1.0, scale * (prompt_N.sum() + answer_N.sum()))),
        "log10_answer_tokens": math.log10(max(1.0, scale * answer_N.sum())),
        "answer_tokens_variation": answer_N.std() / max(1.0, answer_N.mean()),
    }
    for name, length_N in (("prompt", prompt_N), ("answer", answer_N)):
        found[f"{name}_tokens_mean"] = length_N.mean()
        for percent in (10, 50, 90):
            found[f"{name}_tokens_p{percent}"] = np.percentile(length_N, percent)
    return found


def _vocabulary(prompts: list[list[int]], answers: list[list[int]], size: int) -> dict[str, float]:
    prompt_T, answer_T = (list(itertools.chain.from_iterable(tokens)) for tokens in (prompts, answers))
    pairs = [pair for ids in answers for pair in itertools.pairwise(ids)]
    firsts = Counter(first for first, _ in pairs)
    return {
        "vocabulary_used": len({*prompt_T, *answer_T}) / size,
        "prompt_type_token_ratio": _type_token_ratio(prompt_T),
        "answer_type_token_ratio": _type_token_ratio(answer_T),
        "answer_token_entropy_bits": _entropy_bits(Counter(answer_T).values()),
        "answer_bigram_entropy_bits": max(0.0, _entropy_bits(Counter(pairs).values()) - _entropy_bits(firsts.values())),
    }


def _type_token_ratio(tokens: list[int]) -> float:
    head = tokens[:_RATIO_TOKENS]
    return len(set(head)) / max(1, len(head))


def _entropy_bits(counts: Iterable[int]) -> float:
    count_K = np.sort(np.fromiter(counts, dtype=float))  # the sum must not depend on the order
    share_K = count_K / max(1.0, count_K.sum())
    return float(max(0.0, -(share_K * np.log2(share_K)).sum()))


def _texts(train: Sequence[Example]) -> dict[str, float]:
    prompt, answer = ("\n".join(texts) for texts in (map(_prompt, train), (example.completion for example in train)))
    ends = len(train) - 1  # the line ends between answers, which are none of their characters
    characters, of_each = len(answer) - ends, Counter(answer)

    def count(is_one: Callable[[str], bool]) -> int:
        return sum(number for character, number in of_each.items() if is_one(character))

    letters, digits, spaces = count(str.isalpha), count(str.isdigit), count(str.isspace) - ends
    return {
        "prompt_compression": _compression(prompt),
        "answer_compression": _compression(answer),
        "answer_digits": digits / characters,
        "answer_capitals": count(str.isupper) / characters,
        "answer_punctuation": max(0, characters - letters - digits - spaces) / characters,
        "answer_non_ascii": (len(answer) - count(str.isascii)) / characters,
    }


def _compression(text: str) -> float:
    raw = text.encode("utf-8")[:_ZLIB_BYTES]
    return min(2.0, len(zlib.compress(raw, 6)) / len(raw))


def _answers(train: Sequence[Example]) -> dict[str, float]:
    count = len(train)
    answers = Counter(example.completion.casefold() for example in train)
    prompts = {" ".join(_prompt(example).casefold().split()) for example in train}
    starts = Counter(tuple(example.prompt.casefold().split()[:3]) for example in train)
    return {
        "answer_entropy": _entropy_bits(answers.values()) / math.log2(count),
        "distinct_answers": len(answers) / count,
        "top_answer_share": max(answers.values()) / count,
        "duplicate_prompts": 1 - len(prompts) / count,
        "common_prompt_starts": sum(number for _, number in starts.most_common(_STARTS)) / count,
    }


def _novelty(train: Sequence[Example], validation: Sequence[Example], known: set[str]) -> dict[str, float]:
    answers = {example.completion.casefold() for example in train}
    asked = [word for example in validation for word in _words(_prompt(example))]
    answered = [word for example in validation for word in _words(example.completion)]
    unseen = sum(example.completion.casefold() not in answers for example in validation)
    return {
        "validation_answers_unseen": unseen / len(validation),
        "validation_prompt_words_unseen": 1 - _share_in(asked, known) if asked else 0.0,
        "validation_answer_words_unseen": 1 - _share_in(answered, known) if answered else 0.0,
    }


def _share_in(words: Sequence[str], known: set[str]) -> float:
    return sum(word in known for word in words) / max(1, len(words))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _prompt(example: Example) -> str:
    return "\n".join(message.content for message in example.context)


if __name__ == "__main__":
    print(markdown_table(FEATURES), markdown_table(ZERO_SHOT_FEATURES), sep="\n\n")  # noqa: T201
