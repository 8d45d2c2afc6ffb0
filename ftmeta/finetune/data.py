"""Examples -> token batches: tokenised once per task, labels on the completion.

The text of an example is the model's own chat template. Its completion is the answer and the token that ends the
turn (`<|end|>` for Phi-3); the template's text after that is dropped. Legend of the array names:
# B rows of a batch, L its padded length, N tokens without padding, S selected positions (those whose next token is a
# label)

Truncation: an example longer than the model's context loses the beginning of its prompt, down to half the context,
and only then the end of its completion.

Batches: each epoch is a permutation drawn from the seed, and the stream of all epochs is cut into batches; only the
last one can be smaller. Batches of like length would spare padding, but examples of like length are alike in content
too, and runs on such batches score lower (docs/lab-log.md, 2026-11-26). Padding is left out of the computation
instead (decoder.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ftmeta.errors import ModelError
from ftmeta.models import LoadedModel
from ftmeta.schema import Example, Split, Task

_SUBSET_SEED = 2411_01195  # the fixed subsets for evaluation and for max_train_examples; never a run's own seed


@dataclass(frozen=True)
class Tokens:
    """One example: prompt and completion, `start` being the index of the completion's first token."""

    ids: npt.NDArray[np.int64]
    start: int

    def __len__(self) -> int:
        return len(self.ids)

    def first_label(self, *, full: bool = False) -> int:
        """The index of the first token that is a label: the completion's, or with `full` the second of all."""
        return 1 if full else max(self.start, 1)


@dataclass(frozen=True)
class TokenizedTask:
    """A task as one base model reads it. Made once, kept by long-lived workers, shared by runs."""

    task: Task
    base_model_fingerprint: str
    splits: dict[Split, tuple[Tokens, ...]]
    end_token: int  # what ends the completion
    pad_token: int
    cut: dict[Split, int] = field(default_factory=dict)  # how many examples were longer than the context, and lost text


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, which a causal model needs no mask for, and the positions that predict a label."""

    ids_BL: torch.Tensor
    lengths_B: torch.Tensor  # without padding
    row_N: torch.Tensor  # where each token stands in B x L, padding left out
    position_N: torch.Tensor
    packed_S: torch.Tensor  # indices into N: the position before each label
    select_S: torch.Tensor  # indices into B x L, flat: the position before each label
    targets_S: torch.Tensor
    tokens: int  # without padding


def tokenize_task(task: Task, base: LoadedModel) -> TokenizedTask:
    """Tokenises the three splits with the base model's chat template. Raises ModelError for a template that cannot be
    split into prompt and completion."""
    tokenizer = base.tokenizer
    end = end_of_turn(tokenizer)
    context = base.info.shape.context_length
    splits: dict[Split, tuple[Tokens, ...]] = {}
    cut: dict[Split, int] = {}
    for split, examples in task.splits.items():
        rows = _tokenize(examples, tokenizer, end)
        cut[split] = sum(len(row) > context for row in rows)
        splits[split] = tuple(_fit(row, context) for row in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return TokenizedTask(
        task=task,
        base_model_fingerprint=base.info.fingerprint,
        splits=splits,
        end_token=tokenizer.convert_tokens_to_ids(end),
        pad_token=pad if pad is not None else 0,
        cut=cut,
    )


def prompt_text(context: Sequence[Any], tokenizer: Any) -> str:
    """The text that the model continues with its answer."""
    messages = [{"role": message.role, "content": message.content} for message in context]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def end_of_turn(tokenizer: Any) -> str:
    """The special token that the chat template writes after an answer."""
    answer = "ftmeta"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    tail = text[text.rfind(answer) + len(answer) :].lstrip()
    ends = [
        token for token in tokenizer.all_special_tokens + list(tokenizer.get_added_vocab()) if tail.startswith(token)
    ]
    if not ends:
        raise ModelError("the base model's chat template ends an answer without a special token; choose another model")
    return str(max(ends, key=len))


def _tokenize(examples: Sequence[Example], tokenizer: Any, end: str) -> list[Tokens]:
    prompts, texts = [], []
    for example in examples:
        prompt = prompt_text(example.context, tokenizer)
        messages = [{"role": message.role, "content": message.content} for message in example.context]
        messages.append({"role": "assistant", "content": example.completion})
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        if not text.startswith(prompt):
            raise ModelError(
                "the base model's chat template changes the prompt once the answer is known, so prompt and completion "
                "cannot be told apart; choose another base model"
            )
        prompts.append(prompt)
        texts.append(text[: text.rfind(end) + len(end)])
    if not texts:
        return []
    # Tokenised as one text, as the model meets it; a token belongs to the completion if it ends behind the prompt.
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)  # `_fit` cuts
    result = []
    for ids, offsets, prompt in zip(encoded["input_ids"], encoded["offset_mapping"], prompts, strict=True):
        start = next(index for index, (_, stop) in enumerate(offsets) if stop > len(prompt))
        result.append(Tokens(np.asarray(ids, dtype=np.int64), start))
    return result


def _fit(tokens: Tokens, context: int) -> Tokens:
    if len(tokens) <= context:
        return tokens
    prompt, completion = tokens.ids[: tokens.start], tokens.ids[tokens.start :]
    completion = completion[: context - min(len(prompt), context // 2)]
    prompt = prompt[len(prompt) - (context - len(completion)) :]
    return Tokens(np.concatenate([prompt, completion]), len(prompt))


def fixed_subset(count: int, limit: int | None) -> npt.NDArray[np.int64]:
    """The same `limit` of `count` indices for every run, sorted; all of them when there are no more."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SUBSET_SEED).permutation(count)[:limit])


