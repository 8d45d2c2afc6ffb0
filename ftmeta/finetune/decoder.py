"""A lean forward pass of Phi-3 and Llama over the model's own modules: the same numbers with less work.

Short batches of a small model spend most of their time outside the matrix products. Against transformers' own forward
pass this one keeps tokens in two dimensions and leaves padding out of everything but the attention itself, rotates
queries and keys at once, fuses the norm, the gate and LoRA's products with their gradients, and drops, in the last
block, the positions that no label asks for. Right-padded rows of a causal model need no mask. What it cannot do (other
architectures, dropout in the base model, a window shorter than the row, activation checkpointing, weights that ZeRO-3
keeps in pieces) goes through transformers' forward pass; tests hold the two together. In half precision a run that is
alone goes that way too, under autocast; many runs at once (vectorized.py) come here, norms in float32, all else in the
model's type.

# N tokens (of B rows x L positions, without padding), n those of them that are no copies, S selected positions, H
# hidden size, I intermediate size, R LoRA rank, D head size
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from ftmeta.finetune.data import Batch
from ftmeta.finetune.dropout import draws_at_once, dropout_scale
from ftmeta.finetune.masks import Masks, columns_of
from ftmeta.finetune.products import frozen_linear, product

ROUND = 32  # tokens, and selected positions
_WIDER = 2.0  # rows up to so many times as long as the shortest are padded together


def is_supported(model: Any, length: int, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> bool:
    """Whether `hidden_of` computes rows of `length` tokens of this model, and its type is one of these."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    return (
        config.model_type in ("phi3", "llama")
        and model.dtype in dtypes
        and not torch.is_autocast_enabled(model.device.type)
        and (window is None or length <= window)
        and not (model.training and model.get_decoder().layers[0].gradient_checkpointing)
        and not hasattr(model.get_output_embeddings().weight, "ds_id")  # DeepSpeed's mark on a weight in pieces
        and not any(getattr(config, name, 0) for name in ("resid_pdrop", "embd_pdrop", "attention_dropout"))
        and config.hidden_act == "silu"
        and config.rope_parameters.get("partial_rotary_factor", 1.0) == 1.0
    )


@dataclass(frozen=True)
class _Rows:
    """Tokens begin..end of the N packed ones as B rows of L, in which attention is computed. `at_n`: which of them are
    no copies (None: the first ones); nothing looks at what becomes of copies."""

    begin: int
    end: int
    rows: int
    length: int
    row_n: torch.Tensor  # of those that are no copies
    position_n: torch.Tensor
    at_n: torch.Tensor | None = None

    def padded(self, x_N: torch.Tensor) -> torch.Tensor:
        """(end - begin, ...) to (B, L, ...), zeros where there is no token."""
        out = x_N.new_zeros(self.rows, self.length, *x_N.shape[1:])
        out[self.row_n, self.position_n] = x_N[: len(self.row_n)] if self.at_n is None else x_N[self.at_n]
        return out

    def packed(self, x_BL: torch.Tensor) -> torch.Tensor:
        """(B, L, ...) to (end - begin, ...), zeros for the copies."""
        out = x_BL.new_zeros(self.end - self.begin, *x_BL.shape[2:])
        at = slice(len(self.row_n)) if self.at_n is None else self.at_n
        out[at] = x_BL[self.row_n, self.position_n]
        return out


@dataclass(frozen=True)
class Layout:
    """How the tokens of one or several batches are packed: one batch after the other, each made up to a round number by
    copies of its first token, and its selected positions likewise."""

    position_N: torch.Tensor
    select_S: torch.Tensor
    tokens: tuple[slice, ...]  # of each batch, among N
    selected: tuple[slice, ...]  # of each batch, among S; the first `labels` of them are meant
    labels: tuple[int, ...]
    rows: tuple[_Rows, ...]

    @property
    def attended(self) -> int:
        """Positions, padding among them, that attention is computed for."""
        return sum(part.rows * part.length for part in self.rows)


