"""The guides name what is there: files, folders that kubectl takes, jobs with options that parse, commands of ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ftmeta.cli import app as ftmeta_app
from tests.manifests.overlays import K8S, OVERLAYS, PLATFORMS, ROOT
from tests.manifests.test_entry_points import commands_in, parsed

PAGES = [ROOT / "docs" / f"{name}.md" for name in ("kubernetes", "slurm", "cloud", "operations", "sizing")]
PAGES += [K8S / "README.md", ROOT / "cluster" / "README.md"]
NAMED = re.compile(r"(?<![\w./-])((?:k8s|cluster|jobs|docs|tests)/[\w./-]*\w)")
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_and_folders_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in NAMED.findall(text) if not (ROOT / name).exists()] == []
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_what_kubectl_applies_is_an_overlay(page: Path) -> None:
    found = re.findall(r"kubectl (?:apply|delete) -k (\S+)", page.read_text(encoding="utf-8"))
    names = {name.rstrip("`,;:.)").removeprefix("k8s/overlays/") for name in found} - {"platform"}
    assert names <= set(OVERLAYS)


def test_every_overlay_is_in_the_guides() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in OVERLAYS if name not in text and name.split("/")[0] not in PLATFORMS]
    assert missing == []
    assert all(f"`{name}`" in text for name in PLATFORMS)


GUIDES = [one for one in commands_in("docs") if one[0] in {page_id(page) for page in PAGES}]


@pytest.mark.parametrize(("file", "module", "words"), GUIDES)
def test_jobs_parse(file: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [word.strip('"').rstrip(".") for word in shlex.split(words.replace("$PWD", "/shared"), comments=True)]
    config = Path(parsed(module, given, monkeypatch).config)
    assert config.is_relative_to("/etc/ftmeta") or (ROOT / config).is_file(), file


def ftmeta_commands() -> list[tuple[str, str]]:
    lines = [
        (page_id(page), line.split("#")[0].strip())
        for page in PAGES
        for block in FENCE.findall(page.read_text(encoding="utf-8"))
        for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    ]
    return [(page, line) for page, line in lines if line.startswith("ftmeta ")]


@pytest.mark.parametrize(("page", "line"), ftmeta_commands())
def test_our_commands_parse(page: str, line: str) -> None:
    command: Any = get_command(ftmeta_app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    command.make_context(line, words)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_machine_of_ours_is_named(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = {ROOT, Path.home()} - {Path("/")}
    assert [str(folder) for folder in own if f"{folder}/" in text] == []
    assert not re.search(r"pypi|pythonhosted", text)
