"""Findings to Markdown. Every number is one of findings.py, and every sentence is true whatever the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.task_report.findings import LIMITS
from jobs.task_report.plots import plot_file


def markdown(found: dict[str, Any], out: Path) -> str:
    """The report; its plots are named as `draw` names them for the same `out`."""
    sections = (
        _head(found),
        _says(found),
        _taught(found, out),
        _differ(found),
        _one_pipeline(found, out),
        _which(found),
        _alike(found),
        _how(found),
    )
    return "\n\n".join(sections) + "\n"


def _head(found: dict[str, Any]) -> str:
    made, sweep = found["made"], found["made"]["sweep"]
    versions = ", ".join(f"{name} {made['libraries'][name]}" for name in ("python", "torch", "transformers", "peft"))
    statuses = ", ".join(f"{count} {status}" for status, count in sweep["statuses"].items())
    n_tasks = len(found["tasks"])
    return (
        "# What the bundled tasks show\n\n"
        f"Made by the commands at the end (`make report-tasks`) on {made['on']}: {', '.join(made['devices'])}, one "
        f"thread a run; {versions}. Base model {made['base_model']}.\n\n"
        f"The sweep: {sweep['runs']} runs ({n_tasks} of the {made['bundled_tasks']} bundled tasks, "
        f"{len(found['pipelines'])} pipelines, seed{_s(sweep['seeds'])} {_list(sweep['seeds'])}; {statuses}; "
        f"{sweep['cost_s']:,.0f} device-seconds; fingerprint `{sweep['fingerprint']}`). Run again with the seeds "
        f"{_list(made['again']['seeds'])} and scored on the whole test split: {made['again']['runs']} runs "
        f"({made['again']['cost_s']:,.0f} device-seconds)."
    )


def _says(found: dict[str, Any]) -> str:
    verdict, count, noise = found["verdict"], len(found["tasks"]), found["noise"]
    known = {
        (measure, kind): sum(row[measure][kind] is not None for row in found["tasks"])
        for measure in ("regret", "regret_again")
        for kind in ("static", "static_of_others")
    }
    words = {pipeline["id"]: pipeline["words"] for pipeline in found["pipelines"]}

    def loses(measure: str, kind: str) -> str:
        above = verdict[measure][kind]
        parts = [f"more than {limit:g} on {len(above[f'{limit:g}'])} tasks" for limit in LIMITS]
        of = known[measure, kind]
        return f"{', '.join(parts)}, and more than the noise ({noise:.3f}) on **{len(above['noise'])} of {of}**"

    def names(measure: str, kind: str) -> str:
        return f" ({_list(verdict[measure][kind]['noise'])})" if verdict[measure][kind]["noise"] else ""

    return (
        "## What they say\n\n"
        f"- The strong default improves the test NLL over zero-shot on **{len(verdict['improved'])} of {count}** tasks "
        f"({len(verdict['improved_with_every_seed'])} with every seed){_except(found, verdict['improved'])}.\n"
        f"- Questions about facts that training teaches improve more than the others on "
        f"**{len(verdict['seen_more_than_unseen'])} of {count}** "
        f"({len(verdict['seen_more_with_every_seed'])} with every seed)"
        f"{_except(found, verdict['seen_more_than_unseen'])}.\n"
        f"- The best static pipeline ({words[found['static']]}) loses {loses('regret', 'static')}"
        f"{names('regret', 'static')}. Run again with fresh seeds: {loses('regret_again', 'static')}"
        f"{names('regret_again', 'static')}.\n"
        f"- A static pipeline chosen on the other tasks, as it would be for a new one, loses "
        f"{loses('regret', 'static_of_others')}. Run again: {loses('regret_again', 'static_of_others')}."
    )


def _except(found: dict[str, Any], names: list[str]) -> str:
    others = [row["task"] for row in found["tasks"] if row["task"] not in names]
    return f"; not on {_list(others)}" if others else ""


def _taught(found: dict[str, Any], out: Path) -> str:
    lines = [
        "| task | training examples | zero-shot NLL | finetuned NLL | score | seen facts | unseen facts "
        "| nats gained: seen | unseen | cost, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["tasks"]:
        taught = row["strong_default"]
        spread = max(taught["scores"]["all"]) - min(taught["scores"]["all"])
        lines.append(
            f"| {row['task']} | {row['train']:,} | {row['zero_shot_nll']['all']:.3f} | {taught['nll']['all']:.3f} "
            f"| {taught['score']['all']:.3f} ± {spread / 2:.3f} | {taught['score']['seen']:.3f} "
            f"| {taught['score']['unseen']:.3f} | {taught['nats_gained']['seen']:.2f} "
            f"| {taught['nats_gained']['unseen']:.2f} | {taught['cost_s']:.1f} |"
        )
    return (
        "## Finetuning teaches the facts\n\n"
        "The strong default, finetuned in full. NLL: nats per answer token over the whole test split. Score: 1 - "
        "NLL / zero-shot NLL, and the same for the test questions that ask for a fact that training teaches through "
        "another question (seen) and for the others (unseen), each relative to its own zero-shot NLL. Means over "
        f"{len(found['made']['again']['seeds'])} seeds; ± is half the range between them. Cost: device-seconds of one "
        f"run with validation at {found['made']['again']['max_fidelity'] + 1} fidelities.\n\n"
        + "\n".join(lines)
        + f"\n\n![Seen against unseen facts]({plot_file(out, 'seen').name})"
    )


def _differ(found: dict[str, Any]) -> str:
    lines = [
        "| task | training examples | answer tokens: median | 90th percentile | seen facts | answer noise "
        "| zero-shot NLL: seen | unseen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['task']} | {row['train']:,} | {row['answer_tokens']['p50']} | {row['answer_tokens']['p90']} "
        f"| {_percent(row['seen_share'])} | {_percent(row['answer_noise'])} | {row['zero_shot_nll']['seen']:.2f} "
        f"| {row['zero_shot_nll']['unseen']:.2f} |"
        for row in found["tasks"]
    ]
    return (
        "## What differs between the tasks\n\n"
        "Answer tokens are those of training answers. Seen facts: the share of validation and test questions whose "
        "fact training teaches. Noise: the share of training answers that were exchanged for another one of their "
        "kind. The zero-shot NLL says how far a task's answers are from what the base model was pretrained on.\n\n"
        + "\n".join(lines)
    )


def _one_pipeline(found: dict[str, Any], out: Path) -> str:
    lines = [
        "| task | chosen | worst | strong default | static | static of others | regret: strong default | static "
        "| static of others | again: static | static of others | ± |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["tasks"]:
        score, once, again = row["test_score"], row["regret"], row["regret_again"]
        lines.append(
            f"| {row['task']} | {score['best']:.3f} | {score['lowest']:.3f} | {score['strong_default']:.3f} "
            f"| {score['static']:.3f} | {score['static_of_others']:.3f} | {once['strong_default']:.3f} "
            f"| {once['static']:.3f} | {once['static_of_others']:.3f} | {_three(again['static'])} "
            f"| {_three(again['static_of_others'])} | {row['deviation_between_seeds']:.3f} |"
        )
    static = next(pipeline for pipeline in found["pipelines"] if pipeline["id"] == found["static"])
    return (
        "## One pipeline for all tasks\n\n"
        f"The best static pipeline is {static['words']}: of the {len(found['pipelines'])} it has the smallest mean "
        "normalised validation regret over all tasks, its choice having seen them all. *Static of others* is chosen "
        "in the same way without the task that it is judged on. *Chosen* is the pipeline with the task's best "
        "validation score. Scores are test scores of the sweep (on "
        f"{found['made']['sweep']['budget']['eval_examples']} questions); regret = (score of the chosen one - score of "
        "this one) / (best - worst score of the task). *Again* is the same difference with fresh seeds on the whole "
        "test split, which takes out the luck of the run that was chosen for being best. ± is the standard deviation "
        "between seeds of a pipeline on the same scale; two equally good runs differ by more than "
        f"{found['noise']:.3f} (2 √2 times its quadratic mean over tasks) once in twenty times, and that is called the "
        "noise.\n\n"
        + "\n".join(lines)
        + f"\n\n![Regret of one pipeline for all tasks]({plot_file(out, 'regret').name})"
    )


def _which(found: dict[str, Any]) -> str:
    words = {pipeline["id"]: pipeline["words"] for pipeline in found["pipelines"]}
    best = ["| task | training examples | best pipeline | its steps |", "|---|---|---|---|"]
    best += [
        f"| {row['task']} | {row['train']:,} | {words[row['best']]} | {row['best_steps']:,} |" for row in found["tasks"]
    ]
    moves = [
        f"- {name}: " + ("not defined" if one is None else f"{one['correlation']:+.2f} (p = {one['p']:.3f})")
        for name, one in found["moves_the_best"].items()
    ]
    listed = [
        "| pipeline | mean test score | mean regret | worst regret | best on |",
        "|---|---|---|---|---|",
    ]
    listed += [
        f"| {one['words']} | {one['mean_test_score']:.3f} | {one['mean_regret']:.3f} | {one['worst_regret']:.3f} "
        f"| {one['best_on'] or ''} |"
        for one in found["pipelines"]
    ]
    return (
        "## Which pipeline is best where\n\n"
        "The best validation score of the sweep. The rate is a multiple of the base model's "
        "reference learning rate; what is not named is as in the strong default.\n\n"
        + "\n".join(best)
        + "\n\nSpearman's correlation of what the best pipeline has with the number of training examples, over tasks "
        "(steps grow with the examples by themselves; the batch size and the rate do not):\n\n"
        + "\n".join(moves)
        + "\n\nAll pipelines, by mean regret against each task's choice:\n\n"
        + "\n".join(listed)
    )


def _alike(found: dict[str, Any]) -> str:
    correlation, names = found["rank_correlation"], [row["task"] for row in found["tasks"]]
    at = [found["scores"]["tasks"].index(name) for name in names]
    lines = ["| |" + "|".join(f" {name} " for name in names) + "|", "|---" * (len(names) + 1) + "|"]
    for name, first in zip(names, at, strict=True):
        row = [correlation["matrix"][first][second] for second in at]
        lines.append(f"| {name} | " + " | ".join("–" if value is None else f"{value:.2f}" for value in row) + " |")
    return (
        "## How alike the tasks rank the pipelines\n\n"
        "Spearman's rank correlation of test scores between tasks, the largest task first: median "
        f"{correlation['median']:.2f}, lowest {correlation['lowest']:.2f} "
        f"({' and '.join(correlation['lowest_pair'])}).\n\n" + "\n".join(lines)
    )


def _how(found: dict[str, Any]) -> str:
    budget = found["made"]["sweep"]["budget"]
    commands = "\n".join(found["made"]["commands"])
    return (
        "## How it was made\n\n"
        f"```sh\n{commands}\n```\n\n"
        f"Every run: {budget['epochs']:g} passes over the training split. The sweep scores {budget['eval_examples']} "
        f"validation and as many test questions at {budget['max_fidelity'] + 1} fidelities. A run that diverged counts "
        "as score 0. The pipelines of the sweep were written down to spread over learning rate, batch size, rank, "
        "method, dropout, schedule and loss, before any of these runs; regret is against the best of them, and says "
        "nothing of pipelines outside of the table. A device-second on a CPU is a second of process time, which other "
        "load on the machine does move a little (docs/lab-log.md). Code version"
        f"{_s(found['made']['code_versions'])} {', '.join(found['made']['code_versions'])}."
    )


def _three(value: float | None) -> str:
    """To three digits; a dash for what was not run again."""
    return "–" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _list(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))


def _s(items: Sequence[Any]) -> str:
    return "" if len(items) == 1 else "s"
