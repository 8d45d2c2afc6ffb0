"""Phi-3-mini at full size on the meta device: transformers' model, built from our data file, has the modules, shapes
and parameters that the planner counts with, and takes the adapter of each PEFT method."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from ftmeta.errors import ModelError, SpaceError
from ftmeta.finetune import adapters
from ftmeta.finetune.settings import settings_of
from ftmeta.models import decoder, known_architectures, published_config
from ftmeta.models.architectures import from_config
from ftmeta.planning.memory import trainable_parameters
from ftmeta.schema import Pipeline, Value

MINI = "microsoft/Phi-3-mini-4k-instruct"
PARAMETERS = 3_821_079_552
BLOCK = {
    "self_attn.qkv_proj": (9216, 3072),
    "self_attn.o_proj": (3072, 3072),
    "mlp.gate_up_proj": (16384, 3072),
    "mlp.down_proj": (3072, 8192),
}


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def model() -> Any:
    return on_meta(transformers.Phi3Config(**published_config(MINI)))


def pipeline(**values: Value) -> Pipeline:
    of_lora: dict[str, Value] = {} if values.get("peft_method") == "ia3" else {"lora_rank": 16}
    return Pipeline("lora-v1", {**of_lora, **values})


def test_names_and_shapes(model: Any) -> None:
    shapes = {
        name: tuple(module.weight.shape) for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    blocks = {f"model.layers.{layer}.{name}": shape for layer in range(32) for name, shape in BLOCK.items()}
    assert shapes == {**blocks, "lm_head": (32064, 3072)}
    assert tuple(model.get_input_embeddings().weight.shape) == (32064, 3072)
    assert model.config.max_position_embeddings == 4096
    assert model.config.sliding_window == 2047
    assert model.config.rope_parameters["rope_theta"] == 10_000
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight  # untied
    assert {name.split(".")[-2] for name, _ in model.named_parameters() if name.endswith("norm.weight")} == {
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
    }


def test_parameters(model: Any) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS
    assert decoder(MINI).parameters == PARAMETERS
    counted = {matrix.name: (matrix.d_out, matrix.d_in) for matrix in decoder(MINI).matrices}
    assert counted == {name.split(".")[1]: shape for name, shape in BLOCK.items()}


@pytest.mark.parametrize("layers", ["all", "lower_half", "upper_half"])
@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3"])
def test_each_method_adapts_what_the_planner_counts(method: str, targets: str, layers: str, model: Any) -> None:
    chosen = pipeline(peft_method=method, target_modules=targets, adapted_layers=layers)
    adapted = adapters.attach(model, adapters.adapter_config(settings_of(chosen), model.config))
    try:
        trained = adapters.trainable(adapted)
        assert sum(parameter.numel() for parameter in trained.values()) == trainable_parameters(decoder(MINI), chosen)
        where = {name.split("model.layers.")[1].split(".")[0] for name in trained}
        expected = {"all": range(32), "lower_half": range(16), "upper_half": range(16, 32)}[layers]
        assert where == {str(layer) for layer in expected}
        names = {name.split(".lora_")[0].split(".ia3_")[0].split(".")[-1] for name in trained}
        attention = {"qkv_proj"} if method == "ia3" else {"qkv_proj", "o_proj"}
        mlp = {"down_proj"} if method == "ia3" else {"gate_up_proj", "down_proj"}
        assert names == {"attention": attention, "mlp": mlp, "all": attention | mlp}[targets]
        assert all(parameter.device.type == "meta" for parameter in trained.values())
    finally:
        adapters.detach(adapted)


@pytest.mark.parametrize(
    ("method", "trainable"), [("lora", 25_165_824), ("rslora", 25_165_824), ("dora", 26_181_632), ("ia3", 557_056)]
)
def test_trainable_parameters_by_hand(method: str, trainable: int) -> None:
    assert trainable_parameters(decoder(MINI), pipeline(peft_method=method, target_modules="all")) == trainable


@pytest.mark.parametrize("name", known_architectures())
def test_the_data_files_state_what_is_built_from_them(name: str) -> None:
    config = published_config(name)
    built = on_meta(transformers.Phi3Config(**config))
    found = sum(parameter.numel() for parameter in built.parameters())
    assert decoder(name).parameters == found == {"medium": 13_960_238_080}.get(name.split("-")[2], PARAMETERS)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"head_dim": 24}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 32}),
        ("phi3", {"pad_token_id": 0}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_other_architectures_are_counted_exactly(kind: str, extra: dict[str, Any], method: str) -> None:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 256,
    }
    config = transformers.AutoConfig.for_model(kind, **sizes, **extra)
    built = on_meta(config)
    shape = from_config(config.to_dict(), kind)
    assert shape.parameters == sum(parameter.numel() for parameter in built.parameters())
    chosen = pipeline(peft_method=method, target_modules="all", adapted_layers="upper_half")
    adapted = adapters.attach(built, adapters.adapter_config(settings_of(chosen), config))
    counted = sum(math.prod(parameter.shape) for parameter in adapters.trainable(adapted).values())
    assert counted == trainable_parameters(shape, chosen)


def test_a_rank_above_a_layers_width_is_an_error(model: Any) -> None:
    chosen = settings_of(pipeline(peft_method="lora", lora_rank=4096, target_modules="all"))
    with pytest.raises(SpaceError, match=r"lora_rank is 4096, and the layer 'model\.layers\.0\.[\w.]+' is 3072 wide"):
        adapters.attach(model, adapters.adapter_config(chosen, model.config))
    assert not hasattr(model, "peft_config")


def test_target_modules_that_do_not_exist_are_an_error(model: Any) -> None:
    llama = on_meta(
        transformers.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
        )
    )
    of_phi3 = adapters.adapter_config(settings_of(pipeline(peft_method="lora")), model.config)
    with pytest.raises(ModelError, match=r"no linear layer 'gate_up_proj' to adapt; it has .*up_proj, v_proj"):
        adapters.attach(llama, of_phi3)
