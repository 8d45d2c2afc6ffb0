"""Examples to splits: what the source gives is kept, and what is missing is made by hash of the content.

A made split does not depend on the order of the rows, and all examples of one prompt (or of one `fact`, where the
source names facts) stay in one split, so that nothing leaks. Of n examples a tenth goes to test and a tenth to
validation: at least MINIMUM, at most 400 and 200, because more only makes each run of a sweep slower.
Inside a split, examples stand in the order of their hashes: the first k are a random sample of it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from ftmeta.errors import DataError
from ftmeta.schema import Example, Split
from ftmeta.tasks.rows import Placed

MINIMUM: dict[Split, int] = {"train": 10, "validation": 5, "test": 5}
MAXIMUM: dict[Split, int] = {"validation": 200, "test": 400}  # of the splits made here; given ones are kept whole
SHARE = 0.1


def split_examples(placed: Sequence[Placed], label: str, seed: int = 0) -> dict[Split, tuple[Example, ...]]:
    """The three splits of a task. Raises DataError where there are too few examples or different prompts."""
    splits: dict[Split, list[Example]] = {"train": [], "validation": [], "test": []}
    loose: list[Example] = []
    for one in placed:
        (loose if one.split is None else splits[one.split]).append(one.example)
    given = [split for split, examples in splits.items() if examples]
    if given and loose:
        raise DataError(
            f"{label}: {len(loose)} of {len(placed)} rows have no split; fill the column, or drop it for all"
        )
    if len(given) == 1:  # one named split is all that there is, whatever its name
        loose, splits[given[0]] = splits[given[0]], []
    elif given and not splits["train"]:
        raise DataError(f"{label}: splits {' and '.join(given)}, but no train split; name one 'train'")
    elif given:
        loose, splits["train"] = splits["train"], []
    _carve(loose, splits, label, seed)
    for split, least in MINIMUM.items():
        if len(splits[split]) < least:
            raise DataError(
                f"{label}: the {split} split has {len(splits[split])} examples, at least {least} are needed; add rows"
            )
    return {split: tuple(sorted(examples, key=example_key)) for split, examples in splits.items()}


def _carve(pool: list[Example], splits: dict[Split, list[Example]], label: str, seed: int) -> None:
    """Moves `pool` into the splits that are still empty, whole groups at a time."""
    wanted = [split for split in MAXIMUM if not splits[split]]
    needed = MINIMUM["train"] + sum(MINIMUM[split] for split in wanted)
    if len(pool) < needed:
        parts = ", ".join(f"{MINIMUM[split]} for {split}" for split in ("train", *wanted))
        raise DataError(f"{label}: {len(pool)} examples; at least {needed} are needed ({parts}); add rows")
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in pool:
        groups[_group_key(example, seed)].append(example)
    rest = sorted(groups.items())
    for split in wanted:
        target = min(MAXIMUM[split], max(MINIMUM[split], round(SHARE * len(pool))))
        rest = _take(rest, splits[split], target, MINIMUM[split])
    for _, examples in rest:
        splits["train"].extend(examples)
    if len(splits["train"]) < MINIMUM["train"]:
        raise DataError(
            f"{label}: {len(pool)} examples but only {len(groups)} different prompts, too few for splits that share "
            "none; add rows with other prompts, or a 'split' column"
        )


def _take(
    groups: list[tuple[str, list[Example]]], into: list[Example], target: int, least: int
) -> list[tuple[str, list[Example]]]:
    """Fills `into` with groups that fit, then, if it is below `least`, with the smallest; returns the groups left."""
    left = []
    for key, examples in groups:
        if len(into) + len(examples) <= target:
            into.extend(examples)
        else:
            left.append((key, examples))
    left.sort(key=lambda group: (len(group[1]), group[0]))
    while left and len(into) < least:
        into.extend(left.pop(0)[1])
    return sorted(left)


def _group_key(example: Example, seed: int) -> str:
    """One hash for all examples of a fact or, without one, of a prompt, whatever its case and spacing."""
    content = example.fact or "\0".join(" ".join(message.content.casefold().split()) for message in example.context)
    return hashlib.sha256(f"{seed}\0{content}".encode()).hexdigest()


def example_key(example: Example) -> str:
    """A hash of what an example says: the order of examples in a split."""
    parts = [part for message in example.context for part in (message.role, message.content)]
    return hashlib.sha256("\0".join([*parts, example.completion]).encode()).hexdigest()
