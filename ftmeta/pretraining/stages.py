"""The recipe: corpus -> tokenizer -> tokens -> train -> card, each stage's files in the work folder.

A stage whose files are there for the same configuration is not run again; `--stage` runs one stage alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from ftmeta.errors import ConfigError
from ftmeta.files import atomic_path, fingerprint, write_json
from ftmeta.pretraining.config import PretrainConfig, Stage

STAGES: tuple[Stage, ...] = get_args(Stage)
Report = Callable[[str], None]


def pretrain(config: PretrainConfig, stage: Stage | None, out: Path | None, report: Report) -> None:
    """Runs one stage, or with None those that are not done yet. `out` replaces the configured model folder."""
    config = config if out is None else replace(config, out=out)
    for name in STAGES if stage is None else (stage,):
        marker = config.work_dir / "done" / f"{name}.json"
        made_from = _made_from(name, config)
        if stage is None and marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_from:
            report(f"[{name}] is there already")
            continue
        report(f"[{name}]")
        _RUN[name](config, lambda line: report(f"  {line}"))
        write_json(marker, made_from)


def _made_from(stage: Stage, config: PretrainConfig) -> dict[str, Any]:
    """What a stage's files depend on: the sections of its own and of the earlier stages."""
    sections = {
        "corpus": ["corpus"],
        "tokenizer": ["corpus", "tokenizer"],
        "tokens": ["corpus", "tokenizer"],
        "train": ["corpus", "tokenizer", "model", "train"],
        "card": ["corpus", "tokenizer", "model", "train"],
    }[stage]
    values = asdict(config)
    made_of = [{name: values[name] for name in sections}, config.seed, config.model.context]
    place = [str(config.out)] if stage in {"train", "card"} else []
    return {"configuration": fingerprint([*made_of, *place])}


def _corpus(config: PretrainConfig, report: Report) -> None:
    from ftmeta.pretraining.corpus import build_corpus

    build_corpus(config.corpus.sources, config.corpus.heldout_share, config.work_dir / "corpus", report)


def _tokenizer(config: PretrainConfig, report: Report) -> None:
    from ftmeta.pretraining.corpus import read_entries
    from ftmeta.pretraining.tokenizer import train_tokenizer

    entries = read_entries(_needed(config.work_dir / "corpus" / "train.jsonl", "corpus"))[:: config.tokenizer.every]
    tokenizer = train_tokenizer((entry.text for entry in entries), config.tokenizer.vocab_size, config.model.context)
    with atomic_path(config.work_dir / "tokenizer") as fresh:
        tokenizer.save_pretrained(fresh)
    report(f"{len(tokenizer):,} tokens from {len(entries):,} documents")


def _tokens(config: PretrainConfig, report: Report) -> None:
    from ftmeta.pretraining.tokens import build_tokens

    _needed(config.work_dir / "tokenizer" / "tokenizer.json", "tokenizer")
    build_tokens(
        config.work_dir / "corpus",
        config.work_dir / "tokenizer",
        config.model.context,
        config.corpus.exercise_share,
        config.seed,
        config.work_dir / "tokens",
        report,
    )
    # The card's facts about the corpus travel with the tokens, which is all that the training stage needs.
    shutil.copy(config.work_dir / "corpus" / "corpus.json", config.work_dir / "tokens" / "corpus.json")


def _train(config: PretrainConfig, report: Report) -> None:
    from ftmeta.pretraining.train import train

    _needed(config.work_dir / "tokens" / "tokens.json", "tokens")
    train(config, config.work_dir / "tokens", config.out, report)


def _card(config: PretrainConfig, report: Report) -> None:
    from ftmeta.pretraining.card import write_card

    _needed(config.work_dir / "tokens" / "tokens.json", "tokens")
    _needed(config.out / "training.json", "train")
    write_card(config, config.work_dir / "tokens", config.out, report)


_RUN: dict[Stage, Callable[[PretrainConfig, Report], None]] = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "tokens": _tokens,
    "train": _train,
    "card": _card,
}


def _needed(path: Path, stage: Stage) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path} is missing; run the stage before first: --stage {stage}")
    return path
