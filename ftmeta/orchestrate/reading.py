"""Documents -> passages, on Ray's workers: one that hangs or takes all memory costs itself only."""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftmeta.errors import FtmetaError
from ftmeta.orchestrate.progress import Display
from ftmeta.synthesis.documents import Unreadable, other_files, read_document
from ftmeta.synthesis.passages import Passage, passages
from ftmeta.synthesis.report import Inventory

READING_LIMIT_S = 120.0  # for one document; a broken PDF can keep a reader busy for ever
_WARNED = 10  # documents that could not be read, each in a line of its own

log = logging.getLogger("ftmeta.synthesize")


def read_passages(root: Path, files: Sequence[Path], limit: int) -> tuple[list[Passage], Inventory]:
    """At most `limit` passages, in the order of their hashes: those with the lowest, so that they are spread over all
    documents, and are the same again where the limit grows. A passage that stands in several counts for the first."""
    lowest: list[tuple[int, Passage]] = []  # a heap: the negative hash, so that the highest is on top
    first: dict[str, tuple[str, int]] = {}  # where each passage stands, by its key: document and number
    unreadable, notes, documents = [], [], 0
    base = root if root.is_dir() else root.parent
    with Display("reading", len(files), "documents", "starting workers") as display:
        for number, (path, found) in enumerate(_read_all(base, files), start=1):
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
            display.update(number, f"{len(first):,} passages")
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


def _passages_of(path: Path, name: str) -> _Read:
    document = read_document(path, name)
    return document if isinstance(document, Unreadable) else (document.encoding_note, passages(document))


def _read_all(base: Path, files: Sequence[Path]) -> Iterator[tuple[str, _Read]]:
    """What is in each file, as it is read."""
    import ray

    read: Any = ray.remote(max_retries=0)(_passages_of)
    at_a_time = max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(files)
    running: dict[Any, tuple[str, float]] = {}
    while waiting or running:
        while waiting and len(running) < at_a_time:
            path = waiting.popleft()
            # Names of files need not be UTF-8; reports have to.
            name = path.relative_to(base).as_posix().encode("utf-8", "replace").decode("utf-8")
            running[read.remote(path.absolute(), name)] = (name, time.monotonic())
        ready, _ = ray.wait(list(running), timeout=1.0)
        for reference in ready:
            name, _ = running.pop(reference)
            yield name, _result(reference, name)
        for reference, (name, began) in list(running.items()):
            if time.monotonic() - began > READING_LIMIT_S:
                ray.cancel(reference, force=True)
                del running[reference]
                yield (
                    name,
                    Unreadable(name, f"reading it took more than {READING_LIMIT_S:.0f} s; convert it to text first"),
                )


def _result(reference: Any, name: str) -> _Read:
    import ray

    try:
        found: _Read = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FtmetaError):
            raise error.cause from None
        return Unreadable(name, f"reading it failed ({' '.join(str(error.cause).split())[:200]})")
    except ray.exceptions.RayError as error:  # the process died: out of memory, or a crash of a library
        return Unreadable(name, f"reading it ended its process ({type(error).__name__}); convert it to text first")
    return found
