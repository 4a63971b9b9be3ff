"""Parts of a step against torch's own."""

from __future__ import annotations

import torch
from torch import nn

from sslgraph.train.step import Buffers, clip, gradient_norm


def test_norm_and_clipping_as_torch_does() -> None:
    gradients = [torch.tensor([[3.0, 0.0]]), torch.tensor([0.0, 4.0])]
    norm = gradient_norm(gradients, torch.zeros(()))
    assert norm.item() == 5.0
    clip(gradients, norm, 2.5)
    assert torch.equal(gradients[0], torch.tensor([[1.5, 0.0]]))
    assert torch.equal(gradients[1], torch.tensor([0.0, 2.0]))
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.arange(3.0)
    own = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    clip(own, gradient_norm(own, own[0]), 0.7)
    nn.utils.clip_grad_norm_(parameters, 0.7)
    for parameter, other in zip(parameters, own, strict=True):
        torch.testing.assert_close(parameter.grad, other)


def test_small_and_absent_gradients_stay() -> None:
    gradients = [torch.tensor([0.3, 0.4])]
    clip(gradients, gradient_norm(gradients, gradients[0]), 2.5)
    assert torch.equal(gradients[0], torch.tensor([0.3, 0.4]))
    zero = [torch.zeros(2)]
    clip(zero, gradient_norm(zero, zero[0]), 1.0)
    assert torch.equal(zero[0], torch.zeros(2))
    assert gradient_norm([], torch.zeros(())).item() == 0.0


def test_a_norm_over_the_range_is_not_finite() -> None:
    assert not gradient_norm([torch.full((2,), 3e38)], torch.zeros(())).isfinite()
    assert not gradient_norm([torch.tensor([1.0, torch.nan])], torch.zeros(())).isfinite()


def test_buffers_are_put_back() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    buffers = Buffers(module)
    module(torch.randn(4, 2))
    buffers.keep()
    kept = {name: value.clone() for name, value in module.named_buffers()}
    module(torch.randn(4, 2) + 7)
    changed = dict(module.named_buffers())
    assert not torch.equal(changed["0.running_mean"], kept["0.running_mean"])
    buffers.put_back()
    for name, value in module.named_buffers():
        assert torch.equal(value, kept[name])
