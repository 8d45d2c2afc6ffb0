"""LoRA adapters of many runs in one product: stacked, padded to one rank, and multiplied tile by tile.

In: for each run its adapter, and batches of some of the runs, packed one after the other in whole tiles of `TILE`
tokens. Out: what a linear layer makes of them, and the gradients of the adapters. However many runs there are, a layer
takes a few launches; a loop over them (side_by_side.py) takes a few for each, which is what a GPU waits for.

A tile belongs to one run, and its product is its own: what one run computes never meets another's numbers, not even
times zero. Ranks are padded with zeros in A and in B, and so are layers that a run does not adapt; there both gradients
are products with zeros, so the padding stays zero. Weights are float32, products are in the model's type.

# K slots, R the largest rank, P the weights of all A (or B) of a slot, N tokens of a pass, T tiles, L tokens of a tile,
# I inputs, O outputs of a layer
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ftmeta.finetune.dropout import drawn_scale, draws_at_once
from ftmeta.finetune.masks import Masks, columns_of, linear_layers
from ftmeta.finetune.products import frozen_linear, product
from ftmeta.finetune.settings import Settings
from ftmeta.finetune.side_by_side import Adapter, Part, Place, Rows

TILE = 64  # tokens: fewer copy more of A and B, more make up more tokens


@dataclass(frozen=True)
class _Seats:
    """Weights and gradients of all slots, and where those of each layer lie in A's rows and in B's."""

    rank: int
    places: Mapping[str, tuple[slice, slice]]
    a_KP: torch.Tensor
    b_KP: torch.Tensor
    grad_a_KP: torch.Tensor
    grad_b_KP: torch.Tensor

    def rows(self, slot: int, rank: int) -> Rows:
        places = {name: Place(a, b, rank, self.rank) for name, (a, b) in self.places.items()}
        return Rows(self.a_KP[slot], self.b_KP[slot], self.grad_a_KP[slot], self.grad_b_KP[slot], places)

    def of_layer(self, name: str, a_KP: torch.Tensor, b_KP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, R, I) and (K, R, O), views."""
        a, b = self.places[name]
        return a_KP[:, a].view(len(a_KP), self.rank, -1), b_KP[:, b].view(len(b_KP), self.rank, -1)


