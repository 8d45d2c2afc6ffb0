"""A Phi-3 of 40 thousand parameters with random weights, its tokenizer, and a task that it can learn by heart."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftmeta import models
from ftmeta.files import fingerprint
from ftmeta.models import LoadedModel
from ftmeta.schema import Budget, Example, Message, Pipeline, Task

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = [
    "red",
    "green",
    "blue",
    "tall",
    "small",
    "river",
    "stone",
    "apple",
    "night",
    "morning",
    "iron",
    "copper",
    "seven",
    "nine",
    "winter",
    "summer",
]


def make_model(folder: Path, *, hidden: int = 32, layers: int = 2, heads: int = 4, vocab: int = 384) -> Path:
    """Writes a Phi-3 with random weights and a byte-level BPE tokenizer of `vocab` tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS), *(f"what is {word}? it is {word}" for word in WORDS)], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
    )
    transformers.Phi3ForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_llama(**more: Any) -> Any:
    """A Llama with grouped queries and random weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


def make_task(name: str = "colours", train: int = 60, held_out: int = 20) -> Task:
    """Questions of different lengths with short answers that follow from the question."""
    rng = random.Random(name)

    def example(index: int) -> Example:
        word = rng.choice(WORDS)
        filler = " ".join(rng.choices(WORDS, k=rng.randint(0, 12)))
        answer = f"it is {word} and {WORDS[(WORDS.index(word) + 1) % len(WORDS)]}" if index % 3 else word
        return Example((Message("user", f"{filler} what is {word}?".strip()),), answer)

    examples = [example(index) for index in range(train + 2 * held_out)]
    parts = examples[:train], examples[train : train + held_out], examples[train + held_out :]
    texts = [[[example.prompt, example.completion] for example in part] for part in parts]
    return Task(name, *(tuple(part) for part in parts), fingerprint=fingerprint(texts))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small models are slower on two threads, and the tests' numbers should not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny-phi3"))


@pytest.fixture(scope="session")
def base(model_folder: Path) -> LoadedModel:
    """Shared by all tests: a run that disturbs it fails the tests after it."""
    return models.load(models.resolve(str(model_folder)))


@pytest.fixture(scope="session")
def task() -> Task:
    return make_task()


@pytest.fixture(scope="session")
def budget() -> Budget:
    return Budget(epochs=2, max_fidelity=4, eval_examples=10)


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Pipeline]:
    def make(**values: Any) -> Pipeline:
        return Pipeline("lora-v1", {"batch_size": 8, "lora_rank": 4, "warmup_ratio": 0.0, **values})

    return make
