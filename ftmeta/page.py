"""What the HTML reports have in common: one page that needs nothing else, its look, its tiles, and plots as SVG in it.

In: parts of the page as HTML. Out: the page as text.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Of = TypeVar("Of")

OURS, DEFAULT, OTHER, INK = "#d1495b", "#1f7a8c", "#9aa5b1", "#76808c"  # legible on white and on black

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5c6773; --line: #d9dee4; --paper: #fff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecf1; --soft: #a3adb8; --line: #35404b; --paper: #14191f; --tint: #1d242c; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 74rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } .warn { border-left: 4px solid #d9a400; padding: .3rem .8rem; background: var(--tint); }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; min-width: 9rem; }
.tile b { display: block; font-size: 1.25rem; } .tile span { color: var(--soft); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; }
figure svg { width: 100%; height: auto; } figcaption { color: var(--soft); font-size: .85rem; padding: 0 .4rem .3rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .long { text-align: left; } td.long { white-space: normal; }
tr.best { background: var(--tint); font-weight: 600; }
pre { background: var(--tint); padding: .8rem; overflow-x: auto; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """The page, of the parts that are not empty. `title` is text, the parts are HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n</main></body></html>\n"
    )


def figure(draw: Callable[[Axes, Of], None], of: Of, caption: str, size: tuple[float, float]) -> str:
    """What `draw` makes of `of` on the axes, as a `<figure>`; `size` in inches. Its text stays text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink: Any = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    quiet: Any = {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ftmeta", "font.size": 9}
    with mpl.rc_context(ink | quiet):
        drawn = Figure(figsize=size, layout="constrained")
        draw(drawn.subplots(), of)
        return f"<figure>{_svg(drawn, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _svg(figure: Figure, title: str) -> str:
    """The element alone, without a background, so that the page's shows through."""
    made = io.StringIO()
    figure.savefig(made, format="svg", transparent=True, metadata={"Date": None})
    text = made.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return (
        f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
        if seconds < 3600
        else f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60):02d} min"
    )
