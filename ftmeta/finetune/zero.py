"""Several processes, one run: DeepSpeed with ZeRO stage 0, 2 or 3 (arXiv 1910.02054) under the worker's own loop.

    torch.distributed.init_process_group("gloo")     # or nccl; under Ray Train it is there already
    base = load_base(info, "cpu", stage=2)
    with finetune(..., base, engine=functools.partial(ZeroEngine, stage=2, device=base.device)) as run: ...

A step's examples are shared out among the ranks; DeepSpeed sums gradients, clips, and keeps the optimizer (stage 2) and
the weights too (stage 3) in pieces. The settings are data: ftmeta/data/zero/stageN.json, to which this file adds what
belongs to the run. `state()` is whole on each rank, so a run goes on with another number of ranks, another stage, or
with LocalEngine.

In bfloat16 DeepSpeed keeps the adapter in bfloat16 and a float32 master copy in the optimizer, but only under ZeRO.
Stage 0 in bfloat16 is therefore run as stage 1, which differs in that the optimizer is in pieces.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from peft.tuners.lora import LoraLayer
from torch import nn

from ftmeta.errors import ConfigError
from ftmeta.files import DATA
from ftmeta.finetune import adapters
from ftmeta.finetune.dropout import BitDropout
from ftmeta.finetune.engine import Ranks, Result, load_optimizer_state, optimizer_kinds, optimizer_state
from ftmeta.finetune.optim import make_optimizer, set_learning_rate
from ftmeta.finetune.settings import Settings
from ftmeta.models import LoadedModel, load
from ftmeta.schema import BaseModelInfo

STAGES = (0, 2, 3)


def load_base(info: BaseModelInfo, device: str, stage: int, dtype: str | None = None) -> LoadedModel:
    """The base model of a rank that computes on `device`; `dtype` as in `ftmeta.models.load`.

    Under stage 3 a GPU need not hold the whole model at any time: the weights wait in host memory until ZeroEngine
    takes them over one by one.
    """
    if stage < 3 or torch.device(device).type == "cpu":
        return load(info, device, dtype)
    return replace(load(info, "cpu", dtype or "bfloat16"), device=torch.device(device))


class ProcessGroup:
    """The ranks of torch's default process group. Float64 sums, the same on each rank."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def sum(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Result) -> list[Result]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