def layout_of(batches: Sequence[Batch], *, together: bool = False, made_up_to: int = ROUND) -> Layout:
    """`together`: attention takes the rows of neighbouring batches at once, as long as none of them is padded to more
    than twice its batch's length; otherwise each batch by itself. `made_up_to`: the round number."""
    position, select, tokens, selected, rows = [], [], [], [], []
    token, place = 0, 0
    for batch in batches:
        # Made up to few different numbers, because each new shape of a product is slow.
        more, more_selected = -batch.tokens % made_up_to, -len(batch.packed_S) % made_up_to
        position.append(functional.pad(batch.position_N, (0, more)))
        select.append(functional.pad(batch.packed_S, (0, more_selected)) + token)
        tokens.append(slice(token, token + batch.tokens + more))
        selected.append(slice(place, place + len(batch.packed_S) + more_selected))
        token, place = tokens[-1].stop, selected[-1].stop
        count, length = batch.ids_BL.shape
        rows.append(_Rows(tokens[-1].start, token, count, length, batch.row_N, batch.position_N))
    return Layout(
        position_N=torch.cat(position),
        select_S=torch.cat(select),
        tokens=tuple(tokens),
        selected=tuple(selected),
        labels=tuple(len(batch.packed_S) for batch in batches),
        rows=tuple(_joined(group) for group in _of_like_length(rows)) if together else tuple(rows),
    )


