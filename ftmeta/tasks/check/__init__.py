"""What a user should know about a dataset before spending money on finetuning: `ftmeta tasks check`.

    survey = take_survey("mine.jsonl")                        # every row counted and hashed, some of the text kept
    report = check_task(survey, base_model, tokenizer)

In: what a user names, and the base model. Out: a Report with findings, worst first. An error means that finetuning
would refuse the data or that a test score would mean nothing; a warning, that money is better spent after a repair; a
note, something to know. Data that `load_task` refuses is reported on as far as it can be read.

A check is one function and one line in checks.py; a kind of personal data is one line in personal.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftmeta.schema import BaseModelInfo
from ftmeta.tasks.check.checks import CHECKS, too_long
from ftmeta.tasks.check.evidence import LEVELS, Evidence, Finding
from ftmeta.tasks.check.survey import Survey, survey_rows, take_survey
from ftmeta.tasks.lengths import quantiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Finding", "Report", "Survey", "check_task", "survey_rows", "take_survey"]


@dataclass(frozen=True)
class Report:
    rows: int  # all rows, those that cannot be used too
    splits: dict[str, int] | None  # examples in each split that the data names; None: it names none
    examples: int  # rows that can be used
    sampled: int  # examples whose text was looked at
    lengths: dict[str, Any] | None  # None without examples
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As `ftmeta tasks check --json` prints it, but for the name of the data."""
        findings = [{"check": finding.check, **dataclasses.asdict(finding)} for finding in self.findings]
        return {**dataclasses.asdict(self), "findings": findings, "ok": self.ok}


def check_task(survey: Survey, base_model: BaseModelInfo, tokenizer: Tokenizer) -> Report:
    """Runs all checks; wrong data gives findings, never an exception."""
    evidence = Evidence(survey, base_model, tokenizer)
    findings = [
        dataclasses.replace(finding, check=name) for name, check in CHECKS.items() for finding in check(evidence)
    ]
    return Report(
        rows=survey.rows,
        splits=survey.splits,
        examples=len(survey.row_N),
        sampled=len(survey.sample),
        lengths=_lengths(evidence) if survey.sample else None,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
    )


def _lengths(evidence: Evidence) -> dict[str, Any]:
    return {
        "base_model": evidence.base_model.name,
        "context_tokens": evidence.base_model.shape.context_length,
        "prompt_tokens": quantiles(evidence.prompt_tokens),
        "answer_tokens": quantiles(evidence.answer_tokens),
        "truncated": round(len(too_long(evidence)) / len(evidence.survey.sample), 6),
    }
