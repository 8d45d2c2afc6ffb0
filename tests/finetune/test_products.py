"""Products with frozen weights are ordinary matrix products, whichever library computes them."""

from __future__ import annotations

import pytest
import torch

from ftmeta.finetune.products import frozen_linear, has_onednn, onednn_product, product


@pytest.mark.parametrize("rows", [3, 100, 1000])  # below and above the size at which oneDNN is asked
def test_products_of_plain_and_of_transposed_matrices(rows: int) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.randn(rows, 128), torch.randn(384, 128), torch.randn(rows, 384)
    for left, right in ((x, weight), (grad, weight.t()), (x.t(), grad.t())):
        assert torch.allclose(product(left, right), left @ right.t(), rtol=1e-4, atol=1e-3)
        if has_onednn():
            assert torch.allclose(onednn_product(left, right), left @ right.t(), rtol=1e-4, atol=1e-3)


def test_a_frozen_layer_passes_gradients_on_and_gets_none() -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 200)
    x = torch.randn(100, 200, requires_grad=True)
    grad = torch.randn(100, 300)
    (ours,) = torch.autograd.grad(frozen_linear(x, weight), x, grad)
    (theirs,) = torch.autograd.grad(torch.nn.functional.linear(x, weight), x, grad)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)