class Stack:
    """Seats for adapters, and the `Projection` of those that sit."""

    def __init__(self, model: Any, slots: int) -> None:
        self._model, self._slots = model, slots
        blocks = model.get_decoder().layers
        names = {id(module): name for name, module in model.named_modules()}
        self._layers = {names[id(layer)]: layer for block in blocks for layer in linear_layers(block).values()}
        self._sitting: dict[int, Adapter] = {}
        nothing = torch.zeros(slots, 0)
        self._seats = _Seats(0, {}, nothing, nothing, nothing, nothing)
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)

    @property
    def rank(self) -> int:
        """That all adapters are padded to."""
        return self._seats.rank

    def seat(self, slot: int, start: Mapping[str, torch.Tensor], settings: Settings, learning_rate: float) -> Adapter:
        """An adapter that begins with PEFT's parameters `start`. The stack grows with the largest rank that sits, and
        shrinks when half of it is enough."""
        needed = max(settings.lora_rank, *(0, *(one.settings.lora_rank for one in self._sitting.values())))
        if needed > self.rank or 2 * needed <= self.rank:
            self._allocate(needed)
        rows = self._seats.rows(slot, settings.lora_rank)
        for row_P in (rows.a_P, rows.b_P, rows.grad_a_P, rows.grad_b_P):
            row_P.zero_()
        adapter = Adapter(start, settings, learning_rate, rows)
        self._sitting[slot] = adapter
        return adapter

    def leave(self, slot: int) -> None:
        del self._sitting[slot]

    def _allocate(self, rank: int) -> None:
        """Moves all that sit to a stack of this rank. Where memory does not hold both for the moment, everything is as
        it was."""
        places, at_a, at_b = {}, 0, 0
        for name, layer in self._layers.items():
            end_a, end_b = at_a + rank * layer.in_features, at_b + rank * layer.out_features
            places[name] = slice(at_a, end_a), slice(at_b, end_b)
            at_a, at_b = end_a, end_b
        sizes = ((self._slots, at_a), (self._slots, at_b))
        a_KP, b_KP, grad_a_KP, grad_b_KP = (torch.zeros(size, device=self._model.device) for size in (*sizes, *sizes))
        before, self._seats = self._seats, _Seats(rank, places, a_KP, b_KP, grad_a_KP, grad_b_KP)
        moved = []
        try:
            for slot, adapter in self._sitting.items():
                adapter.move(self._seats.rows(slot, adapter.settings.lora_rank))
                moved.append((slot, adapter))
        except BaseException:
            self._seats = before
            for slot, adapter in moved:
                adapter.move(before.rows(slot, adapter.settings.lora_rank))
            raise

    @contextlib.contextmanager
    def beside(self, slots: Sequence[int]) -> Iterator[None]:
        """Inside the block the model's own forward pass adds these slots' adapters: the rows of a batch are so many
        equal shares, one for each."""
        model, at = self._model, torch.tensor(slots, device=self._model.device)
        scaling = torch.tensor([self._sitting[slot].scaling for slot in slots], device=model.device)
        scaling_G11 = scaling.to(model.dtype)[:, None, None]
        seats = self._seats
        a_GP, b_GP = (every_KP.index_select(0, at).to(model.dtype) for every_KP in (seats.a_KP, seats.b_KP))

        def added(name: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            a_GRI, b_GRO = seats.of_layer(name, a_GP, b_GP)
            low = (x.reshape(len(slots), -1, x.shape[-1]) @ a_GRI.mT).mul_(scaling_G11)
            return out + (low @ b_GRO).view_as(out)

        adapted = {name for slot in slots for name in self._sitting[slot].places}
        handles = [
            layer.register_forward_hook(lambda _, inputs, out, name=name: added(name, inputs[0], out))
            for name, layer in self._layers.items()
            if name in adapted
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def of(self, parts: Sequence[Part]) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
        """`project` of decoder.hidden_of; the layout is made up to whole tiles."""
        dtype, device = self._model.dtype, self._model.device
        seats = self._seats
        a_KP, b_KP = seats.a_KP.to(dtype), seats.b_KP.to(dtype)
        adapted = {name for part in parts for name in part.adapter.places}
        layers = columns_of(self._model).by_layer
        names = {id(layer): name for name, layer in self._layers.items()}
        tiles = {where: _tiles(parts, where, device, dtype) for where in (False, True)}
        dropout = _Dropout.of(self._model, parts)

        def project(module: nn.Module, x_NI: torch.Tensor) -> torch.Tensor:
            assert isinstance(module, nn.Linear)
            name = names[id(module)]
            if name not in adapted:
                out_NO = frozen_linear(x_NI, module.weight)
            else:
                weights = seats.of_layer(name, a_KP, b_KP)
                grads = seats.of_layer(name, seats.grad_a_KP, seats.grad_b_KP)
                of_selected = layers[id(module)][0]
                kept = None if dropout is None else dropout.kept(module, name, x_NI, of_selected)
                out_NO = _Stacked.apply(x_NI, module.weight, self._anchor, *weights, *grads, tiles[of_selected], kept)
            return out_NO if module.bias is None else out_NO + module.bias

        return project


@dataclass(frozen=True)
class _Tiles:
    slot_T: torch.Tensor
    scaling_T11: torch.Tensor


def _tiles(parts: Sequence[Part], selected: bool, device: torch.device, dtype: torch.dtype) -> _Tiles:
    slots: list[int] = []
    scaling: list[float] = []
    for part in parts:
        where = part.selected if selected else part.tokens
        count = (where.stop - where.start) // TILE
        slots += [part.slot] * count
        scaling += [part.adapter.scaling] * count
    return _Tiles(torch.tensor(slots, device=device), torch.tensor(scaling, device=device, dtype=dtype)[:, None, None])


class _Dropout:
    """What dropout multiplies the inputs of a layer by, in a pass."""

    def __init__(self, parts: Sequence[Part], masks: Masks | None, scales: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._parts, self._masks, self._scales = parts, masks, scales

    @classmethod
    def of(cls, model: Any, parts: Sequence[Part]) -> _Dropout | None:
        rates = [part.adapter.settings.lora_dropout if part.generator is not None else 0.0 for part in parts]
        if not any(rates):
            return None
        device = model.device
        ends = parts[-1].tokens.stop, parts[-1].selected.stop
        scales = (torch.ones(ends[0], 1, device=device), torch.ones(ends[1], 1, device=device))
        masks = Masks(columns_of(model), *ends, device) if draws_at_once(device) else None
        for part, p in zip(parts, rates, strict=True):
            tokens = slice(part.tokens.start, part.tokens.start + part.count)
            selected = slice(part.selected.start, part.selected.start + part.labels)
            if masks is not None and p:
                masks.draw(p, tokens, selected, part.generator)
            elif masks is not None:
                masks.keep(tokens, selected)
            for scale_N1, where in zip(scales, (part.tokens, part.selected), strict=True):
                scale_N1[where] = 1 / (1 - p)
        return cls(parts, masks, (scales[0].to(model.dtype), scales[1].to(model.dtype)))

    def kept(self, layer: nn.Module, name: str, x_NI: torch.Tensor, of_selected: bool) -> tuple[torch.Tensor, ...]:
        """Factors, to be multiplied: (N, I), and for masks another of (N, 1)."""
        if self._masks is not None:
            return self._masks.of(layer), self._scales[of_selected]
        scales = []
        for part in self._parts:
            x_nI = x_NI[part.selected if of_selected else part.tokens]
            p = part.adapter.settings.lora_dropout if name in part.adapter.places else 0.0
            scales.append(drawn_scale(p, x_nI, part.generator) if p else torch.ones_like(x_nI))
        return (torch.cat(scales),)


def _times(x: torch.Tensor, kept: Sequence[torch.Tensor]) -> torch.Tensor:
    """A new tensor."""
    x = x * kept[0]
    for factor in itertools.islice(kept, 1, None):
        x.mul_(factor)
    return x


class _Stacked(torch.autograd.Function):
    """x W' + for each tile, with its slot's A and B, s (d x) A' B'. Gradients of A and B are added to the slots'."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: torch.Tensor,
        weight_OI: torch.Tensor,
        anchor: torch.Tensor,
        a_KRI: torch.Tensor,
        b_KRO: torch.Tensor,
        grad_a_KRI: torch.Tensor,
        grad_b_KRO: torch.Tensor,
        tiles: _Tiles,
        kept: tuple[torch.Tensor, ...] | None,
    ) -> torch.Tensor:
        d_in, d_out = x_NI.shape[1], len(weight_OI)
        kept_NI = x_NI if kept is None else _times(x_NI, kept)
        low_TLR = kept_NI.view(-1, TILE, d_in) @ a_KRI.index_select(0, tiles.slot_T).mT
        low_TLR.mul_(tiles.scaling_T11)
        out_NO = product(x_NI, weight_OI)
        out_NO.view(-1, TILE, d_out).baddbmm_(low_TLR, b_KRO.index_select(0, tiles.slot_T))
        ctx.save_for_backward(weight_OI, kept_NI, low_TLR, *(kept or ()))
        ctx.weights, ctx.grads, ctx.tiles = (a_KRI, b_KRO), (grad_a_KRI, grad_b_KRO), tiles
        return out_NO

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight_OI, kept_NI, low_TLR, *kept = ctx.saved_tensors
        (a_KRI, b_KRO), (grad_a_KRI, grad_b_KRO), tiles = ctx.weights, ctx.grads, ctx.tiles
        d_in, d_out = kept_NI.shape[1], len(weight_OI)
        grad_TLO = grads[0].contiguous().view(-1, TILE, d_out)
        kept_TLI = kept_NI.view(-1, TILE, d_in)
        grad_TLR = (grad_TLO @ b_KRO.index_select(0, tiles.slot_T).mT).mul_(tiles.scaling_T11)
        grad_NI = None
        if ctx.needs_input_grad[0]:
            grad_NI = product(grad_TLO.view(-1, d_out), weight_OI.t())
            a_TRI = a_KRI.index_select(0, tiles.slot_T)
            if kept:
                grad_NI.add_(_times((grad_TLR @ a_TRI).view(-1, d_in), kept))
            else:
                grad_NI.view(-1, TILE, d_in).baddbmm_(grad_TLR, a_TRI)
        grad_a_KRI.index_add_(0, tiles.slot_T, (grad_TLR.mT @ kept_TLI).float())
        grad_b_KRO.index_add_(0, tiles.slot_T, (low_TLR.mT @ grad_TLO).float())
        return grad_NI, *[None] * 8