class _Anything(nn.Module):
    """Calls a function of the model as its forward pass, so that DeepSpeed's hooks see a beginning and an end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[Any], Any]) -> Any:
        return function(self.model)


class ZeroEngine:
    """`adapted` is whole and the same on each rank, on `device` or, under stage 3, wherever `load_base` put it: then it
    is taken apart here."""

    def __init__(
        self,
        adapted: Any,
        parameters: Mapping[str, nn.Parameter],
        settings: Settings,
        learning_rate: float,
        *,
        stage: int,
        device: torch.device,
    ) -> None:
        self._adapted, self._parameters = adapted, dict(parameters)
        self._model = adapted.get_base_model()
        deepspeed = _deepspeed(device)
        self._half = half = self._model.dtype == torch.bfloat16
        self.ranks: Ranks = ProcessGroup(device)
        self.in_pieces = stage == 3
        self._stage = 1 if stage == 0 and half else stage
        if not self.in_pieces:
            for parameter in parameters.values():  # the ranks drew the same; this makes sure of it
                dist.broadcast(parameter.data, src=0)
        config = _deepspeed_config(self._stage, half, settings.max_grad_norm, self.ranks.size)
        module = _Anything(self._model)
        if self.in_pieces:
            deepspeed.zero.Init(module=module, config_dict_or_path=config)  # each weight to the device and into pieces
            bring_along(adapted, device)
        optimizer = make_optimizer(parameters, settings, learning_rate)
        self._norm: torch.Tensor | None = None
        self._max_grad_norm = settings.max_grad_norm
        if self._stage == 0:  # where DeepSpeed clips too, but does not tell the norm
            optimizer.register_step_pre_hook(self._clip)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, model_parameters=list(parameters.values()), config=config
        )

    def forward(self, function: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        return self._engine(function)

    def backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss * self.ranks.size)  # DeepSpeed takes the mean over the ranks, and a sum is meant

    def step(self, loss: torch.Tensor, lr_factor: float) -> tuple[float, float]:
        set_learning_rate(self._optimizer, lr_factor)
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if self._norm is None else self._norm
        return self.ranks.sum([float(loss)])[0], float(norm)

    def _clip(self, optimizer: Any, arguments: Any, keywords: Any) -> None:
        self._norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._max_grad_norm)

    def evaluate(self, function: Callable[[Any], Result]) -> Result:
        with torch.no_grad():  # weights gathered in inference mode could not be trained with afterwards
            return self._engine.module(function)

    def merged(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.in_pieces else adapters.merged(self._adapted)

    def state(self) -> dict[str, torch.Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._stage == 0:
            adapter = {f"adapter/{name}": parameter.detach() for name, parameter in self._parameters.items()}
            return {**adapter, **optimizer_state(self._optimizer, self._parameters)}
        state = {f"adapter/{name}": safe_get_full_fp32_param(p) for name, p in self._parameters.items()}
        steps = self._steps()
        if steps is not None:
            self._link_moments()
            for name, parameter in self._parameters.items():
                for kind in ("exp_avg", "exp_avg_sq"):
                    state[f"optimizer/{kind}/{name}"] = safe_get_full_optimizer_state(parameter, kind)
                state[f"optimizer/step/{name}"] = steps.clone()
        for name, value in state.items():
            assert value.numel() > 0, f"{name} is empty under ZeRO-{self._stage}"
        return state

    def load_optimizer(self, state: Mapping[str, torch.Tensor]) -> None:
        if self._half:  # its float32 copy was made of what is left of the adapter in bfloat16
            for name, parameter in self._parameters.items():
                self._set(parameter, None, state[f"adapter/{name}"].to(parameter.device))
        if not optimizer_kinds(state):
            return
        if self._stage == 0:
            load_optimizer_state(self._optimizer, self._parameters, state)
            return
        self._make_optimizer_state()
        self._link_moments()
        for name, parameter in self._parameters.items():
            for kind in ("exp_avg", "exp_avg_sq"):
                self._set(parameter, kind, state[f"optimizer/{kind}/{name}"].to(parameter.device))
        steps = state[f"optimizer/step/{next(iter(self._parameters))}"]
        for of_piece in self._optimizer.optimizer.state.values():
            of_piece["step"].fill_(float(steps))

    def _steps(self) -> torch.Tensor | None:
        """How many steps the optimizer has taken; None before the first one, which makes its state."""
        counts = [of_piece["step"] for of_piece in self._optimizer.optimizer.state.values() if "step" in of_piece]
        return counts[0] if counts else None

    def _link_moments(self) -> None:
        """DeepSpeed 0.19 links parameters to their moments when the first group has been stepped, so those of the other
        groups (LoRA's B) stay without."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self._stage == 2:
            zero = self._optimizer
            for group, piece in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                lazy_init_hp_params_optimizer_state(group, piece, zero.optimizer.state)

    def _make_optimizer_state(self) -> None:
        """A step with a gradient of 0 at a rate of 0: it changes nothing, and afterwards there are moments to set."""
        ids = torch.zeros((1, 2), dtype=torch.int64, device=self._model.device)

        def nothing(model: Any) -> torch.Tensor:
            return model(input_ids=ids, use_cache=False).logits.float().sum() * 0.0

        self.backward(self.forward(nothing))
        set_learning_rate(self._optimizer, 0.0)
        self._engine.step()

    def _set(self, parameter: nn.Parameter, kind: str | None, value: torch.Tensor) -> None:
        """One of the moments of a parameter, or (None) its float32 copy."""
        from deepspeed import utils

        if self.in_pieces:
            # DeepSpeed's setters of whole tensors fail where the ranks' pieces are padded, so each rank cuts its own.
            piece = math.ceil(value.numel() / self.ranks.size)
            padded = nn.functional.pad(value.flatten(), (0, piece * self.ranks.size - value.numel()))
            mine = padded[piece * self.ranks.rank :][:piece]
            if kind is None:
                utils.safe_set_local_fp32_param(parameter, mine)
            else:
                utils.safe_set_local_optimizer_state(parameter, mine, kind)
        elif kind is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, kind)


def bring_along(adapted: nn.Module, device: torch.device) -> None:
    """Puts on `device` what zero.Init leaves behind: buffers, and the dropout that adapters.py has for CPUs alone."""
    for module in adapted.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
        if isinstance(module, LoraLayer) and device.type != "cpu":
            for name, dropout in module.lora_dropout.items():
                if isinstance(dropout, BitDropout):
                    module.lora_dropout[name] = nn.Dropout(dropout.p)


def _deepspeed_config(stage: int, half: bool, max_grad_norm: float, ranks: int) -> dict[str, Any]:
    """The settings of a stage, with what depends on the run."""
    file = DATA / "zero" / f"stage{stage}.json"
    if not file.is_file():
        raise ConfigError(f"ZeRO stage {stage} is not supported; choose one of {', '.join(map(str, STAGES))}")
    return {
        **json.loads(file.read_text(encoding="utf-8")),
        "bf16": {"enabled": half},
        "gradient_clipping": max_grad_norm if stage else 0.0,
        "train_batch_size": ranks,  # DeepSpeed wants numbers here; the worker does its own batching
        "train_micro_batch_size_per_gpu": 1,
    }


def _deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told to be quiet and not to compile a shared-memory operation on CPUs (up to 90 s at first use)."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    # torch 2.13 has new names for what DeepSpeed 0.19 calls in each step.
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, dist_init_required=False)
    return deepspeed
