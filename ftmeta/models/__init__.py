"""Base models: the bundled phi3-micro, smollm2-135m (from a package), any local folder, any hub id.

    info = resolve("phi3-micro")        # reads headers only; neither torch nor transformers is imported
    base = load(info, device="cpu")     # the model, frozen, and its tokenizer

A base model is added by one line in catalog.py's table (and, when it has to be made first, one file beside it).
`trust_remote_code` is never on: a model that needs code of its own is refused.
"""

from ftmeta.models.architectures import Decoder, known_architectures, published_config
from ftmeta.models.catalog import (
    fetch,
    list_base_models,
    local_folder,
    models_here,
    models_known,
    resolve,
    resolve_or_published,
)
from ftmeta.models.describe import describe, reference_lr
from ftmeta.models.load import LoadedModel, fast_tokenizer, load
from ftmeta.models.published import note_on
from ftmeta.models.sizes import decoder

__all__ = [
    "Decoder",
    "LoadedModel",
    "decoder",
    "describe",
    "fast_tokenizer",
    "fetch",
    "known_architectures",
    "list_base_models",
    "load",
    "local_folder",
    "models_here",
    "models_known",
    "note_on",
    "published_config",
    "reference_lr",
    "resolve",
    "resolve_or_published",
]
