"""The checkpoints of a run that several workers share: the newest few, in a folder that every node sees.

Only one command may write, and of its workers only those that were started last: those of a node that has lost its
network live on for a while, when others have taken over. So the command leaves its mark in the folder (`owner`), and so
does each start of workers (`writer`); whoever finds another mark there ends.

A checkpoint that cannot be written (a full disk, a slow server that gives up) does not end the run: it goes on, and the
one before stays. One that is torn is set aside for the one before it.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from ftmeta.errors import ConfigError, DataError, FtmetaError
from ftmeta.files import write_text
from ftmeta.finetune import Finetuning
from ftmeta.finetune import checkpoint as checkpoints

KEEP = 2


def checkpoints_in(folder: Path) -> list[Path]:
    """Those that count, whole or not, in no order."""
    return list(folder.glob("step-*"))


class Checkpoints:
    """`owner` is the command's mark; `tell` gets a line for each thing that went wrong and was dealt with."""

    def __init__(self, folder: Path, owner: str, tell: Callable[[str], None]) -> None:
        self._folder, self._owner = folder, owner
        self._tell = tell
        self._mark = secrets.token_hex(8)

    def claim(self) -> None:
        """From now on only this object may write. The first rank calls it, before it reads what is there."""
        self._require_owner()
        write_text(self._folder / "writer", self._mark)

    def require_mine(self) -> None:
        """Raises ConfigError when another command has taken over the run, and FtmetaError when other workers have."""
        self._require_owner()
        if (self._folder / "writer").read_text(encoding="utf-8") != self._mark:
            raise FtmetaError(f"other workers have taken over this run ({self._folder}); these end")

    def _require_owner(self) -> None:
        file = self._folder / "owner"
        if not file.is_file() or file.read_text(encoding="utf-8") != self._owner:
            raise ConfigError(f"another command has taken over the run in {self._folder}; this one ends")

    def save(self, run: Finetuning) -> None:
        """All ranks call it, and the first one writes."""
        place = self._folder / f"step-{run.step:08d}"
        if run.ranks.rank == 0:
            self.require_mine()  # outside of `try`: a rank that skips what the others do together would hold them up
        try:
            run.save_checkpoint(place)
            if run.ranks.rank == 0:
                for old in self._newest_first()[KEEP:]:
                    shutil.rmtree(old)
        except (OSError, SafetensorError) as error:
            said = " ".join(str(error).split())[:200]
            self._tell(f"checkpoint at step {run.step} could not be written ({said}); the run goes on without it")

    def newest(self, run_id: str) -> Path | None:
        """The newest whole checkpoint of the run. Those passed over are set aside, not to count as the newest."""
        for place in self._newest_first():
            try:
                checkpoints.load(place, run_id)
            except DataError:
                self._tell(f"the checkpoint {place.name} is torn, or none that can be used; the one before it counts")
                aside = place.with_name(f"unusable-{place.name}")
                shutil.rmtree(aside, ignore_errors=True)
                place.rename(aside)
            else:
                return place
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(checkpoints_in(self._folder), reverse=True)
