"""A small reader of Dockerfiles, and what ours has to keep: `complaints(text)` names each break.

In place of hadolint, for the rules that matter here; it knows the instructions that our file uses and refuses others.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "CMD"}
_SECRET = re.compile(r"(password|secret|token|api_?key|credential)", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str  # continued lines as one


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, in order. Raises ValueError for an unknown instruction and a stage without a name."""
    joined = re.sub(r"\\\n\s*(#[^\n]*\n\s*)*", "", re.sub(r"^#[^\n]*\n", "", text, flags=re.MULTILINE))
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name not in _KNOWN:
            raise ValueError(f"unknown instruction {name}; known are {', '.join(sorted(_KNOWN))}")
        if name == "FROM":
            parts = re.fullmatch(r"(\S+) AS (\S+)", rest)
            if parts is None:
                raise ValueError(f"FROM {rest}: give the stage a name")
            found[parts[2]] = Stage(parts[2], parts[1])
        elif not found:
            raise ValueError(f"{name} before FROM")
        else:
            found[next(reversed(found))].instructions.append(Instruction(name, rest.strip()))
    return found


def chain(all_stages: dict[str, Stage], target: str) -> list[Stage]:
    """The stages that `target` stands on, the lowest first."""
    found = [all_stages[target]]
    while found[0].base in all_stages:
        found.insert(0, all_stages[found[0].base])
    return found


def pip_commands(all_stages: dict[str, Stage], target: str) -> list[str]:
    """The RUN lines of `target` and its bases that call pip, in order."""
    runs = [one for stage in chain(all_stages, target) for one in stage.instructions if one.name == "RUN"]
    return [one.text for one in runs if "pip install" in one.text]


def copied(stage: Stage) -> Iterator[tuple[list[str], str]]:
    """What COPY takes from the build's folder, and where to."""
    for one in stage.instructions:
        if one.name == "COPY" and "--from=" not in one.text:
            words = [word for word in shlex.split(one.text) if not word.startswith("--")]
            yield words[:-1], words[-1]


def complaints(text: str, root: Path, ignored: str, targets: tuple[str, ...]) -> list[str]:
    """`ignored` is the content of the .dockerignore file; `targets` are the stages that become images."""
    all_stages = stages(text)
    return [
        *_bases(all_stages),
        *(said for target in targets for said in _user(all_stages, target)),
        *(said for stage in all_stages.values() for said in _stage(stage, all_stages, root, ignored)),
        *(said for target in targets for said in _without_tools(all_stages, target)),
    ]


def _bases(all_stages: dict[str, Stage]) -> Iterator[str]:
    outside = {stage.base for stage in all_stages.values()} - all_stages.keys()
    for base in sorted(outside):
        if not re.search(r":\d+\.\d+[-\w.]*$", base):
            yield f"FROM {base}: no version"
    if len(outside) > 1:
        yield f"several bases: {', '.join(sorted(outside))}; what one stage builds would not run in the other"


def _user(all_stages: dict[str, Stage], target: str) -> Iterator[str]:
    users = [one.text for stage in chain(all_stages, target) for one in stage.instructions if one.name == "USER"]
    user = users[-1].split(":")[0] if users else "root"
    if not user.isdigit() or user == "0":
        yield f"{target}: runs as {user}; give a number above 0, which Kubernetes can check"


def _without_tools(all_stages: dict[str, Stage], target: str) -> Iterator[str]:
    if pip_commands(all_stages, target):
        yield f"{target}: holds pip's leftovers; install in a stage of its own and copy the environment"


def _stage(stage: Stage, all_stages: dict[str, Stage], root: Path, ignored: str) -> Iterator[str]:
    for one in stage.instructions:
        if one.name == "RUN":
            yield from _run(stage, one.text)
        if one.name in ("ARG", "ENV"):
            for name in re.findall(r"(\w+)(?==|$)", one.text):
                if _SECRET.search(name):
                    yield f"{stage.name}: {one.name} {name}: a secret would stay in the image"
        if one.name == "COPY" and (other := re.search(r"--from=(\S+)", one.text)) and other[1] not in all_stages:
            yield f"{stage.name}: COPY from {other[1]}, which is no stage"
        if one.name == "CMD":
            try:
                json.loads(one.text)
            except ValueError:
                yield f"{stage.name}: CMD {one.text}: write a list, or a shell stands between signals and the program"
        if re.search(r"https?://", one.text):
            yield f"{stage.name}: {one.name} fetches from an address"
    for sources, _ in copied(stage):
        for source in sources:
            if source in (".", "./"):
                yield f"{stage.name}: COPY {source}: everything, tokens and results included"
            elif not (root / source).exists():
                yield f"{stage.name}: COPY {source}: is not there"
            elif not _reaches_the_build(source, ignored):
                yield f"{stage.name}: COPY {source}: .dockerignore keeps it out"


def _run(stage: Stage, text: str) -> Iterator[str]:
    if "sudo" in text.split():
        yield f"{stage.name}: sudo"
    if re.search(r"\b(curl|wget)\b", text):
        yield f"{stage.name}: fetches what no version is checked of"
    if "apt-get install" in text:
        if "apt-get update" not in text:
            yield f"{stage.name}: apt-get install without update in the same step takes old lists"
        if "--no-install-recommends" not in text:
            yield f"{stage.name}: apt-get installs what is only recommended"
        if "rm -rf /var/lib/apt/lists" not in text:
            yield f"{stage.name}: apt's lists stay in the image"
    if "pip install" in text and "-c constraints.txt" not in text:
        yield f"{stage.name}: pip without the constraints takes versions that nobody tested"


def _reaches_the_build(source: str, ignored: str) -> bool:
    lines = [line.strip() for line in ignored.splitlines() if line.strip() and not line.startswith("#")]
    if "*" not in lines:
        return True
    kept = [line[1:] for line in lines if line.startswith("!")]
    return any(source == one or source.startswith(f"{one}/") for one in kept)
