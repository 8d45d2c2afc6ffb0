"""Training: a plain loop over token rows, on a CPU or a CUDA device; it stops itself when its budget is spent.

The data lies on the device as one array and rows are windows at random places, so that no step waits for the host.
The learning rate warms up, stays, and falls to zero at the end of the budget (warmup-stable-decay); in the last part
of the budget a fixed fraction of every batch is chat. A checkpoint is written every so often, and training continues
from it when the stage is started again.

Dimensions: B rows of a batch, L positions of a row (context + 1 ids).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftmeta.errors import FtmetaError
from ftmeta.files import atomic_path, fingerprint, write_json
from ftmeta.pretraining.config import PretrainConfig, TrainConfig
from ftmeta.pretraining.evaluate import bits_per_byte
from ftmeta.pretraining.model import build_model, save_model
from ftmeta.pretraining.tokenizer import END_OF_TEXT, load_tokenizer
from ftmeta.pretraining.tokens import Ids, read_tokens

_REPORT_EVERY_S = 10.0
_IGNORED = -100  # cross_entropy's ignore_index


@dataclass
class Progress:
    """What has been spent so far, over all restarts."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    share: float = 0.0  # of the budget
    evaluations: list[dict[str, float]] = field(default_factory=list)  # of the held-out parts


def learning_rate(share: float, train: TrainConfig) -> float:
    """The rate at a share (0 to 1) of the budget."""
    up = share / train.warmup_share if train.warmup_share else 1.0
    down = (1.0 - share) / train.decay_share if train.decay_share else 1.0
    return train.learning_rate * max(0.0, min(1.0, up, down))


class Rows:
    """Draws training rows: windows of the prose at random places, and whole rows of chat."""

    def __init__(
        self, prose: Ids, chat: Ids, train: TrainConfig, context: int, device: torch.device, seed: int
    ) -> None:
        # int16 holds a vocabulary of up to 32,768 ids, and is the type that every device can index.
        self._prose = torch.from_numpy(prose.astype("int16")).to(device)
        self._chat_RL = torch.from_numpy(chat.astype("int16")).to(device)
        self._offsets_L = torch.arange(context + 1, device=device)
        self._batch = train.batch_size
        self._n_chat = round(train.chat_fraction * train.batch_size) if len(chat) else 0
        self.generator = torch.Generator(device).manual_seed(seed)

    def draw(self, with_chat: bool) -> Tensor:
        n_chat = self._n_chat if with_chat else 0
        last = self._prose.numel() - self._offsets_L.numel() + 1
        starts_B = torch.randint(last, (self._batch - n_chat, 1), generator=self.generator, device=self._prose.device)
        rows_BL = self._prose[starts_B + self._offsets_L]
        if n_chat:
            chosen_B = torch.randint(len(self._chat_RL), (n_chat,), generator=self.generator, device=self._prose.device)
            rows_BL = torch.cat([rows_BL, self._chat_RL[chosen_B]])
        return rows_BL.long()


def row_loss(model: Any, rows_BL: Tensor, end_of_text: int) -> Tensor:
    """The mean loss in nats per token. What follows an `<|endoftext|>` and is one too is padding, and not counted."""
    inputs, targets = rows_BL[:, :-1], rows_BL[:, 1:]
    padding = (targets == end_of_text) & (inputs == end_of_text)
    logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.masked_fill(padding, _IGNORED).flatten(), ignore_index=_IGNORED
    )


