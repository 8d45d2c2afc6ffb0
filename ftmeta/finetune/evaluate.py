"""How good a model is on a split: NLL and accuracy per answer token, and the quality of generated answers.

Answers are generated greedily, in batches with a key-value cache, until the token that ends the turn.
"""

from __future__ import annotations

import contextlib
import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ftmeta.finetune.data import Batch, TokenizedTask, collate, evaluation_batches, fixed_subset
from ftmeta.finetune.engine import ALONE, Ranks
from ftmeta.finetune.loss import nll_and_hits
from ftmeta.schema import Split

GENERATION_EXAMPLES = 64
_TOKENS = {"cpu": 1024, "cuda": 131072}  # rows x padded length of one forward pass without gradients
_MAX_NEW_TOKENS = 128
_GENERATION_ROWS = 64


@dataclass(frozen=True)
class Likelihood:
    nll: float  # nats per answer token; may be infinite or NaN
    token_accuracy: float


def batches_of(
    tokenized: TokenizedTask, split: Split, examples: int, device: torch.device, max_tokens: int | None = None
) -> list[Batch]:
    """The fixed subset of a split, at most `examples` of it, that every run scores. `max_tokens`, rows x padded length
    of a batch, lowers the device's own limit."""
    rows = tokenized.splits[split]
    limit = min(_TOKENS[device.type], max_tokens or _TOKENS[device.type])
    chosen = [rows[index] for index in fixed_subset(len(rows), examples)]
    return [collate(part, tokenized.pad_token, device) for part in evaluation_batches(chosen, limit)]


def precision(model: Any, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 arithmetic around bfloat16 weights (an adapter itself stays in float32); float32 as it is."""
    if model.dtype == torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def likelihood(model: Any, batches: Sequence[Batch], ranks: Ranks = ALONE) -> Likelihood:
    """NLL per answer token and the share of answer tokens that are the model's first choice, the ranks sharing the
    batches. All take as many, because under ZeRO-3 they meet in each; what is over counts for nothing."""
    sums = []
    with torch.no_grad():
        for first in range(0, len(batches), ranks.size):
            at = first + ranks.rank
            nll, hits = nll_and_hits(model, batches[at if at < len(batches) else 0])
            sums.append(torch.stack([nll.double(), hits.double()]) * (at < len(batches)))
    nll_sum, hits_sum = ranks.sum(torch.stack(sums).sum(0).tolist())
    labels = sum(len(batch.targets_S) for batch in batches)
    return Likelihood(nll_sum / labels, hits_sum / labels)


def score_of(nll: float, zero_shot_nll: float) -> float | None:
    """The share of the zero-shot loss that finetuning removed, in [0, 1]; None if the NLL is not finite."""
    return max(0.0, 1.0 - nll / zero_shot_nll) if math.isfinite(nll) else None


def answers(
    model: Any,
    tokenized: TokenizedTask,
    split: Split,
    indices: Sequence[int],
    tokenizer: Any,
    ranks: Ranks = ALONE,
    *,
    in_pieces: bool = False,
    copies: int = 1,
) -> list[str]:
    """Generated answers to the given examples of a split, in their order, the ranks sharing them; at most 128 tokens,
    and no longer than the longest completion in training or in the split. `in_pieces`: no rank has the whole model.
    `copies`: the examples so many times, in batches of whole copies; one answer each, copy after copy."""
    import transformers

    longest = max(len(row) - row.start for name in ("train", split) for row in tokenized.splits[name])  # type: ignore[index]
    context = model.config.max_position_embeddings
    limit = min(longest, _MAX_NEW_TOKENS, context - 1)
    config = transformers.GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=tokenized.end_token, pad_token_id=tokenized.pad_token
    )
    rows = tokenized.splits[split]
    order = sorted(indices, key=lambda index: rows[index].start)
    order += order[-1:] * (-len(order) % ranks.size)  # as many for each rank
    mine = order[ranks.rank :: ranks.size]
    texts: dict[tuple[int, int], str] = {}  # by copy and index
    for begin in range(0, len(mine), _GENERATION_ROWS):
        chosen = mine[begin : begin + _GENERATION_ROWS]
        prompts = [rows[index].ids[: rows[index].start][-(context - limit) :] for index in chosen]
        length = max(len(prompt) for prompt in prompts)
        ids_BL = np.full((len(prompts), length), tokenized.pad_token, dtype=np.int64)
        mask_BL = np.zeros((len(prompts), length), dtype=np.int64)
        for at, prompt in enumerate(prompts):  # on the left, so that every answer starts at the same column
            ids_BL[at, length - len(prompt) :] = prompt
            mask_BL[at, length - len(prompt) :] = 1
        with torch.no_grad():
            made = model.generate(
                input_ids=torch.from_numpy(ids_BL).to(model.device).repeat(copies, 1),
                attention_mask=torch.from_numpy(mask_BL).to(model.device).repeat(copies, 1),
                generation_config=config,
                synced_gpus=in_pieces,
            )
        places = [(copy, index) for copy in range(copies) for index in chosen]
        for place, ids in zip(places, made[:, length:].tolist(), strict=True):
            stop = ids.index(tokenized.end_token) if tokenized.end_token in ids else len(ids)
            texts[place] = tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
    everyone = {place: text for part in ranks.gather(texts) for place, text in part.items()}
    return [everyone[copy, index] for copy in range(copies) for index in indices]


def generation_sample(rows: int, eval_examples: int) -> list[int]:
    """The test examples, of so many `rows`, that every run answers: a fixed part of those that it scores."""
    subset = fixed_subset(rows, eval_examples)
    return [int(subset[at]) for at in fixed_subset(len(subset), GENERATION_EXAMPLES)]


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means in [0, 1]: `exact_match` and `f1` over words as SQuAD's script defines them (Rajpurkar et al. 2016: lower
    case, no punctuation, no articles), `rouge_l` the F-measure of the longest common subsequence (rouge-score)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = list(zip(predictions, references, strict=True))
    words = [(_words(prediction), _words(reference)) for prediction, reference in pairs]
    return {
        "exact_match": float(np.mean([a == b for a, b in words])),
        "f1": float(np.mean([_f1(a, b) for a, b in words])),
        "rouge_l": float(np.mean([scorer.score(reference, made)["rougeL"].fmeasure for made, reference in pairs])),
    }


def _words(text: str) -> list[str]:
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _f1(made: list[str], wanted: list[str]) -> float:
    if not made or not wanted:
        return float(made == wanted)
    common = sum((Counter(made) & Counter(wanted)).values())
    return 2 * common / (len(made) + len(wanted))
