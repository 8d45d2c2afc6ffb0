"""The model's card: card.json holds its facts, README.md says them.

Every number comes from a file that a stage wrote (corpus.json, tokens.json, training.json, the model's config.json) or
is measured here: the n-gram models and the rate of training on this machine's processor.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from ftmeta.files import DATA, write_json, write_text
from ftmeta.pretraining.config import PretrainConfig
from ftmeta.pretraining.ngrams import TRAINED_ON, baselines
from ftmeta.pretraining.sources import SOURCES
from ftmeta.pretraining.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, load_tokenizer
from ftmeta.pretraining.tokens import Ids, read_tokens

LICENCE = "Apache-2.0"
_TEMPLATE = DATA / "models" / "card.md"
_RATE_ROWS, _RATE_STEPS = 16, 4  # the batch and the steps by which the rate of training is measured
_ARCHITECTURE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)


def write_card(config: PretrainConfig, tokens_folder: Path, model_folder: Path, report: Callable[[str], None]) -> None:
    """Writes card.json and README.md into `model_folder`, beside the model and its training.json."""
    arrays, tokens = read_tokens(tokens_folder)
    training = _read(model_folder / "training.json")
    tokenizer = load_tokenizer(model_folder)
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    last = training["evaluations"][-1]
    heldout = {"model": {part: last[part] for part in TRAINED_ON}, **baselines(arrays, tokens, end_of_text)}
    for part in TRAINED_ON:
        report(f"{part}: " + ", ".join(f"{name} {found[part]:.4f}" for name, found in heldout.items()))
    rate = _cpu_tokens_per_s(config, tokenizer, arrays["prose"])
    report(f"{rate:,.0f} tokens a second on one core of {_processor()}")
    model_config = _read(model_folder / "config.json")
    facts = {
        "name": config.name,
        "licence": LICENCE,
        "configuration": config.file.as_posix(),
        "architecture": {key: model_config[key] for key in _ARCHITECTURE},
        "sources": _read(tokens_folder / "corpus.json")["sources"],
        "tokens": tokens["parts"],
        "heldout_bits_per_byte": heldout,
        "cpu_rate": {"tokens_per_core_second": round(rate), "processor": _processor()},
    }
    write_json(model_folder / "card.json", facts)
    write_text(model_folder / "README.md", render(facts, training))


def render(facts: dict[str, Any], training: dict[str, Any]) -> str:
    """The text of README.md from the contents of card.json and training.json."""
    tokens, train = facts["tokens"], training["train"]
    per_second = facts["cpu_rate"]["tokens_per_core_second"]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=facts["name"],
        licence=facts["licence"].lower(),
        licence_name=facts["licence"],
        configuration=facts["configuration"],
        parameters=f"{training['parameters']:,}",
        architecture=_table(
            ("setting", "value"), [(f"`{key}`", value) for key, value in facts["architecture"].items()]
        ),
        vocab_size=f"{facts['architecture']['vocab_size']:,}",
        context=facts["architecture"]["max_position_embeddings"],
        special_tokens=", ".join(f"`{token}` {number}" for number, token in enumerate(SPECIAL_TOKENS)),
        sources=_sources_table(facts["sources"]),
        prose_documents=f"{tokens['prose']['documents']:,}",
        prose_tokens=f"{tokens['prose']['tokens']:,}",
        prose_bytes=f"{tokens['prose']['bytes']:,}",
        chat_dialogues=f"{tokens['chat']['dialogues']:,}",
        chat_tokens=f"{tokens['chat']['tokens']:,}",
        heldout_documents=f"{tokens['heldout']['documents']:,}",
        heldout_bytes=f"{tokens['heldout']['bytes']:,}",
        heldout_dialogues=f"{tokens['heldout_chat']['dialogues']:,}",
        heldout_chat_bytes=f"{tokens['heldout_chat']['bytes']:,}",
        not_in_chat=" and ".join(SOURCES[s["name"]].label for s in facts["sources"] if not SOURCES[s["name"]].in_chat)
        or "none",
        heldout=_heldout_table(facts["heldout_bits_per_byte"]),
        trained_tokens=f"{training['tokens']:,}",
        steps=f"{training['steps']:,}",
        batch=train["batch_size"],
        rate=train["learning_rate"],
        chat_share=f"{train['chat_share']:.0%}",
        chat_fraction=f"{train['chat_fraction']:.0%}",
        device="a CPU" if training["device"] == "cpu" else f"one {training['device']}",
        torch=training["torch"],
        seconds=f"{training['seconds']:,.0f}",
        max_seconds="no limit" if train["max_seconds"] is None else f"{train['max_seconds']:,} seconds",
        processor=facts["cpu_rate"]["processor"],
        cpu_rate=f"{per_second:,}",
        cpu_core_hours=f"{training['tokens'] / per_second / 3600:,.1f}",
    )


def _sources_table(sources: list[dict[str, Any]]) -> str:
    total = sum(source["train_bytes"] for source in sources)
    rows = []
    for counted in sources:
        source = SOURCES[counted["name"]]
        where = {"apt": "Debian", "npm": "npm", "pip": "PyPI"}[source.kind]
        rows.append(
            (
                f"`{source.name}`",
                f"{source.package} {counted['version']} ({where})",
                source.licence,
                source.attribution,
                f"{counted['train_documents']:,}",
                f"{counted['train_bytes']:,} ({counted['train_bytes'] / total:.1%})",
            )
        )
    return _table(("source", "package", "licence", "attribution", "training documents", "training bytes"), rows)


def _heldout_table(heldout: dict[str, dict[str, float]]) -> str:
    rows = [(name, *(f"{found[part]:.4f}" for part in TRAINED_ON)) for name, found in heldout.items()]
    return _table(("bits per byte", "held-out prose", "held-out chat"), rows)


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _cpu_tokens_per_s(config: PretrainConfig, tokenizer: Any, prose: Ids) -> float:
    """Training tokens per second of processor time on one core: whole steps of a small batch of prose."""
    import torch

    from ftmeta.pretraining.model import build_model
    from ftmeta.pretraining.train import Rows, make_optimizer, row_loss

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        device = torch.device("cpu")
        model = build_model(config.model, tokenizer, config.seed).train()
        small = replace(config.train, batch_size=_RATE_ROWS)
        rows = Rows(prose, prose[:0], small, config.model.context, device, config.seed)
        optimizer = make_optimizer(model, small, device)
        begun = 0.0
        for step in range(_RATE_STEPS + 1):
            if step == 1:  # the first step sets up, and is not counted
                begun = time.process_time()
            row_loss(model, rows.draw(with_chat=False), model.config.pad_token_id).backward()
            optimizer.step()
            optimizer.zero_grad()
        return _RATE_STEPS * _RATE_ROWS * config.model.context / (time.process_time() - begun)
    finally:
        torch.set_num_threads(threads)


def _processor() -> str:
    """The processor's name as Linux knows it, or the architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
