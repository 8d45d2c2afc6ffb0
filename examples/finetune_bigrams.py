"""A finetuning script that knows nothing of ftmeta. It stands for your own, and trains in a second on one core.

    python finetune_bigrams.py --data rows.jsonl --learning-rate 0.3 --rank 8 --until 3 --checkpoint run1.npz

The base model gives each character its chance after the one before it, learned from this file's own text. What is
finetuned is a low-rank change A B of its logits, on the answers of the data: rows with `question` and `answer`, every
fifth of which is kept for validation. A run has ten parts; `--until` says how many to train, and the checkpoint is gone
on with if it is there. Out: for each part, the share of the base model's validation loss that is gone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

PARTS, EPOCHS = 10, 3
CHARACTERS = "".join(chr(code) for code in range(32, 127))
V = len(CHARACTERS) + 1  # the last one stands for every other character


def encode(text: str) -> np.ndarray:
    return np.array([CHARACTERS.find(c) % V for c in text])


def pairs_of(answer: str) -> np.ndarray:
    """(character before, character) of each character but the first."""
    codes = encode(answer)
    return np.stack([codes[:-1], codes[1:]], axis=1)


def base_logits() -> np.ndarray:
    counts = np.ones((V, V))
    pairs = pairs_of(Path(__file__).read_text(encoding="utf-8"))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1.0)
    return np.log(counts)


def loss_and_slope(logits: np.ndarray, pairs: np.ndarray) -> tuple[float, np.ndarray]:
    """Nats per character, and their derivative with respect to the logits."""
    rows = logits[pairs[:, 0]]
    chances = np.exp(rows - rows.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    at = np.arange(len(pairs))
    loss = float(-np.log(chances[at, pairs[:, 1]] + 1e-12).mean())
    chances[at, pairs[:, 1]] -= 1
    slope = np.zeros_like(logits)
    np.add.at(slope, pairs[:, 0], chances / len(pairs))
    return loss, slope


def report(part: int, before: float, logits: np.ndarray, held_out: np.ndarray) -> None:
    now, _ = loss_and_slope(logits, held_out)
    if not math.isfinite(now):
        sys.exit("the loss is not finite: diverged")
    sys.stdout.write(f"part {part} of {PARTS}  score {max(0.0, 1 - now / before):.4f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--learning-rate", type=float, default=0.3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=1.0, help="the change is alpha A B")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--until", type=int, default=PARTS)
    parser.add_argument("--checkpoint", type=Path)
    chosen = parser.parse_args()

    lines = chosen.data.read_text(encoding="utf-8").splitlines()
    answers = [pairs_of(json.loads(line)["answer"]) for line in lines if line.strip()]
    answers = [one for one in answers if len(one)]
    held_out = np.concatenate(answers[::5])
    train = [one for at, one in enumerate(answers) if at % 5]
    steps = math.ceil(EPOCHS * len(train) / chosen.batch_size)

    base, rng = base_logits(), np.random.default_rng(0)
    a, b, done = rng.normal(0, 1 / math.sqrt(chosen.rank), (V, chosen.rank)), np.zeros((chosen.rank, V)), 0
    if chosen.checkpoint is not None and chosen.checkpoint.exists():
        kept = np.load(chosen.checkpoint)
        a, b, done = kept["a"], kept["b"], int(kept["done"])
    before, _ = loss_and_slope(base, held_out)
    for part in range(done + 1, chosen.until + 1):
        for step in range(steps * (part - 1) // PARTS, steps * part // PARTS):
            batch = np.random.default_rng(step).choice(len(train), min(chosen.batch_size, len(train)), replace=False)
            _, slope = loss_and_slope(base + chosen.alpha * a @ b, np.concatenate([train[at] for at in batch]))
            rate = chosen.learning_rate * chosen.alpha * V
            a, b = a - rate * slope @ b.T, b - rate * a.T @ slope
        report(part, before, base + chosen.alpha * a @ b, held_out)
    if done >= chosen.until:  # trained already by a call that was killed before it could say so
        report(done, before, base + chosen.alpha * a @ b, held_out)
    elif chosen.checkpoint is not None:
        fresh = chosen.checkpoint.with_suffix(".new.npz")
        np.savez(fresh, a=a, b=b, done=chosen.until)
        fresh.replace(chosen.checkpoint)


if __name__ == "__main__":
    main()
