"""What autograd keeps of a forward pass, in bytes: per token and block, then for the model.

In: the sizes of a decoder, what is adapted, and how the step is computed. Out: `Kept`. Each line below is one tensor
that the backward pass needs; what is frozen keeps nothing but its weights. Letters as in memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftmeta.models.architectures import Decoder, Matrix

_FLOAT = 4


@dataclass(frozen=True)
class Adapted:
    """What carries an adapter: the matrices by name, in the layers from `first` to `last`."""

    method: str
    rank: int
    dropout: bool
    matrices: frozenset[str]
    first: int
    last: int


@dataclass(frozen=True)
class Arithmetic:
    """The types in which a step is computed, in bytes a number."""

    width: int  # of the base model's weights and activations
    adapter_width: int  # of the adapter's weights
    mask: int  # of what dropout keeps for an element: 1 for a mask, 4 for a scale (ftmeta/finetune/dropout.py)
    lean: bool


@dataclass(frozen=True)
class _Block:
    """Bytes a token of one block: up to the attention's result, and from its output matrix on."""

    before: float
    after: float


@dataclass(frozen=True)
class Kept:
    """Bytes at the start of the backward pass, and the largest temporary then or later."""

    activations: float
    workspace: float


def kept(
    decoder: Decoder,
    adapted: Adapted,
    how: Arithmetic,
    tokens: int,
    labels: int,
    *,
    mask_bytes: float,
    checkpointing: bool,
) -> Kept:
    """Of a micro-batch of `tokens` padded tokens, `labels` of which have a label; `mask_bytes` is what a block keeps of
    an attention mask."""
    first, depth = adapted.first, decoder.layers
    final = _norm(decoder) * (labels if how.lean else tokens)
    loss = 3 * _FLOAT * labels * decoder.vocab_size  # log-softmax, its gradient, and the logits' gradient
    gradients = tokens * _layer_gradients(decoder, adapted, how)
    norms = _dora_workspace(decoder, adapted, how)
    copies = _dora_weights(decoder, adapted, how)
    blocks = [_block(decoder, adapted, how, layer) for layer in range(first, depth)]
    if checkpointing:
        inputs = len(blocks) * tokens * decoder.hidden_size * how.width
        again = tokens * max(block.before + block.after for block in blocks) + mask_bytes + copies
        return Kept(inputs + final, max(loss, again + max(gradients, norms)))
    last = labels if how.lean else tokens  # decoder.py drops from the last block what no label asks for
    total = sum(block.before * tokens + block.after * tokens + mask_bytes for block in blocks[:-1])
    total += blocks[-1].before * tokens + blocks[-1].after * last + mask_bytes
    total += final + (adapted.last - first + 1) * copies
    return Kept(total, max(loss, norms, 0.0 if how.lean else gradients))


def _norm(decoder: Decoder) -> float:
    return _FLOAT * decoder.hidden_size + _FLOAT  # float32 in both paths: what is normed, and 1 / rms


def _block(decoder: Decoder, adapted: Adapted, how: Arithmetic, layer: int) -> _Block:
    carries = adapted.first <= layer <= adapted.last
    names = adapted.matrices if carries else frozenset()
    attention = [matrix for matrix in decoder.matrices if matrix.block == "attention"]
    inputs, (output, *mlp) = attention[:-1], (attention[-1], *decoder.matrices[len(attention) :])
    before = _norm(decoder) + _attention(decoder, how) + _inputs(inputs, names, adapted, how)
    after = _norm(decoder) + _gate(decoder, how) + _inputs([output], names, adapted, how)
    after += _inputs(mlp[:-1], names, adapted, how)  # gate and up read the same input
    after += _inputs(mlp[-1:], names, adapted, how)  # down reads what the gate makes of it
    if layer == adapted.first:  # nothing before the first adapter has a gradient
        if any(matrix.name in names for matrix in inputs):
            before -= _norm(decoder)
        elif output.name in names:
            before = 0.0
        else:
            before, after = 0.0, after - _norm(decoder)
    return _Block(before, after)


