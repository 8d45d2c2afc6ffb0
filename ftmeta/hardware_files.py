"""The files that hardware profiles stand in: data/hardware.yaml, and a folder of one's own.

In: YAML. Out: `ProfileEntry`s by name. A profile of one's own is NAME.yaml in the folder `own_folder`, with the keys of
an entry of the shipped table; `ftmeta calibrate` writes such files, and so may anyone. One file a profile, so that two
calibrations at once do not meet.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftmeta.errors import ConfigError, UserError
from ftmeta.files import DATA, require_writable, write_text

OWN = "FTMETA_HARDWARE"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HEADER = "# A hardware profile made by `ftmeta calibrate` (docs/calibration.md). Remove it, and shipped ones count.\n"
_MEND = "correct or remove it, or make it again with `ftmeta calibrate`"


class Calibration(BaseModel):
    """How a profile was measured. What else it says is for readers."""

    model_config = ConfigDict(extra="allow")
    device: str  # as its driver, or the CPU, calls itself
    machine: str
    measured_at: str  # UTC, ISO 8601


class ProfileEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    description: str
    flops_per_s: float | None = Field(None, gt=0)  # usable; or
    peak_flops_per_s: float | None = Field(None, gt=0)
    utilisation: float | None = Field(None, gt=0, le=1)
    bytes_per_s: float = Field(gt=0)
    overhead_s: float = Field(ge=0)
    weight_bytes: int = Field(gt=0)
    memory_gb: float = Field(gt=0)
    price: str
    source: Literal["estimate", "measured"]
    detect: str | None = None  # a regular expression for the names of devices that the profile is meant for
    as_of: object = None
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _check(self) -> ProfileEntry:
        given = (self.flops_per_s is not None, self.peak_flops_per_s is not None, self.utilisation is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either flops_per_s, or peak_flops_per_s and utilisation")
        try:
            re.compile(self.detect or "")
        except re.error as error:
            raise ValueError(f"detect is no regular expression ({error})") from None
        return self

    def usable_flops_per_s(self) -> float:
        return self.flops_per_s or (self.peak_flops_per_s or 0.0) * (self.utilisation or 0.0)


@functools.cache
def shipped(path: Path = DATA / "hardware.yaml") -> dict[str, ProfileEntry]:
    """The profiles that come with ftmeta, by name."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    dated = {"as_of": document["as_of"]}
    return {name: _entry(f"{path}: {name}", dated | entry) for name, entry in document["profiles"].items()}


def own_folder() -> Path | None:
    """Where profiles of one's own are kept: `$FTMETA_HARDWARE`, or ftmeta/hardware under `$XDG_CONFIG_HOME`
    (`~/.config`). None: nothing is named, and there is no home."""
    named, config = os.environ.get(OWN), os.environ.get("XDG_CONFIG_HOME")
    if named:
        return Path(named)
    try:
        return Path(config or Path.home() / ".config") / "ftmeta" / "hardware"
    except RuntimeError:  # a container's user without a home
        return None


def own() -> dict[str, ProfileEntry]:
    """One's own profiles by name, the newest measurement first. Raises ConfigError for a file that is broken."""
    folder = own_folder()
    if folder is None:
        return {}
    kept: dict[str, ProfileEntry] = {}
    try:
        for path in sorted(folder.glob("[!.]*.yaml")) if folder.is_dir() else _nothing(folder):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found = path.stat()
                kept[path.stem] = _read(path, found.st_ino, found.st_mtime_ns, found.st_size)
    except OSError as error:
        if not os.environ.get(OWN) and not os.path.isdir(folder):
            return {}  # in a home that belongs to someone else, as services are given one
        raise ConfigError(
            f"hardware profiles in {folder} cannot be read ({error.strerror}); name another folder in ${OWN}"
        ) from None
    return dict(sorted(kept.items(), key=lambda item: _measured_at(item[1]), reverse=True))


def place_for(name: str) -> Path:
    """The file that `keep` writes. Raises ConfigError for what cannot be a name, and where no file can be made: better
    before the measurements than after them."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"'{name}' cannot be the name of a hardware profile; give up to 63 lower-case letters, digits, dots, "
            "dashes and underscores that begin with a letter or a digit, as cpu-lab3"
        )
    folder = own_folder()
    if folder is None:
        raise ConfigError(f"there is no home folder to keep a hardware profile in; name a folder in ${OWN}")
    path = folder / f"{name}.yaml"
    try:
        require_writable(path)
    except UserError as error:
        raise ConfigError(f"{error}: name a folder for hardware profiles in ${OWN}") from None
    return path


def keep(name: str, profile: Mapping[str, Any]) -> Path:
    """Writes a profile of one's own, whole or not at all; one of the same name is replaced. Raises ConfigError as
    `place_for` does, and for a profile that could not be read again."""
    path = place_for(name)
    _entry(str(path), profile)
    write_text(path, _HEADER + yaml.safe_dump(dict(profile), sort_keys=False, allow_unicode=True, width=120))
    return path


def _nothing(folder: Path) -> list[Path]:
    """What lies in a folder that is none."""
    if folder.exists():
        raise ConfigError(f"hardware profiles are looked for in {folder}, which is a file; name a folder in ${OWN}")
    return []


@functools.lru_cache(maxsize=256)
def _read(path: Path, inode: int, mtime_ns: int, size: int) -> ProfileEntry:
    """Read again once the file is another one."""
    if _NAME.fullmatch(path.stem) is None:
        raise ConfigError(f"{path}: '{path.stem}' cannot be the name of a hardware profile; rename the file")
    try:
        return _entry(str(path), yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"hardware profile {path}: {' '.join(str(error).split())[:200]}; {_MEND}") from None


def _entry(where: str, document: object) -> ProfileEntry:
    try:
        return ProfileEntry.model_validate(document)
    except ValidationError as error:
        said = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
        listed = "; ".join(f"{field}: {message}" if field else message for field, message in said[:3])
        raise ConfigError(f"hardware profile {where}: {listed}; {_MEND}") from None


def _measured_at(profile: ProfileEntry) -> str:
    return "" if profile.calibration is None else profile.calibration.measured_at
