"""Makes a collected meta-dataset one that ships with ftmeta:
`python -m jobs.metadata_report.bundle --metadata out/phi3-micro --out ftmeta/data/meta/phi3-micro`.

In: the folder of a sweep (or an import), and what to say about it: `--about`, or the `about.yaml` that the folder which
ships has already. Out: a new folder with the tables, compressed
harder, `about.yaml` and the card; nothing else of the sweep. What is written is read again and has the same
fingerprint.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from ftmeta.errors import MetaDatasetError, UserError
from ftmeta.files import atomic_path, require_writable, write_text
from ftmeta.metadataset import MetaDataset, read
from ftmeta.metadataset.about import ABOUT_FILE, load_about
from ftmeta.metadataset.card import card
from ftmeta.metadataset.store import TABLES
from ftmeta.orchestrate.shell import exit_codes

MAX_BYTES = 4_000_000  # what the package carries for one meta-dataset
_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt|var|opt|srv)/\S+")


def main(
    metadata: Annotated[Path, typer.Option(help="The folder of the meta-dataset.")],
    out: Annotated[Path, typer.Option(help="The folder that ships; its name is the meta-dataset's.")],
    about: Annotated[
        Path | None,
        typer.Option(help="Title, story, licence, limits (ftmeta/metadataset/about.py); default: what --out has."),
    ] = None,
) -> None:
    """Writes the folder, and says how many bytes it has."""
    sys.stdout.write(f"{out}: {bundle(metadata, about or out / ABOUT_FILE, out):,} bytes\n")


def bundle(metadata: Path, about: Path, out: Path) -> int:
    """The number of bytes of the folder, which is replaced as a whole. Raises MetaDatasetError where it would be larger
    than MAX_BYTES or carry paths of the machine that it was made on."""
    if not about.is_file():
        raise UserError(f"{about} is no file; give --about, with title, story, licence, recollect and limits")
    require_writable(out)
    meta = read(metadata)
    _check_private(meta)
    with atomic_path(out) as folder:
        folder.mkdir()
        _write(metadata, about, folder, meta)
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > MAX_BYTES:
            raise MetaDatasetError(
                f"{out.name} takes {size:,} bytes, and {MAX_BYTES:,} are the most; bundle fewer runs"
            )
        if read(folder).fingerprint != meta.fingerprint:
            raise MetaDatasetError(f"{out.name} reads differently from {metadata}; nothing is bundled")
    return size


def write_card(folder: Path) -> None:
    """The card of a bundled meta-dataset once more, after a change of card.py or of its about.yaml."""
    write_text(folder / "card.md", card(read(folder), load_about(folder)))


def _write(metadata: Path, about: Path, folder: Path, meta: MetaDataset) -> None:
    import pyarrow.parquet as pq

    for table in TABLES:
        content = pq.read_table(metadata / f"{table}.parquet")
        pq.write_table(content, folder / f"{table}.parquet", compression="zstd", compression_level=19)
    for name in ("space.yaml", "manifest.json"):
        shutil.copyfile(metadata / name, folder / name)
    shutil.copyfile(about, folder / ABOUT_FILE)
    write_text(folder / "card.md", card(meta, load_about(folder)))


def _check_private(meta: MetaDataset) -> None:
    for error in meta.runs["error"].dropna().unique():
        if found := _PATH.search(str(error)):
            raise MetaDatasetError(f"an error of a run names the path {found[0]}; retry those runs, or leave them out")


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
