"""The report of jobs/bench_finetune.py: its results, and what stands beside them, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

from jobs.bench_gpu import H100_BF16_FLOPS

TARGETS = {"phi3-micro": 3.0, "smollm2-135m": 2.5}  # ours / SFTTrainer's, tokens per second, on two cores
_NAMES = {
    "ours": "ours",
    "trl": "SFTTrainer",
    "trl_without_checkpointing": "SFTTrainer without activation checkpointing",
}
_COMPARED = """\
Both train the strong default (LoRA of rank 16 on all linear layers, dropout 0.05, batch 16, AdamW, cosine with warmup)
on the bundled task `world-facts`, from the same token lists with the loss on the answer, with the same number of
threads. Timed is the training loop alone: no loading, tokenisation, evaluation or saving. Tokens are those of the
examples; padding does not count. The sides take turns within one process, after a turn that does not count; a ratio
is that of one turn. jobs/finetune_measure.py has the details.

SFTTrainer stands as trl sets it up: random order, each batch padded to its longest example, no packing, activation
checkpointing on. The last column is the ratio to SFTTrainer with that off, which trades memory for speed."""
_CUDA_MISSING = """\
Not measured: no CUDA device was at hand. On a machine with one, `python -m jobs.bench_finetune --device cuda` measures
the Phi-3-mini architecture (random weights, bfloat16) at batch 16, 64 and 256 against SFTTrainer, and states model
FLOPs utilisation."""


def page(results: dict[str, Any], beside: dict[str, Any]) -> str:
    """The report; `beside` holds sections that other commands wrote (`startup`, `faults`, `cuda`)."""
    parts = [
        "# Finetuning: speed and memory against SFTTrainer, start-up, faults",
        _head(results, "finetune.json"),
        "## Speed",
        _COMPARED,
        *_speed(results.get("speed", {})),
        "## Peak memory",
        *_peak(results.get("peak", {})),
        "## The same losses",
        *_parity(results.get("parity", {})),
    ]
    for part, title, section in _BESIDE:
        if part in beside:
            parts += [f"## {title}", *section(beside[part])]
    parts += ["## On a CUDA device", *(_cuda(beside["cuda"]) if "cuda" in beside else [_CUDA_MISSING])]
    return "\n\n".join(parts) + "\n"


def verdicts(results: dict[str, Any]) -> Iterator[bool]:
    """Whether each target is met: the ratios on two threads, and the peaks."""
    for case in results.get("speed", {}).values():
        if case["setup"]["threads"] == 2:
            yield median(case["ratio"]["trl"]) >= TARGETS[case["setup"]["base_model"]]
    for peaks in _peaks_by_model(results.get("peak", {})).values():
        yield peaks["ours"] <= peaks["trl"]


def _head(results: dict[str, Any], numbers: str) -> str:
    versions = results.get("versions", {})
    parts = (results.get(part, {}) for part in ("speed", "peak", "parity", "cases"))
    made_by = sorted({case["ftmeta"] for part in parts for case in part.values()})  # it may have gone on after a commit
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "trl") if name in versions
    )
    return (
        f"Made by `{results.get('command')}` on {results.get('date')}: {results.get('hardware')} "
        f"({results.get('vector_width')}), {named}, ftmeta {', '.join(made_by)}. `{numbers}` has all numbers."
    )


def _speed(cases: dict[str, Any]) -> Iterator[str]:
    rows = []
    for case in cases.values():
        setup, rates, ratio = case["setup"], case["tokens_per_s"], case["ratio"]
        target = TARGETS[setup["base_model"]] if setup["threads"] == 2 else None
        met = "" if target is None else "met" if median(ratio["trl"]) >= target else "**missed**"
        rows.append(
            [
                setup["base_model"],
                setup["threads"],
                f"{case['mean_tokens']:.1f}",
                _spread(rates["ours"], "{:,.0f}"),
                _spread(rates["trl"], "{:,.0f}"),
                _spread(ratio["trl"]),
                "" if target is None else f"{target:g}",
                met,
                _spread(ratio["trl_without_checkpointing"]),
            ]
        )
    yield _table(
        ["model", "threads", "tokens an example", "ours, tokens/s", "SFTTrainer, tokens/s", "ratio", "target", "",
         "ratio without checkpointing"],
        rows,
    )  # fmt: skip
    yield (
        "Median (least to most) of the turns: "
        + "; ".join(
            f"{name}, {len(case['ratio']['trl'])} turns of {case['tokens']:,} tokens, load of the machine "
            f"{case['load_before_and_after'][0]:.1f} before and {case['load_before_and_after'][1]:.1f} after"
            for name, case in cases.items()
        )
        + "."
    )


def _peak(cases: dict[str, Any]) -> Iterator[str]:
    rows = [
        [model, *(f"{peaks[side]:.2f}" if side in peaks else "–" for side in _NAMES),
         "met" if peaks["ours"] <= peaks["trl"] else "**missed**"]
        for model, peaks in _peaks_by_model(cases).items()
    ]  # fmt: skip
    yield _table(["model", *(f"{name}, GB" for name in _NAMES.values()), "ours not above SFTTrainer's"], rows)
    yield (
        "The highest resident memory of a fresh process that loads the model and trains with one side, libraries "
        "included; the examples are those of the speed measurement, two threads, one measurement each."
    )


def _parity(cases: dict[str, Any]) -> Iterator[str]:
    for case in cases.values():
        yield (
            f"- {case['setup']['base_model']}: {case['steps']} steps from the same adapter through the same batches, "
            f"dropout 0 (each side draws its own masks): the losses differ by {case['worst_relative']:.1e} of their "
            f"size at most ({case['first_loss']:.4f} at the first step, {case['last_loss']:.4f} at the last)."
        )
    yield (
        "tests/finetune/test_parity.py holds lora, rslora, dora and (IA)3 to 1e-4 at each step against transformers' "
        "Trainer and trl's SFTTrainer, with gradient accumulation, loss on the full text, LoRA+ and a Llama among the "
        "cases."
    )


def _startup(section: dict[str, Any]) -> Iterator[str]:
    later = section["later_s"]
    met = "met" if max(section["first_s"], later["median"]) <= section["target_s"] else "**missed**"
    yield (
        f"A two-worker trainer, from the call to the first point of the curve (`{section['command']}`, "
        f"{section['hardware']}): {section['first_s']:.1f} s for the first of a cluster, {later['median']:.1f} s "
        f"({later['min']:.1f} to {later['max']:.1f}) for the {section['repeats'] - 1} after it; at most "
        f"{section['target_s']} s were wanted: {met}."
    )


def _faults(section: Sequence[dict[str, str]]) -> Iterator[str]:
    columns = ["fault", "how", "what_happened", "curve", "test"]
    yield _table([name.replace("_", " ") for name in columns], [[row[name] for name in columns] for row in section])


# The part's name in the file's name, the title, what writes it
_BESIDE: tuple[tuple[str, str, Callable[[Any], Iterator[str]]], ...] = (
    ("startup", "Start-up", _startup),
    ("faults", "Faults", _faults),
)


def _cuda(results: dict[str, Any]) -> Iterator[str]:
    yield _head(results, "finetune-cuda.json")
    rows = []
    for name, case in results["cases"].items():
        known = any(part in case["device"] for part in ("H100", "H200"))
        rate = {side: median(values) for side, values in case["tokens_per_s"].items()}
        share = {
            side: f"{rate[side] * case['flops_per_token'] / H100_BF16_FLOPS:.1%}" if known else "–" for side in rate
        }
        rows.append(
            [
                name,
                case["device"],
                _spread(case["tokens_per_s"]["ours"], "{:,.0f}"),
                share["ours"],
                _spread(case["ratio"]["trl"]),
                share["trl"],
                _spread(case["ratio"]["trl_without_checkpointing"]),
            ]
        )
    yield _table(
        ["case", "device", "ours, tokens/s", "ours, MFU", "ratio", "SFTTrainer, MFU", "ratio without checkpointing"],
        rows,
    )
    yield (
        "MFU: model FLOPs (4 a weight of the blocks and token, the base being frozen, and the head at labels) over the "
        f"data sheet's {H100_BF16_FLOPS / 1e12:.0f} TFLOP/s, dense bfloat16. Random weights say nothing about quality."
    )


def _peaks_by_model(cases: dict[str, Any]) -> dict[str, dict[str, float]]:
    peaks: dict[str, dict[str, float]] = {}
    for name, case in cases.items():
        peaks.setdefault(case["setup"]["base_model"], {})[name.rsplit(" ", 1)[1]] = case["peak_gb"]
    return peaks


def _spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    return f"{form.format(median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