def training_batches(size: int, batch_size: int, examples: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Which of `size` examples each optimizer step takes, `examples` of them in all over the epochs."""
    rng = np.random.default_rng(seed)
    epochs = -(-examples // size)
    stream = np.concatenate([rng.permutation(size) for _ in range(epochs)])[:examples]
    return [stream[at : at + batch_size] for at in range(0, examples, batch_size)]


def evaluation_batches(examples: Sequence[Tokens], max_tokens: int) -> Iterator[list[Tokens]]:
    """Sorted by length and cut so that rows x padded length stays within `max_tokens` (one row at least)."""
    group: list[Tokens] = []
    for tokens in sorted(examples, key=len):
        if group and (len(group) + 1) * len(tokens) > max_tokens:
            yield group
            group = []
        group.append(tokens)
    if group:
        yield group


def micro_batches(rows: Sequence[Tokens], max_tokens: int, ranks: int) -> list[list[list[Tokens]]]:
    """A step's examples as forward passes: for each pass, what each rank computes in it.

    All ranks take as many passes, because they meet in each; one that has fewer examples gets empty ones. Every rank
    works out the same answer.
    """
    by_length = sorted(rows, key=len)
    shares = [list(evaluation_batches(by_length[rank::ranks], max_tokens)) for rank in range(ranks)]
    passes = max(len(share) for share in shares)
    return [[share[at] if at < len(share) else [] for share in shares] for at in range(passes)]


def collate(rows: Sequence[Tokens], pad_token: int, device: torch.device, *, full: bool = False) -> Batch:
    """Pads rows on the right. `full` puts labels on every token but the first, not on the completion alone."""
    length = max(len(row) for row in rows)
    ids_BL = np.full((len(rows), length), pad_token, dtype=np.int64)
    select, packed, targets, begin = [], [], [], 0
    for at, row in enumerate(rows):
        ids_BL[at, : len(row)] = row.ids
        first = row.first_label(full=full)
        select.append(np.arange(at * length + first - 1, at * length + len(row) - 1))
        packed.append(np.arange(begin + first - 1, begin + len(row) - 1))
        begin += len(row)
        targets.append(row.ids[first:])
    lengths_B = np.array([len(row) for row in rows])

    def tensor(array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return Batch(
        ids_BL=tensor(ids_BL),
        lengths_B=tensor(lengths_B),
        row_N=tensor(np.repeat(np.arange(len(rows)), lengths_B)),
        position_N=tensor(np.concatenate([np.arange(len(row)) for row in rows])),
        packed_S=tensor(np.concatenate(packed)),
        select_S=tensor(np.concatenate(select)),
        targets_S=tensor(np.concatenate(targets)),
        tokens=int(lengths_B.sum()),
    )
