"""Base models that are not on this machine, of which the published sizes are known: enough to recommend for.

What their own files would say is not there: tokens are counted with phi3-micro's tokenizer, and the model itself cannot
be measured, finetuned or exported for.
"""

from __future__ import annotations

from ftmeta.models.architectures import from_config, known_architectures, published_facts
from ftmeta.models.describe import reference_lr
from ftmeta.schema import BaseModelInfo, ModelShape


def published(name: str) -> BaseModelInfo:
    """Raises ModelError for a name that is not among the known architectures."""
    facts = published_facts(name)
    sizes = from_config(facts["config"], name)
    return BaseModelInfo(
        name=name,
        path="",
        shape=ModelShape(
            parameters=int(facts["parameters"]),
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            layers=sizes.layers,
            vocab_size=sizes.vocab_size,
            context_length=sizes.context_length,
        ),
        reference_lr=reference_lr(sizes.hidden_size),
        fingerprint="",
        licence=str(facts["licence"]),
    )


def published_models() -> list[BaseModelInfo]:
    """All of them."""
    return [published(name) for name in known_architectures()]


def note_on(info: BaseModelInfo) -> list[str]:
    """What a recommendation for a model that is not here has to say of itself."""
    if info.is_here:
        return []
    return [
        f"base model '{info.name}' is not on this machine: its sizes are the published ones, and tokens are counted "
        "with phi3-micro's tokenizer, whose small vocabulary makes more of them, so costs come out high; fetch it with "
        f"`ftmeta models fetch {info.name}` to have it measured"
    ]
