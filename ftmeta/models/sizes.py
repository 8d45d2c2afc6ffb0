"""The sizes of a base model by its name, its folder or its config.json.

decoder("microsoft/Phi-3-mini-4k-instruct").parameters      # 3821079552
"""

from __future__ import annotations

import json

from ftmeta.errors import ModelError
from ftmeta.models.architectures import Decoder, from_config, known_architectures, published_config
from ftmeta.models.catalog import config_file


def decoder(base_model: str) -> Decoder:
    """The sizes of a base model: a known architecture, a model on this machine, a folder with a config.json, or a hub
    id, of which the config.json alone is downloaded.

    Raises ModelError for a name that is unknown or unreachable, and for architectures that ftmeta does not finetune.
    """
    if base_model in known_architectures():
        return from_config(published_config(base_model), base_model)
    path = config_file(base_model)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); give a folder with a config.json") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); fetch the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; fetch the model again")
    return from_config(config, base_model)
