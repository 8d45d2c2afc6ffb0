"""Text to token ids: everything that the training stage reads, in one folder that can be carried to another machine.

prose.npy and heldout.npy are streams of documents, `<|endoftext|>` before each; chat.npy and heldout_chat.npy are rows
of context + 1 ids, filled with whole question-answer pairs, `<|endoftext|>` after each and as padding. All are uint16.
tokens.json counts tokens and bytes; tokenizer/ is the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftmeta.files import atomic_path, write_json
from ftmeta.pretraining.chat import chat_pairs
from ftmeta.pretraining.corpus import Entry, read_entries
from ftmeta.pretraining.sources import SOURCES
from ftmeta.pretraining.tokenizer import END_OF_TEXT, chat_text, load_tokenizer

Ids = NDArray[np.uint16]
_BATCH = 2_000  # texts encoded at once


def build_tokens(
    corpus: Path,
    tokenizer_folder: Path,
    context: int,
    exercise_share: float,
    seed: int,
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Encodes the corpus and the chat part made from it into `folder`; returns tokens.json's content."""
    tokenizer = load_tokenizer(tokenizer_folder)
    card: dict[str, Any] = {"context": context, "vocab_size": len(tokenizer), "parts": {}}
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        tokenizer.save_pretrained(fresh / "tokenizer")
        for part, prose, chat in (("train", "prose", "chat"), ("heldout", "heldout", "heldout_chat")):
            entries = read_entries(corpus / f"{part}.jsonl")
            texts = [f"{entry.title}\n{entry.text}" if entry.title else entry.text for entry in entries]
            stream = _stream(tokenizer, texts)
            np.save(fresh / f"{prose}.npy", stream)
            card["parts"][prose] = {"documents": len(texts), "tokens": stream.size, "bytes": _bytes(texts)}
            report(f"{prose}: {stream.size:,} tokens of {_bytes(texts):,} bytes")
            dialogues = list(_dialogues(entries, exercise_share, seed))
            rows, kept, tokens = _rows(tokenizer, dialogues, context + 1)
            np.save(fresh / f"{chat}.npy", rows)
            card["parts"][chat] = {"dialogues": len(kept), "rows": len(rows), "tokens": tokens, "bytes": _bytes(kept)}
            report(f"{chat}: {tokens:,} tokens of {len(kept):,} dialogues in {len(rows):,} rows")
        write_json(fresh / "tokens.json", card)
    return card


def read_tokens(folder: Path) -> tuple[dict[str, Ids], dict[str, Any]]:
    """The arrays by name (prose, chat, heldout, heldout_chat) and tokens.json's content."""
    card = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    return {name: np.load(folder / f"{name}.npy") for name in card["parts"]}, card


def _bytes(texts: list[str]) -> int:
    return sum(len(text.encode("utf-8")) for text in texts)


def _dialogues(entries: list[Entry], exercise_share: float, seed: int) -> Iterator[str]:
    allowed = [entry for entry in entries if SOURCES[entry.source].in_chat]
    for pair in chat_pairs(allowed, exercise_share, seed):
        yield chat_text(pair.question, pair.answer)


def _encode(tokenizer: Any, texts: list[str]) -> Iterator[list[int]]:
    fast = tokenizer.backend_tokenizer
    for start in range(0, len(texts), _BATCH):
        for encoding in fast.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False):
            yield encoding.ids


def _stream(tokenizer: Any, texts: list[str]) -> Ids:
    separator = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    pieces = [np.array([separator, *ids], np.uint16) for ids in _encode(tokenizer, texts)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint16)


def _rows(tokenizer: Any, dialogues: list[str], width: int) -> tuple[Ids, list[str], int]:
    """Rows of `width` ids, the dialogues that fit one, and the number of their tokens."""
    separator = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    rows: list[list[int]] = [[]]
    kept, tokens = [], 0
    for dialogue, ids in zip(dialogues, _encode(tokenizer, dialogues), strict=True):
        if len(ids) + 1 > width:
            continue
        if len(rows[-1]) + len(ids) + 1 > width:
            rows.append([])
        rows[-1] += [*ids, separator]
        kept.append(dialogue)
        tokens += len(ids)
    padded = np.full((len(rows), width), separator, np.uint16)
    for padded_row, row in zip(padded, rows, strict=True):
        padded_row[: len(row)] = row
    return padded, kept, tokens
