"""Our loss and gradients against transformers' own, on both forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers.trainer_pt_utils import LabelSmoother

from ftmeta.finetune import adapters, decoder, tokenize_task
from ftmeta.finetune.data import Tokens, collate, evaluation_batches
from ftmeta.finetune.loss import logits_at_labels, nll_and_hits, training_loss
from ftmeta.finetune.settings import Settings
from ftmeta.models import LoadedModel
from ftmeta.schema import Task
from tests.finetune.conftest import tiny_llama

CPU = torch.device("cpu")


@pytest.fixture
def rows(base: LoadedModel, task: Task) -> list[Tokens]:
    return list(tokenize_task(task, base).splits["train"][:13])


def small_llama(**more: Any) -> Any:
    return tiny_llama(**more).eval().requires_grad_(False)


def small_phi3(**more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        **more,
    )
    return transformers.Phi3ForCausalLM(config).eval().requires_grad_(False)


def padded(rows: list[Tokens], *, full: bool) -> dict[str, torch.Tensor]:
    """What a data collator gives transformers: padding masked, labels of -100 where there is no loss."""
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.from_numpy(row.ids)
        mask[at, : len(row)] = 1
        first = 0 if full else row.start
        labels[at, first : len(row)] = ids[at, first : len(row)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


MODELS = {
    "phi3": lambda: small_phi3(),
    "phi3-partial-rotary": lambda: small_phi3(partial_rotary_factor=0.5),
    "phi3-short-window": lambda: small_phi3(sliding_window=8),
    "llama": lambda: small_llama(),
    "llama-biased": lambda: small_llama(attention_bias=True),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


@pytest.fixture(params=adapters.METHODS)
def adapted(request: pytest.FixtureRequest, model: Any) -> Iterator[tuple[Any, dict[str, torch.nn.Parameter]]]:
    """The model with an adapter that does something (a fresh LoRA is the identity)."""
    settings = Settings(peft_method=request.param, lora_rank=4, lora_dropout=0.0)
    wrapped = adapters.attach(model, adapters.adapter_config(settings, model.config))
    parameters = adapters.trainable(wrapped)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    yield model, parameters
    adapters.detach(wrapped)


@pytest.mark.parametrize("full", [False, True])
def test_loss_and_gradients_equal_transformers(adapted: Any, rows: list[Tokens], full: bool) -> None:
    model, parameters = adapted
    theirs = model(**padded(rows, full=full)).loss
    theirs.backward()
    expected = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    batch = collate(rows, 0, CPU, full=full)
    ours = training_loss(model, batch, 0.0) / len(batch.targets_S)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-6), name


def test_the_lean_forward_pass_is_used_where_it_can(base: LoadedModel) -> None:
    assert decoder.is_supported(base.model, 32)
    assert decoder.is_supported(small_llama(), 32)
    assert not decoder.is_supported(small_phi3(partial_rotary_factor=0.5), 32)
    assert not decoder.is_supported(small_phi3(sliding_window=8), 32)
    assert not decoder.is_supported(base.model.__class__(base.model.config).bfloat16(), 32)


def test_label_smoothing_equals_transformers(base: LoadedModel, rows: list[Tokens]) -> None:
    inputs = padded(rows, full=False)
    with torch.inference_mode():
        theirs = LabelSmoother(epsilon=0.1)(base.model(**inputs), inputs["labels"], shift_labels=True)
        batch = collate(rows, 0, CPU)
        ours = training_loss(base.model, batch, 0.1) / len(batch.targets_S)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_padding_and_accumulation_do_not_change_the_loss(base: LoadedModel, rows: list[Tokens]) -> None:
    with torch.inference_mode():
        whole = nll_and_hits(base.model, collate(rows, 0, CPU))
        for limit in (1, 64, 256):
            parts = [nll_and_hits(base.model, collate(part, 7, CPU)) for part in evaluation_batches(rows, limit)]
            assert sum(nll.item() for nll, _ in parts) == pytest.approx(whole[0].item(), rel=1e-5)
            assert sum(hits.item() for _, hits in parts) == whole[1].item()


def test_hits_are_the_likeliest_tokens(base: LoadedModel, rows: list[Tokens]) -> None:
    batch = collate(rows, 0, CPU, full=True)
    with torch.inference_mode():
        expected = (logits_at_labels(base.model, batch).argmax(-1) == batch.targets_S).sum()
        assert nll_and_hits(base.model, batch)[1] == expected


def test_dropout_in_the_fused_product_is_peft_s(base: LoadedModel, rows: list[Tokens]) -> None:
    """With the same random state, the fused LoRA product and PEFT's own layers drop the same elements."""
    settings = Settings(lora_rank=4, lora_dropout=0.3)
    wrapped = adapters.attach(base.model, adapters.adapter_config(settings, base.model.config))
    try:
        layer = base.model.model.layers[0].self_attn.qkv_proj.train()
        with torch.no_grad():
            layer.lora_B["default"].weight.normal_()
            x = torch.randn(50, 32)
            results = []
            for product in (layer, lambda value: decoder.project(layer, value)):
                torch.manual_seed(5)
                results.append(product(x))
        assert torch.allclose(*results, atol=1e-5)
        kept = layer.lora_dropout["default"](torch.ones(100_000))
        assert kept.mean().item() == pytest.approx(1.0, abs=0.02)
        assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    finally:
        base.model.eval()
        adapters.detach(wrapped)
