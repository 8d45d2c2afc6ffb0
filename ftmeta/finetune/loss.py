"""The loss, with logits only where it needs them.

The decoder runs over the batch; its hidden states are picked at the positions that predict a label, and only
those go through the head. Summed and divided by the number of labels of the whole batch, it is the same number as
transformers' loss (a mean over labels) with any padding and any split into micro-batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ftmeta.finetune import decoder
from ftmeta.finetune.data import Batch


def logits_at_labels(model: Any, batch: Batch) -> torch.Tensor:
    """Float32 logits, one row for each label of the batch. `model` is the causal language model, adapter included."""
    if decoder.is_supported(model, batch.ids_BL.shape[1]):
        count = len(batch.packed_S)
        return decoder.project(model.get_output_embeddings(), decoder.hidden_at(model, batch))[:count]
    hidden_BLH = model.get_decoder()(input_ids=batch.ids_BL, use_cache=False).last_hidden_state
    hidden_SH = hidden_BLH.flatten(0, 1).index_select(0, batch.select_S)
    return model.get_output_embeddings()(hidden_SH).float()


def training_loss(model: Any, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """The summed cross entropy of the batch's labels, in nats; smoothing spreads its share over the vocabulary."""
    return functional.cross_entropy(
        logits_at_labels(model, batch), batch.targets_S, reduction="sum", label_smoothing=label_smoothing
    )


def nll_and_hits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed negative log-likelihood of the labels in nats, and how many of them are the likeliest token."""
    logits = logits_at_labels(model, batch)
    nll = functional.cross_entropy(logits, batch.targets_S, reduction="sum")
    chosen = logits.gather(1, batch.targets_S[:, None])[:, 0]
    return nll, (chosen == logits.amax(-1)).sum()  # argmax takes several times as long on the CPU
