"""A described base model -> the frozen model and its tokenizer in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.errors import ModelError
from ftmeta.files import DATA
from ftmeta.schema import BaseModelInfo

if TYPE_CHECKING:
    import tokenizers
    import torch


@dataclass(frozen=True)
class LoadedModel:
    """A base model in memory, shared by many runs one after the other. Its weights are frozen and never written to."""

    info: BaseModelInfo
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    device: torch.device


def load(info: BaseModelInfo, device: str = "cpu", dtype: str | None = None) -> LoadedModel:
    """Loads the model (frozen, in evaluation mode) and its tokenizer.

    `dtype` is `float32` or `bfloat16`; None means float32 on the CPU and bfloat16 on CUDA. Raises ModelError when the
    device is not there, the tokenizer has no chat template, or transformers does not know the architecture.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the model is here; it takes a moment
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device '{device}' is unknown; give cpu, cuda or cuda:0") from None
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ModelError(f"device '{device}' was asked for, but torch finds {found} CUDA devices; use --device cpu")
    kind = dtype or ("float32" if where.type == "cpu" else "bfloat16")
    if not info.is_here:
        raise ModelError(
            f"base model '{info.name}' is not on this machine; fetch it with: ftmeta models fetch {info.name}"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(info.path, trust_remote_code=False)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            info.path, dtype=getattr(torch, kind), attn_implementation="sdpa", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"base model '{info.name}' in {info.path} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    if tokenizer.chat_template is None:
        raise ModelError(f"base model '{info.name}' has no chat template; choose one tuned to follow instructions")
    model.requires_grad_(False)
    model.eval()
    return LoadedModel(info, model.to(where), tokenizer, where)


def fast_tokenizer(info: BaseModelInfo) -> tokenizers.Tokenizer:
    """The tokenizer alone, without transformers or torch: for counting tokens. phi3-micro's for a model that is not
    on this machine."""
    from tokenizers import Tokenizer

    path = (Path(info.path) if info.is_here else DATA / "models" / "phi3-micro") / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package has no class of its own for it
        raise ModelError(
            f"{path} cannot be read ({' '.join(str(error).split())[:200]}); fetch the model again"
        ) from None
