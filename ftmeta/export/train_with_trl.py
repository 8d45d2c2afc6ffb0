"""Finetunes a language model with trl's SFTTrainer by the settings below; README.md says where they come from.

    pip install -r requirements.txt
    python train.py                                       # trains; the adapter and result.json go to output/
    python train.py --model FOLDER --output OTHER --max-steps 20
    accelerate launch train.py                            # on several GPUs: the batch is shared out among them

In: data/train.jsonl, validation.jsonl and test.jsonl; `prompt` and `completion` are lists of messages. Out: a PEFT
adapter, and result.json with the training loss of each step and what training did to the NLL of the answers.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from datasets import Dataset
from torch.nn import functional
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

# --- settings ---
MODEL = "microsoft/Phi-3-mini-4k-instruct"
ADAPTER = peft.LoraConfig(
    task_type="CAUSAL_LM",
    r=16,
    lora_alpha=32,
    lora_dropout=0.05,
    target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
)
TRAINING: dict[str, Any] = {
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_grad_norm": 1.0,
    "neftune_noise_alpha": None,
    "label_smoothing_factor": 0.0,
    "completion_only_loss": True,
    "seed": 0,
}
OPTIMIZER: dict[str, Any] = {
    "learning_rate": 0.000357743,
    "lora_plus_ratio": 1,
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
}
BATCH_SIZE = 16
MICRO_BATCH = 8
END_OF_TURN = "<|end|>"
CONTEXT_TOKENS = 4096
# --- end of settings ---

FOLDER = Path(__file__).resolve().parent
Row = dict[str, list[int]]  # input_ids, and completion_mask: 1 where a token belongs to the answer


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    on_gpu = torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if BATCH_SIZE % (options.micro_batch * world):
        raise SystemExit(f"--micro-batch {options.micro_batch} on {world} devices does not divide {BATCH_SIZE}")

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    rows = {split: read(options.data / f"{split}.jsonl", tokenizer) for split in ("train", "validation", "test")}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16 if on_gpu else torch.float32
    )
    transformers.set_seed(options.seed)
    adapted: Any = (
        peft.get_peft_model(model, ADAPTER)
        if options.adapter is None
        else peft.PeftModel.from_pretrained(model, options.adapter, is_trainable=True)
    )
    config = SFTConfig(
        str(options.output / "checkpoints"),
        **{**TRAINING, "num_train_epochs": options.epochs, "seed": options.seed},
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=BATCH_SIZE // (options.micro_batch * world),
        learning_rate=OPTIMIZER["learning_rate"],
        max_steps=options.max_steps,
        train_sampling_strategy="sequential" if options.in_order else "random",
        max_length=None,  # `fit` has cut the rows
        bf16=on_gpu,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        activation_checkpointing=options.activation_checkpointing,
        save_strategy="no" if options.checkpoint_steps is None else "steps",
        save_steps=options.checkpoint_steps or 500,
        save_total_limit=1,
        logging_steps=10,
        report_to="none",
    )
    trainer = Trainer(
        model=adapted, args=config, train_dataset=Dataset.from_list(rows["train"]), processing_class=tokenizer
    )
    held_out = {split: rows[split] for split in ("validation", "test")}
    with adapted.disable_adapter():
        before = {split: nll(adapted, some, options.micro_batch) for split, some in held_out.items()}
    trainer.train(resume_from_checkpoint=options.resume)
    after = {split: nll(adapted, some, options.micro_batch) for split, some in held_out.items()}
    result = {
        "steps": trainer.state.global_step,
        "losses": [torch.stack(parts).sum().item() for parts in trainer.losses.values()],
        "zero_shot_nll": before,  # nats per token of the answers
        "nll": after,
        "score": {split: max(0.0, 1 - after[split] / before[split]) for split in after},  # as ftmeta scores
    }
    if trainer.is_world_process_zero():
        adapted.save_pretrained(options.output / "adapter")
        (options.output / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({"adapter": str(options.output / "adapter"), "nll": after, "score": result["score"]}))  # noqa: T201
    return result


class Trainer(SFTTrainer):
    """SFTTrainer with the optimizer's groups, and the loss of each step kept."""

    losses: dict[int, list[torch.Tensor]]  # by step, the parts of its batch

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW in three groups. LoRA+ (arXiv 2402.12354): B learns at a multiple of A's rate. Only matrices are
        decayed, because DoRA's magnitudes and (IA)3's scales do not mean "no change" at 0."""
        adapted: Any = self.model
        learned = [(name, weight) for name, weight in adapted.named_parameters() if weight.requires_grad]
        of_a = [weight for name, weight in learned if "lora_A" in name]
        of_b = [weight for name, weight in learned if "lora_B" in name]
        scales = [weight for name, weight in learned if "lora_A" not in name and "lora_B" not in name]
        rate, decay = OPTIMIZER["learning_rate"], OPTIMIZER["weight_decay"]
        groups = [
            {"params": of_a, "lr": rate, "weight_decay": decay},
            {"params": of_b, "lr": rate * OPTIMIZER["lora_plus_ratio"], "weight_decay": decay},
            {"params": scales, "lr": rate, "weight_decay": 0.0},
        ]
        self.losses = {}
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=OPTIMIZER["betas"])
        return self.optimizer

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*arguments, **named)
        self.losses.setdefault(self.state.global_step, []).append(loss.detach())
        return loss


def read(path: Path, tokenizer: Any) -> list[Row]:
    """The examples of a file as tokens. The text is the model's own chat template; the answer ends with the token that
    ends a turn, and what the template writes after it is left out."""
    with path.open(encoding="utf-8") as file:
        examples = [json.loads(line) for line in file]
    prompts, texts = [], []
    for example in examples:
        prompts.append(tokenizer.apply_chat_template(example["prompt"], tokenize=False, add_generation_prompt=True))
        text = tokenizer.apply_chat_template(example["prompt"] + example["completion"], tokenize=False)
        if not text.startswith(prompts[-1]):
            raise SystemExit("the chat template changes the prompt once the answer is known; use another base model")
        texts.append(text[: text.rfind(END_OF_TURN) + len(END_OF_TURN)])
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rows = []
    for ids, offsets, prompt in zip(encoded["input_ids"], encoded["offset_mapping"], prompts, strict=True):
        start = next(index for index, (_, stop) in enumerate(offsets) if stop > len(prompt))
        rows.append(fit(ids[:start], ids[start:]))
    return rows


def fit(prompt: list[int], answer: list[int]) -> Row:
    """A row longer than the context loses the beginning of its prompt, down to half the context, and only then the end
    of its answer."""
    answer = answer[: CONTEXT_TOKENS - min(len(prompt), CONTEXT_TOKENS // 2)]
    prompt = prompt[max(0, len(prompt) + len(answer) - CONTEXT_TOKENS) :]
    return {"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)}


@torch.no_grad()
def nll(model: Any, rows: list[Row], at_once: int) -> float:
    """The negative log-likelihood of the answers, in nats per token."""
    model.eval()
    total, count = 0.0, 0
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    for begin in range(0, len(by_length), at_once):
        batch = by_length[begin : begin + at_once]
        length = len(batch[-1]["input_ids"])
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        targets = torch.full((len(batch), length), -100)
        for at, row in enumerate(batch):
            size, mask = len(row["input_ids"]), torch.tensor(row["completion_mask"], dtype=torch.bool)
            ids[at, :size] = torch.tensor(row["input_ids"])
            targets[at, :size] = ids[at, :size].where(mask, torch.tensor(-100))
        ids, targets = ids.to(model.device), targets[:, 1:].to(model.device)  # padding stands behind the text
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += int((targets != -100).sum())
    return total / count


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Finetunes by the settings in this file.")
    parser.add_argument("--model", default=MODEL, help="a hub id or a folder; default: %(default)s")
    parser.add_argument("--data", type=Path, default=FOLDER / "data")
    parser.add_argument("--output", type=Path, default=FOLDER / "output")
    parser.add_argument("--adapter", type=Path, help="a saved adapter to start from; default: a fresh one")
    parser.add_argument("--in-order", action="store_true", help="take the examples as they stand in train.jsonl")
    parser.add_argument("--epochs", type=float, default=TRAINING["num_train_epochs"])
    parser.add_argument("--max-steps", type=int, default=-1, help="optimizer steps; default: those of the epochs")
    parser.add_argument("--seed", type=int, default=TRAINING["seed"])
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=MICRO_BATCH,
        help=f"examples at a time on each device; {BATCH_SIZE} make a step",
    )
    parser.add_argument("--activation-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--checkpoint-steps", type=int, help="save a checkpoint every so many steps")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
