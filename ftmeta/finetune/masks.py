"""Dropout on a GPU: one draw for the inputs of all linear layers in a pass, where a draw a layer costs a launch each.

In: a model, and which tokens of a pass belong to which run. Out: for each layer, which of its inputs stay. A run's
numbers come from its own generator, a number for each of its tokens and each input of any layer, adapted or not: so
they are the same alone and beside others.

# N tokens of a pass, S selected positions (what the last block computes behind its attention), I inputs of a layer
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

_BEHIND_ATTENTION = ("self_attn.o_proj", "mlp.")


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a decoder block by their place in it, without what adapts them."""
    found = {}
    for part in ("self_attn", "mlp"):
        for name, child in getattr(block, part).named_children():
            layer = child.get_base_layer() if isinstance(child, BaseTunerLayer) else child
            if isinstance(layer, nn.Linear):
                found[f"{part}.{name}"] = layer
    return found


class Columns:
    """Where the inputs of each layer lie in a row of `width` numbers a token, or, for layers behind the last block's
    attention, in one of `width_selected` a selected position."""

    def __init__(self, model: Any) -> None:
        self.by_layer: dict[int, tuple[bool, slice]] = {}  # by the layer's id: whether it sees selected positions
        widths = {False: 0, True: 0}
        blocks = model.get_decoder().layers
        for block in blocks:
            for name, layer in linear_layers(block).items():
                of_selected = block is blocks[-1] and name.startswith(_BEHIND_ATTENTION)
                begin = widths[of_selected]
                widths[of_selected] += layer.in_features
                self.by_layer[id(layer)] = of_selected, slice(begin, widths[of_selected])
        self.width, self.width_selected = widths[False], widths[True]


_known: weakref.WeakKeyDictionary[nn.Module, Columns] = weakref.WeakKeyDictionary()


def columns_of(model: Any) -> Columns:
    """Adapters come and go around a model's layers; the layers stay."""
    decoder = model.get_decoder()
    if decoder not in _known:
        _known[decoder] = Columns(model)
    return _known[decoder]


class Masks:
    """What dropout leaves in one pass."""

    def __init__(self, columns: Columns, tokens: int, selected: int, device: torch.device) -> None:
        self._columns = columns
        self._kept = {
            False: torch.zeros(tokens, columns.width, dtype=torch.bool, device=device),
            True: torch.zeros(selected, columns.width_selected, dtype=torch.bool, device=device),
        }

    def draw(self, p: float, tokens: slice, selected: slice, generator: torch.Generator | None = None) -> None:
        """For one run's tokens and selected positions; `generator` None: torch's own."""
        for of_selected, rows in ((False, tokens), (True, selected)):
            self._kept[of_selected][rows].bernoulli_(1 - p, generator=generator)

    def keep(self, tokens: slice, selected: slice) -> None:
        """Everything of one run."""
        for of_selected, rows in ((False, tokens), (True, selected)):
            self._kept[of_selected][rows] = True

    def of(self, layer: nn.Module) -> torch.Tensor:
        """(N, I) or (S, I): True where the layer's input stays."""
        of_selected, columns = self._columns.by_layer[id(layer)]
        return self._kept[of_selected][:, columns]
