"""What a meta-dataset shows: `make report-metadata`, or
`python -m jobs.report_metadata --metadata phi3-micro --out docs/reports/metadata.md`.

In: a meta-dataset (a bundled name, or a folder). Out: its card with all rank correlations, the importance of
hyperparameters and five plots (SVG), in Markdown, and the numbers as JSON beside it. Nothing is finetuned; twelve tasks
with 225 pipelines take a minute of one core, most of it for importance.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ftmeta.files import require_writable, write_json, write_text
from ftmeta.metadataset.about import load_about
from ftmeta.metadataset.loaders import find, load
from ftmeta.orchestrate.shell import exit_codes
from jobs.metadata_report.findings import findings
from jobs.metadata_report.page import markdown
from jobs.metadata_report.plots import draw


def main(
    metadata: Annotated[str, typer.Option(help="The name of a bundled meta-dataset, or a folder.")],
    out: Annotated[Path, typer.Option(help="The report to write; JSON and plots go beside it.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the forests.")] = 0,
) -> None:
    """Computes, draws and writes the report."""
    require_writable(out)
    meta, about = load(metadata), load_about(find(metadata))
    found = findings(meta, seed=seed)
    write_json(out.with_suffix(".json"), found)
    plots = draw(found, meta, out)
    command = f"python -m jobs.report_metadata --metadata {metadata} --out {out}"
    write_text(out, markdown(found, meta, about, plots, command))
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