def _of_like_length(rows: Sequence[_Rows]) -> list[list[_Rows]]:
    groups: list[list[_Rows]] = []
    for part in rows:
        lengths = [one.length for one in (*(groups[-1] if groups else ()), part)]
        if groups and max(lengths) <= _WIDER * min(lengths):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _joined(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    begin = parts[0].begin
    count = [0, *itertools.accumulate(part.rows for part in parts)]
    return _Rows(
        begin=begin,
        end=parts[-1].end,
        rows=count[-1],
        length=max(part.length for part in parts),
        row_n=torch.cat([part.row_n + before for part, before in zip(parts, count, strict=False)]),
        position_n=torch.cat([part.position_n for part in parts]),
        at_n=torch.cat(
            [torch.arange(part.begin, part.begin + len(part.row_n), device=part.row_n.device) for part in parts]
        )
        - begin,
    )


def hidden_at(model: Any, batch: Batch) -> torch.Tensor:
    """The normed hidden states (S, H) of the selected positions; rows of no meaning make S up to a round number."""
    layout, embedded_NH = layout_of([batch]), embedded(model, batch)
    masks = _masks(model, batch, layout)
    return hidden_of(model, embedded_NH, layout, partial(project, masks=masks))


def _masks(model: Any, batch: Batch, layout: Layout) -> Masks | None:
    """On devices where the dropout of all layers is drawn at once: what it leaves. None where layers draw their own."""
    if not model.training or not draws_at_once(model.device):
        return None
    adapted = next((module for module in model.modules() if isinstance(module, LoraLayer)), None)
    if adapted is None or adapted.lora_variant:
        return None
    p = getattr(adapted.lora_dropout[adapted.active_adapters[0]], "p", 0.0)  # nn.Identity has none
    if not p:
        return None
    masks = Masks(columns_of(model), len(layout.position_N), len(layout.select_S), model.device)
    masks.draw(p, slice(batch.tokens), slice(len(batch.packed_S)))
    return masks


def embedded(
    model: Any,
    batch: Batch,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda embedded_BLH: embedded_BLH,
    *,
    made_up_to: int = ROUND,
) -> torch.Tensor:
    """The embeddings of the packed tokens and of the copies after them, with what hooks and `change` do to them."""
    embedded_BLH = change(model.get_decoder().embed_tokens(batch.ids_BL))
    flat_N = batch.row_N * batch.ids_BL.shape[1] + batch.position_N
    return embedded_BLH.flatten(0, 1).index_select(0, functional.pad(flat_N, (0, -batch.tokens % made_up_to)))


def hidden_of(
    model: Any, hidden_NH: torch.Tensor, layout: Layout, project: Callable[[nn.Module, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The normed hidden states (S, H) of the selected positions, from the embeddings of the packed tokens. `project` is
    what a linear layer does to (N, I), or to (S, I) behind the last block's attention."""
    decoder, config = model.get_decoder(), model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cos, sin = _rotation(decoder, hidden_NH, layout.position_N)
    for layer in decoder.layers:
        last = layer is decoder.layers[-1]
        attention = layer.self_attn
        normed_NH = _norm(hidden_NH, layer.input_layernorm)
        heads = _heads(attention, normed_NH, (len(hidden_NH), -1, head_size), cos, sin, project)
        mixed = [
            _attended(rows, [part[rows.begin : rows.end] for part in heads], attention, cos, sin, config)
            for rows in layout.rows
        ]
        mixed_NH = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        if last:  # from here on every position stands for itself
            select_S = layout.select_S
            mixed_NH, hidden_NH = mixed_NH.index_select(0, select_S), hidden_NH.index_select(0, select_S)
        hidden_NH = hidden_NH + project(attention.o_proj, mixed_NH)
        normed_NH = _norm(hidden_NH, layer.post_attention_layernorm)
        hidden_NH = hidden_NH + project(layer.mlp.down_proj, _gated(layer.mlp, normed_NH, project))
    return _norm(hidden_NH, decoder.norm)


def project(module: nn.Module, x_NI: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
    """A linear layer with what adapts it: plain LoRA fused, everything else as PEFT computes it. `masks`: of dropout,
    where it was drawn beforehand."""
    if isinstance(module, BaseTunerLayer) and (module.merged or module.disable_adapters):
        module = module.get_base_layer()
    if type(module) is nn.Linear and module.bias is None and not module.weight.requires_grad:
        return frozen_linear(x_NI, module.weight)
    if not isinstance(module, LoraLayer):
        return module(x_NI)
    name = module.active_adapters[0]
    if name in module.lora_variant:  # DoRA
        return module(x_NI)
    base = module.get_base_layer()
    if base.bias is not None:
        return module(x_NI)
    dropout = module.lora_dropout[name]
    scale_NI = dropout_scale(dropout, x_NI) if masks is None else masks.of(base).to(x_NI.dtype).div_(1 - dropout.p)
    weights = base.weight, module.lora_A[name].weight, module.lora_B[name].weight
    return _LoraLinear.apply(x_NI, *weights, module.scaling[name], scale_NI)


def _rotation(decoder: Any, hidden_NH: torch.Tensor, position_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin as (N, 1, D), the sign of rotate_half folded into the sine: it is then a roll by half of D."""
    cos, sin = decoder.rotary_emb(hidden_NH, position_ids=position_N[None])
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)[:, None]


def _heads(
    attention: Any,
    x_NH: torch.Tensor,
    shape: tuple[int, ...],
    cos: torch.Tensor,
    sin: torch.Tensor,
    project: Callable[[nn.Module, torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """Queries, keys and values as (N, heads, D), the first two rotated; or, where one product makes all three, that
    product, in which nothing is rotated yet."""
    if hasattr(attention, "qkv_proj"):
        return [project(attention.qkv_proj, x_NH).view(shape)]
    q, k, v = (project(getattr(attention, name), x_NH).view(shape) for name in ("q_proj", "k_proj", "v_proj"))
    return [_Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin), v]


def _attended(
    rows: _Rows, heads: list[torch.Tensor], attention: Any, cos: torch.Tensor, sin: torch.Tensor, config: Any
) -> torch.Tensor:
    """What attention makes of these rows' tokens: (end - begin, H)."""
    if len(heads) == 1:
        of_rows = slice(rows.begin, rows.end)
        q, k, v = _SplitAndRotate.apply(heads[0], attention.num_key_value_heads, cos[of_rows], sin[of_rows], rows)
    else:
        q, k, v = (_Pad.apply(part, rows) for part in heads)
    mixed = functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        enable_gqa=config.num_key_value_heads != config.num_attention_heads,
    )
    return _Pack.apply(mixed.transpose(1, 2), rows).flatten(1)


def _gated(mlp: Any, x_NH: torch.Tensor, project: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    if hasattr(mlp, "gate_up_proj"):
        return _Gate.apply(project(mlp.gate_up_proj, x_NH))
    return functional.silu(project(mlp.gate_proj, x_NH)) * project(mlp.up_proj, x_NH)


def _norm(x_NH: torch.Tensor, norm: Any) -> torch.Tensor:
    return _RmsNorm.apply(x_NH, norm.weight, norm.variance_epsilon)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Writes x cos + rotate_half(x) sin into `out`, `sin` being signed; with -sin that is its gradient."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


class _Rotate(torch.autograd.Function):
    """Rotary positions (arXiv 2104.09864) for (N, heads, D)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, -sin, grads[0].new_empty(grads[0].shape)), None, None


class _Pad(torch.autograd.Function):
    """Packed tokens to padded rows. Copies of the first token have no part in it, nor in its gradient."""

    @staticmethod
    def forward(ctx: Any, x_N: torch.Tensor, rows: _Rows) -> torch.Tensor:
        ctx.rows = rows
        return rows.padded(x_N)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.rows.packed(grads[0]), None


class _Pack(torch.autograd.Function):
    """Padded rows to packed tokens."""

    @staticmethod
    def forward(ctx: Any, x_BL: torch.Tensor, rows: _Rows) -> torch.Tensor:
        ctx.rows = rows
        return rows.packed(x_BL)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.rows.padded(grads[0]), None


class _SplitAndRotate(torch.autograd.Function):
    """The fused product (N, heads of q + k + v, D) taken apart into padded rows, queries and keys rotated."""

    @staticmethod
    def forward(ctx: Any, fused: torch.Tensor, values: int, cos: torch.Tensor, sin: torch.Tensor, rows: _Rows) -> Any:
        ctx.save_for_backward(cos, sin)
        ctx.rows = rows
        rotated = torch.empty_like(fused)
        _rotated(fused[:, :-values], cos, sin, rotated[:, :-values])
        rotated[:, -values:] = fused[:, -values:]
        padded = rows.padded(rotated)
        return padded[:, :, : -2 * values], padded[:, :, -2 * values : -values], padded[:, :, -values:]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        q, k, v = (ctx.rows.packed(grad) for grad in grads)
        queries, values = q.shape[1], v.shape[1]
        fused = q.new_empty(len(q), queries + 2 * values, q.shape[2])
        _rotated(q, cos, -sin, fused[:, :queries])
        _rotated(k, cos, -sin, fused[:, queries : queries + values])
        fused[:, queries + values :] = v
        return fused, None, None, None, None


class _RmsNorm(torch.autograd.Function):
    """y = w x / rms(x), with the frozen w; dx = (w g - n mean(w g n)) / rms(x) where n = x / rms(x), in float32."""

    @staticmethod
    def forward(ctx: Any, x_NH: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> torch.Tensor:
        whole_NH = x_NH.float()
        inverse_N1 = torch.rsqrt(whole_NH.pow(2).mean(-1, keepdim=True).add_(epsilon))
        normed_NH = (whole_NH * inverse_N1).to(x_NH.dtype)
        ctx.save_for_backward(normed_NH, inverse_N1, weight_H)
        return normed_NH * weight_H

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        normed_NH, inverse_N1, weight_H = ctx.saved_tensors
        grad_NH = grads[0].float() * weight_H
        mean_N1 = (grad_NH * normed_NH).mean(-1, keepdim=True)
        grad_NH.addcmul_(normed_NH.float(), mean_N1, value=-1).mul_(inverse_N1)
        return grad_NH.to(normed_NH.dtype), None, None


class _Gate(torch.autograd.Function):
    """up * silu(gate) of the fused product, the gate being its first half.

    silu' = sigmoid + silu (1 - sigmoid)
    """

    @staticmethod
    def forward(ctx: Any, fused_N2I: torch.Tensor) -> torch.Tensor:
        gate, up = fused_N2I.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        ctx.save_for_backward(up, sigmoid, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        up, sigmoid, silu = ctx.saved_tensors
        grad_N2I = up.new_empty(up.shape[0], 2 * up.shape[1])
        to_gate, to_up = grad_N2I.chunk(2, dim=-1)
        torch.mul(grads[0], silu, out=to_up)
        slope = (sigmoid + silu).addcmul_(silu, sigmoid, value=-1)
        torch.mul(slope.mul_(up), grads[0], out=to_gate)
        return grad_N2I


class _LoraLinear(torch.autograd.Function):
    """x W' + s (d x) A' B' with W frozen, d being what dropout multiplies by (None: 1)."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: torch.Tensor,
        weight_OI: torch.Tensor,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scaling: float,
        scale_NI: torch.Tensor | None,
    ) -> torch.Tensor:
        kept_NI = x_NI if scale_NI is None else x_NI * scale_NI
        low_NR = product(kept_NI, a_RI)
        ctx.save_for_backward(kept_NI, low_NR, weight_OI, a_RI, b_OR, scale_NI)
        ctx.scaling = scaling
        return product(x_NI, weight_OI).addmm_(low_NR, b_OR.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        kept_NI, low_NR, weight_OI, a_RI, b_OR, scale_NI = ctx.saved_tensors
        grad_NO = grads[0]
        grad_NR = product(grad_NO, b_OR.t()).mul_(ctx.scaling)
        grad_NI = None
        if ctx.needs_input_grad[0]:
            grad_NI = product(grad_NO, weight_OI.t())
            if scale_NI is None:
                grad_NI.addmm_(grad_NR, a_RI)
            else:
                grad_NI.addcmul_(grad_NR @ a_RI, scale_NI)
        grad_RI = product(grad_NR.t(), kept_NI.t())
        grad_RO = product(low_NR.t(), grad_NO.t()).mul_(ctx.scaling)
        return grad_NI, None, grad_RI, grad_RO.t(), None, None