def _attention(decoder: Decoder, how: Arithmetic) -> float:
    """Rotated queries and keys, values, the result, and a logarithm for each head."""
    q, k, w = decoder.queries, decoder.keys, how.width
    values = q + 2 * k if decoder.fused and not how.lean else k  # a view keeps the fused product alive
    return w * (q + k + values + q) + _FLOAT * decoder.heads


def _gate(decoder: Decoder, how: Arithmetic) -> float:
    """gate, up and silu(gate); decoder.py's fused gate keeps the sigmoid too."""
    return how.width * decoder.intermediate_size * (4 if how.lean and decoder.fused else 3)


def _inputs(matrices: list[Matrix], names: frozenset[str], adapted: Adapted, how: Arithmetic) -> float:
    """What the adapters of matrices with one common input keep."""
    attention_result = [matrix.name for matrix in matrices] == ["o_proj"]  # attention keeps it already
    chosen = [matrix for matrix in matrices if matrix.name in names]
    if not chosen:
        return 0.0
    d_in = chosen[0].d_in
    if adapted.method == "ia3":
        if chosen[0].block == "mlp":
            return d_in * max(how.width, how.adapter_width)
        return sum(how.width * matrix.d_out for matrix in chosen)
    low = how.width * adapted.rank * len(chosen)
    if adapted.dropout:
        inputs = len(chosen) * d_in * (how.mask + how.width)
    elif how.width == how.adapter_width:  # one tensor for all
        inputs = 0 if attention_result else d_in * how.width
    else:  # each makes its own copy in its own type
        inputs = d_in * how.width * len(chosen)
    products = sum(2 * how.width * matrix.d_out for matrix in chosen) if adapted.method == "dora" else 0
    return inputs + low + products


def _dora_weights(decoder: Decoder, adapted: Adapted, how: Arithmetic) -> float:
    """With dropout DoRA multiplies by the base weight a second time, in the adapter's type: a layer's copies of it."""
    if adapted.method != "dora" or not adapted.dropout or how.width == how.adapter_width:
        return 0.0
    return sum(how.width * matrix.weights for matrix in decoder.matrices if matrix.name in adapted.matrices)


def _dora_workspace(decoder: Decoder, adapted: Adapted, how: Arithmetic) -> float:
    """For its norms DoRA makes the adapter's product, its multiple, the base weight in its type, and their sum. In the
    last block that happens before the copies of `_dora_weights` of the matrices still to come are there."""
    if adapted.method != "dora":
        return 0.0
    of_a_weight = how.adapter_width * (3 if how.width == how.adapter_width else 4)
    copied = how.width if adapted.dropout and how.width != how.adapter_width else 0
    to_come, largest = 0, 0.0
    for matrix in reversed([matrix for matrix in decoder.matrices if matrix.name in adapted.matrices]):
        to_come += copied * matrix.weights
        largest = max(largest, of_a_weight * matrix.weights - to_come)
    return float(largest)


def _layer_gradients(decoder: Decoder, adapted: Adapted, how: Arithmetic) -> float:
    """Temporaries of the backward pass through a block, a token; they are largest in its MLP, and for DoRA in half
    precision where its products have gradients in float32. Read off measured peaks (docs/planning.md)."""
    m = decoder.intermediate_size
    if how.width == _FLOAT:
        return 2 * _FLOAT * m
    in_mlp = any(matrix.block == "mlp" and matrix.name in adapted.matrices for matrix in decoder.matrices)
    plain = (6 if in_mlp else 4) * how.width * m
    if adapted.method != "dora":
        return plain
    widest = max(matrix.d_out for matrix in decoder.matrices if matrix.name in adapted.matrices)
    return max(plain, (3 * _FLOAT + how.width) * widest)
