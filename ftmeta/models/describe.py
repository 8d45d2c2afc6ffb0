"""A model folder -> BaseModelInfo, from config.json and the headers of the safetensors files alone.

In: a folder as `save_pretrained` writes it. Out: its shape, fingerprint, reference learning rate and licence. No
tensor is read and neither torch nor transformers is imported, so `outline` takes milliseconds even for large models.
`describe` adds the fingerprint, which takes a pass over all files; for large ones it is kept in the cache by size and
modification time.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftmeta.errors import ModelError
from ftmeta.files import cache_dir, fingerprint, fingerprint_files, write_json
from ftmeta.schema import BaseModelInfo, ModelShape

_LARGE_BYTES = 64_000_000  # files above this are hashed once and remembered
_TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def reference_lr(hidden_size: int) -> float:
    """The learning rate that `lr_multiplier: 1` stands for: 5e-4 * (2000 / hidden_size) ** 0.781.

    The formula of Thinking Machines' Tinker cookbook for LoRA on Llama-like models; 4.3e-3 at hidden size 128,
    1.3e-3 at 576, 3.6e-4 at 3,072 (Phi-3-mini). It is what lets experience with a small model speak about a large one.
    """
    return 5e-4 * (2000 / hidden_size) ** 0.781


def describe(folder: Path | str, name: str) -> BaseModelInfo:
    """Describes the model in `folder`. Raises ModelError naming the file that is missing or malformed."""
    outlined = outline(folder, name)
    files = [Path(outlined.path) / file for file in _TEXT_FILES]
    weights = weight_files(Path(outlined.path))
    return replace(outlined, fingerprint=_fingerprint([*weights, *(file for file in files if file.is_file())]))


def outline(folder: Path | str, name: str) -> BaseModelInfo:
    """`describe` without the fingerprint, which is left empty: enough to list models and to recommend for them."""
    folder = Path(folder).resolve()
    try:
        return _outline(folder, name)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"the base model in {folder} is damaged ({said}); fetch it again") from None


def _outline(folder: Path, name: str) -> BaseModelInfo:
    config = _config(folder)
    weights = weight_files(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no tokenizer.json; save the model's fast tokenizer there (save_pretrained)")
    hidden_size, layers = _number(config, folder, "hidden_size"), _number(config, folder, "num_hidden_layers")
    return BaseModelInfo(
        name=name,
        path=str(folder),
        shape=ModelShape(
            parameters=sum(_parameters(path) for path in weights),
            hidden_size=hidden_size,
            intermediate_size=_number(config, folder, "intermediate_size"),
            layers=layers,
            vocab_size=_number(config, folder, "vocab_size"),
            context_length=_number(config, folder, "max_position_embeddings"),
        ),
        reference_lr=reference_lr(hidden_size),
        fingerprint="",
        licence=_licence(folder),
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = [folder / shard for shard in shards]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"{path} is missing; ftmeta reads weights as safetensors (save the model with save_pretrained, "
                "or fetch it again)"
            )
    return paths


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} is no base model: it has no config.json (wanted: a folder as save_pretrained makes)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); fetch the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; fetch the model again")
    architecture = next(iter(config.get("architectures") or ()), None)
    if not str(architecture).endswith("ForCausalLM"):
        raise ModelError(
            f"{path}: the architecture is {architecture}, wanted one that ends with ForCausalLM; ftmeta finetunes "
            "decoder-only language models"
        )
    return config


def _number(config: dict[str, Any], folder: Path, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int):
        kind = config.get("model_type", "unknown")
        raise ModelError(f"{folder / 'config.json'}: '{key}' is {value!r}, wanted a number (model type '{kind}')")
    return value


def _parameters(path: Path) -> int:
    """Sums the element counts of the tensors that a safetensors header lists (tied weights are stored once)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise ModelError(f"{path} is torn: its header does not fit into the file; fetch the model again")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _fingerprint(paths: list[Path]) -> str:
    if sum(path.stat().st_size for path in paths) <= _LARGE_BYTES:
        return fingerprint_files(paths)
    stamp = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    remembered = cache_dir() / "fingerprints" / f"{fingerprint(stamp)}.json"
    if remembered.is_file():
        return str(json.loads(remembered.read_text(encoding="utf-8")))
    value = fingerprint_files(paths)
    write_json(remembered, value)
    return value


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    found = re.search(
        r"^license:\s*['\"]?([^'\"\n]+?)['\"]?\s*$", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    )
    return found.group(1) if found else "unknown"