def train(config: PretrainConfig, tokens_folder: Path, out: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Trains to the end of the budget and writes the model to `out`; returns (and writes) training.json's content.

    Raises FtmetaError when the loss is no longer finite.
    """
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    budget = config.train
    arrays, card = read_tokens(tokens_folder)
    tokenizer = load_tokenizer(tokens_folder / "tokenizer")
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    model = build_model(config.model, tokenizer, config.seed).to(device).train()
    optimizer = make_optimizer(model, budget, device)
    rows = Rows(arrays["prose"], arrays["chat"], budget, config.model.context, device, config.seed)
    progress = Progress()
    checkpoint = config.work_dir / "checkpoint.pt"
    made_of = fingerprint([asdict(config.model), asdict(budget), config.seed, card])
    _resume(checkpoint, made_of, model, optimizer, rows, progress, device, report)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")

    def loss_of(rows_BL: Tensor) -> Tensor:
        with autocast():
            return row_loss(model, rows_BL, end_of_text)

    step_loss = _compiled(loss_of, rows, model, report) if budget.compile else loss_of

    def evaluate() -> None:
        with autocast():
            measured = {
                name: bits_per_byte(
                    model, arrays[name], card["parts"][name]["bytes"], end_of_text, config.model.context
                )
                for name in ("heldout", "heldout_chat")
            }
        progress.evaluations.append({"share": round(progress.share, 4), "step": progress.step, **measured})
        report(f"held-out bits per byte: prose {measured['heldout']:.4f}, chat {measured['heldout_chat']:.4f}")

    # The time to set up and compile is part of max_seconds, but not of the schedule: the shares that are left are
    # spread over the seconds that are left.
    before, begun = Progress(**vars(progress)), time.monotonic()
    seconds_left = None if budget.max_seconds is None else budget.max_seconds - before.seconds - (begun - started)
    reported, saved = begun, begun
    while progress.share < 1.0:
        if progress.share >= (len(progress.evaluations) + 1) / budget.evaluations:
            evaluate()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress.share, budget)
        loss = step_loss(rows.draw(with_chat=progress.share >= 1.0 - budget.chat_share))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), budget.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tokens += budget.batch_size * config.model.context
        now = time.monotonic()
        progress.seconds = before.seconds + now - started
        progress.share = progress.tokens / budget.max_tokens
        if seconds_left is not None:
            by_time = before.share + (1.0 - before.share) * (now - begun) / max(seconds_left, 1e-9)
            progress.share = max(progress.share, by_time)
        progress.share = min(1.0, progress.share)
        if now - reported >= _REPORT_EVERY_S:
            value = loss.item()  # waits for the device; what is queued is at most a few steps
            if not torch.isfinite(loss):
                raise FtmetaError(f"the loss became {value} at step {progress.step}; lower train.learning_rate")
            rate = (progress.tokens - before.tokens) / (now - begun)
            report(f"{progress.share:6.1%} step {progress.step:,} loss {value:.3f} {rate:,.0f} tokens/s")
            reported = now
        if now - saved >= budget.checkpoint_every_s:
            _save(checkpoint, made_of, model, optimizer, rows, progress)
            saved = time.monotonic()
    model.eval()
    if not progress.evaluations or progress.evaluations[-1]["step"] != progress.step:  # unless resumed at its end
        evaluate()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise FtmetaError("the weights are not finite; lower train.learning_rate")
    _save(checkpoint, made_of, model, optimizer, rows, progress)
    record = {
        "name": config.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": progress.tokens,
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "made_of": made_of,
        "train": asdict(budget),
        "evaluations": progress.evaluations,
    }
    save_model(model, tokenizer, out)
    write_json(out / "training.json", record)
    report(f"{record['parameters']:,} parameters, {progress.tokens:,} tokens, {progress.seconds:.0f} s -> {out}")
    return record


def make_optimizer(model: Any, train: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW with decay on the matrices alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=train.learning_rate, betas=(train.beta1, train.beta2), fused=device.type == "cuda"
    )


def _compiled(
    loss_of: Callable[[Tensor], Tensor], rows: Rows, model: Any, report: Callable[[str], None]
) -> Callable[[Tensor], Tensor]:
    """The compiled loss, or `loss_of` itself where compiling fails: it needs a compiler that a machine may lack."""
    state = rows.generator.get_state()
    try:
        compiled: Callable[[Tensor], Tensor] = torch.compile(loss_of)
        compiled(rows.draw(with_chat=False)).backward()
    except Exception as error:
        report(f"torch.compile failed, training goes on without it: {type(error).__name__}: {str(error)[:300]}")
        compiled = loss_of
    model.zero_grad(set_to_none=True)
    rows.generator.set_state(state)
    return compiled


def _save(
    path: Path, made_of: str, model: Any, optimizer: torch.optim.Optimizer, rows: Rows, progress: Progress
) -> None:
    state = {
        "made_of": made_of,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": rows.generator.get_state(),
        "progress": vars(progress),
    }
    with atomic_path(path) as fresh:
        torch.save(state, fresh)


def _resume(
    path: Path,
    made_of: str,
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    progress: Progress,
    device: torch.device,
    report: Callable[[str], None],
) -> None:
    """Continues from the checkpoint if there is one of this very configuration and these tokens."""
    if not path.is_file():
        return
    state = torch.load(path, map_location=device, weights_only=True)
    if state["made_of"] != made_of:
        report(f"{path} is of another configuration or other tokens; training starts afresh")
        return
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    rows.generator.set_state(state["generator"].cpu())
    vars(progress).update(state["progress"])
    report(f"continuing at {progress.share:.1%} of the budget, step {progress.step:,}")
