"""PEFT adapters: which methods there are, where they attach, and how they come on and off a shared base model.

In: a base model and the run's settings. Out: a PeftModel around the same modules; `detach` takes it off again and
leaves the base as it was. A method is added by one line in METHODS, an architecture by one line in ARCHITECTURES.

Weight decay pulls LoRA's matrices to 0, which is the base model. DoRA's magnitudes and (IA)3's scales mean "no
change" at the weights' norm and at 1, so they are not decayed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ftmeta.errors import FtmetaError, ModelError, SpaceError
from ftmeta.finetune.dropout import BitDropout, draws_at_once
from ftmeta.finetune.settings import Settings


@dataclass(frozen=True)
class Architecture:
    """The names of the linear layers of a decoder block. (IA)3 scales keys, values and the feed-forward activations."""

    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    ia3_attention: tuple[str, ...]  # outputs scaled
    ia3_mlp: tuple[str, ...]  # inputs scaled


_LLAMA = Architecture(
    attention=("q_proj", "k_proj", "v_proj", "o_proj"),
    mlp=("gate_proj", "up_proj", "down_proj"),
    ia3_attention=("k_proj", "v_proj"),
    ia3_mlp=("down_proj",),
)
# Keyed by config.model_type. Their logits are the plain output of the head, which loss.py relies on.
ARCHITECTURES = {
    "phi3": Architecture(
        attention=("qkv_proj", "o_proj"),
        mlp=("gate_up_proj", "down_proj"),
        ia3_attention=("qkv_proj",),  # queries share the fused layer, and are scaled with it
        ia3_mlp=("down_proj",),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def _lora(
    *, rslora: bool = False, dora: bool = False
) -> Callable[[Settings, Architecture, range, int], peft.PeftConfig]:
    def config(settings: Settings, architecture: Architecture, layers: range, depth: int) -> peft.PeftConfig:
        alpha = settings.alpha_per_rank * settings.lora_rank
        return peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_rank,
            lora_alpha=alpha if alpha % 1 else int(alpha),  # type: ignore[arg-type]  # PEFT divides; it need not be whole
            lora_dropout=settings.lora_dropout,
            target_modules=_choose(settings.target_modules, architecture.attention, architecture.mlp),
            layers_to_transform=None if len(layers) == depth else list(layers),
            layers_pattern=None if len(layers) == depth else "layers",
            use_rslora=rslora,
            use_dora=dora,
        )

    return config


def _ia3(settings: Settings, architecture: Architecture, layers: range, depth: int) -> peft.PeftConfig:
    chosen = _choose(settings.target_modules, architecture.ia3_attention, architecture.ia3_mlp)
    feedforward = [name for name in chosen if name in architecture.ia3_mlp]
    blocks = {**dict.fromkeys(architecture.ia3_attention, "self_attn"), **dict.fromkeys(architecture.ia3_mlp, "mlp")}

    def names(short: list[str]) -> list[str]:  # IA3Config cannot be told layers, so half of them are spelled out
        if len(layers) == depth:
            return short
        return [f"layers.{layer}.{blocks[name]}.{name}" for layer in layers for name in short]

    return peft.IA3Config(task_type="CAUSAL_LM", target_modules=names(chosen), feedforward_modules=names(feedforward))


# peft_method -> its PEFT configuration, from the settings, the architecture, the adapted layers and the depth
METHODS: dict[str, Callable[[Settings, Architecture, range, int], peft.PeftConfig]] = {
    "lora": _lora(),
    "rslora": _lora(rslora=True),
    "dora": _lora(dora=True),
    "ia3": _ia3,
}


def _choose(which: str, attention: tuple[str, ...], mlp: tuple[str, ...]) -> list[str]:
    choices = {"attention": attention, "mlp": mlp, "all": attention + mlp}
    if which not in choices:
        raise SpaceError(f"unknown target_modules '{which}'; choose one of {', '.join(choices)}")
    return list(choices[which])


def _layers(which: str, depth: int) -> range:
    """The adapted layers; of an odd depth the middle one belongs to the upper half."""
    choices = {"all": range(depth), "lower_half": range(depth // 2), "upper_half": range(depth // 2, depth)}
    if which not in choices:
        raise SpaceError(f"unknown adapted_layers '{which}'; choose one of {', '.join(choices)}")
    if not choices[which]:
        raise SpaceError(f"adapted_layers '{which}' is empty for a model of {depth} layer; use 'all'")
    return choices[which]


def adapter_config(settings: Settings, model_config: Any) -> peft.PeftConfig:
    """The PEFT configuration of a run. Raises SpaceError or ModelError for what cannot be."""
    if settings.peft_method not in METHODS:
        raise SpaceError(f"unknown PEFT method '{settings.peft_method}'; choose one of {', '.join(sorted(METHODS))}")
    architecture = ARCHITECTURES.get(model_config.model_type)
    if architecture is None:
        raise ModelError(
            f"base models of type '{model_config.model_type}' are not supported; supported: {', '.join(ARCHITECTURES)} "
            "(one line in ftmeta/finetune/adapters.py adds a Llama-like one)"
        )
    depth = model_config.num_hidden_layers
    return METHODS[settings.peft_method](settings, architecture, _layers(settings.adapted_layers, depth), depth)


def attach(model: Any, config: peft.PeftConfig) -> peft.PeftModel:
    """Puts a fresh adapter, initialised from torch's generator, around the base model's own modules."""
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise FtmetaError("the base model carries another run's adapter; close() that run before starting this one")
    _check_targets(model, config)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers by a name that is on its way out.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        adapted = peft.get_peft_model(model, config)
    if not draws_at_once(model.device):
        layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            for name, dropout in layer.lora_dropout.items():
                if isinstance(dropout, nn.Dropout):
                    layer.lora_dropout[name] = BitDropout(dropout.p)
    return adapted


def _check_targets(model: Any, config: peft.PeftConfig) -> None:
    """Raises ModelError for target modules that the model does not have, and SpaceError for a rank above the width of
    one: its matrices would have more weights than the layer, and PEFT would not say so."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = sorted(config.target_modules or ())  # type: ignore[attr-defined]  # all of METHODS have them
    found = {target: [name for name in linear if name == target or name.endswith(f".{target}")] for target in targets}
    missing = [target for target, names in found.items() if not names]
    if missing:
        has = sorted({name.rpartition(".")[2] for name in linear})
        raise ModelError(f"the base model has no linear layer '{missing[0]}' to adapt; it has {', '.join(has)}")
    rank = getattr(config, "r", 0)
    names = [name for names in found.values() for name in names]
    narrowest = min(names, key=lambda name: min(linear[name].weight.shape))
    width = min(linear[narrowest].weight.shape)
    if rank > width:
        raise SpaceError(
            f"lora_rank is {rank}, and the layer '{narrowest}' is {width} wide; give a rank of at most {width}"
        )


