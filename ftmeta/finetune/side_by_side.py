"""LoRA adapters of several runs side by side: one product with the frozen weight for all of them, and each adapter's
own two products for its own tokens.

In: for each run its adapter, and batches of some of the runs, packed one after the other (decoder.Layout). Out: what a
linear layer makes of them, and the gradients of the adapters. No number of one run ever meets another's: rows of a
product are independent of each other, and everything else is computed run by run. So a run that diverges to NaN does
not disturb its neighbours.

# N tokens of all batches, n of one, I inputs, O outputs, R rank, P the weights of one adapter's A (or B) in one row
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ftmeta.errors import SpaceError
from ftmeta.finetune.dropout import drawn_scale
from ftmeta.finetune.masks import columns_of
from ftmeta.finetune.optim import set_learning_rate
from ftmeta.finetune.products import frozen_linear, product
from ftmeta.finetune.settings import Settings

METHODS = ("lora", "rslora")
_PEFT_PREFIX, _A, _B = "base_model.model.", ".lora_A.default.weight", ".lora_B.default.weight"


def why_not(settings: Settings) -> str | None:
    """Why a run cannot stand beside others; None if it can."""
    if settings.peft_method in METHODS:
        return None
    return f"{settings.peft_method} changes more than two thin matrices beside the weight; it runs alone"


@dataclass(frozen=True)
class Place:
    """Where a layer's A (R, I) and B transposed (R, O) lie in the adapter's two rows, in room for `room` >= R ranks."""

    a: slice
    b: slice
    rank: int
    room: int

    def of_a(self, row_P: torch.Tensor) -> torch.Tensor:
        return row_P[self.a].view(self.room, -1)[: self.rank]

    def of_b(self, row_P: torch.Tensor) -> torch.Tensor:
        return row_P[self.b].view(self.room, -1)[: self.rank]


@dataclass(frozen=True)
class Rows:
    """Two rows for an adapter's weights and two for their gradients, all of them zero, and where each layer's lie."""

    a_P: torch.Tensor
    b_P: torch.Tensor
    grad_a_P: torch.Tensor
    grad_b_P: torch.Tensor
    places: Mapping[str, Place]  # by the layer's name in the base model


class Adapter:
    """One run's weights: all of its A in one row, all of its B (transposed) in another, so that an optimizer step is a
    few operations whatever the number of layers. `start`: PEFT's parameters by name, which it begins with; `rows`:
    where they are put (None: in rows of its own, without room to spare)."""

    def __init__(
        self, start: Mapping[str, torch.Tensor], settings: Settings, learning_rate: float, rows: Rows | None = None
    ) -> None:
        reason = why_not(settings)
        if reason is not None:
            raise SpaceError(reason)
        self.settings = settings
        power = 0.5 if settings.peft_method == "rslora" else 1.0
        self.scaling = settings.alpha_per_rank * settings.lora_rank / settings.lora_rank**power
        self._names, self._learning_rate = tuple(start), learning_rate
        self._layers = [name.removeprefix(_PEFT_PREFIX).removesuffix(_A) for name in start if name.endswith(_A)]
        self._sit(rows or _own_rows(start))
        self.load({f"adapter/{name}": value for name, value in start.items()})

    def _sit(self, rows: Rows) -> None:
        self.places = {layer: rows.places[layer] for layer in self._layers}
        self.a_P, self.b_P = nn.Parameter(rows.a_P), nn.Parameter(rows.b_P)
        self.a_P.grad, self.b_P.grad = rows.grad_a_P, rows.grad_b_P
        decay, ratio, rate = self.settings.weight_decay, self.settings.lora_plus_ratio, self._learning_rate
        groups = [
            {"params": [row], "lr": rate * of_row, "base_lr": rate * of_row, "weight_decay": decay}
            for row, of_row in ((self.a_P, 1.0), (self.b_P, ratio))
        ]
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, self.settings.adam_beta2), eps=1e-8, fused=True)

    def move(self, rows: Rows) -> None:
        """To other rows, between steps. Where that fails, it stays where it was."""
        before, state = (self.places, self.a_P, self.b_P, self._optimizer), self.state()
        try:
            self._sit(rows)
            self.load(state)
        except BaseException:
            self.places, self.a_P, self.b_P, self._optimizer = before
            raise

    def zero_grad(self) -> None:
        for row_P in (self.a_P, self.b_P):
            _grad(row_P).zero_()

    @property
    def size(self) -> int:
        """Weights, with the padding that an optimizer step computes too."""
        return self.a_P.numel() + self.b_P.numel()

    def gradient_norm(self) -> torch.Tensor:
        return torch.stack([_grad(self.a_P).norm(), _grad(self.b_P).norm()]).norm()

    def step(self, norm: float, lr_factor: float) -> None:
        """Clips by the gradient norm, which is `norm`, and updates."""
        shrink = min(1.0, self.settings.max_grad_norm / (norm + 1e-6))
        if shrink < 1.0:
            for row_P in (self.a_P, self.b_P):
                _grad(row_P).mul_(shrink)
        set_learning_rate(self._optimizer, lr_factor)
        self._optimizer.step()
        self.zero_grad()

    def delta(self, layer: str) -> torch.Tensor:
        """What the adapter adds to the layer's weight (O, I)."""
        place = self.places[layer]
        with torch.no_grad():
            return (place.of_b(self.b_P).t() @ place.of_a(self.a_P)).mul_(self.scaling)

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.a_P).all() and torch.isfinite(self.b_P).all())

    # --- as a run that is alone keeps it ----------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """`adapter/NAME` and `optimizer/KIND/NAME`, as an engine's state."""
        found = {f"adapter/{name}": value for name, value in self._taken_apart(self.a_P.detach(), self.b_P.detach())}
        of_a, of_b = self._optimizer.state.get(self.a_P, {}), self._optimizer.state.get(self.b_P, {})
        for kind, value in of_a.items():
            if value.dim() == 0:  # the number of steps
                found.update({f"optimizer/{kind}/{name}": value.clone() for name in self._names})
            else:
                parts = self._taken_apart(value, of_b[kind])
                found.update({f"optimizer/{kind}/{name}": part for name, part in parts})
        return found

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for row_P, values_P in zip((self.a_P, self.b_P), self._put_together("adapter/", state), strict=True):
                row_P.copy_(values_P)
        kinds = sorted({name.split("/")[1] for name in state if name.startswith("optimizer/")})
        for kind in kinds:
            first = state[f"optimizer/{kind}/{self._names[0]}"]
            rows = (first, first) if first.dim() == 0 else self._put_together(f"optimizer/{kind}/", state)
            for row_P, values in zip((self.a_P, self.b_P), rows, strict=True):
                self._optimizer.state[row_P][kind] = values.clone().to(row_P.device if values.dim() else values.device)

    def _taken_apart(self, a_P: torch.Tensor, b_P: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        for name in self._names:
            layer = name.removeprefix(_PEFT_PREFIX)
            if name.endswith(_A):
                yield name, self.places[layer.removesuffix(_A)].of_a(a_P)
            else:
                yield name, self.places[layer.removesuffix(_B)].of_b(b_P).t().contiguous()

    def _put_together(self, prefix: str, state: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        a_P, b_P = torch.zeros_like(self.a_P), torch.zeros_like(self.b_P)
        with torch.no_grad():
            for layer, place in self.places.items():
                place.of_a(a_P).copy_(state[f"{prefix}{_PEFT_PREFIX}{layer}{_A}"])
                place.of_b(b_P).copy_(state[f"{prefix}{_PEFT_PREFIX}{layer}{_B}"].t())
        return a_P.detach(), b_P.detach()


def _own_rows(start: Mapping[str, torch.Tensor]) -> Rows:
    places, at_a, at_b = {}, 0, 0
    a_RI = next(iter(start.values()))
    for name, a_RI in start.items():
        if name.endswith(_A):
            end_a, end_b = at_a + a_RI.numel(), at_b + start[name.removesuffix(_A) + _B].numel()
            layer = name.removeprefix(_PEFT_PREFIX).removesuffix(_A)
            places[layer] = Place(slice(at_a, end_a), slice(at_b, end_b), len(a_RI), len(a_RI))
            at_a, at_b = end_a, end_b
    a_P, b_P = a_RI.new_zeros(at_a), a_RI.new_zeros(at_b)
    return Rows(a_P, b_P, torch.zeros_like(a_P), torch.zeros_like(b_P), places)


def _grad(row_P: nn.Parameter) -> torch.Tensor:
    assert row_P.grad is not None
    return row_P.grad


@dataclass(frozen=True)
class Part:
    """One run's tokens in a pass: where they are before and behind the last block's attention. The first `count` and
    `labels` of them are no copies. `generator`: that its dropout is drawn from; None for none."""

    slot: int
    adapter: Adapter
    tokens: slice
    selected: slice
    count: int
    labels: int
    generator: torch.Generator | None


class Projection(Protocol):
    """What the linear layers of a model do to the packed tokens of several runs."""

    def of(self, parts: Sequence[Part]) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
        """`project` of decoder.hidden_of."""
        ...


class SideBySide:
    """Each adapter's products by themselves: for few runs in a pass."""

    def __init__(self, model: Any) -> None:
        self._names = {id(module): name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._layers = columns_of(model).by_layer
        # Adapters are no leaves of the graph, so something that is has to be in it.
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)

    def of(self, parts: Sequence[Part]) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
        def project(module: nn.Module, x_NI: torch.Tensor) -> torch.Tensor:
            assert isinstance(module, nn.Linear)
            name = self._names[id(module)]
            selected = self._layers[id(module)][0]
            adapted = [
                (part, part.selected if selected else part.tokens) for part in parts if name in part.adapter.places
            ]
            if not adapted:
                out_NO = frozen_linear(x_NI, module.weight)
            else:
                scales = [_dropout(part, x_NI[where]) for part, where in adapted]
                out_NO = _SideBySide.apply(x_NI, module.weight, self._anchor, name, adapted, scales)
            return out_NO if module.bias is None else out_NO + module.bias

        return project


def _dropout(part: Part, x_nI: torch.Tensor) -> torch.Tensor | None:
    p = part.adapter.settings.lora_dropout
    return drawn_scale(p, x_nI, part.generator) if p and part.generator is not None else None


class _SideBySide(torch.autograd.Function):
    """x W' + for each run, on its own rows, s (d x) A' B'. Gradients of A and B are added to the adapters'."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: torch.Tensor,
        weight_OI: torch.Tensor,
        anchor: torch.Tensor,
        name: str,
        adapted: Sequence[tuple[Part, slice]],
        scales: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        out_NO = product(x_NI, weight_OI)
        kept, low = [], []
        for (part, where), scale_nI in zip(adapted, scales, strict=True):
            adapter = part.adapter
            place = adapter.places[name]
            x_nI = x_NI[where]
            kept_nI = x_nI if scale_nI is None else x_nI * scale_nI
            low_nR = product(kept_nI, place.of_a(adapter.a_P.detach()))
            out_NO[where].addmm_(low_nR, place.of_b(adapter.b_P.detach()), alpha=adapter.scaling)
            kept.append(kept_nI)
            low.append(low_nR)
        ctx.save_for_backward(weight_OI, *kept, *low, *(scale for scale in scales if scale is not None))
        ctx.name, ctx.adapted, ctx.dropped = name, adapted, [scale is not None for scale in scales]
        return out_NO

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_NO = grads[0]
        weight_OI, *saved = ctx.saved_tensors
        count = len(ctx.adapted)
        kept, low, scales = saved[:count], saved[count : 2 * count], iter(saved[2 * count :])
        needs_x = ctx.needs_input_grad[0]
        grad_NI = product(grad_NO, weight_OI.t()) if needs_x else None
        for (part, where), dropped, kept_nI, low_nR in zip(ctx.adapted, ctx.dropped, kept, low, strict=True):
            adapter = part.adapter
            place = adapter.places[ctx.name]
            scale_nI = next(scales) if dropped else None
            grad_nO = grad_NO[where]
            grad_nR = product(grad_nO, place.of_b(adapter.b_P.detach())).mul_(adapter.scaling)
            if grad_NI is not None:
                a_RI = place.of_a(adapter.a_P.detach())
                if scale_nI is None:
                    grad_NI[where].addmm_(grad_nR, a_RI)
                else:
                    grad_NI[where].addcmul_(grad_nR @ a_RI, scale_nI)
            place.of_a(_grad(adapter.a_P)).add_(product(grad_nR.t(), kept_nI.t()))
            place.of_b(_grad(adapter.b_P)).add_(product(low_nR.t(), grad_nO.t()), alpha=adapter.scaling)
        return grad_NI, None, None, None, None, None


@contextlib.contextmanager
def merged(model: Any, adapter: Adapter) -> Iterator[None]:
    """Inside the block the adapter is added into copies of the float32 weights; the weights themselves are never
    written to. Raises FloatingPointError for an adapter that is not finite."""
    if not adapter.is_finite():
        raise FloatingPointError("the adapter is not finite")
    layers = {name: model.get_submodule(name) for name in adapter.places}
    weights = {name: layer.weight.data for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.weight.data = weights[name] + adapter.delta(name)
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = weights[name]
