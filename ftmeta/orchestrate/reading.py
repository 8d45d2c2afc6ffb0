"""Documents -> passages, on Ray's workers: one that hangs or takes all memory costs itself only."""

from __future__ import annotations

import faulthandler
import heapq
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError
from ftmeta.orchestrate.progress import Display
from ftmeta.synthesis.documents import Unreadable, other_files, read_document, shown
from ftmeta.synthesis.passages import Passage, passages
from ftmeta.synthesis.report import Inventory

READING_LIMIT_S = 120.0  # for one document; a broken PDF can keep a reader busy for ever
_TRIES = 2  # at a document whose process ended: the node may be to blame
_WARNED = 10  # documents that could not be read, each in a line of its own

log = logging.getLogger("ftmeta.synthesize")


def read_passages(
    root: Path, files: Sequence[Path], limit: int, limit_s: float = READING_LIMIT_S
) -> tuple[list[Passage], Inventory]:
    """At most `limit` passages, in the order of their hashes: those with the lowest, so that they are spread over all
    documents, and are the same again where the limit grows. A passage that stands in several counts for the first."""
    lowest: list[tuple[int, Passage]] = []  # a heap: the negative hash, so that the highest is on top
    first: dict[str, tuple[str, int]] = {}  # where each passage stands, by its key: document and number
    unreadable: list[tuple[str, str]] = []
    notes, documents = [], 0
    base = root if root.is_dir() else root.parent
    with Display("reading", len(files), "documents", "starting workers") as display:
        for path, found in _read_all(base, files, limit_s):
            if found is None:
                display.update(documents + len(unreadable), "waiting for a free CPU")
                continue
            if isinstance(found, Unreadable):
                unreadable.append((found.name, found.reason))
            else:
                note, several = found
                documents += 1
                if note is not None:
                    notes.append((path, note))
                for passage in several:
                    here = (passage.document, passage.index)
                    new = passage.key not in first
                    first[passage.key] = min(here, first.get(passage.key, here))
                    if new:
                        put = heapq.heappush if len(lowest) < limit else heapq.heappushpop
                        put(lowest, (-int(passage.key, 16), passage))
            display.update(documents + len(unreadable), f"{len(first):,} passages")
    for name, reason in unreadable[:_WARNED]:
        log.warning("not read: %s: %s", name, reason)
    if len(unreadable) > _WARNED:
        log.warning("and %d more that could not be read; the report lists them", len(unreadable) - _WARNED)
    others = other_files(root)
    if others:
        log.warning("passed over for their suffix: %s", ", ".join(f"{n:,} {suffix}" for suffix, n in others.items()))
    chosen = []
    for _, passage in sorted(lowest, reverse=True):
        document, index = first[passage.key]
        chosen.append(replace(passage, document=document, index=index))
    return chosen, Inventory(documents, unreadable, notes, others, len(first), len(chosen))


_Read = tuple[str | None, list[Passage]] | Unreadable  # a note on the encoding, and the passages


def _passages_of(path: Path, name: str, limit_s: float) -> _Read:
    """Ends the process where the time is up, whatever a library is doing then. Time in a queue does not count."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(limit_s, exit=True, file=nowhere)
        try:
            document = read_document(path, name)
            return document if isinstance(document, Unreadable) else (document.encoding_note, passages(document))
        finally:
            faulthandler.cancel_dump_traceback_later()


def _read_all(base: Path, files: Sequence[Path], limit_s: float) -> Iterator[tuple[str, _Read | None]]:
    """What is in each file, as it is read; None where for a second nothing was."""
    import ray

    read: Any = ray.remote(max_retries=0)(_passages_of)
    at_a_time = max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, tries = deque(files), Counter[Path]()
    running: dict[Any, tuple[Path, str]] = {}
    while waiting or running:
        while waiting and len(running) < at_a_time:
            path = waiting.popleft()
            name = shown(path.relative_to(base).as_posix())
            running[read.remote(path.absolute(), name, limit_s)] = (path, name)
        ready, _ = ray.wait(list(running), timeout=1.0)
        if not ready:
            yield "", None
        for reference in ready:
            path, name = running.pop(reference)
            try:
                yield name, _result(reference, name)
            except ray.exceptions.RayError as error:  # its process is gone
                tries[path] += 1
                if tries[path] < _TRIES:
                    waiting.append(path)
                else:
                    reason = f"it took more than {limit_s:g} s or ended its process ({type(error).__name__})"
                    yield name, Unreadable(name, f"{reason}; convert it to text first")


def _result(reference: Any, name: str) -> _Read:
    """Raises RayError where the process that read it is gone."""
    import ray

    try:
        found: _Read = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FtmetaError):
            raise error.cause from None
        return Unreadable(name, f"reading it failed ({' '.join(str(error.cause).split())[:200]})")
    return found