def detach(adapted: peft.PeftModel) -> None:
    """Takes the adapter off: the base model's modules are again what they were before `attach`."""
    base = adapted.unload()
    vars(base).pop("peft_config", None)  # PEFT leaves its note on the model


def trainable(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name, in the model's order."""
    return {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


@contextlib.contextmanager
def disabled(adapted: peft.PeftModel) -> Iterator[None]:
    """The base model alone, inside the block."""
    with adapted.disable_adapter():
        yield


@contextlib.contextmanager
def merged(adapted: peft.PeftModel) -> Iterator[None]:
    """Inside the block the adapter is added into copies of the float32 weights, which spares evaluation its extra work.

    The base weights themselves are never written to: their tensors are put back, bit for bit. In half precision the
    sum would be rounded, so there the adapter stays beside the weights. Raises FloatingPointError when
    the adapter is not finite.
    """
    layers = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
    if any(layer.get_base_layer().weight.dtype != torch.float32 for layer in layers):
        yield
        return
    weights = [layer.get_base_layer().weight.data for layer in layers]
    try:
        try:
            for layer in layers:
                layer.merge(safe_merge=True)  # into a copy
        except ValueError as error:  # what PEFT raises for a sum that is not finite
            raise FloatingPointError(str(error)) from None
        yield
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
