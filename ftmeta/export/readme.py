"""The README of an exported folder: the command, where each setting went, and what the other tool does not have."""

from __future__ import annotations

from ftmeta import __version__
from ftmeta.export.recipe import Recipe, Written, in_line


def readme(recipe: Recipe, written: Written) -> str:
    name = in_line(recipe.task.name)
    splits = recipe.task.splits
    sizes = ", ".join(f"{len(examples)} {split}" for split, examples in splits.items())
    commands = "\n".join(filter(None, (written.install, written.command)))
    return f"""# {name}: a finetuning pipeline for {written.tool}

Written by ftmeta {__version__}: pipeline `{recipe.pipeline.id}` of the space `{recipe.pipeline.space}` on
`{in_line(recipe.base_model.name)}`, {recipe.budget.epochs:g} epochs, {sizes} examples.

## Run it

In this folder:

```
{commands}
```

## Settings

| setting | value | where it stands |
|---|---|---|
{_settings(recipe, written)}

## Not carried

{_not_carried(written)}

## What differs

{_notes(written)}
"""


def _settings(recipe: Recipe, written: Written) -> str:
    lost = {one.setting for one in written.not_carried}
    return "\n".join(
        f"| {name} | {value} | {'not carried' if name in lost else written.carried[name]} |"
        for name, value in recipe.pipeline.values.items()
    )


def _not_carried(written: Written) -> str:
    if not written.not_carried:
        return "Every setting is carried."
    return "\n".join(f"- `{one.setting}: {one.value}`: {one.why}." for one in written.not_carried)


def _notes(written: Written) -> str:
    return "\n".join(f"- {note}" for note in written.notes) or "Nothing that is known of."
