"""How the steps of a run are computed: in this process (`LocalEngine`), or shared by several (ftmeta/finetune/zero.py).

The worker decides what a step is: which examples, which loss, which learning rate. The engine carries it out: forward
pass, backward pass, clipping, the optimizer, and the sums over all processes ("ranks") that take part.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ftmeta.finetune import adapters
from ftmeta.finetune.optim import make_optimizer, set_learning_rate
from ftmeta.finetune.settings import Settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Execution:
    """How a run is computed, where it does not matter for what it learns.

    `micro_batch_tokens`: rows x padded length of one forward pass with gradients; None takes the device's default.
    `activation_checkpointing` computes activations twice to keep fewer of them.
    """

    micro_batch_tokens: int | None = None
    activation_checkpointing: bool = False


class Ranks(Protocol):
    """The processes of a run. What each of them calls, all have to call, in the same order."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, the same floats on each."""
        ...

    def gather(self, value: Result) -> list[Result]:
        """The values of all ranks in their order, on each."""
        ...


class OneProcess:
    """A run that nobody else takes part in."""

    rank, size = 0, 1

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def gather(self, value: Result) -> list[Result]:
        return [value]


ALONE = OneProcess()


class Engine(Protocol):
    """What a step needs. `in_pieces`: no rank has the whole model, so all have to compute at the same time (ZeRO-3)."""

    ranks: Ranks
    in_pieces: bool

    def forward(self, function: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """`function` of the causal language model, with gradients: what it returns goes to `backward`."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of `loss`, this rank's share of the step's loss."""
        ...

    def step(self, loss: torch.Tensor, lr_factor: float) -> tuple[float, float]:
        """Sums gradients over the ranks, clips them and updates the adapter; returns the loss summed over the ranks and
        the gradient norm before clipping. Where one of them is not finite the adapter may be of no use any more."""
        ...

    def evaluate(self, function: Callable[[Any], Result]) -> Result:
        """`function` of the causal language model, without gradients."""
        ...

    def merged(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block evaluation may be faster; the adapter counts as outside of it."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """`adapter/NAME` (float32) and `optimizer/KIND/NAME`, whole on each rank, whatever their number."""
        ...

    def load_optimizer(self, state: Mapping[str, torch.Tensor]) -> None:
        """Puts the optimizer's part of `state` back; the adapter's is loaded before the engine is made."""
        ...


# What makes an engine: the adapted model, its trainable parameters by name, the settings, the learning rate
EngineMaker = Callable[[Any, Mapping[str, nn.Parameter], Settings, float], Engine]


class LocalEngine:
    """One process, plain torch."""

    ranks: Ranks = ALONE
    in_pieces = False

    def __init__(
        self, adapted: Any, parameters: Mapping[str, nn.Parameter], settings: Settings, learning_rate: float
    ) -> None:
        self._adapted = adapted
        self._model = adapted.get_base_model()
        self._parameters = dict(parameters)
        self._max_grad_norm = settings.max_grad_norm
        self._optimizer = make_optimizer(parameters, settings, learning_rate)

    def forward(self, function: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        return function(self._model)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, loss: torch.Tensor, lr_factor: float) -> tuple[float, float]:
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._max_grad_norm)
        set_learning_rate(self._optimizer, lr_factor)
        value, gradient = torch.stack([loss, norm.float()]).tolist()
        if math.isfinite(value) and math.isfinite(gradient):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return value, gradient

    def evaluate(self, function: Callable[[Any], Result]) -> Result:
        with torch.inference_mode():
            return function(self._model)

    def merged(self) -> contextlib.AbstractContextManager[None]:
        return adapters.merged(self._adapted)

    def state(self) -> dict[str, torch.Tensor]:
        return {
            **{f"adapter/{name}": parameter.detach() for name, parameter in self._parameters.items()},
            **optimizer_state(self._optimizer, self._parameters),
        }

    def load_optimizer(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self._optimizer, self._parameters, state)


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The moments and step counts as `optimizer/KIND/NAME`."""
    return {
        f"optimizer/{kind}/{name}": value
        for name, parameter in parameters.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, torch.Tensor]
) -> None:
    """The inverse of `optimizer_state`."""
    for kind in optimizer_kinds(state):
        for name, parameter in parameters.items():
            value = state[f"optimizer/{kind}/{name}"]
            optimizer.state[parameter][kind] = value.to(parameter.device)


def optimizer_kinds(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Which quantities the optimizer keeps for a parameter; none before the first step."""
    return sorted({name.split("/")[1] for name in state if name.startswith("optimizer/")})
