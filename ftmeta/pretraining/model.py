"""The model that is pretrained: a Phi3ForCausalLM of the configured shape, and its files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftmeta.files import atomic_path
from ftmeta.pretraining.config import ShapeConfig
from ftmeta.pretraining.tokenizer import END, END_OF_TEXT


def build_model(shape: ShapeConfig, tokenizer: Any, seed: int) -> Any:
    """A freshly initialised float32 model. Generation ends with `<|end|>` (or `<|endoftext|>`)."""
    import torch
    from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

    end, end_of_text = (tokenizer.convert_tokens_to_ids(token) for token in (END, END_OF_TEXT))
    values = asdict(shape)
    config = Phi3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=values["context"],
        original_max_position_embeddings=values.pop("context"),
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end_of_text,
        **values,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    model = Phi3ForCausalLM(config).float()
    model.generation_config = GenerationConfig(eos_token_id=[end, end_of_text], pad_token_id=end_of_text)
    return model


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes the model and tokenizer files into `folder`, which appears (or is replaced) at once."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # one small file
    with atomic_path(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / "model.safetensors").chmod(0o644)  # safetensors leaves it readable by its owner alone
